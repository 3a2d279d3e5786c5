package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"slices"

	"github.com/remuda/remuda/catalog"
	"github.com/remuda/remuda/provisioner"
	"github.com/remuda/remuda/provisioner/image"
	"github.com/remuda/remuda/provisioner/local"
	"github.com/remuda/remuda/store"
)

// parts are what broker and maintenance commands are made of.
type parts struct {
	config  Config
	recipes []catalog.Recipe
	image   string
	store   store.Store
	cluster store.Cluster // nil: there are no other brokers
	sealer  *store.Sealer
	signing [][]byte // keys of dashboard links
	home    *home
}

// assemble opens the store and the back end for all recipes there are. It makes
// the root file system when it is not there yet.
func assemble(ctx context.Context, c Config, all []catalog.Recipe, log *slog.Logger, progress io.Writer) (*parts, error) {
	p, err := openHost(ctx, c, log, progress)
	if err != nil {
		return nil, err
	}
	p.recipes = p.home.able(offered(c, all), log)
	if p.image, err = p.home.image(ctx, all); err != nil {
		p.store.Close()
		return nil, err
	}
	return p, nil
}

// imageOptions say what the root file system has. One serves all recipes, so
// that it stays the same when the operator changes what is offered. Only a host
// without a compiler goes without what is built from source, as long as nothing
// that is offered needs it.
func imageOptions(c Config, all []catalog.Recipe, progress io.Writer) image.Options {
	options := image.OptionsFor(c.ImageDir, all, progress)
	if !image.HasGo() && !slices.ContainsFunc(offered(c, all), func(r catalog.Recipe) bool { return len(r.GoPrograms) > 0 }) {
		options.GoPrograms = nil
	}
	return options
}

// openHost opens what is on this host: store, keys, back end.
func openHost(ctx context.Context, c Config, log *slog.Logger, progress io.Writer) (*parts, error) {
	p := &parts{config: c}
	if c.Backend == "local" {
		if err := local.Check(); err != nil {
			return nil, err
		}
	}
	if err := lockDown(c.StateDir); err != nil {
		return nil, err
	}
	// Groups of the local back end are on one host, so there is one broker.
	var err error
	if p.store, p.cluster, err = openStore(ctx, c, c.Backend != "local"); err != nil {
		return nil, err
	}
	p.store = withCrashPoints(p.store)
	p.home, err = openHome(c, log, progress)
	if err != nil {
		p.store.Close()
		return nil, err
	}
	keyFile := c.SealKeyFile
	if keyFile == "" {
		keyFile = filepath.Join(c.StateDir, "seal.key")
	}
	keys, err := store.KeysFromFile(keyFile)
	if err == nil {
		p.sealer, err = store.NewSealer(keys...)
	}
	if err == nil {
		p.signing, err = store.DeriveKeys(keys, "remuda dashboard links v1")
	}
	if err != nil {
		p.store.Close()
		return nil, fmt.Errorf("sealing keys: %w", err)
	}
	return p, nil
}

// offered leaves those recipes that the configuration asks for.
func offered(c Config, all []catalog.Recipe) []catalog.Recipe {
	if len(c.Offerings) == 0 {
		return all
	}
	return slices.DeleteFunc(slices.Clone(all), func(r catalog.Recipe) bool { return !slices.Contains(c.Offerings, r.Name) })
}

// newPool makes the pool of all plans.
func (p *parts) newPool(log *slog.Logger, metrics provisioner.Metrics) (*provisioner.Pool, error) {
	limits := map[string]provisioner.Limits{}
	var definitions []provisioner.Definition
	for _, r := range p.recipes {
		for _, plan := range r.Offering.Plans {
			definitions = append(definitions, provisioner.NewDefinition(r, plan, p.image))
			floor, ceiling, keep := p.config.poolLimits(r.Name + "/" + plan.Name)
			limits[r.Name+"/"+plan.Name] = provisioner.Limits{Floor: floor, Ceiling: ceiling, Keep: keep}
		}
	}
	return provisioner.New(provisioner.Options{
		Store: p.store, Cluster: p.cluster, Backend: p.home.Backend, Definitions: definitions, Limits: limits,
		Creates: p.config.Parallel.Creates, Resets: p.config.Parallel.Resets, Logger: log, Metrics: metrics,
	})
}

// ready says whether the broker can serve: the store answers, the back end can
// work, and the start-up comparison is done.
func (p *parts) ready(pool *provisioner.Pool) error {
	select {
	case <-pool.Ready():
	default:
		return fmt.Errorf("the pool is still comparing the store with the host")
	}
	ctx, cancel := context.WithTimeout(context.Background(), storeTime)
	defer cancel()
	if err := p.store.View(ctx, func(store.Tx) error { return nil }); err != nil {
		return fmt.Errorf("the store does not answer: %w", err)
	}
	return p.home.check(context.Background())
}
