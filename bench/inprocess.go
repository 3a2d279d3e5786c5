package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"code.cloudfoundry.org/lager/v3"
	"github.com/pivotal-cf/brokerapi/v10"
	"github.com/pivotal-cf/brokerapi/v10/domain"

	"github.com/remuda/remuda/broker"
	"github.com/remuda/remuda/broker/osbapi"
	"github.com/remuda/remuda/catalog"
	"github.com/remuda/remuda/provisioner"
	"github.com/remuda/remuda/provisioner/backendtest"
	"github.com/remuda/remuda/store"
	"github.com/remuda/remuda/store/sqlite"
)

// inProcess is the broker in this process, on a real store with full fsync,
// with groups that exist in memory only, so that there can be as many as a
// measurement of the broker alone needs.
type inProcess struct {
	load
	store       store.Store
	definition  provisioner.Definition
	fingerprint string
	dir         string
	end         []func() error
}

// newInProcess makes a broker with so many warm groups. No further groups are
// made; those of deleted instances come back. others is how many groups will be
// put into the store besides.
func (b *bench) newInProcess(ctx context.Context, name string, warm, others int) (s *inProcess, err error) {
	recipe := b.recipes["redis"]
	p := recipe.Offering.Plans[0]
	s = &inProcess{dir: filepath.Join(b.dir, name), definition: provisioner.NewDefinition(recipe, p, "none")}
	s.fingerprint = s.definition.Fingerprint()
	s.plan = plan{recipe.Offering.ID, p.ID}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if err := os.Mkdir(s.dir, 0o700); err != nil {
		return s, err
	}
	if s.store, err = sqlite.Open(ctx, filepath.Join(s.dir, "remuda.db")); err != nil {
		return s, err
	}
	s.end = append(s.end, s.store.Close)
	backend := backendtest.NewMemory()
	if err := s.fill(ctx, backend, warm); err != nil {
		return s, err
	}
	ceiling := warm + others
	log := slog.New(slog.DiscardHandler)
	pool, err := provisioner.New(provisioner.Options{
		Store: s.store, Backend: backend, Definitions: []provisioner.Definition{s.definition}, Logger: log, Resets: 16,
		Limits: map[string]provisioner.Limits{"redis/" + p.Name: {Floor: ceiling, Ceiling: ceiling, Keep: time.Hour}},
	})
	if err != nil {
		return s, err
	}
	sealer, err := store.NewSealer(store.Key{ID: "bench", Secret: make([]byte, 32)})
	if err != nil {
		return s, err
	}
	br, err := broker.New(broker.Options{Store: s.store, Groups: pool, Catalog: []catalog.Recipe{recipe}, Sealer: sealer, Logger: log})
	if err != nil {
		return s, err
	}
	api, err := osbapi.New(osbapi.Options{Broker: br, Username: username, Password: password, Logger: log})
	if err != nil {
		return s, err
	}
	s.background(ctx, pool.Run, br.Run)
	select {
	case <-pool.Ready():
	case <-ctx.Done():
		return s, ctx.Err()
	}
	return s, s.listen(api)
}

// background runs functions until close.
func (s *inProcess) background(ctx context.Context, run ...func(context.Context) error) {
	ctx, cancel := context.WithCancel(ctx)
	var all sync.WaitGroup
	for _, f := range run {
		all.Go(func() { _ = f(ctx) })
	}
	s.end = append(s.end, func() error { cancel(); all.Wait(); return nil })
}

// listen serves a handler on loopback.
func (s *inProcess) listen(h http.Handler) error {
	l, err := net.Listen("tcp", loopback+":0")
	if err != nil {
		return err
	}
	server := &http.Server{Handler: h}
	go func() { _ = server.Serve(l) }()
	s.end = append(s.end, server.Close)
	s.address = l.Addr().String()
	s.client = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: clients}}
	return nil
}

func (s *inProcess) close() error {
	var errs []error
	for i := len(s.end) - 1; i >= 0; i-- {
		errs = append(errs, s.end[i]())
	}
	return errors.Join(append(errs, os.RemoveAll(s.dir))...)
}

// fill makes warm groups, in the back end and in the store.
func (s *inProcess) fill(ctx context.Context, backend provisioner.Backend, n int) error {
	return s.store.Update(ctx, func(tx store.Tx) error {
		for i := range n {
			id := fmt.Sprintf("warm%d", i)
			o, err := backend.Create(ctx, provisioner.Group{ID: id, Generation: 1, Definition: s.definition})
			if err != nil {
				return err
			}
			now := time.Now()
			if err := tx.Groups().Put(store.Group{ID: id, Fingerprint: s.fingerprint, State: store.GroupWarm, Generation: 1,
				Endpoints: o.Endpoints, CreatedAt: now, Since: now}); err != nil {
				return err
			}
		}
		return nil
	})
}

// warm counts the groups that are.
func (s *inProcess) warm(ctx context.Context) (n int, err error) {
	err = s.store.View(ctx, func(tx store.Tx) error {
		counts, err := tx.Groups().Count(s.fingerprint)
		n = counts[store.GroupWarm]
		return err
	})
	return n, err
}

// newBare serves bare brokerapi with a map behind it.
// Without services its catalog has one of its own.
func newBare(p plan, services ...domain.Service) (*inProcess, error) {
	s := &inProcess{}
	s.plan = p
	if len(services) == 0 {
		services = []domain.Service{{ID: p.service, Name: "bare", Plans: []domain.ServicePlan{{ID: p.plan, Name: "bare"}}}}
	}
	return s, s.listen(brokerapi.New(&mapBroker{services: services}, lager.NewLogger("bare"), brokerapi.BrokerCredentials{Username: username, Password: password}))
}

// mapBroker is the least a broker can do. Methods that are not called are nil.
type mapBroker struct {
	domain.ServiceBroker
	services  []domain.Service
	instances sync.Map
}

func (m *mapBroker) Services(context.Context) ([]domain.Service, error) {
	return m.services, nil
}

func (m *mapBroker) Provision(_ context.Context, id string, d domain.ProvisionDetails, _ bool) (domain.ProvisionedServiceSpec, error) {
	m.instances.Store(id, d)
	return domain.ProvisionedServiceSpec{}, nil
}

func (m *mapBroker) Deprovision(_ context.Context, id string, _ domain.DeprovisionDetails, _ bool) (domain.DeprovisionServiceSpec, error) {
	m.instances.Delete(id)
	return domain.DeprovisionServiceSpec{}, nil
}
