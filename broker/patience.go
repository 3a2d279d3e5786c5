package broker

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/remuda/remuda/store"
)

// pending tells work whether its caller has been told to poll meanwhile: then
// its outcome must stay to be polled.
type pending struct{ told atomic.Bool }

// patiently does the work of a call and answers with its outcome. Where the
// platform can poll, and the work takes longer than AnswerTime, it answers with
// the operation instead, and the work goes on. The operation is the one of kind
// that the work stores for the instance or binding.
func (b *Broker) patiently(ctx context.Context, accepts bool, of store.Operation, work func(context.Context, *pending) error) (operation string, err error) {
	p := &pending{}
	if !accepts {
		return "", work(ctx, p)
	}
	done := make(chan error, 1)
	b.background.Add(1)
	go func() {
		defer b.background.Done()
		done <- unpanicked(func() error { return work(withStop(ctx, b.stopping), p) })
	}()
	timer := time.NewTimer(b.o.AnswerTime)
	defer timer.Stop()
	for {
		select {
		case err := <-done:
			return "", err
		case <-timer.C:
		}
		p.told.Store(true)
		if operation, err := b.promise(ctx, of); err == nil && operation != "" {
			return operation, nil
		}
		// It has not begun, because other work is going on, or it is ending just now.
		p.told.Store(false)
		timer.Reset(min(b.o.AnswerTime, time.Second))
	}
}

// promise notes that the operation will be polled, if it is in progress.
func (b *Broker) promise(ctx context.Context, of store.Operation) (operation string, err error) {
	err = b.o.Store.Update(context.WithoutCancel(ctx), func(tx store.Tx) error {
		operation = ""
		op, err := tx.Operations().Latest(of.InstanceID, of.BindingID)
		if errors.Is(err, store.ErrNotFound) || err == nil && (op.Kind != of.Kind || op.State != store.OpInProgress) {
			return nil
		}
		if err != nil {
			return err
		}
		operation, op.Async = op.ID, true
		return tx.Operations().Put(op)
	})
	return operation, err
}

type stopKey struct{}

// withStop makes lockedFor end the work when the broker stops.
func withStop(ctx, stopping context.Context) context.Context {
	return context.WithValue(context.WithoutCancel(ctx), stopKey{}, stopping)
}

func unpanicked(work func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	return work()
}

// underWay returns the operation of that kind if one is in progress.
func underWay(tx store.Tx, instanceID, bindingID string, kind store.OperationKind) (string, error) {
	op, err := tx.Operations().Latest(instanceID, bindingID)
	if errors.Is(err, store.ErrNotFound) || err == nil && (op.Kind != kind || op.State != store.OpInProgress) {
		return "", nil
	}
	return op.ID, err
}
