package broker

import (
	"context"
	"errors"

	"github.com/remuda/remuda/store"
)

// instanceLocks are a lock per instance that holds among all brokers on the
// store: a keyLock for the calls of this one, and behind it, where there are
// others, one of the cluster.
type instanceLocks struct {
	local   keyLock
	cluster store.Cluster // nil: there are no others
}

func lockName(instanceID string) string { return "instance/" + instanceID }

// lock waits for the instance until ctx ends. It fails with errSeized when a
// deletion is in line.
func (l *instanceLocks) lock(ctx context.Context, instanceID string) (context.Context, func(), error) {
	held, unlock, err := l.local.lock(ctx, instanceID)
	if err != nil || l.cluster == nil {
		return held, unlock, err
	}
	return l.behind(ctx, held, unlock, instanceID, false)
}

// seize interrupts the holder, turns away those who wait, and takes the lock.
func (l *instanceLocks) seize(ctx context.Context, instanceID string) (context.Context, func(), error) {
	held, unlock, err := l.local.seize(ctx, instanceID)
	if err != nil || l.cluster == nil {
		return held, unlock, err
	}
	return l.behind(ctx, held, unlock, instanceID, true)
}

// behind takes the lock of the cluster, too.
func (l *instanceLocks) behind(ctx, held context.Context, unlock func(), instanceID string, seize bool) (context.Context, func(), error) {
	wait, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(held, func() { cancel(context.Cause(held)) })() // a deletion of this broker
	lease, err := l.cluster.Lock(wait, lockName(instanceID), seize)
	if err != nil {
		if errors.Is(err, store.ErrSeized) || errors.Is(context.Cause(wait), errSeized) {
			err = errSeized
		}
		unlock()
		return nil, nil, err
	}
	held, unlock = leased(held, unlock, lease)
	return held, unlock, nil
}

// tryLock takes the lock only if nobody has it or waits for it.
func (l *instanceLocks) tryLock(ctx context.Context, instanceID string) (context.Context, func(), bool) {
	held, unlock, ok := l.local.tryLock(ctx, instanceID)
	if !ok || l.cluster == nil {
		return held, unlock, ok
	}
	lease, err := l.cluster.TryLock(ctx, lockName(instanceID))
	if err != nil || lease == nil {
		unlock()
		return nil, nil, false
	}
	held, unlock = leased(held, unlock, lease)
	return held, unlock, true
}

// leased is work under both locks.
func leased(held context.Context, unlock func(), lease store.Lease) (context.Context, func()) {
	held, done := lease.Context(held)
	return held, func() {
		done()
		lease.Release()
		unlock()
	}
}
