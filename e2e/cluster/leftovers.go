package cluster

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// locks holds a file for each cluster of this machine. It is locked while the
// cluster's test process lives, is named like the cluster's folder and cgroup,
// and contains the folder's path.
const locks = "/run/remuda-clusters"

// claimFolder makes the cluster's folder, named in a lock file before it exists.
func (c *Cluster) claimFolder() error {
	parent := c.opts.Dir
	if parent == "" {
		parent = os.TempDir()
	}
	parent, err := filepath.Abs(parent)
	if err != nil {
		return err
	}
	for range 10 {
		if err := os.MkdirAll(locks, 0o755); err != nil {
			return err
		}
		c.lock, err = os.CreateTemp(locks, "remuda-cluster-")
		if !errors.Is(err, fs.ErrNotExist) { // another one has removed the empty folder
			break
		}
	}
	if err != nil {
		return err
	}
	if err := unix.Flock(int(c.lock.Fd()), unix.LOCK_EX); err != nil {
		return err
	}
	c.name = filepath.Base(c.lock.Name())
	c.dir = filepath.Join(parent, c.name)
	if _, err := c.lock.WriteString(c.dir); err != nil {
		return err
	}
	return os.Mkdir(c.dir, 0o755)
}

// sweep removes what clusters of dead test processes have left.
func sweep() error {
	files, err := os.ReadDir(locks)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	var errs []error
	for _, file := range files {
		errs = append(errs, sweepOne(file.Name()))
	}
	return errors.Join(errs...)
}

func sweepOne(name string) error {
	lock, err := os.Open(filepath.Join(locks, name))
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil // it lives
	}
	dir, err := os.ReadFile(lock.Name())
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	if len(dir) == 0 {
		info, err := lock.Stat()
		if err == nil && time.Since(info.ModTime()) < time.Minute {
			return nil // it may be about to lock it
		}
	}
	return removeAll(name, string(dir))
}

// removeAll removes a cluster whose processes are dead. Loop devices and mounts
// go with the last process, but not in the same moment.
func removeAll(name, dir string) error {
	deadline := time.Now().Add(10 * time.Second)
	images, err := filepath.Glob(filepath.Join(dir, "disks", "*.img"))
	if err != nil {
		return err
	}
	for {
		held := loopDevices(images)
		if len(held) == 0 {
			break
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("loop devices are still there: %v", held)
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err := removeCgroups(name, deadline); err != nil {
		return err
	}
	if dir != "" {
		for {
			err := os.RemoveAll(dir)
			if err == nil {
				break
			}
			if time.Now().After(deadline) {
				return err
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	if err := os.Remove(filepath.Join(locks, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	_ = os.Remove(locks) // fails while there are others
	return nil
}

// loopDevices lists those of images. Only the last parts of their paths are
// compared, since the rest is not to be seen once their mount namespace is gone;
// the names are unique.
func loopDevices(images []string) []string {
	var held []string
	files, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, f := range files {
		backing, err := os.ReadFile(f)
		if err != nil {
			continue
		}
		for _, image := range images {
			if strings.HasSuffix(strings.TrimSpace(string(backing)), "/disks/"+filepath.Base(image)) {
				held = append(held, f)
			}
		}
	}
	return held
}

// hierarchies returns where cgroups are mounted.
func hierarchies() ([]string, error) {
	info, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var roots []string
	for line := range strings.Lines(string(info)) {
		before, after, _ := strings.Cut(line, " - ")
		f := strings.Fields(before)
		if len(f) > 4 && strings.HasPrefix(after, "cgroup") && strings.HasPrefix(f[4], "/sys/fs/cgroup") {
			roots = append(roots, f[4])
		}
	}
	if len(roots) == 0 {
		return nil, errors.New("no cgroups are mounted below /sys/fs/cgroup")
	}
	return roots, nil
}

// makeCgroups makes the cgroup below which the kubelet makes its own.
func (c *Cluster) makeCgroups() error {
	roots, err := hierarchies()
	if err != nil {
		return err
	}
	for _, root := range roots {
		dir := filepath.Join(root, c.name)
		if _, err := os.Stat(filepath.Join(root, "cgroup.controllers")); err == nil { // version 2
			controllers, err := os.ReadFile(filepath.Join(root, "cgroup.controllers"))
			if err != nil {
				return err
			}
			for _, controller := range strings.Fields(string(controllers)) {
				// Those that cannot be had are missed by the kubelet, which says so.
				_ = os.WriteFile(filepath.Join(root, "cgroup.subtree_control"), []byte("+"+controller), 0)
			}
		}
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} { // empty in a new one of version 1
			if filepath.Base(root) != "cpuset" && !strings.Contains(filepath.Base(root), "cpuset,") {
				continue
			}
			value, err := os.ReadFile(filepath.Join(root, file))
			if err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(dir, file), value, 0); err != nil {
				return err
			}
		}
	}
	return nil
}

// removeCgroups removes a cluster's cgroups, which become empty when the last
// process is reaped.
func removeCgroups(name string, deadline time.Time) error {
	roots, err := hierarchies()
	if err != nil {
		return err
	}
	for _, root := range roots {
		for {
			err := removeTree(filepath.Join(root, name))
			if err == nil {
				break
			}
			if time.Now().After(deadline) {
				return err
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	return nil
}

// removeTree removes a folder of which only folders can be removed.
func removeTree(root string) error {
	var dirs []string
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() {
			dirs = append(dirs, path)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
	if err != nil {
		return err
	}
	for _, dir := range slices.Backward(dirs) {
		if err := unix.Rmdir(dir); err != nil && err != unix.ENOENT {
			return fmt.Errorf("remove cgroup %s: %w", dir, err)
		}
	}
	return nil
}
