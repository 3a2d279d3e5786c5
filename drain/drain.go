// Package drain stands in front of a log server. It takes messages as platforms
// send them – syslog over TCP and TLS, one or several in a request over HTTPS –
// and gives them on as syslog over TCP with lengths. It lets those with a login
// search, and nothing else of the log server is reachable.
//
// Nothing is kept here: a sender that is faster than the log server waits. Each
// connection and each message is bounded, and so is how many there are.
package drain

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Options say where to listen and what is behind. All are needed.
type Options struct {
	TCP, TLS, HTTPS  string // addresses to listen at
	Certificate, Key string // files
	Users            string // file; see users
	Syslog           string // address of the log server for messages
	Search           string // address of its HTTP API
	Data             string // a folder on its disk
	MinFree          uint64 // with fewer bytes free there nothing is taken
	Streams          int    // connections at TCP and TLS at once, together
	Requests         int    // with messages, at once
	Clients          int    // connections at HTTPS at once
	Logger           *slog.Logger
}

const (
	helloLimit  = 10 * time.Second // for TLS and the header of a request
	dialLimit   = 10 * time.Second // for the log server to come back
	writeLimit  = time.Minute      // for it to take what a stream has
	bodyLimit   = 20 * time.Second
	answerLimit = 20 * time.Second // for it to take what a request has
)

type server struct {
	Options
	users   *users
	pipe    *pipe
	posts   chan struct{}
	full    atomic.Bool
	refused atomic.Int64 // messages that were dropped, and connections
}

// Serve runs until ctx ends.
func Serve(ctx context.Context, o Options) error {
	pair, err := tls.LoadX509KeyPair(o.Certificate, o.Key)
	if err != nil {
		return fmt.Errorf("load certificate: %w", err)
	}
	secure := &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	s := &server{Options: o, users: &users{path: o.Users}, posts: make(chan struct{}, o.Requests)}
	s.pipe = &pipe{dial: s.dial}
	defer s.pipe.close()
	s.look()
	var listeners []net.Listener
	defer func() {
		for _, l := range listeners {
			_ = l.Close()
		}
	}()
	streams, clients := make(chan struct{}, o.Streams), make(chan struct{}, o.Clients)
	for _, at := range []struct {
		address string
		slots   chan struct{}
	}{{o.TCP, streams}, {o.TLS, streams}, {o.HTTPS, clients}} {
		l, err := net.Listen("tcp", at.address)
		if err != nil {
			return fmt.Errorf("listen: %w", err)
		}
		listeners = append(listeners, &limited{Listener: l, slots: at.slots, refused: &s.refused})
	}
	web := &http.Server{
		Handler: s.handler(), TLSConfig: secure, ReadHeaderTimeout: helloLimit, IdleTimeout: 90 * time.Second, MaxHeaderBytes: 32 << 10,
		TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){}, // one request at a time in a connection
		ErrorLog:     slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),  // clients that hang up
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 3)
	go func() { ended <- s.streams(ctx, listeners[0], nil) }()
	go func() { ended <- s.streams(ctx, listeners[1], secure) }()
	go func() { ended <- web.ServeTLS(listeners[2], "", "") }()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	defer web.Close()
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
			s.look()
		}
	}
}

// look finds out whether the disk has room, and reports what was refused.
func (s *server) look() {
	var fs syscall.Statfs_t
	if err := syscall.Statfs(s.Data, &fs); err != nil {
		s.Logger.Warn("look at the disk", "error", err)
		return
	}
	full := fs.Bavail*uint64(fs.Bsize) < s.MinFree
	if s.full.Swap(full) != full {
		s.Logger.Info("room on the disk", "full", full)
	}
	if n := s.refused.Swap(0); n > 0 {
		s.Logger.Warn("messages or connections were refused", "count", n)
	}
}

// limited closes connections beyond the limit.
type limited struct {
	net.Listener
	slots   chan struct{}
	refused *atomic.Int64
}

func (l *limited) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		select {
		case l.slots <- struct{}{}:
			return &slot{Conn: c, free: sync.OnceFunc(func() { <-l.slots })}, nil
		default:
			l.refused.Add(1)
			_ = c.Close()
		}
	}
}

type slot struct {
	net.Conn
	free func()
}

func (s *slot) Close() error {
	defer s.free()
	return s.Conn.Close()
}

// dial connects to the log server, for which it may have to wait.
func (s *server) dial(ctx context.Context, limit time.Duration) (*net.TCPConn, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		var d net.Dialer
		c, err := d.DialContext(ctx, "tcp", s.Syslog)
		if err == nil {
			return c.(*net.TCPConn), nil
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(err, ctx.Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
}
