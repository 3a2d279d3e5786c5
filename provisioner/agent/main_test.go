package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/user"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// TestMain is also every helper process of the tests: the binary runs itself.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		if name, ok := strings.CutPrefix(os.Args[1], "helper:"); ok {
			if err := helpers[name](os.Args[2:]); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			os.Exit(0)
		}
	}
	goleak.VerifyTestMain(m)
}

var helpers = map[string]func(args []string) error{
	"echo": func(args []string) error {
		l, err := net.Listen("tcp", "127.0.0.1:"+args[0])
		if err != nil {
			return err
		}
		fmt.Println("echo serves")
		return echo(l)
	},
}

// echo answers what it reads; after "end" it ends the connection.
func echo(l net.Listener) error {
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			buf := make([]byte, 64<<10)
			for {
				n, err := c.Read(buf)
				_, err2 := c.Write(buf[:n])
				if err != nil || err2 != nil || string(buf[:n]) == "end\n" {
					return
				}
			}
		}()
	}
}

func me(t testing.TB) string {
	t.Helper()
	u, err := user.LookupId(strconv.Itoa(os.Getuid()))
	if err != nil {
		t.Skip(err)
	}
	return u.Username
}

// serveHere runs an agent in this process, which is not PID 1.
func serveHere(t testing.TB, change ...func(*Options)) *Client {
	t.Helper()
	dir := t.TempDir() + "/" + strings.Repeat("long", 30) // longer than a unix path
	opts := Options{Dir: dir, RunDir: t.TempDir(), AllowInside: true, StopTimeout: time.Second,
		Logger: slog.New(slog.NewTextHandler(t.Output(), nil))}
	for _, f := range change {
		f(&opts)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, opts) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(20 * time.Second):
			t.Error("the agent does not end")
		}
	})
	c := NewClient(dir)
	eventually(t, func() error { _, err := c.State(t.Context()); return err })
	return c
}

func eventually(t testing.TB, f func() error) {
	t.Helper()
	var err error
	for range 500 {
		if err = f(); err == nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal(err)
}

// freePort is a port that nothing listens on.
func freePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// boundSocket is a TCP socket that is bound and does not listen.
func boundSocket(t testing.TB) (*os.File, int) {
	t.Helper()
	port := freePort(t)
	f, err := BindDoor(netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(port)))
	must(t, err)
	t.Cleanup(func() { _ = f.Close() })
	return f, port
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func shell(script string) Program { return Program{Command: []string{"/bin/sh", "-c", script}} }

func running(t testing.TB, c *Client) {
	t.Helper()
	eventually(t, func() error {
		s, err := c.State(t.Context())
		if err != nil {
			return err
		}
		if !s.Healthy || s.Phase != Running {
			return errors.New("not well: " + s.Reason)
		}
		return nil
	})
}
