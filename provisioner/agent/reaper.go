package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

var errNoStarts = errors.New("the member is being wiped")

// reaper starts and reaps all processes. One lock covers starting, signalling
// and reaping, so that no exit is lost and no signal meets a reused pid. As PID
// 1 it reaps orphans too; elsewhere only its own children, so that it takes no
// exit from others in the same program.
type reaper struct {
	mu       sync.Mutex
	children map[int]*child
	refusing bool // a wipe is under way: nothing starts

	reaped chan struct{} // holds a token when something has been reaped since it was last empty
}

// child is a process the agent started itself.
type child struct {
	pid     int
	program bool            // ends with all of its process group
	done    chan struct{}   // closed when it has ended
	status  unix.WaitStatus // to be read after done
}

func newReaper() *reaper { return &reaper{children: map[int]*child{}, reaped: make(chan struct{}, 1)} }

// start runs path. The child leads a session and a process group of its own.
func (r *reaper) start(path string, argv []string, attr *syscall.ProcAttr, program bool) (*child, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.refusing {
		return nil, errNoStarts
	}
	pid, err := forkExec(path, argv, attr)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", path, err)
	}
	c := &child{pid: pid, program: program, done: make(chan struct{})}
	r.children[pid] = c
	return c, nil
}

// sacrifice is added to the oom_score_adj of everything that an agent as PID 1
// starts: half of the member's memory. Whatever a tenant makes of it, small
// processes by the hundred too, the kernel then ends that before the agent.
const sacrifice = 500

// forkExec starts a process that is ended before the agent when memory runs out.
// The value is inherited, and nobody needs a privilege to raise it and to take
// it back; that of a process of another user the agent could not change.
func forkExec(path string, argv []string, attr *syscall.ProcAttr) (int, error) {
	if isInit() {
		score, err := ownOOMScore()
		if err == nil {
			err = setOOMScore(score + sacrifice)
		}
		if err != nil {
			return 0, err
		}
		defer func() { _ = setOOMScore(score) }()
	}
	return syscall.ForkExec(path, argv, attr)
}

const oomScore = "/proc/self/oom_score_adj"

// ownOOMScore is what the agent began with.
var ownOOMScore = sync.OnceValues(func() (int, error) {
	text, err := os.ReadFile(oomScore)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(text)))
})

// oomScoreFile is open from before the agent is not dumpable any more: then the file is root's.
var oomScoreFile *os.File

// keepOOMScore opens it, if it may be written.
func keepOOMScore() {
	if f, err := os.OpenFile(oomScore, os.O_WRONLY, 0); err == nil {
		oomScoreFile = f
	}
}

func setOOMScore(n int) error {
	text := []byte(strconv.Itoa(min(n, 1000)))
	if oomScoreFile == nil {
		return os.WriteFile(oomScore, text, 0)
	}
	_, err := oomScoreFile.WriteAt(text, 0)
	return err
}

// signal sends to the child, or to its whole process group, unless it has ended.
func (r *reaper) signal(c *child, sig syscall.Signal, group bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.children[c.pid] != c {
		return
	}
	pid := c.pid
	if group {
		pid = -pid
	}
	_ = syscall.Kill(pid, sig)
}

// refuse makes start fail, or work again.
func (r *reaper) refuse(refusing bool) {
	r.mu.Lock()
	r.refusing = refusing
	r.mu.Unlock()
}

// run reaps until ctx ends.
func (r *reaper) run(ctx context.Context) {
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGCHLD)
	defer signal.Stop(ended)
	for {
		for r.reap() == reapBatch {
		}
		select {
		case <-ended:
		case <-ctx.Done():
			return
		}
	}
}

// reapBatch bounds how long the lock is held: a member that forks without end
// makes orphans as fast as they are reaped.
const reapBatch = 32

// reap takes the exits that are there now, at most a batch, and says how many.
func (r *reaper) reap() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	if isInit() {
		for n := range reapBatch {
			pid := exited(unix.P_ALL, 0)
			if pid == 0 {
				return n
			}
			r.collect(pid)
		}
		return reapBatch
	}
	n := 0
	for pid := range r.children {
		if n == reapBatch {
			break
		}
		if exited(unix.P_PID, pid) == pid {
			r.collect(pid)
			n++
		}
	}
	return n
}

// exited names a process that has ended and waits to be reaped, or 0. It stays
// a zombie, so that its pid and process group cannot be reused yet.
func exited(kind, id int) int {
	for {
		var info unix.Siginfo
		err := unix.Waitid(kind, id, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return 0
		}
		// si_pid is the first member of the union behind signo, errno and code.
		const offset = (3*4 + unsafe.Sizeof(uintptr(0)) - 1) &^ (unsafe.Sizeof(uintptr(0)) - 1)
		return int(*(*int32)(unsafe.Add(unsafe.Pointer(&info), offset)))
	}
}

func (r *reaper) collect(pid int) {
	c := r.children[pid]
	if c != nil && c.program {
		_ = syscall.Kill(-pid, syscall.SIGKILL) // what it left behind in its group
	}
	var status unix.WaitStatus
	for {
		if _, err := unix.Wait4(pid, &status, 0, nil); err != unix.EINTR {
			break
		}
	}
	if c != nil {
		delete(r.children, pid)
		c.status = status
		close(c.done)
	}
	select {
	case r.reaped <- struct{}{}:
	default:
	}
}

// locked calls f while nothing starts and nothing is reaped, with the pids of
// the programs that run: they lead the sessions of the same numbers.
func (r *reaper) locked(f func(programs map[int]bool)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	programs := map[int]bool{}
	for pid, c := range r.children {
		if c.program {
			programs[pid] = true
		}
	}
	f(programs)
}

// killGroups kills the process groups of all own children and says how many
// there are. It is what an agent does that is not PID 1.
func (r *reaper) killGroups() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	for pid := range r.children {
		_ = syscall.Kill(-pid, syscall.SIGKILL)
	}
	return len(r.children)
}

// exitCode is -1 for a process that a signal ended.
func (c *child) exitCode() int {
	if c.status.Exited() {
		return c.status.ExitStatus()
	}
	return -1
}

// ending says in words how the process ended.
func (c *child) ending() string {
	if c.status.Signaled() {
		return "signal " + unix.SignalName(c.status.Signal())
	}
	return fmt.Sprintf("exit code %d", c.status.ExitStatus())
}
