package store

import (
	"context"
	"errors"
	"fmt"
)

// Cluster is how brokers that share a store keep out of each other's way. A
// store for one broker has none. All methods may be called concurrently.
//
// A broker that does not show for about ten seconds that it lives loses its
// locks, and can change nothing any more under a context of them.
type Cluster interface {
	// Lock takes the named lock for this broker, and waits for it until ctx ends.
	// With seize, its holder is interrupted, and whoever else waits is turned
	// away with ErrSeized.
	Lock(ctx context.Context, name string, seize bool) (Lease, error)
	// TryLock takes the lock if nobody has it; nil when somebody has.
	TryLock(ctx context.Context, name string) (Lease, error)
	// Tell tells the other brokers something, soon. It may get lost.
	Tell(message string)
	// Listen calls f, one call at a time, for what others tell, and with "" when
	// something may have got lost.
	Listen(f func(message string)) (stop func())
	// SetNote stores a text that Note returns at every broker; "" when there is none.
	SetNote(ctx context.Context, key, text string) error
	Note(ctx context.Context, key string) (string, error)
}

// Lease is a lock that is held.
type Lease interface {
	// Context is ctx for work under the lock. It ends with ErrSeized or ErrLost as
	// its cause when the lock is wanted or lost, and Update with it (or with one
	// made from it) fails once the lock is lost.
	Context(ctx context.Context) (context.Context, context.CancelFunc)
	// Release gives the lock back. The contexts must not be used any more.
	Release()
}

var (
	// ErrSeized says that somebody with precedence takes the lock.
	ErrSeized = errors.New("lock is seized")
	// ErrLost says that others take this broker for dead.
	ErrLost = fmt.Errorf("%w: the lock was lost", ErrUnavailable)
)
