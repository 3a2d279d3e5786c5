package local

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/go-runc"
	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/remuda/remuda/catalog"
)

func containerID(group, member string) string { return group + "." + member }

// containerSpec is what decides an OCI container of ours.
type containerSpec struct {
	rootfs   string
	hostname string
	agent    string // host path of the agent binary
	dir      string // the member's folder, with the bundle; run/ and etc/ are bound from it
	cgroup   string
	size     catalog.Size
	caps     []string          // beyond the agent's own
	egress   bool              // an agent alone in the host's network
	binds    map[string]string // host folder → writable path; only for making templates
}

// agentCaps are what the agent needs: other users for servers and programs, and
// to kill them. Servers lose them all when they change their user.
var agentCaps = []string{"CAP_SETUID", "CAP_SETGID", "CAP_KILL"}

func (c containerSpec) oci() (*specs.Spec, error) {
	args, caps := []string{"/remuda/agent", "agent"}, slices.Clone(agentCaps)
	if c.egress {
		args, caps = append(args, "--egress"), []string{}
	}
	for _, extra := range c.caps {
		if extra != "SYS_CHROOT" { // of a group that an older broker has made: members see folders of the host
			return nil, fmt.Errorf("the capability %s is given to no member", extra)
		}
		caps = append(caps, "CAP_"+extra)
	}
	memory := int64(c.size.Memory)
	pids := int64(512)
	shares := uint64(max(2, int(c.size.CPU*1024)))
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		return nil, err
	}
	nofile := min(files.Max, 65536)
	s := &specs.Spec{
		Version:  "1.0.2",
		Hostname: c.hostname,
		Root:     &specs.Root{Path: c.rootfs, Readonly: true},
		Process: &specs.Process{
			Args:            args,
			Cwd:             "/",
			Env:             []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
			NoNewPrivileges: true,
			Capabilities:    &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps},
			Rlimits: []specs.POSIXRlimit{
				{Type: "RLIMIT_NOFILE", Hard: nofile, Soft: nofile},
				{Type: "RLIMIT_CORE"}, // a core file would carry a tenant's memory to the host
			},
		},
		Mounts: c.mounts(),
		Linux: &specs.Linux{
			CgroupsPath: c.cgroup,
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}, {Type: specs.NetworkNamespace},
				{Type: specs.IPCNamespace}, {Type: specs.UTSNamespace}, {Type: specs.CgroupNamespace},
			},
			Resources: &specs.LinuxResources{
				Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}},
				Memory:  &specs.LinuxMemory{Limit: &memory},
				Pids:    &specs.LinuxPids{Limit: &pids},
				CPU:     &specs.LinuxCPU{Shares: &shares},
			},
			MaskedPaths: []string{"/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/sched_debug",
				"/proc/latency_stats", "/proc/acpi", "/proc/asound", "/proc/scsi", "/proc/interrupts"},
			ReadonlyPaths:     []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
			RootfsPropagation: "private",
		},
	}
	if swapAccounted() {
		s.Linux.Resources.Memory.Swap = &memory
	}
	if c.egress {
		s.Linux.Namespaces = slices.DeleteFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.NetworkNamespace })
	} else if _, err := os.Stat("/proc/sys/net/ipv6"); err == nil {
		s.Linux.Sysctl = map[string]string{"net.ipv6.conf.all.disable_ipv6": "1", "net.ipv6.conf.default.disable_ipv6": "1"}
	}
	profile, err := seccomp.GetDefaultProfile(s)
	if err != nil {
		return nil, fmt.Errorf("seccomp profile: %w", err)
	}
	s.Linux.Seccomp = profile
	return s, nil
}

func (c containerSpec) mounts() []specs.Mount {
	bind := func(source, target string, more ...string) specs.Mount {
		return specs.Mount{Type: "bind", Source: source, Destination: target,
			Options: append([]string{"bind", "nosuid", "nodev"}, more...)}
	}
	tmpfs := func(target string, options ...string) specs.Mount {
		return specs.Mount{Type: "tmpfs", Source: "tmpfs", Destination: target,
			Options: append([]string{"nosuid", "noexec", "size=64k"}, options...)}
	}
	m := []specs.Mount{
		{Type: "proc", Source: "proc", Destination: "/proc", Options: []string{"nosuid", "noexec", "nodev"}},
		tmpfs("/dev", "mode=755", "ro"),
		tmpfs("/dev/shm", "nodev", "mode=755", "ro"),
		{Type: "mqueue", Source: "mqueue", Destination: "/dev/mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		tmpfs("/remuda", "nodev", "mode=755", "ro"),
		bind(c.agent, "/remuda/agent", "ro"),
		bind(filepath.Join(c.dir, "run"), agentRun, "rw", "noexec"),
		tmpfs(diskMount, "nodev", "mode=700", "ro"),
		bind(filepath.Join(c.dir, "etc/hosts"), "/etc/hosts", "ro", "noexec"),
		bind(filepath.Join(c.dir, "etc/hostname"), "/etc/hostname", "ro", "noexec"),
	}
	if c.egress {
		m = append(m, bind(filepath.Join(c.dir, "etc/resolv.conf"), "/etc/resolv.conf", "ro", "noexec"))
	}
	for source, target := range c.binds {
		m = append(m, bind(source, target, "rw", "noexec"))
	}
	return m
}

// swapAccounted says whether memory+swap can be limited.
func swapAccounted() bool {
	if unified() {
		return true
	}
	_, err := os.Stat(filepath.Join(cgroupRoot, "memory/memory.memsw.limit_in_bytes"))
	return err == nil
}

// runc returns the runtime client for one container; its log keeps the reason
// of a failed start. A runc at work dies with the broker: one that went on would
// start a container behind the back of the next broker, which has already
// removed the group.
func (b *Backend) runc(log string) *runc.Runc {
	return &runc.Runc{Root: b.runcDir(), Log: log, LogFormat: runc.JSON, PdeathSignal: unix.SIGKILL}
}

// runContainer writes the bundle and starts the container, and returns its
// PID 1. An older container of the same id is removed first.
func (b *Backend) runContainer(ctx context.Context, id string, c containerSpec) (pid int, err error) {
	if err := prepareFolder(c); err != nil {
		return 0, err
	}
	if err := writeBundle(c); err != nil {
		return 0, err
	}
	bundle := filepath.Join(c.dir, "bundle")
	log := filepath.Join(bundle, "runc.log")
	if err := b.deleteContainer(ctx, id, c.cgroup, c.dir); err != nil {
		return 0, err
	}
	pidFile := filepath.Join(bundle, "pid")
	null, err := runc.NewNullIO()
	if err != nil {
		return 0, err
	}
	defer null.Close()
	if _, err := b.runc(log).Run(ctx, id, bundle, &runc.CreateOpts{IO: null, PidFile: pidFile, Detach: true}); err != nil {
		return 0, fmt.Errorf("run container %s: %w%s", id, err, lastError(log))
	}
	p, err := os.ReadFile(pidFile)
	if err != nil {
		return 0, fmt.Errorf("run container %s: %w", id, err)
	}
	return strconv.Atoi(strings.TrimSpace(string(p)))
}

// prepareFolder makes what is bound from the member's folder.
func prepareFolder(c containerSpec) error {
	for dir, mode := range map[string]os.FileMode{"run": 0o700, "etc": 0o755} {
		if err := os.MkdirAll(filepath.Join(c.dir, dir), mode); err != nil {
			return err
		}
	}
	if err := clearDir(filepath.Join(c.dir, "run")); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(c.dir, "etc/hostname"), []byte(c.hostname+"\n"), 0o644)
}

func writeBundle(c containerSpec) error {
	spec, err := c.oci()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(c.dir, "bundle"), 0o700); err != nil {
		return err
	}
	b, err := json.Marshal(spec)
	if err != nil {
		return err
	}
	_ = os.Remove(filepath.Join(c.dir, "bundle/runc.log"))
	return os.WriteFile(filepath.Join(c.dir, "bundle/config.json"), b, 0o600)
}

// deleteContainer ends a container and forgets it. Nil when it is not there.
// runc's log goes into dir, which is removed with the group.
func (b *Backend) deleteContainer(ctx context.Context, id, cgroup, dir string) error {
	if err := killCgroup(cgroup, killBound); err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(b.runcDir(), id)); err == nil {
		log := filepath.Join(dir, "runc.log")
		if err := b.runc(log).Delete(ctx, id, &runc.DeleteOpts{Force: true}); err != nil {
			return fmt.Errorf("delete container %s: %w%s", id, err, lastError(log))
		}
		_ = os.RemoveAll(filepath.Join(b.runcDir(), id)) // what a crashed start left
	}
	return removeCgroup(cgroup)
}

// lastError returns what runc logged at last, in parentheses.
func lastError(log string) string {
	b, err := os.ReadFile(log)
	if err != nil {
		return ""
	}
	last := ""
	for line := range strings.Lines(string(b)) {
		var entry struct{ Level, Msg string }
		if json.Unmarshal([]byte(line), &entry) == nil && entry.Level == "error" {
			last = " (" + entry.Msg + ")"
		}
	}
	return last
}

func clearDir(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		errs = append(errs, os.RemoveAll(filepath.Join(dir, e.Name())))
	}
	return errors.Join(errs...)
}

// installAgent copies the agent binary to dir under the name of its hash, so
// that replacing the broker's binary disturbs no running member.
func installAgent(binary, dir string) (string, error) {
	in, err := os.Open(binary)
	if err != nil {
		return "", fmt.Errorf("open agent binary: %w", err)
	}
	defer in.Close()
	h := sha256.New()
	if _, err := io.Copy(h, in); err != nil {
		return "", fmt.Errorf("read agent binary: %w", err)
	}
	target := filepath.Join(dir, hex.EncodeToString(h.Sum(nil))[:16])
	if _, err := os.Stat(target); err == nil {
		return target, nil
	}
	if _, err := in.Seek(0, io.SeekStart); err != nil {
		return "", err
	}
	out, err := os.OpenFile(target+".tmp", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o755)
	if err != nil {
		return "", fmt.Errorf("install agent: %w", err)
	}
	if _, err = io.Copy(out, in); err == nil {
		err = out.Sync()
	}
	if cerr := out.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return "", fmt.Errorf("install agent: %w", err)
	}
	return target, os.Rename(target+".tmp", target)
}
