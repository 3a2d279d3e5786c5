package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// script is what a container by hand runs: it makes the data directory as the
// recipe does, starts the server, and adds the login as soon as that is possible.
func (p *plain) script() string {
	var s strings.Builder
	fmt.Fprintf(&s, "set -eu\n%s\n", words(p.role.Template.Command))
	if p.role.Prepare != nil {
		fmt.Fprintf(&s, "%s\n", words(p.role.Prepare.Command))
	}
	fmt.Fprintf(&s, "%s &\n", words(p.role.Processes[0].Command))
	fmt.Fprintf(&s, "until %s 2>/dev/null; do sleep 0.01; done\n", words(p.role.Ready.Command))
	fmt.Fprintf(&s, "printf %%s %s | %s\n", quote(p.bind.Stdin), words(p.bind.Command))
	s.WriteString("wait\n")
	return s.String()
}

// words is a command for a shell.
func words(command []string) string {
	quoted := make([]string, len(command))
	for i, w := range command {
		quoted[i] = quote(w)
	}
	return strings.Join(quoted, " ")
}

func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// binds are what a container by hand writes to, with empty data.
func (p *plain) binds() (map[string]string, error) {
	run, err := p.runFolder("run")
	if err != nil {
		return nil, err
	}
	data, err := p.folder("data")
	return map[string]string{"/run": run, p.data(): data}, err
}

// containerRuntime starts and removes the container with one container runtime.
type containerRuntime struct {
	name          string
	start, remove func(ctx context.Context, p *plain, binds map[string]string) error
}

// runtimes are those that are installed.
func runtimes() []containerRuntime {
	all := []containerRuntime{{"runc", startRunc, removeRunc}, {"podman", startPodman, removePodman}}
	var out []containerRuntime
	for _, r := range all {
		if _, err := exec.LookPath(r.name); err == nil {
			out = append(out, r)
		}
	}
	return out
}

const containerName = "remuda-bench"

func runtimeCommand(ctx context.Context, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdin = nil
	log, err := os.CreateTemp("", "remuda-bench-log-") // a pipe would stay open as long as the container
	if err != nil {
		return err
	}
	defer os.Remove(log.Name())
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Run(); err != nil {
		said, _ := os.ReadFile(log.Name())
		return fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, said)
	}
	return nil
}

// startRunc is the quickest way there is: the bundle is written by hand and runc
// has nothing to do but to start it.
func startRunc(ctx context.Context, p *plain, binds map[string]string) error {
	bundle := filepath.Join(p.dir, "bundle")
	if err := os.MkdirAll(bundle, 0o700); err != nil {
		return err
	}
	config, err := json.Marshal(p.spec(binds))
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(bundle, "config.json"), config, 0o600); err != nil {
		return err
	}
	return runtimeCommand(ctx, "runc", "--root", filepath.Join(p.dir, "runc"), "run", "--detach", "--bundle", bundle, containerName)
}

func removeRunc(ctx context.Context, p *plain, _ map[string]string) error {
	return runtimeCommand(ctx, "runc", "--root", filepath.Join(p.dir, "runc"), "delete", "--force", containerName)
}

func (p *plain) spec(binds map[string]string) *specs.Spec {
	s := &specs.Spec{
		Version: "1.0.2", Hostname: "plain", Root: &specs.Root{Path: p.b.rootfs, Readonly: true},
		Process: &specs.Process{
			User: specs.User{UID: uint32(p.uid), GID: uint32(p.gid)}, Cwd: "/", NoNewPrivileges: true,
			Args: []string{"/bin/sh", "-c", p.script()}, Env: p.environment(),
		},
		Mounts: []specs.Mount{
			{Type: "proc", Source: "proc", Destination: "/proc"},
			{Type: "tmpfs", Source: "tmpfs", Destination: "/dev", Options: []string{"nosuid", "mode=755"}},
			{Type: "tmpfs", Source: "tmpfs", Destination: "/dev/shm", Options: []string{"nosuid", "nodev"}},
			{Type: "tmpfs", Source: "tmpfs", Destination: "/tmp", Options: []string{"nosuid", "nodev"}},
		},
		Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{ // the network is this program's
			{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace},
		}},
	}
	for target, source := range binds {
		s.Mounts = append(s.Mounts, specs.Mount{Type: "bind", Source: source, Destination: target, Options: []string{"bind", "rw"}})
	}
	return s
}

func startPodman(ctx context.Context, p *plain, binds map[string]string) error {
	args := []string{"run", "--detach", "--name", containerName, "--network", "host", "--read-only", "--cgroups", "no-conmon",
		"--user", fmt.Sprintf("%d:%d", p.uid, p.gid)}
	for target, source := range binds {
		args = append(args, "--volume", source+":"+target)
	}
	for _, e := range p.environment() {
		args = append(args, "--env", e)
	}
	return runtimeCommand(ctx, "podman", append(args, "--rootfs", p.b.rootfs, "/bin/sh", "-c", p.script())...)
}

func removePodman(ctx context.Context, _ *plain, _ map[string]string) error {
	return runtimeCommand(ctx, "podman", "rm", "--force", "--time", "0", containerName)
}

// cold starts the container with a new data directory and waits for the first
// answer; what it made is removed after done was called.
func (p *plain) cold(ctx context.Context, r containerRuntime, done func()) error {
	binds, err := p.binds()
	if err != nil {
		return err
	}
	err = r.start(ctx, p, binds)
	if err == nil {
		err = answers(ctx, p.recipe.Name, p.creds)
	}
	done()
	return errors.Join(err, r.remove(context.WithoutCancel(ctx), p, binds))
}
