package agent

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestStartRunWipe(t *testing.T) {
	var run string
	c := serveHere(t, func(o *Options) { run = o.RunDir })
	port := freePort(t)
	prepare, ready := shell(`test ${#MEMBER_SECRET} = 32 && test -r `+run+`/a/b/conf`), shell("true")
	err := c.Start(t.Context(), StartRequest{
		Generation: 7, User: me(t), TimeoutSeconds: 10,
		Environment: map[string]string{"COLOUR": "blue"},
		Files:       map[string]string{"/run/a/b/conf": "x"},
		Prepare:     &prepare, Ready: &ready, Ports: []int{port},
		Processes: []Process{{Name: "echo", Command: []string{os.Args[0], "helper:echo", strconv.Itoa(port)}}},
	})
	must(t, err)
	running(t, c)
	s, err := c.State(t.Context())
	must(t, err)
	if s.Generation != 7 || len(s.Processes) != 1 || s.Processes[0].PID == 0 || s.Processes[0].StartedAt.IsZero() {
		t.Errorf("state %+v", s)
	}
	r, err := c.Run(t.Context(), Program{
		Command: []string{"sh", "-c", "env; cat; echo bad >&2; exit 3"},
		Env:     map[string]string{"MORE": "1"}, Stdin: "typed",
	})
	must(t, err)
	if r.ExitCode != 3 || r.Stderr != "bad\n" {
		t.Errorf("result %+v", r)
	}
	for _, want := range []string{"COLOUR=blue\n", "MORE=1\n", "MEMBER_SECRET=", "LANG=C.UTF-8\n", "typed"} {
		if !strings.Contains(r.Stdout, want) {
			t.Errorf("stdout lacks %q: %s", want, r.Stdout)
		}
	}
	env, err := os.ReadFile("/proc/" + strconv.Itoa(s.Processes[0].PID) + "/environ")
	if err == nil && strings.Contains(string(env), "MEMBER_SECRET") {
		t.Error("the process knows the secret")
	}
	log, err := c.Log(t.Context())
	must(t, err)
	if string(log) != "echo serves\n" {
		t.Errorf("log %q", log)
	}
	if err := c.Start(t.Context(), StartRequest{User: me(t)}); !errors.Is(err, ErrConflict) {
		t.Errorf("second start: %v", err)
	}
	w, err := c.Wipe(t.Context(), WipeRequest{})
	must(t, err)
	if w.Killed != 1 {
		t.Errorf("wiped %+v", w)
	}
	s, _ = c.State(t.Context())
	log, _ = c.Log(t.Context())
	if s.Phase != Idle || s.Healthy || len(log) != 0 || len(s.Processes) != 0 {
		t.Errorf("after the wipe: %+v, log %q", s, log)
	}
	if _, err := c.Run(t.Context(), shell("true")); !errors.Is(err, ErrConflict) {
		t.Errorf("run when idle: %v", err)
	}
	_, err = c.Wipe(t.Context(), WipeRequest{})
	must(t, err)
}

func TestRestart(t *testing.T) {
	c := serveHere(t)
	marker := t.TempDir() + "/prepared"
	prepare := shell("echo x >>" + marker)
	must(t, c.Start(t.Context(), StartRequest{
		User: me(t), TimeoutSeconds: 10, Prepare: &prepare,
		Processes: []Process{
			{Name: "a", Command: []string{"sleep", "1000"}},
			{Name: "b", Command: []string{"sleep", "1001"}},
		},
	}))
	prepared := func() int { b, _ := os.ReadFile(marker); return len(b) / 2 }
	kill := func(names ...int) {
		s, err := c.State(t.Context())
		must(t, err)
		for _, i := range names {
			must(t, syscall.Kill(s.Processes[i].PID, syscall.SIGKILL))
		}
		eventually(t, func() error {
			n, err := c.State(t.Context())
			for _, i := range names {
				if err == nil && (n.Processes[i].PID == 0 || n.Processes[i].PID == s.Processes[i].PID || !n.Healthy) {
					err = errors.New("not restarted")
				}
			}
			return err
		})
	}
	kill(0)
	if prepared() != 1 {
		t.Error("prepare ran again although a process was left")
	}
	kill(0, 1)
	if prepared() != 2 {
		t.Errorf("prepare ran %d times", prepared())
	}
	s, _ := c.State(t.Context())
	if s.Processes[0].Restarts != 2 || s.Processes[1].Restarts != 1 {
		t.Errorf("restarts %+v", s.Processes)
	}
}

func TestStartFails(t *testing.T) {
	c := serveHere(t)
	ready := shell("exit 1")
	long := shell("sleep 100")
	closed := freePort(t)
	for name, tt := range map[string]struct {
		req  StartRequest
		want string
	}{
		"exit":    {StartRequest{Processes: []Process{{Name: "p", Command: []string{"sh", "-c", "echo my last words; exit 4"}}}, Ready: &ready}, "exit code 4"},
		"ready":   {StartRequest{Ready: &ready, TimeoutSeconds: 1}, "ready: exit code 1"},
		"prepare": {StartRequest{Prepare: &ready}, "prepare: exit code 1"},
		"slow":    {StartRequest{Prepare: &long, TimeoutSeconds: 1}, "timed out"},
		"port":    {StartRequest{Ports: []int{closed}, TimeoutSeconds: 1}, fmt.Sprintf("port %d: dial", closed)},
		"user":    {StartRequest{User: "nobody-at-all", Processes: []Process{{Name: "p", Command: []string{"sh"}}}}, "not in /etc/passwd"},
		"program": {StartRequest{Processes: []Process{{Name: "p", Command: []string{"no-such-program"}}}}, "not in PATH"},
	} {
		t.Run(name, func(t *testing.T) {
			if tt.req.User == "" {
				tt.req.User = me(t)
			}
			err := c.Start(t.Context(), tt.req)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
			s, _ := c.State(t.Context())
			if s.Phase != Failed || s.Reason == "" || s.Healthy {
				t.Errorf("state %+v", s)
			}
			if name == "exit" && !strings.Contains(err.Error(), "my last words") {
				t.Errorf("no tail in %v", err)
			}
		})
	}
	for name, req := range map[string]StartRequest{
		"dots":    {Files: map[string]string{"/run/../etc/x": ""}},
		"outside": {Files: map[string]string{"/etc/x": ""}},
		"twice":   {Processes: []Process{{Name: "a", Command: []string{"x"}}, {Name: "a", Command: []string{"x"}}}},
		"signal":  {Processes: []Process{{Name: "a", Command: []string{"x"}, Stop: "NONE"}}},
		"port":    {Ports: []int{0}},
		"secret":  {Environment: map[string]string{"MEMBER_SECRET": "x"}},
	} {
		if err := c.Start(t.Context(), req); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRunBounds(t *testing.T) {
	c := serveHere(t)
	must(t, c.Start(t.Context(), StartRequest{User: me(t)}))
	t.Run("tail", func(t *testing.T) {
		r, err := c.Run(t.Context(), shell("head -c 1000000 /dev/zero | tr '\\0' a; echo end"))
		must(t, err)
		if len(r.Stdout) != outputLimit || !strings.HasSuffix(r.Stdout, "aend\n") {
			t.Errorf("%d bytes", len(r.Stdout))
		}
	})
	t.Run("timeout", func(t *testing.T) {
		p := shell("sleep 1000 & sleep 1000")
		p.TimeoutSeconds = 1
		begin := time.Now()
		r, err := c.Run(t.Context(), p)
		must(t, err)
		if r.ExitCode != -1 || !strings.Contains(r.Stderr, "timed out") || time.Since(begin) > 3*time.Second {
			t.Errorf("%+v after %s", r, time.Since(begin))
		}
	})
	t.Run("grandchild holds pipes", func(t *testing.T) {
		begin := time.Now()
		r, err := c.Run(t.Context(), shell("setsid sleep 3 & echo out"))
		must(t, err)
		if r.ExitCode != 0 || r.Stdout != "out\n" || time.Since(begin) > 2*time.Second {
			t.Errorf("%+v after %s", r, time.Since(begin))
		}
	})
	t.Run("stdin nobody reads", func(t *testing.T) {
		p := shell("exit 0")
		p.Stdin = strings.Repeat("x", 1<<20)
		r, err := c.Run(t.Context(), p)
		must(t, err)
		if r.ExitCode != 0 {
			t.Errorf("%+v", r)
		}
	})
	t.Run("reopen stdout", func(t *testing.T) {
		r, err := c.Run(t.Context(), shell("echo again >/dev/stdout"))
		must(t, err)
		if r.Stdout != "again\n" {
			t.Errorf("%+v", r)
		}
	})
	t.Run("wipe ends it", func(t *testing.T) {
		done := make(chan Result, 1)
		go func() { r, _ := c.Run(t.Context(), shell("sleep 1000")); done <- r }()
		time.Sleep(100 * time.Millisecond)
		_, err := c.Wipe(t.Context(), WipeRequest{})
		must(t, err)
		if r := <-done; r.ExitCode != -1 {
			t.Errorf("%+v", r)
		}
	})
}

func TestWipeEndsStart(t *testing.T) {
	c := serveHere(t)
	long := shell("sleep 1000")
	done := make(chan error, 1)
	go func() { done <- c.Start(t.Context(), StartRequest{User: me(t), Prepare: &long}) }()
	eventually(t, func() error {
		s, err := c.State(t.Context())
		if err == nil && s.Phase != Starting {
			err = errors.New("not starting")
		}
		return err
	})
	_, err := c.Wipe(t.Context(), WipeRequest{})
	must(t, err)
	if err := <-done; err == nil {
		t.Error("the start succeeded")
	}
	if s, _ := c.State(t.Context()); s.Phase != Idle {
		t.Errorf("state %+v", s)
	}
}

// TestHang makes Ready fail of a member that was well: its process is replaced.
func TestHang(t *testing.T) {
	c := serveHere(t, func(o *Options) { o.ProbeEvery = 20 * time.Millisecond })
	hang := t.TempDir() + "/hang"
	ready := shell("test ! -e " + hang)
	must(t, c.Start(t.Context(), StartRequest{
		User: me(t), TimeoutSeconds: 10, Ready: &ready,
		Processes: []Process{{Name: "p", Command: []string{"sleep", "1000"}}},
	}))
	must(t, os.WriteFile(hang, nil, 0o644))
	eventually(t, func() error {
		s, err := c.State(t.Context())
		if err == nil && (s.Processes[0].Restarts == 0 || s.Healthy || s.Reason == "") {
			err = errors.New("not restarted")
		}
		return err
	})
	must(t, os.Remove(hang))
	running(t, c)
}
