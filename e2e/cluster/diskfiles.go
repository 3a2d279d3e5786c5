package cluster

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

var errDiskBusy = errors.New("the disk is in use")

func (c *Cluster) diskImage(name string) string  { return c.path("disks", name+".img") }
func (c *Cluster) mountpoint(name string) string { return c.path("disks", name) }

// makeDisk makes a file with a file system and mounts it where the kubelet sees
// it. It may be called again.
func (c *Cluster) makeDisk(name string, size int64) error {
	if c.isMounted(name) {
		return nil
	}
	image, dir := c.diskImage(name), c.mountpoint(name)
	file, err := os.Create(image)
	if err != nil {
		return err
	}
	err = errors.Join(file.Truncate(size), file.Close())
	if err != nil {
		return err
	}
	if err := c.tool("mke2fs", "-q", "-F", "-t", "ext4", "-m", "0", "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard", image); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := c.mountDisk(name); err != nil {
		return err
	}
	return c.space.do(func() error { return os.Chmod(dir, 0o777) })
}

// makeMemory mounts a tmpfs of the size. It may be called again.
func (c *Cluster) makeMemory(name string, size int64) error {
	if c.isMounted(name) {
		return nil
	}
	if err := os.MkdirAll(c.mountpoint(name), 0o755); err != nil {
		return err
	}
	return c.tool("mount", "-t", "tmpfs", "-o", fmt.Sprintf("size=%d,mode=0777", size), "tmpfs", c.mountpoint(name))
}

// growMemory gives it another size, at once.
func (c *Cluster) growMemory(name string, size int64) error {
	return c.tool("mount", "-o", fmt.Sprintf("remount,size=%d", size), c.mountpoint(name))
}

// mountDisk mounts a disk on a loop device that ends with the mount.
func (c *Cluster) mountDisk(name string) error {
	if err := c.tool("mount", "-o", "loop,nodiscard", c.diskImage(name), c.mountpoint(name)); err != nil {
		return err
	}
	return c.space.do(func() error { return os.RemoveAll(filepath.Join(c.mountpoint(name), "lost+found")) })
}

// removeDisk may be called again.
func (c *Cluster) removeDisk(name string) error {
	if c.isMounted(name) {
		if err := c.tool("umount", c.mountpoint(name)); err != nil {
			return err
		}
	}
	return errors.Join(os.RemoveAll(c.mountpoint(name)), os.RemoveAll(c.diskImage(name)))
}

// growDisk makes a disk larger that nothing but its mountpoint holds, else it
// returns errDiskBusy. It may be called again.
func (c *Cluster) growDisk(name string, size int64) (err error) {
	image := c.diskImage(name)
	if c.isMounted(name) {
		if c.mountsOf(name) > 1 {
			return errDiskBusy
		}
		if err := c.tool("umount", c.mountpoint(name)); err != nil {
			return errDiskBusy
		}
	}
	// A container that is just ending may hold it for a moment longer.
	for deadline := time.Now().Add(500 * time.Millisecond); len(loopDevices([]string{image})) > 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			return errors.Join(errDiskBusy, c.mountDisk(name))
		}
	}
	defer func() { err = errors.Join(err, c.mountDisk(name)) }()
	info, err := os.Stat(image)
	if err != nil {
		return err
	}
	if err := os.Truncate(image, max(size, info.Size())); err != nil {
		return err
	}
	var ended *exec.ExitError
	if err := c.tool("e2fsck", "-fp", image); err != nil && !(errors.As(err, &ended) && ended.ExitCode() == 1) { // it misses lost+found
		return err
	}
	return c.tool("resize2fs", image)
}

func (c *Cluster) isMounted(name string) bool { return c.mountsOf(name) > 0 }

// mountsOf counts how often a disk is mounted in the cluster's mount namespace.
func (c *Cluster) mountsOf(name string) int {
	info, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", c.InitPID()))
	if err != nil {
		return 0
	}
	var device string
	devices := map[string]int{}
	for line := range strings.Lines(string(info)) {
		if f := strings.Fields(line); len(f) > 4 {
			devices[f[2]]++
			if f[4] == c.mountpoint(name) {
				device = f[2]
			}
		}
	}
	return devices[device]
}

// tool runs a program in the cluster's mount namespace.
func (c *Cluster) tool(name string, args ...string) error {
	cmd := exec.Command("/bin/true")
	for _, dir := range []string{"/usr/sbin", "/sbin", "/usr/bin", "/bin"} {
		if unix.Access(filepath.Join(dir, name), unix.X_OK) == nil {
			cmd = exec.Command(filepath.Join(dir, name), args...)
			break
		}
	}
	if out, err := c.space.run(cmd); err != nil {
		return fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, out)
	}
	return nil
}
