package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/remuda/remuda/store"
)

// provision measures the PUT alone, 16 clients at a time and every transaction
// synced to disk, against bare brokerapi with a map behind it.
func (b *bench) provision(ctx context.Context) (rows []Row, err error) {
	const groups = 2000
	ours, err := b.newInProcess(ctx, "provision", groups, 0)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, ours.close()) }()
	bare, err := newBare(ours.plan)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, bare.close()) }()
	var p50, plain50, p99, plain99 []float64
	for range b.times(7, 3) {
		for _, s := range []*inProcess{ours, bare} {
			s.took = nil
			ids, err := s.round(ctx, groups)
			if err == nil {
				err = s.delete(ctx, ids)
			}
			if err != nil {
				return nil, err
			}
			if s == ours {
				p50, p99 = append(p50, s.took.median()), append(p99, s.took.percentile(99))
				if err := s.allWarm(ctx, groups); err != nil {
					return nil, err
				}
				continue
			}
			plain50, plain99 = append(plain50, s.took.median()), append(plain99, s.took.percentile(99))
		}
	}
	rounds := float64(len(p50) * groups)
	const bareName = "bare brokerapi, a map"
	return []Row{
		Row{What: "PUT, 16 clients, p50", Value: median(p50), Unit: "ms", Against: bareName, Plain: median(plain50)}.atMost(5),
		{What: "PUT, 16 clients, p99", Value: median(p99), Unit: "ms", Against: bareName, Plain: median(plain99), Ratio: median(p99) / median(plain99)},
		{What: "PUT, 16 clients, throughput", Value: rounds / ours.wall.Seconds(), Unit: "/s", Against: bareName, Plain: rounds / bare.wall.Seconds(),
			Ratio: bare.wall.Seconds() / ours.wall.Seconds()},
	}, nil
}

func (s *inProcess) allWarm(ctx context.Context, groups int) error {
	return wait(ctx, time.Minute, 10*time.Millisecond, "all groups are warm again", func() (bool, error) {
		n, err := s.warm(ctx)
		return n >= groups, err
	})
}

// instances measures the PUT with more and more instances in the store.
func (b *bench) instances(ctx context.Context) (rows []Row, err error) {
	const groups = 800
	before := []int{10, 1000, 100_000}
	var brokers []*inProcess
	defer func() {
		for _, s := range brokers {
			err = errors.Join(err, s.close())
		}
	}()
	for _, n := range before {
		s, err := b.newInProcess(ctx, fmt.Sprintf("instances-%d", n), groups, n)
		if err != nil {
			return nil, err
		}
		brokers = append(brokers, s)
		if err := s.occupy(ctx, n); err != nil {
			return nil, err
		}
	}
	p50 := make([][]float64, len(before))
	for range b.times(9, 3) {
		for i, s := range brokers {
			s.took = nil
			ids, err := s.round(ctx, groups)
			if err == nil {
				err = s.delete(ctx, ids)
			}
			if err == nil {
				err = s.allWarm(ctx, groups)
			}
			if err != nil {
				return nil, err
			}
			p50[i] = append(p50[i], s.took.median())
		}
	}
	rows = append(rows, Row{What: "PUT p50, 10 instances in the store", Value: median(p50[0]), Unit: "ms"})
	for i, n := range before[1:] {
		rows = append(rows, Row{What: fmt.Sprintf("PUT p50, %d instances in the store", n), Value: median(p50[i+1]), Unit: "ms",
			Against: "10 instances", Plain: median(p50[0])}.atMost(1.5))
	}
	return rows, nil
}

// occupy puts instances with their groups into the store, as other brokers on
// it would. The pool of this one does not look after them.
func (s *inProcess) occupy(ctx context.Context, n int) error {
	for from := 0; from < n; from += 5000 {
		err := s.store.Update(ctx, func(tx store.Tx) error {
			for i := from; i < min(from+5000, n); i++ {
				now := time.Now()
				g := store.Group{ID: fmt.Sprintf("other%d", i), Fingerprint: s.fingerprint, State: store.GroupClaimed, Generation: 1,
					InstanceID: fmt.Sprintf("%08x-other", uint32(i)*2654435761), CreatedAt: now, Since: now,
					Endpoints: []store.Endpoint{{Name: "redis", Host: loopback, Port: 20000}}}
				in := store.Instance{ID: g.InstanceID, ServiceID: s.plan.service, PlanID: s.plan.plan, Fingerprint: s.fingerprint,
					State: store.InstanceReady, Prepared: true, GroupID: g.ID, OrgGUID: "org", SpaceGUID: "space", Digest: s.fingerprint, CreatedAt: now}
				if err := errors.Join(tx.Groups().Put(g), tx.Instances().Put(in)); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}
