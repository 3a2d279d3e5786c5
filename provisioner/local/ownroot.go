package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/remuda/remuda/internal/ownthread"
	"github.com/remuda/remuda/provisioner/agent"
	"github.com/remuda/remuda/provisioner/image"
)

// A member of a role with OwnRoot sees nothing of the host's file systems: who
// has CAP_DAC_READ_SEARCH opens any file of a file system by its handle, through
// whatever little of it is mounted in reach. So its root is an image file, the
// agent's binary another, both on loop devices and read-only, and what other
// members have bound from their folder (the agent's sockets, hosts, hostname) is
// on a tmpfs of its own.
//
// They are attached in a mount namespace that only runc sees while it starts the
// member, and whose end leaves them to the member alone. The disk has a UUID of
// its own, because handles have it in them.

// ownRoot is where that namespace has them, below the member's folder.
type ownRoot struct {
	rootfs string // the root
	agent  string // a folder with the agent's binary
	own    string // a tmpfs with the folders run and etc
}

func (m *member) ownRoot() ownRoot {
	dir := filepath.Join(m.dir, "own")
	return ownRoot{rootfs: filepath.Join(dir, "root"), agent: filepath.Join(dir, "agent"), own: filepath.Join(dir, "tmp")}
}

// ownMounts are the file systems of a member, attached nowhere yet, and where they go.
type ownMounts struct {
	files   []*os.File
	targets []string
}

func (o *ownMounts) close() { closeAll(o.files) }

// newOwnMounts makes the file systems. The folders they go to are made in m.dir.
func (m *member) newOwnMounts(ctx context.Context) (*ownMounts, error) {
	rootDisk, err := image.RootDisk(ctx, m.b.opts.ImageDir, m.rec.Definition.Image, m.b.opts.Progress)
	if err != nil {
		return nil, err
	}
	agentDisk, err := m.b.agentDisk(ctx)
	if err != nil {
		return nil, err
	}
	at, o := m.ownRoot(), &ownMounts{}
	for _, fs := range []struct {
		target string
		make   func() (*os.File, error)
	}{
		{at.rootfs, func() (*os.File, error) { return newReadOnly(rootDisk) }},
		{at.agent, func() (*os.File, error) { return newReadOnly(agentDisk) }},
		{at.own, func() (*os.File, error) { return newTmpfs(place{mode: 0o755, size: 64 << 10}) }},
	} {
		if err := os.MkdirAll(fs.target, 0o700); err != nil {
			o.close()
			return nil, err
		}
		f, err := fs.make()
		if err != nil {
			o.close()
			return nil, err
		}
		o.files, o.targets = append(o.files, f), append(o.targets, fs.target)
	}
	return o, nil
}

// agentDisk is the agent's binary in an image of its own, which is there while
// there are groups.
func (b *Backend) agentDisk(ctx context.Context) (string, error) {
	dir := b.agentPath + ".disk"
	content := filepath.Join(dir, "content")
	if err := os.MkdirAll(content, 0o700); err != nil {
		return "", err
	}
	if err := os.Link(b.agentPath, filepath.Join(content, "agent")); err != nil && !errors.Is(err, os.ErrExist) {
		return "", err
	}
	disk := filepath.Join(dir, "agent.ext4")
	return disk, image.Pack(ctx, content, disk, io.Discard)
}

// removeAgentDisk is for when the last group is closed.
func (b *Backend) removeAgentDisk() error {
	dir := filepath.Join(b.opts.StateDir, "agent")
	if err := awaitNoLoops(dir, killBound); err != nil {
		return err
	}
	disks, err := filepath.Glob(filepath.Join(dir, "*.disk"))
	for _, disk := range disks {
		err = errors.Join(err, os.RemoveAll(disk))
	}
	return err
}

// runPrivately runs a command in a mount namespace of its own in which the file
// systems are attached; prepare is called there first. The namespace ends with
// the command and what it leaves running elsewhere.
func (o *ownMounts) runPrivately(cmd *exec.Cmd, prepare func() error) error {
	return ownthread.Do(func() error {
		if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
			return fmt.Errorf("unshare: %w", err)
		}
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return fmt.Errorf("make mounts private: %w", err)
		}
		for i, f := range o.files {
			if err := moveMount(f, o.targets[i]); err != nil {
				return err
			}
		}
		if err := prepare(); err != nil {
			return err
		}
		return cmd.Run() // is born in this thread's namespace, and dies with the thread
	})
}

// runOwn starts the container of a member with a root of its own.
func (m *member) runOwn(ctx context.Context, c containerSpec) (pid int, err error) {
	at := m.ownRoot()
	c.rootfs, c.agent, c.own = at.rootfs, filepath.Join(at.agent, "agent"), at.own
	o, err := m.newOwnMounts(ctx)
	if err != nil {
		return 0, err
	}
	defer o.close()
	return m.b.startContainer(ctx, m.id(), c, func(bundle, log, pidFile string) error {
		cmd := exec.CommandContext(ctx, "runc", "--root", m.b.runcDir(), "--log", log, "--log-format", "json",
			"run", "--bundle", bundle, "--pid-file", pidFile, "--detach", m.id())
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		return o.runPrivately(cmd, func() error { return m.fillOwn(at.own, c.hostname) })
	})
}

// fillOwn makes in the tmpfs what others have in their folder.
func (m *member) fillOwn(own, hostname string) error {
	if err := os.Mkdir(filepath.Join(own, "run"), 0o700); err != nil {
		return err
	}
	return errors.Join(writeHosts(own, m.names()), os.WriteFile(filepath.Join(own, "etc/hostname"), []byte(hostname+"\n"), 0o644))
}

// agentDir opens the folder with the sockets of a member's agent. That of a
// member with a root of its own is only in its mount namespace; the way there
// follows no links, and is believed when the member's PID 1 is still the process
// that was started: its number was not another's in between.
func (b *Backend) agentDir(id, name string) (*os.File, error) {
	r, err := b.record(id)
	if err != nil {
		return nil, err
	}
	rec := r.snapshot()
	if !rec.ownRoot(name) {
		return openPath(unix.AT_FDCWD, filepath.Join(b.memberDir(id, name), "run"), 0)
	}
	m := rec.member(name)
	root, err := openPath(unix.AT_FDCWD, fmt.Sprintf("/proc/%d/root", m.PID), 0)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	dir, err := openPath(int(root.Fd()), agentRun[1:], unix.RESOLVE_BENEATH|unix.RESOLVE_NO_SYMLINKS|unix.RESOLVE_NO_MAGICLINKS)
	if err != nil {
		return nil, err
	}
	if !m.alive() {
		dir.Close()
		return nil, fmt.Errorf("the container of %s has ended", containerID(id, name))
	}
	return dir, nil
}

func openPath(at int, path string, resolve uint64) (*os.File, error) {
	fd, err := unix.Openat2(at, path, &unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: resolve})
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

func (d recordData) ownRoot(member string) bool {
	if d.Hidden { // makes a template: its disk folders are the host's, its capabilities are not the role's
		return false
	}
	for _, m := range d.Definition.MemberList() {
		if m.Name == member {
			return m.Role.OwnRoot()
		}
	}
	return false
}

func (b *Backend) client(id, name string) *agent.Client {
	return agent.NewClientAt(func() (*os.File, error) { return b.agentDir(id, name) })
}
