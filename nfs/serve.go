package nfs

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Options say where to listen and what to serve. Without one of the numbers it has
// the default of DefaultOptions.
type Options struct {
	Address     string // to listen at
	Data        string // folder that all exports show; made when absent
	State       string // folder for what outlives a restart, on any disk
	Control     string // path of a socket for Change
	Connections int    // at once
	MaxFiles    int    // objects in Data
	Memory      int    // bytes of requests being worked on, and as many of answers
	Clients     int    // machines with something open, at once
	Opens       int    // files that clients have open, together
	Locks       int    // ranges that clients have locked, together
	Logger      *slog.Logger

	lease time.Duration
}

// DefaultOptions are the numbers for a small server.
func DefaultOptions() Options {
	return Options{Connections: 256, MaxFiles: 200_000, Memory: 32 << 20, Clients: 512, Opens: 8192, Locks: 16384}
}

// complete fills in what is not said.
func (o Options) complete() (Options, error) {
	d := DefaultOptions()
	for _, n := range []struct {
		to   *int
		or   int
		name string
		min  int
	}{
		{&o.Connections, d.Connections, "connections", 1}, {&o.MaxFiles, d.MaxFiles, "files", 1}, {&o.Memory, d.Memory, "bytes of memory", 4 << 20},
		{&o.Clients, d.Clients, "clients", 1}, {&o.Opens, d.Opens, "opens", 2}, {&o.Locks, d.Locks, "locks", 4},
	} {
		if *n.to == 0 {
			*n.to = n.or
		}
		if *n.to < n.min {
			return o, fmt.Errorf("there are to be %d %s at least", n.min, n.name)
		}
	}
	if o.lease == 0 {
		o.lease = lease
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o, nil
}

const (
	lease       = 90 * time.Second
	maxIdle     = 512 // descriptors of files that are kept open between requests
	maxAtWork   = 32  // requests, of all connections
	descriptors = 128 // of the process that are for something else than files and connections
)

type server struct {
	Options
	tree     *tree
	exports  *exports
	state    *state
	replies  *replies
	requests *budget // memory
	answers  *budget // memory of the large ones
	workers  chan struct{}
	verifier [8]byte // of writes: another one after each start
	fsid     uint64
	began    time.Time
	refused  atomic.Int64 // connections
	unknown  *strangers
}

// Serve runs until ctx ends.
func Serve(ctx context.Context, o Options) (err error) {
	s, err := open(o)
	if err != nil {
		return err
	}
	defer s.close()
	control, err := listenControl(o.Control)
	if err != nil {
		return fmt.Errorf("listen for orders: %w", err)
	}
	defer os.Remove(o.Control)
	defer control.Close()
	l, err := net.Listen("tcp", o.Address)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	defer l.Close()
	s.Logger.Info("serving", "objects", len(s.tree.objects), "exports", len(s.exports.byNumber))
	ctx, cancel := context.WithCancel(ctx)
	var all sync.WaitGroup
	defer func() {
		cancel()
		_, _ = l.Close(), control.Close()
		all.Wait()
	}()
	ended := make(chan error, 2)
	all.Go(func() { ended <- s.accept(ctx, l) })
	all.Go(func() { ended <- s.control(ctx, control) })
	tick := time.NewTicker(s.lease / 3)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-ended:
			if ctx.Err() != nil {
				return nil
			}
			return err
		case <-tick.C:
			s.tidy()
		}
	}
}

// open makes a server of what is on the disk.
func open(o Options) (s *server, err error) {
	if o, err = o.complete(); err != nil {
		return nil, err
	}
	s = &server{Options: o, replies: newReplies(), unknown: newStrangers(), requests: newBudget(o.Memory), answers: newBudget(o.Memory), workers: make(chan struct{}, maxAtWork), began: time.Now()}
	_, _ = rand.Read(s.verifier[:])
	keep, err := s.fit()
	if err != nil {
		return nil, err
	}
	exports, err := openExports(o.State, o.Memory/2)
	if err != nil {
		return nil, fmt.Errorf("open the state folder: %w", err)
	}
	s.exports = exports
	defer func() {
		if err != nil {
			exports.slots.close()
		}
	}()
	if err := os.MkdirAll(o.Data, folderMode); err != nil {
		return nil, fmt.Errorf("make the data folder: %w", err)
	}
	root, err := unix.Open(o.Data, openFolder|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open the data folder: %w", err)
	}
	cookies := mac(s.exports.kept.Key, []byte("cookies"))
	s.fsid = cookieOf(s.exports.kept.Key, "fsid")
	if s.tree, err = newTree(root, cookies, o.MaxFiles, keep, uint64(s.began.UnixMicro()), o.Logger); err != nil {
		_ = unix.Close(root)
		return nil, fmt.Errorf("open the data folder: %w", err)
	}
	s.state = newState(o.lease, limits{clients: o.Clients, opens: o.Opens, owners: 2 * o.Opens, ranges: o.Locks})
	return s, nil
}

func (s *server) close() {
	s.tree.files.close()
	_ = unix.Close(s.tree.disk.root)
	s.exports.slots.close()
}

// fit makes the numbers fit the descriptors that the process may have: each
// connection takes one, and each removed file that is still open.
func (s *server) fit() (keep int, err error) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 0, err
	}
	left := int(min(limit.Cur, 1<<20)) - s.Connections - descriptors
	if left < 64 {
		return 0, fmt.Errorf("the process may open %d files, which is too few for %d connections", limit.Cur, s.Connections)
	}
	keep = min(maxIdle, left/4)
	if s.Opens > left-keep {
		s.Opens = left - keep
		s.Logger.Warn("fewer files can be open than wanted, as the process may not open more", "opens", s.Opens)
	}
	return keep, nil
}

// accept takes connections until the listener closes.
func (s *server) accept(ctx context.Context, l net.Listener) error {
	var all sync.WaitGroup
	defer all.Wait()
	slots := make(chan struct{}, s.Connections)
	for {
		c, err := l.Accept()
		switch {
		case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE), errors.Is(err, unix.ECONNABORTED):
			time.Sleep(10 * time.Millisecond)
			continue
		case err != nil:
			return err
		}
		if !s.room(ctx, slots) {
			s.refused.Add(1)
			_ = c.Close()
			continue
		}
		meet := s.unknown.add(c)
		all.Go(func() {
			defer func() { <-slots }()
			defer meet()
			(&connection{Conn: c, s: s, r: bufio.NewReaderSize(c, 4<<10), meet: meet}).serve(ctx)
		})
	}
}

// room takes a slot for a connection, of a stranger if need be.
func (s *server) room(ctx context.Context, slots chan struct{}) bool {
	select {
	case slots <- struct{}{}:
		return true
	default:
	}
	if !s.unknown.end() {
		return false
	}
	late := time.NewTimer(time.Second)
	defer late.Stop()
	select {
	case slots <- struct{}{}:
		return true
	case <-late.C: // it is at work
	case <-ctx.Done():
	}
	return false
}

// tidy drops what clients have that are gone for long, and reports what was refused.
func (s *server) tidy() {
	s.state.mu.Lock()
	s.state.sweep(patience)
	list := s.state.takeShut()
	s.state.mu.Unlock()
	s.tree.closed(list)
	if n := s.refused.Swap(0); n > 0 {
		s.Logger.Warn("connections were refused", "count", n)
	}
}

// dropExport ends what was opened through an export that is dead.
func (s *server) dropExport(x *export) {
	s.state.mu.Lock()
	s.state.dropExport(x)
	list := s.state.takeShut()
	s.state.mu.Unlock()
	s.tree.closed(list)
}
