package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"
)

const (
	outputLimit    = 64 << 10
	programTimeout = 30 * time.Second
	// drainTime is how long output is awaited after a program has ended,
	// when something outside its process group keeps the pipe open.
	drainTime = 200 * time.Millisecond
)

// pipes are the three standard streams of a program: the agent's ends and the
// program's.
type pipes struct{ ours, theirs [3]*os.File }

func openPipes() (p pipes, err error) {
	for i := range 3 {
		r, w, err := os.Pipe()
		if err != nil {
			p.close()
			return p, err
		}
		if i == 0 {
			p.ours[i], p.theirs[i] = w, r
		} else {
			p.ours[i], p.theirs[i] = r, w
			openForWriting(w)
		}
	}
	return p, nil
}

// openForWriting lets other users open the pipe again by /dev/stdout or
// /dev/stderr, which servers are often told to log to.
func openForWriting(w *os.File) { _ = w.Chmod(0o622) }

func (p pipes) closeTheirs() {
	for _, f := range p.theirs {
		if f != nil {
			_ = f.Close()
		}
	}
}

func (p pipes) close() {
	p.closeTheirs()
	for _, f := range p.ours {
		if f != nil {
			_ = f.Close()
		}
	}
}

// runProgram runs p to its end. When ctx or the program's time ends first, its
// process group is killed and the exit code is -1. Whatever it leaves behind in
// its process group is killed too.
func (a *Agent) runProgram(ctx context.Context, g *generation, p Program) (Result, error) {
	user := p.User
	if user == "" {
		user = g.req.User
	}
	u, err := a.lookup(user)
	if err != nil {
		return Result{}, err
	}
	a.places.sawUser(u)
	if len(p.Command) == 0 {
		return Result{}, errors.New("run program: no command")
	}
	env := u.environ(g.req.Environment, p.Env, map[string]string{"MEMBER_SECRET": g.secret})
	path, err := findProgram(p.Command[0], env["PATH"])
	if err != nil {
		return Result{}, err
	}
	pp, err := openPipes()
	if err != nil {
		return Result{}, fmt.Errorf("run program %s: %w", path, err)
	}
	defer pp.close()
	timeout := programTimeout
	if p.TimeoutSeconds > 0 {
		timeout = time.Duration(p.TimeoutSeconds) * time.Second
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()

	c, err := a.reaper.start(path, p.Command, &syscall.ProcAttr{
		Dir: "/", Env: flatten(env), Sys: u.attr(),
		Files: []uintptr{pp.theirs[0].Fd(), pp.theirs[1].Fd(), pp.theirs[2].Fd()},
	}, true)
	if err != nil {
		return Result{}, err
	}
	pp.closeTheirs()
	return a.awaitProgram(ctx, c, pp, p.Stdin), nil
}

// awaitProgram feeds and drains the program until it has ended.
func (a *Agent) awaitProgram(ctx context.Context, c *child, pp pipes, stdin string) Result {
	outputs := [2]*ring{newRing(outputLimit), newRing(outputLimit)}
	var wg sync.WaitGroup
	wg.Go(func() {
		_, _ = pp.ours[0].WriteString(stdin)
		_ = pp.ours[0].Close()
	})
	for i, out := range outputs {
		wg.Go(func() { drain(out, pp.ours[i+1]) })
	}
	select {
	case <-c.done:
	case <-ctx.Done():
		a.reaper.signal(c, syscall.SIGKILL, true)
		<-c.done
	}
	deadline := time.Now().Add(drainTime)
	_ = pp.ours[0].SetWriteDeadline(time.Now())
	_ = pp.ours[1].SetReadDeadline(deadline)
	_ = pp.ours[2].SetReadDeadline(deadline)
	wg.Wait()
	r := Result{ExitCode: c.exitCode(), Stdout: string(outputs[0].bytes()), Stderr: string(outputs[1].bytes())}
	for _, out := range outputs {
		out.clear()
	}
	if err := ctx.Err(); err != nil && r.ExitCode == -1 {
		r.Stderr += "\n" + map[bool]string{true: "timed out", false: "cancelled"}[errors.Is(err, context.DeadlineExceeded)]
	}
	return r
}

// drain copies until the end of from, with a small buffer: there may be many.
func drain(to *ring, from *os.File) {
	buf := make([]byte, 4<<10)
	for {
		n, err := from.Read(buf)
		_, _ = to.Write(buf[:n])
		if err != nil {
			return
		}
	}
}
