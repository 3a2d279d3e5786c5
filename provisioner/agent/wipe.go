package agent

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"
)

const (
	killTimeout = 10 * time.Second
	tidyAfter   = 2 * time.Second // servers have mostly started by then
)

// Wipe ends everything but the agent: doors, connections, processes, IPC
// objects, output, secrets, and what is in the Places. When it returns nil nothing of
// the generation is left outside of file systems that others keep, and the agent is idle. An idle agent may be
// wiped too. After an error the phase is failed, and no Start is accepted before
// a Wipe that succeeds; but an order that is too old changes nothing.
func (a *Agent) Wipe(ctx context.Context, r WipeRequest) (WipeResult, error) {
	if err := a.doors.wipe(r.Order); err != nil {
		return WipeResult{}, err
	}
	a.mu.Lock()
	a.wiping++
	g := a.generation
	a.mu.Unlock()
	if r.Kindly && g != nil {
		_, _ = a.doors.close() // again below, where it counts
		g.cancel(errors.New("the member is being stopped"))
		bounded, cancel := context.WithTimeout(ctx, a.opts.StopTimeout)
		g.stop(bounded)
		cancel()
	}
	defer func() {
		a.mu.Lock()
		a.wiping--
		a.mu.Unlock()
	}()
	places := allPlaces
	if r.Kindly {
		places = memoryPlaces
	}
	return a.wipe(ctx, places)
}

// wipe needs a.wiping to be held up by the caller.
func (a *Agent) wipe(ctx context.Context, places scope) (WipeResult, error) {
	a.mu.Lock()
	g := a.generation
	a.phase, a.reason = Idle, ""
	if g != nil {
		g.cancel(errors.New("the member is being wiped"))
	}
	a.mu.Unlock()
	connections, doorsErr := a.doors.close() // at once, even while a start is being ended

	select {
	case a.exclusive <- struct{}{}:
		defer func() { <-a.exclusive }()
	case <-ctx.Done():
		return WipeResult{}, fmt.Errorf("wipe: %w", ctx.Err())
	}
	// From here on ctx has no say: half a wipe is worth nothing.
	a.reaper.refuse(true)
	defer a.reaper.refuse(false)
	killed, killErr := a.killAll(context.WithoutCancel(ctx))
	result := WipeResult{Killed: killed, Connections: connections}
	err := errors.Join(doorsErr, killErr)
	if killErr == nil {
		if g != nil {
			g.wg.Wait()
		}
		var ipcErr error
		result.IPC, ipcErr = removeIPC()
		err = errors.Join(err, ipcErr)
		a.ring.clear()
		if a.places != nil {
			var placesErr error
			result.Removed, placesErr = a.places.wipe(places)
			err = errors.Join(err, placesErr)
		}
	}
	a.mu.Lock()
	a.generation, a.unclean = nil, err != nil
	if err != nil {
		a.phase, a.reason = Failed, err.Error()
	}
	a.mu.Unlock()
	a.tidy.Reset(tidyAfter)
	if err != nil {
		return result, fmt.Errorf("wipe: %w", err)
	}
	return result, nil
}

// killAll kills every process but the agent and returns when none is left, with
// how many there were. Starting must be refused meanwhile.
func (a *Agent) killAll(ctx context.Context) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, killTimeout)
	defer cancel()
	killed := 0
	for delay := 200 * time.Microsecond; ; delay = min(delay*2, 20*time.Millisecond) {
		left := a.killOnce()
		killed = max(killed, left)
		for a.reaper.reap() == reapBatch {
		}
		if left == 0 {
			return killed, nil
		}
		select {
		case <-a.reaper.reaped: // perhaps the last one
		case <-time.After(delay):
		case <-ctx.Done():
			return killed, fmt.Errorf("kill processes: %d are left after %s: %s", left, killTimeout, survivors())
		}
	}
}

// killOnce kills all there is and says how many there were. PID 1 kills its
// whole namespace; any other agent only the process groups of its children,
// because kill(-1) would end the host's processes.
func (a *Agent) killOnce() int {
	if !isInit() {
		return a.reaper.killGroups()
	}
	list, _ := processes()
	if err := syscall.Kill(-1, syscall.SIGKILL); err == syscall.ESRCH {
		return 0 // the kernel's own word that nothing is left, zombies included
	}
	return max(1, len(list))
}

func survivors() string {
	list, err := processes()
	if err != nil {
		return err.Error()
	}
	s := ""
	for i, p := range list {
		if i == 10 {
			return s + "…"
		}
		s += fmt.Sprintf("%d %s %c; ", p.pid, p.comm, p.state)
	}
	return s
}
