package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"

	"github.com/remuda/remuda/catalog"
	"github.com/remuda/remuda/provisioner"
	"github.com/remuda/remuda/provisioner/image"
	"github.com/remuda/remuda/provisioner/local"
)

// home is where groups live: a back end, with what the commands ask of it besides.
type home struct {
	provisioner.Backend
	run   func(ctx context.Context) error                                          // works until ctx ends; nil when there is nothing to do
	check func(ctx context.Context) error                                          // says why it cannot work now
	purge func() error                                                             // removes what nobody knows of any more
	image func(ctx context.Context, all, offered []catalog.Recipe) (string, error) // what definitions name as their image
}

// openHome opens the back end of the configuration.
func openHome(c Config, log *slog.Logger, progress io.Writer) (*home, error) {
	if c.Backend == "kubernetes" {
		b, err := newKubernetes(c, log)
		if err != nil {
			return nil, err
		}
		return &home{Backend: b, run: b.Run, check: b.Check, purge: func() error { return nil },
			image: func(context.Context, []catalog.Recipe, []catalog.Recipe) (string, error) {
				return c.Kubernetes.Image, nil
			}}, nil
	}
	first, last, err := c.ports()
	if err != nil {
		return nil, err
	}
	binary, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find own binary: %w", err)
	}
	b, err := local.New(local.Options{
		StateDir: c.StateDir, ImageDir: c.ImageDir, Agent: binary, Logger: log, Progress: progress, Persisted: persisted,
		Publish: local.Publish{Host: c.Publish.Host, Listen: c.Publish.Listen, FirstPort: first, LastPort: last},
		Egress:  c.egress(),
	})
	if err != nil {
		return nil, err
	}
	return &home{Backend: b, check: func(context.Context) error { return local.Check() }, purge: b.Purge,
		image: func(ctx context.Context, all, offered []catalog.Recipe) (string, error) {
			return localImage(ctx, c, all, offered, progress)
		}}, nil
}

// localImage makes the root file system when it is not there yet. One serves all recipes, so
// that it stays the same when the operator changes what is offered. Only a host without a compiler goes
// without what is built from source, as long as nothing that is offered needs it.
func localImage(ctx context.Context, c Config, all, offered []catalog.Recipe, progress io.Writer) (string, error) {
	options := image.OptionsFor(c.ImageDir, all, progress)
	if !image.HasGo() && !slices.ContainsFunc(offered, func(r catalog.Recipe) bool { return len(r.GoPrograms) > 0 }) {
		options.GoPrograms = nil
	}
	made, err := image.Ensure(ctx, options)
	return made.Hash, err
}
