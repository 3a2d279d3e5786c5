package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"time"

	"github.com/remuda/remuda/catalog"
	"github.com/remuda/remuda/store"
)

// Sealer encrypts what the store keeps of secrets. bound is not secret and not
// stored with the sealed text: Open fails unless it is given the same again, so
// that sealed text cannot be moved to another record.
type Sealer interface {
	Seal(plain, bound []byte) ([]byte, error)
	Open(sealed, bound []byte) ([]byte, error)
}

// Options is what a Broker needs. Zero durations and numbers mean the default.
type Options struct {
	Store   store.Store
	Cluster store.Cluster // of other brokers on the store; nil: there are none
	Groups  Groups
	Catalog []catalog.Recipe // validated by package catalog
	Sealer  Sealer
	Logger  *slog.Logger // default slog.Default()
	Limits  Limits       // of service instances; default none
	Links   Links        // of dashboards; default none

	// OperationMemory is how long finished operations can be polled; default 72 h.
	OperationMemory time.Duration
	// AuditKeep is how long the record of who changed what is kept; default a year.
	AuditKeep time.Duration
	// ProvisionTimeout is how long an instance waits for a group; default 10 min.
	ProvisionTimeout time.Duration
	// LockTimeout is how long a call waits for other work on its instance;
	// default 10 s.
	LockTimeout time.Duration
	// WorkTimeout bounds the work that one call does on a group; default 40 s.
	// With LockTimeout it must stay below the 60 s after which platforms give up.
	WorkTimeout time.Duration
	// UndoTimeout bounds the clean-up after failed work; default 8 s.
	UndoTimeout time.Duration
	// SweepInterval is how often unfinished work is looked for; default 1 s.
	SweepInterval time.Duration
	// AnswerTime is how long a call whose caller can poll waits for its work before
	// it answers that it is in progress; default 5 s.
	AnswerTime time.Duration
	// PollInterval is what platforms are told to wait between polls; default 1 s.
	PollInterval time.Duration
	// Workers is how many instances are worked on at once in the background;
	// default twice the processors, at least 4: more only take processor time
	// from the calls before them.
	Workers int
}

// Broker is the use cases. Make it with New, and keep Run running while it is
// used.
type Broker struct {
	o     Options
	log   *slog.Logger
	plans planIndex
	locks instanceLocks
	queue *queue
	// background counts work that goes on behind its answer.
	background sync.WaitGroup
	stopping   context.Context // ends when Run does
	stop       context.CancelFunc
}

// New checks the options and compiles the catalog's parameter schemas; it
// starts nothing and reads nothing.
func New(o Options) (*Broker, error) {
	if o.Store == nil || o.Groups == nil || o.Sealer == nil {
		return nil, errors.New("broker: Store, Groups and Sealer must be given")
	}
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{
		{&o.OperationMemory, 72 * time.Hour},
		{&o.AuditKeep, 365 * 24 * time.Hour},
		{&o.ProvisionTimeout, 10 * time.Minute},
		{&o.LockTimeout, 10 * time.Second},
		{&o.WorkTimeout, 40 * time.Second},
		{&o.UndoTimeout, 8 * time.Second},
		{&o.SweepInterval, time.Second},
		{&o.AnswerTime, 5 * time.Second},
		{&o.PollInterval, time.Second},
	} {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
	if o.Workers == 0 {
		o.Workers = max(4, 2*runtime.NumCPU())
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	plans, err := indexPlans(o.Catalog)
	if err != nil {
		return nil, fmt.Errorf("index catalog: %w", err)
	}
	b := &Broker{o: o, log: o.Logger, plans: plans, queue: newQueue(), locks: instanceLocks{cluster: o.Cluster}}
	b.stopping, b.stop = context.WithCancel(context.Background())
	o.Groups.OnAssigned(func(instanceID string) { b.queue.add(job{settleInstance, instanceID}) })
	return b, nil
}

// PollInterval is how long platforms should wait between two polls.
func (b *Broker) PollInterval() time.Duration { return b.o.PollInterval }

// locked runs work while it has the instance's lock. The context given to work
// ends after WorkTimeout, or when a deletion wants the instance.
func (b *Broker) locked(ctx context.Context, instanceID string, work func(context.Context) error) error {
	return b.lockedFor(ctx, instanceID, b.o.WorkTimeout, work)
}

// lockedFor is locked with another limit than WorkTimeout.
func (b *Broker) lockedFor(ctx context.Context, instanceID string, limit time.Duration, work func(context.Context) error) error {
	wait, cancel := context.WithTimeout(context.WithoutCancel(ctx), b.o.LockTimeout)
	defer cancel()
	held, unlock, err := b.locks.lock(wait, instanceID)
	if errors.Is(err, context.DeadlineExceeded) {
		return refuse(Concurrency, "Another operation on this service instance is in progress.")
	}
	if err != nil {
		return err
	}
	defer unlock()
	held, interrupt := context.WithCancelCause(held)
	defer interrupt(nil)
	if stopping, ok := ctx.Value(stopKey{}).(context.Context); ok {
		defer context.AfterFunc(stopping, func() { interrupt(errStopping) })()
	}
	held, done := context.WithTimeout(held, limit)
	defer done()
	return work(held)
}

// cleanup is a context for undoing failed work: it outlives the work's time
// limit but not a deletion.
func (b *Broker) cleanup(ctx context.Context) (context.Context, context.CancelFunc) {
	undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), b.o.UndoTimeout)
	stop := context.AfterFunc(ctx, func() {
		if seized(ctx) {
			cancel()
		}
	})
	return undo, func() { stop(); cancel() }
}

// seized says that work under ctx was interrupted by a deletion, which also
// removes what the work leaves behind, or by the end of the broker or because
// others take it for dead, and so go on with its work.
func seized(ctx context.Context) bool {
	return interrupted(context.Cause(ctx))
}

// interruption is why work under ctx was interrupted, for its caller.
func interruption(ctx context.Context) error {
	cause := context.Cause(ctx)
	if errors.Is(cause, errStopping) || errors.Is(cause, store.ErrLost) {
		return cause
	}
	return errSeized
}

// interrupted says that others finish or undo what was begun.
func interrupted(cause error) bool {
	for _, e := range []error{errSeized, errStopping, store.ErrSeized, store.ErrLost} {
		if errors.Is(cause, e) {
			return true
		}
	}
	return false
}

// errStopping is the cause with which work ends that goes on behind its answer.
var errStopping = errors.New("the broker stops")

// detached is a context that does not end with the caller, who may hang up.
func (b *Broker) detached(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), b.o.WorkTimeout)
}

func now() time.Time { return time.Now().UTC() }
