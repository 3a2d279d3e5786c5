package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	minBackoff  = 100 * time.Millisecond
	maxBackoff  = 5 * time.Second
	steadyAfter = 10 * time.Second // a process that lived so long starts with the least backoff again
	probeLimit  = 5 * time.Second
	hangAfter   = 3 // failed probes in a row
)

// generation is one Start and all that lives until its end.
//
// A process that ends is started again after a backoff, with its data. Prepare
// runs again before that only when no process is left, because it may assume
// that it is alone with the data. A member that has not become ready since a
// restart is unhealthy but left in peace: recovery may take long, and whoever
// watches the state decides. One that was ready and fails three probes in a row
// hangs, and its processes are ended and started again.
type generation struct {
	a      *Agent
	req    StartRequest
	secret string
	ctx    context.Context
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup
	ended  chan *kept

	mu    sync.Mutex
	kept  []*kept
	ready bool   // since the last restart
	why   string // it is not well
}

// kept is a process to keep running. The generation's mu guards what changes.
type kept struct {
	Process
	out       *os.File // the write end all its lives share
	child     *child   // nil before the first start
	startedAt time.Time
	restarts  int
	failures  int // short lives in a row
	retryAt   time.Time
}

func newGeneration(a *Agent, req StartRequest) *generation {
	g := &generation{a: a, req: req, secret: newSecret(), ended: make(chan *kept, len(req.Processes))}
	g.ctx, g.cancel = context.WithCancelCause(context.Background())
	for _, p := range req.Processes {
		if p.User == "" {
			p.User = req.User
		}
		g.kept = append(g.kept, &kept{Process: p})
	}
	return g
}

// launch starts the process once.
func (g *generation) launch(k *kept) error {
	u, err := g.a.lookup(k.User)
	if err != nil {
		return fmt.Errorf("process %s: %w", k.Name, err)
	}
	g.a.places.sawUser(u)
	env := u.environ(g.req.Environment)
	path, err := findProgram(k.Command[0], env["PATH"])
	if err != nil {
		return fmt.Errorf("process %s: %w", k.Name, err)
	}
	if k.out == nil {
		if err := g.openOutput(k); err != nil {
			return fmt.Errorf("process %s: %w", k.Name, err)
		}
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return fmt.Errorf("process %s: %w", k.Name, err)
	}
	defer null.Close()
	c, err := g.a.reaper.start(path, k.Command, &syscall.ProcAttr{
		Dir: "/", Env: flatten(env), Sys: u.attr(),
		Files: []uintptr{null.Fd(), k.out.Fd(), k.out.Fd()},
	}, false)
	if err != nil {
		return fmt.Errorf("process %s: %w", k.Name, err)
	}
	g.mu.Lock()
	k.child, k.startedAt = c, time.Now()
	g.mu.Unlock()
	g.wg.Go(func() {
		<-c.done
		select {
		case g.ended <- k:
		case <-g.ctx.Done():
		}
	})
	return nil
}

// openOutput makes the pipe from the process to the ring. It lasts as long as
// the generation, whatever the process leaves behind.
func (g *generation) openOutput(k *kept) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	openForWriting(w)
	k.out = w
	g.wg.Go(func() {
		defer w.Close()
		defer r.Close()
		stop := context.AfterFunc(g.ctx, func() { _ = r.SetReadDeadline(time.Now()) })
		defer stop()
		drain(g.a.ring, r)
	})
	return nil
}

// keep restarts what ends and probes what runs, until the generation ends.
func (g *generation) keep() {
	retry := time.NewTimer(time.Hour)
	probe := time.NewTimer(g.a.opts.ProbeEvery)
	defer retry.Stop()
	defer probe.Stop()
	probed := make(chan error, 1)
	probing, failures, pause := false, 0, g.a.opts.ProbeEvery
	for {
		select {
		case <-g.ctx.Done():
			return
		case k := <-g.ended:
			retry.Reset(g.noteEnd(k))
		case <-retry.C:
			next, restarted := g.restart()
			retry.Reset(next)
			if restarted {
				failures, pause = 0, 20*time.Millisecond
				probe.Reset(pause)
			}
		case <-probe.C:
			if g.down() != "" || probing {
				probe.Reset(g.a.opts.ProbeEvery)
				continue
			}
			probing = true
			g.wg.Go(func() { probed <- g.serves(g.ctx, probeLimit) })
		case err := <-probed:
			probing = false
			failures = g.noteProbe(err, failures)
			if failures >= hangAfter {
				failures = 0
				g.a.log.Warn("processes hang", "reason", err)
				g.stopWithin(probeLimit)
			}
			pause = min(max(pause*3/2, 20*time.Millisecond), time.Second)
			if g.isReady() {
				pause = g.a.opts.ProbeEvery
			}
			probe.Reset(pause)
		}
	}
}

// noteEnd plans the restart of a process that has ended: in how long.
func (g *generation) noteEnd(k *kept) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	if time.Since(k.startedAt) >= steadyAfter {
		k.failures = 0
	}
	delay := backoff(k.failures)
	k.failures++
	k.retryAt = time.Now().Add(delay)
	g.ready = false
	g.why = fmt.Sprintf("process %s ended: %s", k.Name, k.child.ending())
	g.a.log.Warn("process ended", "process", k.Name, "how", k.child.ending(), "retry_in", delay)
	return g.nextRetry()
}

// nextRetry is how long until the first process that is down is due.
func (g *generation) nextRetry() time.Duration {
	next := time.Hour
	for _, k := range g.kept {
		if !k.up() {
			next = min(next, max(0, time.Until(k.retryAt)))
		}
	}
	return next
}

// restart starts what is due, and says when to look again.
func (g *generation) restart() (next time.Duration, restarted bool) {
	var due []*kept
	allDown := true
	g.mu.Lock()
	for _, k := range g.kept {
		if k.up() {
			allDown = false
		} else if time.Until(k.retryAt) <= 0 {
			due = append(due, k)
		}
	}
	g.mu.Unlock()
	var err error
	if len(due) > 0 && allDown {
		err = g.prepare(g.ctx)
	}
	for _, k := range due {
		e := err
		if e == nil {
			e = g.launch(k)
		}
		g.mu.Lock()
		if e == nil {
			k.restarts++
			restarted = true
		} else {
			k.retryAt = time.Now().Add(backoff(k.failures))
			k.failures++
			g.why = e.Error()
		}
		g.mu.Unlock()
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.nextRetry(), restarted
}

// backoff before a restart after n short lives in a row.
func backoff(n int) time.Duration {
	return min(minBackoff<<min(n, 10), maxBackoff)
}

// noteProbe counts the failures in a row of a member that was ready.
func (g *generation) noteProbe(err error, failures int) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case err == nil:
		g.why = ""
		for _, k := range g.kept {
			if !k.up() {
				return 0
			}
		}
		g.ready = true
		return 0
	case !g.ready:
		g.why = "after a restart: " + err.Error()
		return 0
	}
	g.why = err.Error()
	return failures + 1
}

func (g *generation) setReady() {
	g.mu.Lock()
	g.ready, g.why = true, ""
	g.mu.Unlock()
}

func (g *generation) isReady() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.ready
}

// stopWithin ends all processes: kindly first, after limit by force.
func (g *generation) stopWithin(limit time.Duration) {
	ctx, cancel := context.WithTimeout(g.ctx, limit)
	defer cancel()
	g.stop(ctx)
}

func (g *generation) stop(ctx context.Context) {
	g.mu.Lock()
	running := make(map[*child]syscall.Signal, len(g.kept))
	for _, k := range g.kept {
		if k.up() {
			running[k.child], _ = stopSignal(k.Stop)
		}
	}
	g.mu.Unlock()
	for c, sig := range running {
		g.a.reaper.signal(c, sig, false)
	}
	for c := range running {
		select {
		case <-c.done:
		case <-ctx.Done():
			g.a.reaper.signal(c, syscall.SIGKILL, true)
		}
	}
}

// stopSignal is the signal of that name, TERM for none.
func stopSignal(name string) (syscall.Signal, error) {
	if name == "" {
		return syscall.SIGTERM, nil
	}
	sig := unix.SignalNum("SIG" + strings.TrimPrefix(name, "SIG"))
	if sig == 0 {
		return 0, errors.New("unknown signal " + name)
	}
	return sig, nil
}

func (k *kept) up() bool {
	if k.child == nil {
		return false
	}
	select {
	case <-k.child.done:
		return false
	default:
		return true
	}
}

// down says which process has ended, or "".
func (g *generation) down() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.downLocked()
}

func (g *generation) downLocked() string {
	for _, k := range g.kept {
		if k.child != nil && !k.up() {
			return fmt.Sprintf("process %s ended: %s", k.Name, k.child.ending())
		}
	}
	return ""
}

// state of the processes, and why they are not well.
func (g *generation) state() (list []ProcessState, why string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, k := range g.kept {
		s := ProcessState{Name: k.Name, Restarts: k.restarts, StartedAt: k.startedAt}
		if k.up() {
			s.PID = k.child.pid
		}
		list = append(list, s)
	}
	why = g.why
	if why == "" {
		why = g.downLocked()
	}
	if why == "" && !g.ready {
		why = "not ready yet"
	}
	return list, why
}
