package agent

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"path"
	"strconv"
	"strings"
	"time"
)

const startTimeout = 60 * time.Second

// Start begins a generation and returns when the member serves or has failed;
// then all of it is killed and the error says what the processes wrote last.
// A Start whose ctx ends has failed.
func (a *Agent) Start(ctx context.Context, req StartRequest) error {
	if err := req.validate(a.opts.Dir); err != nil {
		return err
	}
	if a.opts.Egress && (len(req.Processes) > 0 || req.Prepare != nil || req.Ready != nil) {
		return invalid("start: an egress runs nothing")
	}
	select {
	case a.exclusive <- struct{}{}:
		defer func() { <-a.exclusive }()
	default:
		return conflict("start: another start or wipe is under way")
	}
	g := newGeneration(a, req)
	a.mu.Lock()
	if a.unclean {
		a.mu.Unlock()
		return conflict("start: the last wipe failed")
	}
	if a.wiping > 0 || (a.phase != Idle && a.phase != Failed) {
		phase := a.phase
		a.mu.Unlock()
		return conflict("start: the agent is not idle but %s", phase)
	}
	a.phase, a.reason, a.number, a.generation = Starting, "", req.Generation, g
	a.mu.Unlock()

	a.ring.clear()
	err := a.start(ctx, g)
	a.mu.Lock()
	if err == nil && a.phase == Starting && g.ctx.Err() == nil {
		a.phase = Running
		g.wg.Go(g.keep)
		if a.places != nil && a.places.uses(false) {
			g.wg.Go(g.prepareNext)
		}
		a.mu.Unlock()
		return nil
	}
	a.mu.Unlock()
	return a.failed(g, err)
}

// failed kills what is there of g and describes it.
func (a *Agent) failed(g *generation, err error) error {
	if cause := context.Cause(g.ctx); cause != nil {
		err = cause
	}
	reason := err.Error()
	if tail := a.ring.tail(8 << 10); tail != "" {
		err = fmt.Errorf("%w\nlast output:\n%s", err, tail)
	}
	g.cancel(errors.New("the start failed"))
	a.reaper.refuse(true)
	if _, e := a.killAll(context.Background()); e != nil {
		err = errors.Join(err, e)
	}
	g.wg.Wait()
	a.reaper.refuse(false)
	a.mu.Lock()
	if a.phase == Starting { // else a wipe came
		a.phase, a.reason = Failed, reason
	}
	a.mu.Unlock()
	a.log.Warn("start failed", "generation", g.req.Generation, "reason", reason)
	return err
}

func (a *Agent) start(ctx context.Context, g *generation) error {
	timeout := startTimeout
	if g.req.TimeoutSeconds > 0 {
		timeout = time.Duration(g.req.TimeoutSeconds) * time.Second
	}
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("start: not ready after %s", timeout))
	defer cancel()
	stop := context.AfterFunc(g.ctx, cancel)
	defer stop()

	if err := writeFiles(a.opts.RunDir, g.req.Files); err != nil {
		return err
	}
	if err := g.prepare(ctx); err != nil {
		return err
	}
	for _, k := range g.kept {
		if err := g.launch(k); err != nil {
			return err
		}
	}
	return g.awaitService(ctx, timeout)
}

// awaitService returns when the member serves. A port costs next to nothing to
// try, so it is tried often; a program is left more and more time between runs.
func (g *generation) awaitService(ctx context.Context, limit time.Duration) error {
	const often, seldom = 4 * time.Millisecond, 50 * time.Millisecond
	var last error
	for delay := often; ; {
		if why := g.down(); why != "" {
			return errors.New("start: " + why)
		}
		pause, err := often, g.listens(ctx)
		if err == nil {
			err = g.answers(ctx, limit)
			pause, delay = delay, min(2*delay, seldom)
		}
		if err == nil && g.down() == "" {
			g.setReady()
			return nil
		}
		if last == nil || ctx.Err() == nil {
			last = err // what a probe says that ran out of time tells less
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return fmt.Errorf("%w (%v)", context.Cause(ctx), last)
		}
	}
}

// prepare runs the generation's Prepare, if there is one.
func (g *generation) prepare(ctx context.Context) error {
	if g.req.Prepare == nil {
		return nil
	}
	r, err := g.a.runProgram(ctx, g, *g.req.Prepare)
	if err != nil {
		return fmt.Errorf("prepare: %w", err)
	}
	if r.ExitCode != 0 {
		return fmt.Errorf("prepare: exit code %d: %s", r.ExitCode, lastWords(r))
	}
	return nil
}

// serves says why the member does not serve, or nil: all Ports accept and
// Ready exits 0 within limit.
func (g *generation) serves(ctx context.Context, limit time.Duration) error {
	if err := g.listens(ctx); err != nil {
		return err
	}
	return g.answers(ctx, limit)
}

// listens says which of Ports does not accept, or nil.
func (g *generation) listens(ctx context.Context) error {
	for _, port := range g.req.Ports {
		if err := accepts(ctx, port); err != nil {
			return err
		}
	}
	return nil
}

// answers runs Ready, if there is one, for at most limit.
func (g *generation) answers(ctx context.Context, limit time.Duration) error {
	if g.req.Ready == nil {
		return nil
	}
	p := *g.req.Ready
	if seconds := max(1, int(limit/time.Second)); p.TimeoutSeconds == 0 || p.TimeoutSeconds > seconds {
		p.TimeoutSeconds = seconds
	}
	r, err := g.a.runProgram(ctx, g, p)
	if err != nil {
		return fmt.Errorf("ready: %w", err)
	}
	if r.ExitCode != 0 {
		return fmt.Errorf("ready: exit code %d: %s", r.ExitCode, lastWords(r))
	}
	return nil
}

func accepts(ctx context.Context, port int) error {
	d := net.Dialer{Timeout: time.Second}
	c, err := d.DialContext(ctx, "tcp", "127.0.0.1:"+strconv.Itoa(port))
	if err != nil {
		return fmt.Errorf("port %d: %w", port, err)
	}
	return c.Close()
}

// lastWords of a program that failed, for an error.
func lastWords(r Result) string {
	s := strings.TrimSpace(r.Stdout + "\n" + r.Stderr)
	return s[max(0, len(s)-2<<10):]
}

func newSecret() string { return (rand.Text() + rand.Text())[:32] }

// validate refuses what could not start. The agent's own directory is out of
// bounds for files.
func (r StartRequest) validate(own string) error {
	var faults []error
	for name := range r.Files {
		switch {
		case !strings.HasPrefix(name, "/run/") || path.Clean(name) != name || strings.ContainsRune(name, 0):
			faults = append(faults, fmt.Errorf("file %q: must be a clean path below /run/", name))
		case own != "" && (name == own || strings.HasPrefix(name, own+"/") || strings.HasPrefix(own, name+"/")):
			faults = append(faults, fmt.Errorf("file %q: belongs to the agent", name))
		}
	}
	seen := map[string]bool{}
	for _, p := range r.Processes {
		if p.Name == "" || seen[p.Name] {
			faults = append(faults, fmt.Errorf("process %q: needs a name of its own", p.Name))
		}
		seen[p.Name] = true
		if len(p.Command) == 0 {
			faults = append(faults, fmt.Errorf("process %q: no command", p.Name))
		}
		if _, err := stopSignal(p.Stop); err != nil {
			faults = append(faults, fmt.Errorf("process %q: %w", p.Name, err))
		}
	}
	for _, port := range r.Ports {
		if port < 1 || port > 65535 {
			faults = append(faults, fmt.Errorf("port %d: out of range", port))
		}
	}
	if _, ok := r.Environment["MEMBER_SECRET"]; ok {
		faults = append(faults, errors.New("environment: MEMBER_SECRET is the agent's to give"))
	}
	if len(faults) > 0 {
		return invalid("start: %v", errors.Join(faults...))
	}
	return nil
}

// writeFiles writes files, whose names begin with /run/, below dir: 0644, their
// directories 0755. What is there under the same name is replaced, not followed.
func writeFiles(dir string, files map[string]string) error {
	if len(files) == 0 {
		return nil
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("write files: %w", err)
	}
	defer root.Close()
	for name, content := range files {
		name = strings.TrimPrefix(name, "/run/")
		if err := writeFile(root, name, content); err != nil {
			return fmt.Errorf("write file %q: %w", name, err)
		}
	}
	return nil
}

func writeFile(root *os.Root, name, content string) error {
	for i, c := range name {
		if c != '/' {
			continue
		}
		if err := root.Mkdir(name[:i], 0o755); err == nil {
			err = root.Chmod(name[:i], 0o755)
			if err != nil {
				return err
			}
		} else if st, e := root.Lstat(name[:i]); e != nil || !st.IsDir() {
			return err
		}
	}
	if err := root.Remove(name); err != nil && !os.IsNotExist(err) {
		return err
	}
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = f.WriteString(content)
	return errors.Join(err, f.Chmod(0o644), f.Close())
}
