package local

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const cgroupRoot = "/sys/fs/cgroup"

// unified says whether the host has the single cgroup v2 hierarchy; otherwise
// each controller has a v1 hierarchy of its own.
var unified = sync.OnceValue(func() bool {
	var st unix.Statfs_t
	return unix.Statfs(cgroupRoot, &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC
})

// hierarchies lists the mounted cgroup hierarchies.
func hierarchies() []string {
	if unified() {
		return []string{cgroupRoot}
	}
	entries, _ := os.ReadDir(cgroupRoot)
	var out []string
	for _, e := range entries {
		if e.IsDir() {
			out = append(out, filepath.Join(cgroupRoot, e.Name()))
		}
	}
	return out
}

// within is where the cgroup is in every hierarchy.
func within(cgroup string) (dirs []string) {
	for _, h := range hierarchies() {
		dirs = append(dirs, filepath.Join(h, cgroup))
	}
	return dirs
}

// cgroupProcs lists the processes in a cgroup; none when it does not exist.
func cgroupProcs(cgroup string) ([]int, error) {
	dir := cgroupRoot
	if !unified() {
		dir = filepath.Join(cgroupRoot, "pids")
	}
	b, err := os.ReadFile(filepath.Join(dir, cgroup, "cgroup.procs"))
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENODEV) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, f := range strings.Fields(string(b)) {
		pid, err := strconv.Atoi(f)
		if err != nil {
			return nil, fmt.Errorf("process id in %s: %w", cgroup, err)
		}
		pids = append(pids, pid)
	}
	return pids, nil
}

// killCgroup kills what is in a cgroup and waits until nothing is.
func killCgroup(cgroup string, bound time.Duration) error {
	for wait, end := time.Millisecond, time.Now().Add(bound); ; wait = min(2*wait, 50*time.Millisecond) {
		pids, err := cgroupProcs(cgroup)
		if err != nil || len(pids) == 0 {
			return err
		}
		if time.Now().After(end) {
			return fmt.Errorf("processes %v of %s do not end", pids, cgroup)
		}
		for _, pid := range pids {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		time.Sleep(wait)
	}
}

// removeCgroup removes an empty cgroup from every hierarchy.
func removeCgroup(cgroup string) error {
	var errs []error
	for _, dir := range append(within(limited(cgroup)), within(cgroup)...) {
		err := os.Remove(dir)
		for i := 0; i < 20 && errors.Is(err, unix.EBUSY); i++ { // zombies leave a little later
			time.Sleep(5 * time.Millisecond)
			err = os.Remove(dir)
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
