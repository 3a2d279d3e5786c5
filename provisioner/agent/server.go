package agent

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

const (
	bodyLimit   = 4 << 20
	bodyTimeout = 30 * time.Second
)

// failure is the body of every answer that is not a success.
type failure struct {
	Error string `json:"error,omitempty"`
}

// Handler is the agent's API. It asks no peer who it is: that is the listener's
// matter.
func (a *Agent) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/state", func(w http.ResponseWriter, r *http.Request) {
		answer(w, a.State(), nil)
	})
	mux.HandleFunc("POST /v1/start", func(w http.ResponseWriter, r *http.Request) {
		req, err := decode[StartRequest](w, r)
		if err == nil {
			err = a.Start(r.Context(), req)
		}
		answer(w, struct{}{}, err)
	})
	mux.HandleFunc("POST /v1/run", func(w http.ResponseWriter, r *http.Request) {
		p, err := decode[Program](w, r)
		var result Result
		if err == nil {
			result, err = a.RunProgram(r.Context(), p)
		}
		answer(w, result, err)
	})
	mux.HandleFunc("POST /v1/wipe", func(w http.ResponseWriter, r *http.Request) {
		req, err := decode[WipeRequest](w, r)
		var result WipeResult
		if err == nil {
			result, err = a.Wipe(r.Context(), req)
		}
		answer(w, result, err)
	})
	mux.HandleFunc("POST /v1/doors/open", func(w http.ResponseWriter, r *http.Request) {
		req, err := decode[OpenRequest](w, r)
		if err == nil {
			err = a.OpenDoors(req)
		}
		answer(w, struct{}{}, err)
	})
	mux.HandleFunc("POST /v1/doors/close", func(w http.ResponseWriter, r *http.Request) {
		req, err := decode[CloseRequest](w, r)
		var result CloseResult
		if err == nil {
			result, err = a.CloseDoors(req)
		}
		answer(w, result, err)
	})
	mux.HandleFunc("POST /v1/egress", func(w http.ResponseWriter, r *http.Request) {
		e, err := decode[Egress](w, r)
		if err == nil {
			err = a.SetEgress(e)
		}
		answer(w, struct{}{}, err)
	})
	a.handlePod(mux)
	mux.HandleFunc("GET /v1/baseline", func(w http.ResponseWriter, r *http.Request) {
		b, err := a.Baseline()
		answer(w, b, err)
	})
	mux.HandleFunc("GET /v1/log", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/octet-stream")
		_, _ = w.Write(a.Log())
	})
	return mux
}

// decode reads the one JSON value of a body; an empty body is a zero value.
func decode[T any](w http.ResponseWriter, r *http.Request) (T, error) {
	var v T
	// A deadline for the body alone: left in place it would end the request.
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(time.Now().Add(bodyTimeout))
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, bodyLimit))
	_ = rc.SetReadDeadline(time.Time{})
	if err != nil {
		return v, invalid("read request: %v", err)
	}
	err = decodeBytes(body, &v)
	return v, err
}

func decodeBytes(body []byte, v any) error {
	if len(bytes.TrimSpace(body)) == 0 {
		return nil
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return invalid("decode request: %v", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return invalid("decode request: more than one value")
	}
	return nil
}

func answer(w http.ResponseWriter, v any, err error) {
	status := http.StatusOK
	if err != nil {
		v, status = failure{Error: err.Error()}, statusOf(err)
	}
	body, err := json.Marshal(v)
	if err != nil {
		http.Error(w, `{"error":"encode answer"}`, http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

// ownListener is a listening socket of the agent's own.
type ownListener struct {
	*net.UnixListener
	inode uint64
	dir   *os.File
	name  string
}

// listenUnix listens on dir/name, however long dir is: the path of a unix
// socket has 108 bytes, so the way goes through an open directory.
func listenUnix(dir, name string, kind int) (*ownListener, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make agent directory: %w", err)
	}
	d, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("open agent directory: %w", err)
	}
	l := &ownListener{dir: d, name: name}
	if err := l.listen(kind); err != nil {
		_ = d.Close()
		return nil, fmt.Errorf("listen on %s: %w", filepath.Join(dir, name), err)
	}
	return l, nil
}

func (l *ownListener) listen(kind int) error {
	fd := int(l.dir.Fd())
	if err := l.dir.Chmod(0o700); err != nil {
		return err
	}
	if err := unix.Unlinkat(fd, l.name, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	network := "unix"
	if kind == unix.SOCK_SEQPACKET {
		network = "unixpacket"
	}
	var err error
	l.UnixListener, err = net.ListenUnix(network, &net.UnixAddr{Net: network, Name: procPath(fd, l.name)})
	if err != nil {
		return err
	}
	l.SetUnlinkOnClose(false)
	if l.inode, err = socketInode(l.UnixListener); err != nil {
		_ = l.UnixListener.Close()
	}
	return err
}

func (l *ownListener) Close() error {
	_ = l.UnixListener.Close()
	_ = unix.Unlinkat(int(l.dir.Fd()), l.name, 0)
	return l.dir.Close()
}

func procPath(fd int, name string) string { return "/proc/self/fd/" + strconv.Itoa(fd) + "/" + name }

// outsideListener accepts only peers that may give orders.
type outsideListener struct {
	net.Listener
	agent *Agent
}

func (l *outsideListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if l.agent.mayOrder(c.(*net.UnixConn)) {
			return c, nil
		}
		_ = c.Close()
	}
}

// mayOrder says whether the peer is outside the agent's PID namespace: then it
// has no pid in here. A process of the member has one even after its end.
func (a *Agent) mayOrder(c *net.UnixConn) bool {
	if a.opts.AllowInside {
		return true
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return false
	}
	var peer *unix.Ucred
	var credErr error
	err = raw.Control(func(fd uintptr) {
		peer, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err != nil || credErr != nil || peer == nil || peer.Pid != 0 {
		a.log.Warn("peer refused", "error", errors.Join(err, credErr))
		return false
	}
	return true
}
