package main

import (
	"context"
	"io"
	"log/slog"
	"slices"

	"github.com/remuda/remuda/catalog"
	"github.com/remuda/remuda/provisioner"
	"github.com/remuda/remuda/provisioner/image"
	"github.com/remuda/remuda/provisioner/local"
)

// home is where groups live: a back end, with what the commands ask of it besides.
type home struct {
	provisioner.Backend
	run   func(ctx context.Context) error // works until ctx ends; nil when there is nothing to do
	check func(ctx context.Context) error // says why it cannot work now
	// available says without waiting why groups cannot be worked on just now; nil: they always can.
	available func() error
	purge     func() error                                                    // removes what nobody knows of any more
	image     func(ctx context.Context, all []catalog.Recipe) (string, error) // what definitions name as their image
	// cannot says why groups of a recipe cannot live here, or ""; nil when all can.
	cannot func(catalog.Recipe) string
}

// able leaves those recipes whose groups can live here: no pool tries in vain to fill itself.
func (h *home) able(list []catalog.Recipe, log *slog.Logger) []catalog.Recipe {
	if h.cannot == nil {
		return list
	}
	return slices.DeleteFunc(slices.Clone(list), func(r catalog.Recipe) bool {
		why := h.cannot(r)
		if why != "" {
			log.Warn("an offering is left out of the catalog: this back end cannot serve it", "offering", r.Name, "reason", why)
		}
		return why != ""
	})
}

// openHome opens the back end of the configuration.
func openHome(c Config, log *slog.Logger, progress io.Writer) (*home, error) {
	if c.Backend == "kubernetes" {
		b, err := newKubernetes(c, log)
		if err != nil {
			return nil, err
		}
		return &home{Backend: b, run: b.Run, check: b.Check, available: b.Available, cannot: c.Kubernetes.PodSecurity.Cannot, purge: func() error { return nil },
			image: func(context.Context, []catalog.Recipe) (string, error) {
				return c.Kubernetes.Image, nil
			}}, nil
	}
	first, last, err := c.ports()
	if err != nil {
		return nil, err
	}
	binary, err := agentBinary()
	if err != nil {
		return nil, err
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
		image: func(ctx context.Context, all []catalog.Recipe) (string, error) {
			made, err := image.Ensure(ctx, imageOptions(c, all, progress))
			return made.Hash, err
		}}, nil
}
