package agent

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const answerLimit = 8 << 20

// Client speaks to one agent. Through its directory it keeps no connection, so
// there is nothing to close. All methods may be called concurrently. An
// answer that is no success is an *Error.
type Client struct {
	dir    string // the agent's
	scheme string
	http   http.Client
}

// NewClient is for the agent that serves in dir.
func NewClient(dir string) *Client {
	c := &Client{dir: dir, scheme: "http"}
	c.http.Transport = &http.Transport{
		DisableKeepAlives:  true,
		DisableCompression: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return c.dial(ctx, "unix", "agent.sock")
		},
	}
	return c
}

// NewClientTLS is for the agent in a pod at address (host:port). Its connections are
// kept for a moment, and config is asked for each new one; it must name the ServerName, the
// client's certificate and the authorities.
func NewClientTLS(address string, config func() (*tls.Config, error)) *Client {
	c := &Client{scheme: "https"}
	c.http.Transport = &http.Transport{
		DisableCompression:  true,
		MaxIdleConnsPerHost: 4,
		IdleConnTimeout:     20 * time.Second, // less than the agent's
		DialTLSContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			cfg, err := config()
			if err != nil {
				return nil, err
			}
			d := tls.Dialer{NetDialer: &net.Dialer{Timeout: dialPatience}, Config: cfg}
			return d.DialContext(ctx, "tcp", address)
		},
	}
	return c
}

// CloseIdle ends kept connections.
func (c *Client) CloseIdle() { c.http.CloseIdleConnections() }

// dial goes through an open directory: the path of a unix socket has 108 bytes.
func (c *Client) dial(ctx context.Context, network, name string) (net.Conn, error) {
	fd, err := unix.Open(c.dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: c.dir, Err: err}
	}
	defer unix.Close(fd)
	var d net.Dialer
	return d.DialContext(ctx, network, procPath(fd, name))
}

func (c *Client) call(ctx context.Context, method, path string, in, out any) error {
	body, err := c.raw(ctx, method, path, in)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(body, out); err != nil {
		return fmt.Errorf("agent %s: decode answer: %w", path, err)
	}
	return nil
}

func (c *Client) raw(ctx context.Context, method, path string, in any) ([]byte, error) {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return nil, fmt.Errorf("agent %s: encode request: %w", path, err)
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.scheme+"://agent"+path, body)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("agent %s: %w", path, err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, answerLimit))
	if err != nil {
		return nil, fmt.Errorf("agent %s: read answer: %w", path, err)
	}
	if resp.StatusCode != http.StatusOK {
		var f failure
		if json.Unmarshal(answer, &f) != nil || f.Error == "" {
			f.Error = resp.Status
		}
		return nil, fmt.Errorf("agent %s: %w", path, &Error{Status: resp.StatusCode, Message: f.Error})
	}
	return answer, nil
}

// State asks how the member is.
func (c *Client) State(ctx context.Context) (s State, err error) {
	err = c.call(ctx, "GET", "/v1/state", nil, &s)
	return s, err
}

// Start begins a generation and returns when the member serves.
func (c *Client) Start(ctx context.Context, req StartRequest) error {
	return c.call(ctx, "POST", "/v1/start", req, &struct{}{})
}

// Run runs a program; one that fails is a Result, not an error.
func (c *Client) Run(ctx context.Context, p Program) (r Result, err error) {
	err = c.call(ctx, "POST", "/v1/run", p, &r)
	return r, err
}

// Wipe ends everything but the agent.
func (c *Client) Wipe(ctx context.Context, r WipeRequest) (done WipeResult, err error) {
	err = c.call(ctx, "POST", "/v1/wipe", r, &done)
	return done, err
}

// OpenDoors lets tenants in.
func (c *Client) OpenDoors(ctx context.Context, r OpenRequest) error {
	return c.call(ctx, "POST", "/v1/doors/open", r, &struct{}{})
}

// SetEgress says where an egress does not lead.
func (c *Client) SetEgress(ctx context.Context, e Egress) error {
	return c.call(ctx, "POST", "/v1/egress", e, &struct{}{})
}

// CloseDoors ends every connection and refuses new ones.
func (c *Client) CloseDoors(ctx context.Context, req CloseRequest) (r CloseResult, err error) {
	err = c.call(ctx, "POST", "/v1/doors/close", req, &r)
	return r, err
}

// BindDoors makes the agent bind doors itself.
func (c *Client) BindDoors(ctx context.Context, r DoorsRequest) error {
	return c.call(ctx, "POST", "/v1/doors/bind", r, &struct{}{})
}

// SetWay joins a leader and an egress.
func (c *Client) SetWay(ctx context.Context, w Way) error {
	return c.call(ctx, "POST", "/v1/way", w, &struct{}{})
}

// SetHosts says what addresses the members have.
func (c *Client) SetHosts(ctx context.Context, r HostsRequest) error {
	return c.call(ctx, "POST", "/v1/hosts", r, &struct{}{})
}

// SetIdentity replaces the agent's certificates.
func (c *Client) SetIdentity(ctx context.Context, i Identity) error {
	return c.call(ctx, "POST", "/v1/identity", i, &struct{}{})
}

// KeepPristine remembers what the disk places hold.
func (c *Client) KeepPristine(ctx context.Context) (p Pristine, err error) {
	err = c.call(ctx, "POST", "/v1/pristine/keep", struct{}{}, &p)
	return p, err
}

// FillPristine fills the empty disk places with what was kept.
func (c *Client) FillPristine(ctx context.Context, p Pristine) error {
	return c.call(ctx, "POST", "/v1/pristine/fill", p, &struct{}{})
}

// Baseline describes the member from inside.
func (c *Client) Baseline(ctx context.Context) (b Baseline, err error) {
	err = c.call(ctx, "GET", "/v1/baseline", nil, &b)
	return b, err
}

// Log is what the processes wrote lately.
func (c *Client) Log(ctx context.Context) ([]byte, error) {
	return c.raw(ctx, "GET", "/v1/log", nil)
}

// SendDoors gives the agent bound TCP sockets, which replace all it has. The
// files stay the caller's, who closes them.
func (c *Client) SendDoors(ctx context.Context, list []Door, sockets []*os.File) error {
	if len(list) != len(sockets) || len(list) > doorsLimit {
		return invalid("send doors: %d doors, %d sockets, at most %d", len(list), len(sockets), doorsLimit)
	}
	body, err := json.Marshal(append([]Door{}, list...))
	if err != nil {
		return fmt.Errorf("send doors: %w", err)
	}
	conn, err := c.dial(ctx, "unixpacket", "door.sock")
	if err != nil {
		return fmt.Errorf("send doors: %w", err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	reply, err := exchange(conn.(*net.UnixConn), body, sockets)
	if err != nil {
		return fmt.Errorf("send doors: %w", errors.Join(ctx.Err(), err))
	}
	var f failure
	if err := json.Unmarshal(reply, &f); err != nil {
		return fmt.Errorf("send doors: decode answer: %w", err)
	}
	if f.Error != "" {
		return fmt.Errorf("send doors: %w", &Error{Status: http.StatusBadRequest, Message: f.Error})
	}
	return nil
}

// exchange sends body with the sockets and reads one answer.
func exchange(conn *net.UnixConn, body []byte, sockets []*os.File) ([]byte, error) {
	fds := make([]int, 0, len(sockets))
	for _, s := range sockets {
		raw, err := s.SyscallConn() // not Fd(), which would make the socket blocking
		if err != nil {
			return nil, err
		}
		if err := raw.Control(func(fd uintptr) { fds = append(fds, int(fd)) }); err != nil {
			return nil, err
		}
	}
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	if _, _, err := conn.WriteMsgUnix(body, rights, nil); err != nil {
		return nil, err
	}
	reply := make([]byte, 16<<10)
	n, err := conn.Read(reply)
	if err == nil && n == 0 {
		err = io.ErrUnexpectedEOF // the agent refused this peer
	}
	return reply[:n], err
}
