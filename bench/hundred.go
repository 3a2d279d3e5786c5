package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// hundred measures how long a hundred groups take to become warm, what they
// take of memory then, and how the real broker gives real groups to 16 clients.
func (b *bench) hundred(ctx context.Context) (rows []Row, err error) {
	const name = "redis/small"
	groups := b.times(100, 40)
	before := available()
	began := time.Now()
	// No more than that, or new groups would be made while others are claimed.
	s, err := b.serve(ctx, "hundred", fmt.Sprintf(
		"offerings: [redis]\npools: {default: {floor: 0}, redis/small: {floor: %d, ceiling: %d}}\n", groups, groups))
	if err != nil {
		return nil, err
	}
	defer func() {
		began := time.Now()
		err = errors.Join(err, s.close())
		rows = append(rows, Row{What: fmt.Sprintf("%d redis groups, closed", groups), Value: time.Since(began).Seconds(), Unit: "s"})
	}()
	if err := s.settled(ctx, name, groups); err != nil {
		return nil, err
	}
	took := time.Since(began)
	rows = append(rows, Row{What: fmt.Sprintf("%d redis groups, start of the broker to all warm", groups), Value: took.Seconds(), Unit: "s",
		Note: fmt.Sprintf("%.0f ms each", ms(took)/float64(groups))})
	if err := sleep(ctx, 3*time.Second); err != nil {
		return rows, err
	}
	rows = append(rows, Row{What: "memory of the machine that each takes", Value: (before - available()) / float64(groups), Unit: "MB"})
	l := &load{client: s.client, address: s.address, plan: s.plans[name]}
	for range b.times(3, 2) {
		ids, err := l.round(ctx, groups*8/10)
		if err == nil {
			err = l.delete(ctx, ids)
		}
		if err == nil {
			err = s.settled(ctx, name, groups)
		}
		if err != nil {
			return rows, err
		}
	}
	return append(rows,
		Row{What: "PUT on real groups, 16 clients, p50", Value: l.took.median(), Unit: "ms"},
		Row{What: "PUT on real groups, 16 clients, p99", Value: l.took.percentile(99), Unit: "ms"},
		Row{What: "PUT on real groups, 16 clients, throughput", Value: l.rate(), Unit: "/s"}), nil
}
