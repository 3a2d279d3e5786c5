//go:build crashpoints

package main

import (
	"context"
	"os"
	"strconv"
	"sync/atomic"
	"syscall"

	"github.com/remuda/remuda/store"
)

var (
	crashAt, _ = strconv.ParseInt(os.Getenv("REMUDA_CRASH_AT"), 10, 64)
	steps      atomic.Int64
)

// persisted counts a step that was just made durable, and ends the process at
// the one that REMUDA_CRASH_AT names.
var persisted = func() {
	if steps.Add(1) == crashAt {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
}

type crashingStore struct{ store.Store }

func withCrashPoints(s store.Store) store.Store { return crashingStore{s} }

// Update implements store.Store.
func (s crashingStore) Update(ctx context.Context, fn func(store.Tx) error) error {
	err := s.Store.Update(ctx, fn)
	if err == nil {
		persisted()
	}
	return err
}
