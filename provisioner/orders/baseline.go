package orders

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/remuda/remuda/provisioner"
	"github.com/remuda/remuda/provisioner/agent"
)

// SettledBaseline waits until the member looks the same twice: servers go on
// starting helpers for a moment after they serve.
func SettledBaseline(ctx context.Context, c *agent.Client) (agent.Baseline, error) {
	last, err := c.Baseline(ctx)
	for range 50 {
		if err != nil {
			return last, err
		}
		select {
		case <-ctx.Done():
			return last, ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
		var next agent.Baseline
		if next, err = c.Baseline(ctx); err == nil && differences(last, next) == "" {
			return next, nil
		}
		last = next
	}
	return last, err
}

// CompareBaseline fails with ErrUnclean when the member does not come to look
// as it did when it was new.
func CompareBaseline(ctx context.Context, c *agent.Client, member string, want *agent.Baseline) error {
	if want == nil {
		return fmt.Errorf("%w: %s has no baseline", provisioner.ErrUnclean, member)
	}
	var diff string
	for wait, end := 2*time.Millisecond, time.Now().Add(3*time.Second); time.Now().Before(end); wait = min(2*wait, 100*time.Millisecond) {
		got, err := c.Baseline(ctx)
		if err != nil {
			return err
		}
		if diff = differences(*want, got); diff == "" {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
	return fmt.Errorf("%w: %s differs from when it was new: %s", provisioner.ErrUnclean, member, diff)
}

func differences(want, got agent.Baseline) string {
	for _, c := range []struct {
		what      string
		want, got []string
	}{
		{"processes", want.Processes, got.Processes}, {"listeners", want.Listeners, got.Listeners},
		{"IPC", want.IPC, got.IPC}, {"mounts", want.Mounts, got.Mounts}, {"files", want.Files, got.Files},
	} {
		if !slices.Equal(c.want, c.got) {
			return fmt.Sprintf("%s %q, were %q", c.what, c.got, c.want)
		}
	}
	return ""
}
