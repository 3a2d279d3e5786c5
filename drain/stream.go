package drain

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// streams serves connections with syslog.
func (s *server) streams(ctx context.Context, l net.Listener, secure *tls.Config) error {
	for {
		c, err := l.Accept()
		if err != nil {
			var temporary net.Error
			if errors.As(err, &temporary) && temporary.Timeout() {
				continue
			}
			return fmt.Errorf("accept: %w", err)
		}
		go func() {
			defer c.Close()
			stop := context.AfterFunc(ctx, func() { _ = c.Close() })
			defer stop()
			in := c
			if secure != nil {
				t := tls.Server(c, secure)
				hello, cancel := context.WithTimeout(ctx, helloLimit)
				err := t.HandshakeContext(hello)
				cancel()
				if err != nil {
					return
				}
				in = t
			}
			if err := s.stream(ctx, in); err != nil {
				s.Logger.Info("a stream of messages ended early", "error", err)
			}
		}()
	}
}

// stream copies messages until the sender ends or the log server takes no more.
func (s *server) stream(ctx context.Context, c net.Conn) error {
	from := &source{ctx: ctx, s: s, c: c}
	in := newReader(from)
	refused := 0
	var err error
	for {
		var m []byte
		if m, err = in.next(); err != nil {
			break
		}
		if len(m) == 0 {
			continue
		}
		if !streamed(m) {
			refused++
			s.refused.Add(1)
			continue
		}
		from.batch = appendFrame(from.batch, m)
		if len(from.batch) >= batchSize {
			if err = from.flush(); err != nil {
				break
			}
		}
	}
	if refused > 0 { // so that it can be found by whoever looks for it
		from.batch = appendFrame(from.batch, fmt.Appendf(nil, "<44>1 - - drain - - - %d messages of a connection were dropped: their timestamps are none, or they are too long", refused))
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return errors.Join(err, from.flush())
}

// source reads from a sender. All that came before goes to the log server first, so
// that nothing waits here for the next message; with a full disk nothing is read.
type source struct {
	ctx   context.Context
	s     *server
	c     net.Conn
	batch []byte // whole messages that the log server has not got
}

const batchSize = 32 << 10

func (r *source) flush() error {
	if len(r.batch) == 0 {
		return nil
	}
	err := r.s.pipe.send(r.ctx, r.batch)
	if r.batch = r.batch[:0]; cap(r.batch) > 4*batchSize {
		r.batch = nil
	}
	return err
}

func (r *source) Read(p []byte) (int, error) {
	if err := r.flush(); err != nil {
		return 0, err
	}
	for r.s.full.Load() {
		select {
		case <-r.ctx.Done():
			return 0, r.ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
	return r.c.Read(p)
}

// pipe is the connection to the log server that all streams share: for each one it
// keeps up to 2 MiB, which would be too much for as many as there are senders.
type pipe struct {
	dial func(context.Context, time.Duration) (*net.TCPConn, error)

	mu   sync.Mutex
	conn *net.TCPConn
	gone *atomic.Bool // the log server has closed it
}

// send gives whole messages to the log server. When the connection breaks they are
// sent once more: rather twice than never.
func (p *pipe) send(ctx context.Context, frames []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for attempt := 0; ; attempt++ {
		err := p.try(ctx, frames)
		if err == nil {
			return nil
		}
		p.closeLocked()
		if attempt > 0 || ctx.Err() != nil {
			return err
		}
	}
}

func (p *pipe) try(ctx context.Context, frames []byte) error {
	if p.conn != nil && p.gone.Load() {
		p.closeLocked()
	}
	if p.conn == nil {
		c, err := p.dial(ctx, dialLimit)
		if err != nil {
			return err
		}
		gone := new(atomic.Bool)
		go func() {
			_, _ = io.Copy(io.Discard, c)
			gone.Store(true)
			_ = c.Close()
		}()
		p.conn, p.gone = c, gone
	}
	_ = p.conn.SetWriteDeadline(time.Now().Add(writeLimit))
	_, err := p.conn.Write(frames)
	return err
}

func (p *pipe) closeLocked() {
	if p.conn != nil {
		_ = p.conn.Close()
		p.conn = nil
	}
}

func (p *pipe) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closeLocked()
}
