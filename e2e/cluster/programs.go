package cluster

import (
	"context"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
)

// Programs returns the folder of the cluster's programs, after building them if
// this version was never built here: that takes minutes and a way to the module
// proxy, which a test's network namespace does not have.
func Programs(ctx context.Context, log io.Writer) (string, error) {
	root, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "github.com/remuda/remuda").Output()
	if err != nil {
		return "", fmt.Errorf("find the sources: %w", err)
	}
	cmd := exec.CommandContext(ctx, filepath.Join(strings.TrimSpace(string(root)), "scripts", "kube"))
	cmd.Stderr = log
	dir, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("build Kubernetes (scripts/kube): %w", err)
	}
	return strings.TrimSpace(string(dir)), nil
}
