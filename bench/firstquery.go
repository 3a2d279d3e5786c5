package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// firstQuery measures the time from asking for a MySQL server until the first
// answer of it over the network: from a warm group, from this broker without one,
// and from containers that are started by hand and make their data directory.
func (b *bench) firstQuery(ctx context.Context) (rows []Row, err error) {
	const name = "mysql/small"
	warm, err := b.serve(ctx, "warm", "offerings: [mysql]\npools: {default: {floor: 0}, mysql/small: {floor: 1}}\n")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, warm.close()) }()
	cold, err := b.serve(ctx, "cold", "offerings: [mysql]\npools: {default: {floor: 0, keep: 0s}}\n")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, cold.close()) }()
	hand, err := b.plain("mysql", "small")
	if err != nil {
		return nil, err
	}
	took := map[string]series{}
	for n := range b.times(7, 2) {
		if err := warm.settled(ctx, name, 1); err != nil {
			return nil, err
		}
		for range 3 { // it is short, and so needs more
			if err := b.brokered(ctx, warm, name, true, took, "warm"); err != nil {
				return nil, err
			}
		}
		for _, r := range runtimes() {
			began := time.Now()
			var t time.Duration
			if err := hand.cold(ctx, r, func() { t = time.Since(began) }); err != nil {
				return nil, fmt.Errorf("container by %s: %w", r.name, err)
			}
			took[r.name] = append(took[r.name], t)
		}
		if n > 0 && n%2 == 0 {
			continue // the cold path waits for its group to be closed every time
		}
		if err := b.brokered(ctx, cold, name, false, took, "cold"); err != nil {
			return nil, err
		}
		if err := cold.gone(ctx, name); err != nil {
			return nil, err
		}
	}
	for _, r := range runtimes() {
		rows = append(rows, Row{What: "mysql, PUT to first SELECT 1, warm", Value: took["warm"].median(), Unit: "ms",
			Against: "container by " + r.name, Plain: took[r.name].median()}.faster(20))
	}
	return append(rows, Row{What: "mysql, PUT to first SELECT 1, no warm group", Value: took["cold"].median(), Unit: "ms",
		Against: "container by runc", Plain: took["runc"].median(), Ratio: took["runc"].median() / took["cold"].median()}), nil
}

// brokered takes one instance's way through the broker: PUT, bind, connect, ask.
func (b *bench) brokered(ctx context.Context, s *server, name string, warm bool, took map[string]series, which string) error {
	id := s.newID()
	began := time.Now()
	if err := s.provision(ctx, id, name, warm); err != nil {
		return err
	}
	c, err := s.bind(ctx, id, name)
	if err != nil {
		return err
	}
	if err := selectOne(ctx, "mysql", c); err != nil {
		return err
	}
	took[which] = append(took[which], time.Since(began))
	if err := s.deprovision(ctx, id, name); err != nil || !warm {
		return err
	}
	return s.settled(ctx, name, 1)
}

// gone waits until the plan has no groups any more.
func (s *server) gone(ctx context.Context, name string) error {
	return wait(ctx, time.Minute, 20*time.Millisecond, "no group is left of "+name, func() (bool, error) {
		p, err := s.pool(ctx, name)
		return err == nil && p.Warm+p.Claimed+p.Creating+p.Resetting == 0, err
	})
}
