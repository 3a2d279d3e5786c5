package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Options of an agent. The zero value of each but Dir is what a member needs.
type Options struct {
	Dir    string       // holds agent.sock and door.sock; made with mode 0700 when missing
	Logger *slog.Logger // default: nothing is logged
	// RunDir is where files "below /run" really go; default /run.
	RunDir string
	// ProbeEvery is the time between two runs of Ready while all is well; default 10 s.
	ProbeEvery time.Duration
	// StopTimeout bounds the kind end of the processes when the agent is told
	// to end; default 8 s, less than what runtimes grant before they kill.
	StopTimeout time.Duration
	// DoorLimit bounds the connections of one door; more are reset at once.
	// Default 4096.
	DoorLimit int
	// Egress makes the agent the way out of a group: it lives in the host's network, or
	// in a pod of its own, and runs nothing.
	Egress bool
	// Places are what the agent keeps itself, in a pod.
	Places []Place
	// OneUser makes every user be the agent's own, which need not be root; it is the name that servers
	// see of that user. Nothing changes its identity then, and the agent is the owner of all Places.
	OneUser string
	// Listen is where an agent in a pod serves (":7464"), instead of in Dir, and Identity
	// what it shows there.
	Listen   string
	Identity Identity
	// AllowInside serves peers of the agent's own PID namespace too: for an
	// agent that runs without a namespace of its own (tests).
	AllowInside bool
}

func (o Options) withDefaults() Options {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.RunDir == "" {
		o.RunDir = "/run"
	}
	if o.ProbeEvery <= 0 {
		o.ProbeEvery = 10 * time.Second
	}
	if o.StopTimeout <= 0 {
		o.StopTimeout = 8 * time.Second
	}
	if o.DoorLimit <= 0 {
		o.DoorLimit = 4096
	}
	return o
}

// Agent keeps the processes of one generation. All methods may be called
// concurrently. Start and Wipe exclude each other; a Wipe ends a Start that is
// under way.
type Agent struct {
	opts   Options
	log    *slog.Logger
	reaper *reaper
	doors  *doors
	ring   *ring
	places *places // nil for an agent without

	exclusive chan struct{} // holds one token while Start or Wipe works
	tidy      *time.Timer   // gives memory back that a wipe and what came before it have left

	mu         sync.Mutex
	phase      Phase
	reason     string
	number     int // of the generation
	generation *generation
	wiping     int  // wipes that wait or work: no Start begins
	unclean    bool // the last wipe failed: no Start before one that succeeds

	identity atomic.Pointer[tls.Config] // of an agent that listens in the network

	ownSockets map[uint64]bool // inodes of the agent's listeners, not part of a baseline
}

// New makes an agent that is not served yet; Run must be called for it to work.
func New(opts Options) *Agent {
	opts = opts.withDefaults()
	tidy := time.AfterFunc(time.Hour, debug.FreeOSMemory)
	tidy.Stop()
	return &Agent{
		opts: opts, log: opts.Logger,
		reaper:     newReaper(),
		doors:      newDoors(opts.Logger, opts.DoorLimit, opts.Egress),
		ring:       newRing(256 << 10),
		exclusive:  make(chan struct{}, 1),
		tidy:       tidy,
		phase:      Idle,
		ownSockets: map[uint64]bool{},
	}
}

// Run reaps the ended processes until ctx ends; then it stops the processes
// kindly and returns when all are gone. Whoever serves Handler on a listener of
// its own calls it beside that; Serve does.
func (a *Agent) Run(ctx context.Context) error {
	reaping, stop := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	go func() { defer close(done); a.reaper.run(reaping) }()
	<-ctx.Done()
	a.shutdown()
	a.tidy.Stop()
	stop()
	<-done
	return nil
}

// Serve is the agent as it runs in a member: it serves agent.sock and door.sock
// in opts.Dir, or in a pod at opts.Listen, until ctx ends or SIGTERM arrives, then stops the
// processes and returns nil.
func Serve(ctx context.Context, opts Options) error {
	a := New(opts)
	if err := harden(); err != nil {
		return err
	}
	if err := a.takePlaces(); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()

	api, doors, err := a.listen()
	if err != nil {
		return err
	}
	defer api.Close()
	server := &http.Server{
		Handler:           a.Handler(),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       30 * time.Second,
		IdleTimeout:       60 * time.Second,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(a.log.Handler(), slog.LevelWarn),
	}
	var wg sync.WaitGroup
	failed := make(chan error, 2)
	wg.Go(func() { failed <- server.Serve(api) })
	if doors != nil {
		defer doors.Close()
		wg.Go(func() { failed <- a.serveDoorSocket(doors.UnixListener) })
	}

	running, cancel := context.WithCancel(ctx)
	wg.Go(func() { _ = a.Run(running) })
	select {
	case <-ctx.Done():
		err = nil
	case err = <-failed:
		err = fmt.Errorf("serve agent: %w", err)
	}
	cancel()
	_ = server.Close()
	if doors != nil {
		_ = doors.UnixListener.Close()
	}
	wg.Wait()
	return err
}

// listen makes the agent's listeners: that of orders, and that of doors, which an agent
// in a pod binds itself.
func (a *Agent) listen() (net.Listener, *ownListener, error) {
	if a.opts.Listen != "" {
		l, err := a.listenTCP()
		return l, nil, err
	}
	api, err := listenUnix(a.opts.Dir, "agent.sock", unix.SOCK_STREAM)
	if err != nil {
		return nil, nil, err
	}
	door, err := listenUnix(a.opts.Dir, "door.sock", unix.SOCK_SEQPACKET)
	if err != nil {
		_ = api.Close()
		return nil, nil, err
	}
	a.ownSockets[api.inode], a.ownSockets[door.inode] = true, true
	return &outsideListener{Listener: api, agent: a}, door, nil
}

// harden makes the agent's memory unreadable for the processes of the member
// and, as PID 1, keeps it small and deaf to signals that would end it.
func harden() error {
	if isInit() {
		keepOOMScore()
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("set non-dumpable: %w", err)
	}
	if !isInit() {
		return nil
	}
	// What the agent starts inherits that there are no core files: they would carry a
	// tenant's memory away. A runtime may have seen to it, a kubelet has not.
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("do without core files: %w", err)
	}
	signal.Ignore(syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGPIPE, syscall.SIGUSR1, syscall.SIGUSR2,
		syscall.SIGALRM, syscall.SIGTSTP, syscall.SIGTTIN, syscall.SIGTTOU)
	syscall.Umask(0o022)
	// Huge pages make a server that waits take three times the memory it uses.
	// What the agent starts inherits this.
	if err := unix.Prctl(unix.PR_SET_THP_DISABLE, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("do without huge pages: %w", err)
	}
	debug.SetGCPercent(50)
	runtime.GOMAXPROCS(min(2, runtime.GOMAXPROCS(0)))
	spareThreads(8)
	return nil
}

// spareThreads makes the runtime have n threads more than it needs now. It never
// gives them back, and it dies when it needs one that it cannot get: a member
// that forks up to its limit of processes must not bring the agent to that.
func spareThreads(n int) {
	var begun, ended sync.WaitGroup
	begun.Add(n)
	for range n {
		ended.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			begun.Done()
			begun.Wait()
		})
	}
	ended.Wait()
}

// isInit says whether the agent is PID 1 of a namespace, so that everything
// else in it is the agent's to kill. Nothing but this decides it.
func isInit() bool { return os.Getpid() == 1 }

// shutdown ends the generation kindly: each process gets its stop signal, and
// after StopTimeout all are killed.
func (a *Agent) shutdown() {
	ctx, cancel := context.WithTimeout(context.Background(), a.opts.StopTimeout)
	defer cancel()
	a.mu.Lock()
	a.wiping++ // for good: nothing begins any more
	g := a.generation
	a.mu.Unlock()
	if g != nil {
		g.cancel(errors.New("the agent ends"))
		g.stop(ctx)
	}
	if _, err := a.wipe(context.Background(), noPlaces); err != nil {
		a.log.Error("wipe at the end", "error", err)
	}
	if err := a.doors.end(); err != nil {
		a.log.Error("drop doors", "error", err)
	}
}

// State of the agent now.
func (a *Agent) State() State {
	var usage *Usage
	if a.places != nil {
		usage = usageWith(a.places.disk)
	} else if a.opts.Listen != "" {
		usage = usageWith("")
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	s := State{Version: Version, Generation: a.number, Phase: a.phase, Reason: a.reason, Doors: a.doors.state(), Usage: usage}
	a.doors.mu.Lock()
	s.Egress = a.doors.rules
	a.doors.mu.Unlock()
	if g := a.generation; g != nil {
		var why string
		s.Processes, why = g.state()
		s.Healthy = a.phase == Running && why == ""
		if s.Reason == "" {
			s.Reason = why
		}
	}
	return s
}

// Log is what the processes of this generation wrote lately.
func (a *Agent) Log() []byte { return a.ring.bytes() }
