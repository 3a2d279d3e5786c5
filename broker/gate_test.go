package broker_test

import (
	"context"
	"sync/atomic"

	"github.com/remuda/remuda/store"
)

// gate is a store that can be shut for one broker while another goes on.
type gate struct {
	store.Store
	closed atomic.Bool
}

func (g *gate) shut() { g.closed.Store(true) }

func (g *gate) Update(ctx context.Context, fn func(store.Tx) error) error {
	if g.closed.Load() {
		return store.ErrUnavailable
	}
	return g.Store.Update(ctx, fn)
}

func (g *gate) View(ctx context.Context, fn func(store.Tx) error) error {
	if g.closed.Load() {
		return store.ErrUnavailable
	}
	return g.Store.View(ctx, fn)
}
