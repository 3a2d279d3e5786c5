package broker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/remuda/remuda/store"
)

// attempts is how often work on an instance is tried before its creation has
// failed, and retryWait what is waited after the first time, growing with each.
const (
	attempts  = 3
	retryWait = 500 * time.Millisecond
)

// forgetInterval is how often old operations are deleted.
const forgetInterval = 10 * time.Minute

// Run recovers what an earlier run left, and works in the background until ctx
// ends. It returns when all its goroutines have. Calls may come before and
// after; what they leave to the background then waits for the next Run.
func (b *Broker) Run(ctx context.Context) error {
	if err := b.Recover(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("recover: %w", err)
	}
	var workers sync.WaitGroup
	for range b.o.Workers {
		workers.Go(func() { b.work(ctx) })
	}
	workers.Go(func() { b.every(ctx, b.o.SweepInterval, "sweep", b.sweep) })
	if b.o.Cluster != nil {
		workers.Go(func() { b.succeedOthers(ctx) })
	}
	workers.Go(func() { b.every(ctx, forgetInterval, "forget what is old", b.forget) })
	workers.Wait()
	b.stop()
	b.background.Wait()
	return nil
}

// every calls do at each tick, and logs its failures.
func (b *Broker) every(ctx context.Context, interval time.Duration, name string, do func(context.Context) error) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if err := do(ctx); err != nil && ctx.Err() == nil {
				b.log.ErrorContext(ctx, "periodic work failed", "work", name, "error", err)
			}
		}
	}
}

// forget deletes operations that ended longer than OperationMemory ago, and
// audit records that are older than AuditKeep.
func (b *Broker) forget(ctx context.Context) error {
	err := b.o.Store.Update(ctx, func(tx store.Tx) error {
		_, err := tx.Operations().DeleteFinishedBefore(now().Add(-b.o.OperationMemory))
		return err
	})
	return errors.Join(err, b.forgetAudit(ctx))
}

func (b *Broker) work(ctx context.Context) {
	for {
		j, err := b.queue.next(ctx)
		if err != nil {
			return
		}
		if err := b.do(ctx, j); err != nil && ctx.Err() == nil {
			b.log.ErrorContext(ctx, "background work failed", "id", j.id, "error", err)
		}
	}
}

// do works on one job if nobody else works on its instance; whoever does either
// does the job too, or a sweep queues it again.
func (b *Broker) do(ctx context.Context, j job) error {
	instanceID := j.id
	if j.kind == settleBinding {
		err := b.o.Store.View(ctx, func(tx store.Tx) error {
			r, err := tx.Bindings().Get(j.id)
			instanceID = r.InstanceID
			return err
		})
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	held, unlock, ok := b.locks.tryLock(ctx, instanceID)
	if !ok {
		return nil
	}
	defer unlock()
	held, cancel := context.WithCancel(held)
	defer cancel()
	defer context.AfterFunc(ctx, cancel)() // shutting down

	var err error
	for n := range attempts {
		if n > 0 && !pause(held, time.Duration(n)*retryWait) {
			break
		}
		if err = b.attempt(held, j); err == nil || held.Err() != nil {
			break
		}
	}
	if err == nil || held.Err() != nil {
		return nil // done; or interrupted, and the store knows what is left
	}
	if j.kind == settleInstance {
		if failErr := b.giveUp(held, j.id, err); failErr != nil {
			err = errors.Join(err, failErr)
		}
	}
	return err
}

// giveUp ends what could not be finished: a creation has failed for good, an
// update leaves the instance as it was.
func (b *Broker) giveUp(ctx context.Context, id string, cause error) error {
	inst, err := b.instance(ctx, id)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err == nil && inst.State == store.InstanceUpdating {
		return b.failUpdate(ctx, id, cause)
	}
	if err == nil {
		err = b.failProvision(ctx, id, "The service instance could not be set up. Delete it and try again.")
	}
	return err
}

func (b *Broker) attempt(ctx context.Context, j job) error {
	limit := b.o.WorkTimeout
	if j.kind == settleInstance {
		limit = max(limit, updateTime)
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if j.kind == settleBinding {
		return b.settleBindingLocked(ctx, j.id)
	}
	return b.settleInstanceLocked(ctx, j.id)
}

// pause waits, and says whether ctx is still good.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
