package nfs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"
)

const (
	orderSize    = 4 << 10          // bytes, of an order and of its answer
	orderLimit   = 10 * time.Second // to send one
	answerLimit  = time.Minute      // to carry one out, which waits for requests at work
	controlCalls = 8                // at once
	restartLimit = 10 * time.Second // for a server to come back
)

// answer is what an order has come to.
type answer struct {
	Error string `json:"error,omitempty"`
}

// Change gives an export to a login, or takes its export away, through the socket of
// a server that runs, and returns when that is in force and durable. A server that
// does not answer may be starting: for ten seconds it tries again. The same order
// can be given any number of times.
func Change(ctx context.Context, control string, o Order) error {
	if err := o.validate(); err != nil {
		return err
	}
	for end := time.Now().Add(restartLimit); ; {
		a, err := call(ctx, control, o)
		switch {
		case err == nil && a.Error != "":
			return errors.New(a.Error)
		case err == nil:
			return nil
		case ctx.Err() != nil || time.Now().After(end):
			return fmt.Errorf("ask the server: %w", err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("ask the server: %w", err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func call(ctx context.Context, control string, o Order) (a answer, err error) {
	d := net.Dialer{Timeout: orderLimit}
	c, err := d.DialContext(ctx, "unix", control)
	if err != nil {
		return a, err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })()
	_ = c.SetDeadline(time.Now().Add(answerLimit + orderLimit))
	if err := json.NewEncoder(c).Encode(o); err != nil {
		return a, err
	}
	return a, json.NewDecoder(io.LimitReader(c, orderSize)).Decode(&a)
}

// listenControl listens at a socket that only this user can reach from the first
// moment, in place of what a former server has left. The system shows the same names
// of it whenever it is made.
func listenControl(path string) (l net.Listener, err error) {
	dir := path + ".new"
	if err := os.RemoveAll(dir); err != nil {
		return nil, err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	at := filepath.Join(dir, "s")
	u, err := net.ListenUnix("unix", &net.UnixAddr{Name: at, Net: "unix"})
	if err != nil {
		return nil, err
	}
	u.SetUnlinkOnClose(false)
	if err = os.Chmod(at, 0o600); err == nil {
		err = os.Rename(at, path)
	}
	if err != nil {
		_ = u.Close()
		return nil, err
	}
	return u, nil
}

// control takes orders until the listener closes.
func (s *server) control(ctx context.Context, l net.Listener) error {
	var all sync.WaitGroup
	defer all.Wait()
	slots := make(chan struct{}, controlCalls)
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			_ = c.Close()
			continue
		}
		all.Go(func() {
			defer func() { <-slots }()
			defer c.Close()
			defer context.AfterFunc(ctx, func() { _ = c.SetReadDeadline(time.Unix(1, 0)) })()
			_ = c.SetDeadline(time.Now().Add(orderLimit))
			var o Order
			if err := json.NewDecoder(io.LimitReader(c, orderSize)).Decode(&o); err != nil {
				return
			}
			var a answer
			if err := s.exports.change(o, s.dropExport); err != nil {
				a.Error = err.Error()
				s.Logger.Warn("an export is not changed", "login", o.Login, "error", err)
			} else {
				s.Logger.Info("exports", "login", o.Login, "given", o.Token != "")
			}
			_ = c.SetWriteDeadline(time.Now().Add(orderLimit))
			_ = json.NewEncoder(c).Encode(a)
		})
	}
}
