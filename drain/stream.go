package drain

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// streams serves connections with syslog, each with its own to the log server, so
// that nobody's faults are another's.
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

// stream copies messages until the sender ends or the log server hangs up.
func (s *server) stream(ctx context.Context, c net.Conn) error {
	first := make([]byte, 1) // who sends nothing costs the log server nothing
	if _, err := io.ReadFull(c, first); err != nil {
		return nil
	}
	up, err := s.dial(ctx, dialLimit)
	if err != nil {
		return err
	}
	defer up.Close()
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		_, _ = io.Copy(io.Discard, up)
		_ = c.Close()
	}()
	w := bufio.NewWriterSize(up, 32<<10)
	in := newReader(io.MultiReader(&once{first}, &source{ctx, s, c, up, w}))
	refused := 0
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
		if err = writeFrame(w, m); err != nil {
			break
		}
	}
	select {
	case <-gone:
		return errors.New("the log server has hung up")
	default:
	}
	if refused > 0 { // so that it can be found by whoever looks for it
		_ = writeFrame(w, fmt.Appendf(nil, "<44>1 - - drain - - - %d messages of a connection were dropped: their timestamps are none, or they are too long", refused))
	}
	_ = up.SetWriteDeadline(time.Now().Add(writeLimit))
	ended := errors.Join(w.Flush(), up.CloseWrite())
	select {
	case <-gone: // it has stored everything
	case <-time.After(answerLimit):
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return errors.Join(err, ended)
}

type once struct{ left []byte }

func (o *once) Read(p []byte) (int, error) {
	if len(o.left) == 0 {
		return 0, io.EOF
	}
	n := copy(p, o.left)
	o.left = o.left[n:]
	return n, nil
}

// source reads from a sender. All that came before goes to the log server first, so
// that nothing waits here for the next message; with a full disk nothing is read.
type source struct {
	ctx context.Context
	s   *server
	c   net.Conn
	up  net.Conn
	w   *bufio.Writer
}

func (r *source) Read(p []byte) (int, error) {
	_ = r.up.SetWriteDeadline(time.Now().Add(writeLimit))
	if err := r.w.Flush(); err != nil {
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
