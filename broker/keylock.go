package broker

import (
	"context"
	"errors"
	"sync"
)

// errSeized is the cause with which a holder's context ends when a deletion
// takes the key.
var errSeized = errors.New("interrupted by a deletion")

// keyLock is a mutex per key. A holder works under the context that it got: it
// ends when seize wants the key, so that long work gives way to a deletion.
type keyLock struct {
	mu   sync.Mutex
	keys map[string]*lockedKey
}

type lockedKey struct {
	free    chan struct{}           // holds the token while nobody has the key
	users   int                     // holder and those who wait
	seizing int                     // those among them who came through seize
	cancel  context.CancelCauseFunc // of the holder; nil for one who seized
}

// lock waits for the key until ctx ends. It fails with errSeized when a
// deletion is in line.
func (l *keyLock) lock(ctx context.Context, key string) (context.Context, func(), error) {
	return l.acquire(ctx, key, false)
}

// seize interrupts the holder, turns away those who wait, and takes the key.
func (l *keyLock) seize(ctx context.Context, key string) (context.Context, func(), error) {
	return l.acquire(ctx, key, true)
}

// tryLock takes the key only if nobody has it or waits for it.
func (l *keyLock) tryLock(ctx context.Context, key string) (context.Context, func(), bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, busy := l.keys[key]; busy {
		return nil, nil, false
	}
	k := l.enter(key, false)
	<-k.free
	held, unlock := l.hold(ctx, key, k, false)
	return held, unlock, true
}

func (l *keyLock) acquire(ctx context.Context, key string, seize bool) (context.Context, func(), error) {
	l.mu.Lock()
	k := l.enter(key, seize)
	l.mu.Unlock()

	select {
	case <-k.free:
	case <-ctx.Done():
		l.mu.Lock()
		defer l.mu.Unlock()
		l.leave(key, k, seize)
		return nil, nil, ctx.Err()
	}

	l.mu.Lock()
	defer l.mu.Unlock()
	if !seize && k.seizing > 0 {
		k.free <- struct{}{}
		l.leave(key, k, seize)
		return nil, nil, errSeized
	}
	held, unlock := l.hold(ctx, key, k, seize)
	return held, unlock, nil
}

// enter counts a user of the key; l.mu is held.
func (l *keyLock) enter(key string, seize bool) *lockedKey {
	if l.keys == nil {
		l.keys = map[string]*lockedKey{}
	}
	k := l.keys[key]
	if k == nil {
		k = &lockedKey{free: make(chan struct{}, 1)}
		k.free <- struct{}{}
		l.keys[key] = k
	}
	k.users++
	if seize {
		k.seizing++
		if k.cancel != nil {
			k.cancel(errSeized)
		}
	}
	return k
}

// leave undoes enter; l.mu is held.
func (l *keyLock) leave(key string, k *lockedKey, seize bool) {
	k.users--
	if seize {
		k.seizing--
	}
	if k.users == 0 {
		delete(l.keys, key)
	}
}

// hold makes the holder's context and its unlock; l.mu is held. The context has
// the values of ctx but neither its deadline nor its end.
func (l *keyLock) hold(ctx context.Context, key string, k *lockedKey, seize bool) (context.Context, func()) {
	held, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	if !seize {
		k.cancel = cancel
	}
	return held, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		cancel(nil)
		k.cancel = nil
		k.free <- struct{}{}
		l.leave(key, k, seize)
	}
}
