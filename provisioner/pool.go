package provisioner

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/remuda/remuda/store"
)

// Limits of the pool of one definition.
type Limits struct {
	Floor   int           // warm groups there always are; 0: none before somebody asks
	Ceiling int           // groups of the definition in all, claimed ones too
	Keep    time.Duration // how long a returned group stays warm beyond what demand asks for
}

// DefaultLimits are those of plans that have none of their own.
func DefaultLimits() Limits { return Limits{Floor: 1, Ceiling: 20, Keep: 5 * time.Minute} }

// Metrics is told what happens in the pool. It must not block.
type Metrics interface {
	// Demand: an instance was asked for and was served by a warm group (hit) or waits.
	Demand(offering, plan string, hit bool)
	// Worked: a create, reset, repair or close took so long.
	Worked(work, offering, plan string, took time.Duration, err error)
}

// Options of a pool. Store, Backend and Definitions must be given.
type Options struct {
	Store       store.Store
	Cluster     store.Cluster // of other pools on the store, which see the same groups; nil: there are none
	Backend     Backend
	Definitions []Definition
	Limits      map[string]Limits // by "offering/plan"
	Creates     int               // groups that are created at the same time; default 2
	Resets      int               // groups that are reset at the same time; default 4
	Logger      *slog.Logger
	Metrics     Metrics
}

// Pool keeps warm groups of every definition, gives them to instances that
// wait, resets those that come back, repairs those of tenants, and closes what
// is not well or not wanted.
//
// Every step of a group is a compare-and-swap in the store, made before the back
// end is called, so that after a crash the next pool on the same store and back
// end finds what was begun and finishes or undoes it. Groups of tenants are
// never touched while they are well. All methods may be called concurrently.
type Pool struct {
	o     Options
	plans map[string]string // "offering/plan" → fingerprint
	ready chan struct{}
	once  sync.Once // of closing ready
	wake  chan struct{}
	asked chan struct{} // holds a token while demands wait to be told
	jobs  sync.WaitGroup

	mu          sync.Mutex
	lanes       map[string]*lane // by fingerprint
	dirty       map[string]bool  // fingerprints to look at
	tracks      map[string]*track
	active      map[string]*track   // those that are worked on
	queues      map[action][]string // ids of groups whose track wants it
	clock       uint64              // counts ends of work
	seen        map[string]Observation
	onAssigned  func(string)
	definitions map[string]Definition // cache of the store's
	leading     context.Context       // while this pool leads; else nil
	demands     map[string]int        // by fingerprint, that the leader is to be told
	sweepNow    bool
}

// lane is the pool of one definition.
type lane struct {
	fingerprint string
	definition  Definition
	limits      Limits
	current     bool // new groups are made from it without being asked

	arrivals  rate
	refill    mean
	failures  int // creates in a row
	retryAt   time.Time
	trouble   string
	surplusAt time.Time // when to look for surplus again
	sweepAt   time.Time // when to look for forgotten groups again

	counts  map[store.GroupState]int // as last read
	waiting int
}

func (l *lane) target(now time.Time) int {
	if !l.current {
		return 0
	}
	return target(l.limits, l.arrivals.perSecond(now), l.refill.get())
}

// New makes a pool; nothing happens before Run.
func New(o Options) (*Pool, error) {
	if o.Store == nil || o.Backend == nil {
		return nil, errors.New("make pool: no store or no back end")
	}
	if o.Creates <= 0 {
		o.Creates = 2
	}
	if o.Resets <= 0 {
		o.Resets = 4
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Metrics == nil {
		o.Metrics = noMetrics{}
	}
	p := &Pool{
		o:           o,
		plans:       map[string]string{},
		ready:       make(chan struct{}),
		wake:        make(chan struct{}, 1),
		asked:       make(chan struct{}, 1),
		demands:     map[string]int{},
		lanes:       map[string]*lane{},
		dirty:       map[string]bool{},
		tracks:      map[string]*track{},
		active:      map[string]*track{},
		queues:      map[action][]string{},
		seen:        map[string]Observation{},
		definitions: map[string]Definition{},
	}
	for _, d := range o.Definitions {
		name, f := d.Offering+"/"+d.Plan, d.Fingerprint()
		if p.plans[name] != "" {
			return nil, fmt.Errorf("make pool: two definitions of %q", name)
		}
		l := &lane{fingerprint: f, definition: d, limits: p.limitsOf(d), current: true}
		if l.limits.Floor < 0 || l.limits.Ceiling < max(l.limits.Floor, 1) || l.limits.Keep < 0 {
			return nil, fmt.Errorf("make pool: limits of %q are wrong: floor %d, ceiling %d, keep %s", name, l.limits.Floor, l.limits.Ceiling, l.limits.Keep)
		}
		p.plans[name], p.lanes[f], p.definitions[f] = f, l, d
	}
	return p, nil
}

func (p *Pool) limitsOf(d Definition) Limits {
	if l, ok := p.o.Limits[d.Offering+"/"+d.Plan]; ok {
		return l
	}
	return DefaultLimits()
}

type noMetrics struct{}

func (noMetrics) Demand(string, string, bool)                         {}
func (noMetrics) Worked(string, string, string, time.Duration, error) {}

// Ready is closed when Run has compared the store with the back end and no
// former tenant's group is reachable any more.
func (p *Pool) Ready() <-chan struct{} { return p.ready }

// Run works until ctx ends, and returns when all it has begun has ended. It
// leaves all groups where they are; the next Run adopts them. It may be called
// once.
func (p *Pool) Run(ctx context.Context) error {
	if p.o.Cluster != nil {
		return p.runShared(ctx)
	}
	return p.lead(ctx)
}

// open closes ready.
func (p *Pool) open() { p.once.Do(func() { close(p.ready) }) }

// lead works on groups until ctx ends.
func (p *Pool) lead(ctx context.Context) error {
	p.beginToLead(ctx)
	defer p.endToLead()
	if err := p.reconcile(ctx); err != nil {
		return err
	}
	p.open()
	p.jobs.Go(func() { p.monitor(ctx) })
	if p.o.Cluster != nil {
		p.jobs.Go(func() { p.tellStatus(ctx) })
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	p.step(ctx, true)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			p.step(ctx, true)
		case <-p.wake:
			p.step(ctx, false)
			// Many demands at a time are looked at together.
			select {
			case <-time.After(2 * time.Millisecond):
			case <-ctx.Done():
			}
		}
	}
}

// stir makes the loop look at the definition soon.
func (p *Pool) stir(fingerprint string) {
	p.mu.Lock()
	p.dirty[fingerprint] = true
	p.mu.Unlock()
	p.rouse()
}

// rouse wakes the loop.
func (p *Pool) rouse() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// Fingerprint is that of the definition from which new groups of the plan are
// made, with the ceiling of its pool.
func (p *Pool) Fingerprint(offering, plan string) (fingerprint string, ceiling int, ok bool) {
	f, ok := p.plans[offering+"/"+plan]
	if !ok {
		return "", 0, false
	}
	return f, p.lanes[f].limits.Ceiling, true // lanes of plans are never replaced
}

// Demand tells that an instance was asked for, and got a warm group (hit) or waits.
func (p *Pool) Demand(fingerprint string, hit bool) {
	l := p.arrived(fingerprint, 1)
	if l == nil {
		return
	}
	p.o.Metrics.Demand(l.definition.Offering, l.definition.Plan, hit)
	p.mu.Lock()
	tell := p.o.Cluster != nil && p.leading == nil
	if tell {
		p.demands[fingerprint]++
	}
	p.mu.Unlock()
	if !tell {
		p.stir(fingerprint)
		return
	}
	select {
	case p.asked <- struct{}{}:
	default:
	}
}

// arrived counts demands; nil when the definition is not known.
func (p *Pool) arrived(fingerprint string, n int) *lane {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.lanes[fingerprint]
	if l != nil {
		for range n {
			l.arrivals.add(time.Now())
		}
	}
	return l
}

// OnAssigned sets the function to call when a waiting instance got a group.
func (p *Pool) OnAssigned(f func(instanceID string)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.onAssigned = f
}

func (p *Pool) assigned(instanceID string) {
	p.mu.Lock()
	f := p.onAssigned
	p.mu.Unlock()
	if f != nil && instanceID != "" {
		f(instanceID)
	}
}

// Trouble says in one sentence why no group of the definition could be made
// lately; "" when all is well.
func (p *Pool) Trouble(fingerprint string) string {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if all := p.leaderStatus(ctx); all != nil {
		return all[fingerprint].Trouble
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if l := p.lanes[fingerprint]; l != nil {
		return l.trouble
	}
	return ""
}
