package agent

import "context"

// RunProgram runs a program in the generation that is running. A program that
// fails, is killed or runs out of time is a Result; an error means that it
// could not be started.
func (a *Agent) RunProgram(ctx context.Context, p Program) (Result, error) {
	if len(p.Command) == 0 {
		return Result{}, invalid("run: no command")
	}
	if p.TimeoutSeconds < 0 {
		return Result{}, invalid("run: negative timeout")
	}
	if a.opts.Egress {
		return Result{}, invalid("run: an egress runs nothing")
	}
	a.mu.Lock()
	g := a.generation
	if a.phase != Running || g.ctx.Err() != nil {
		phase := a.phase
		a.mu.Unlock()
		return Result{}, conflict("run: the agent is not running but %s", phase)
	}
	// Joined by Wipe, like everything of the generation. No Wait has begun yet:
	// that needs the end of this phase.
	g.wg.Add(1)
	a.mu.Unlock()
	defer g.wg.Done()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := context.AfterFunc(g.ctx, func() { cancel(context.Cause(g.ctx)) })
	defer stop()
	return a.runProgram(ctx, g, p)
}
