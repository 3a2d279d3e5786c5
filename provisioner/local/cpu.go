package local

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/remuda/remuda/catalog"
)

// A member's CPU limit is for its servers. The thread that copies what goes
// through its doors is left out of it: what comes and goes over a network is
// nowhere a process' own work, and a server at its limit must not be slowed by
// waiting for its door. That thread is one, so it takes at most one core.
//
// With cgroup v1 the thread is moved into the parent's group of the hierarchy
// "cpu". With v2 threads can be told apart only within the group that limits the
// memory: all of the member is in its child "limited", and the thread is moved
// up from there.

const cpuPeriod = 100_000 // microseconds, the kernel's default

// limited is the cgroup below a member's whose threads have the CPU limit on
// cgroup v2.
func limited(cgroup string) string { return cgroup + "/limited" }

// prepareCPU makes the cgroup of a new member ready for setCPU and freeThread.
// pid is the only process in it.
func prepareCPU(cgroup string, pid int) error {
	if !unified() {
		return nil
	}
	child := filepath.Join(cgroupRoot, limited(cgroup))
	if err := os.Mkdir(child, 0o755); err != nil {
		return fmt.Errorf("make cgroup: %w", err)
	}
	return errors.Join(
		writeCgroup(filepath.Join(child, "cgroup.type"), "threaded"),
		writeCgroup(filepath.Join(cgroupRoot, cgroup, "cgroup.subtree_control"), "+cpu"),
		writeCgroup(filepath.Join(child, "cgroup.procs"), strconv.Itoa(pid)),
	)
}

// setCPU limits a member to that many cores; 0 lifts the limit.
func setCPU(cgroup string, cores float64) error {
	quota := int64(cores * cpuPeriod)
	if unified() {
		v := "max"
		if cores > 0 {
			v = strconv.FormatInt(quota, 10)
		}
		return writeCgroup(filepath.Join(cgroupRoot, limited(cgroup), "cpu.max"), v+" "+strconv.Itoa(cpuPeriod))
	}
	if cores == 0 {
		quota = -1
	}
	return writeCgroup(filepath.Join(cgroupRoot, "cpu", cgroup, "cpu.cfs_quota_us"), strconv.FormatInt(quota, 10))
}

// freeThread moves the thread of that name out of the member's CPU limit.
func freeThread(cgroup string, pid int, name string) error {
	tid, err := findThread(pid, name)
	if err != nil {
		return err
	}
	file := filepath.Join(cgroupRoot, cgroup, "cgroup.threads")
	if !unified() {
		file = filepath.Join(cgroupRoot, "cpu", filepath.Dir(cgroup), "tasks")
	}
	return writeCgroup(file, tid)
}

func findThread(pid int, name string) (tid string, err error) {
	tasks := fmt.Sprintf("/proc/%d/task", pid)
	threads, err := os.ReadDir(tasks)
	if err != nil {
		return "", err
	}
	for _, t := range threads {
		comm, err := os.ReadFile(filepath.Join(tasks, t.Name(), "comm"))
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue // it has ended
		}
		if err != nil || strings.TrimSpace(string(comm)) == name {
			return t.Name(), err
		}
	}
	return "", fmt.Errorf("process %d has no thread %q", pid, name)
}

func writeCgroup(file, value string) error {
	if err := os.WriteFile(file, []byte(value), 0); err != nil {
		return fmt.Errorf("set limit: %w", err)
	}
	return nil
}

// setLimits gives a member other limits but that of the CPU, which setCPU does.
// Whether memory or memory with swap has to come first depends on which way it
// goes.
func setLimits(cgroup string, size catalog.Size) error {
	memory, shares := strconv.FormatInt(int64(size.Memory), 10), max(2, int(size.CPU*1024))
	if unified() {
		// The conversion is runc's: [2, 262144] to [1, 10000].
		weight := 1 + (uint64(shares-2)*9999)/262142
		return errors.Join(
			writeCgroup(filepath.Join(cgroupRoot, cgroup, "memory.max"), memory),
			writeCgroup(filepath.Join(cgroupRoot, cgroup, "cpu.weight"), strconv.FormatUint(weight, 10)),
		)
	}
	dir := filepath.Join(cgroupRoot, "memory", cgroup)
	files := []string{filepath.Join(dir, "memory.limit_in_bytes")}
	if swapAccounted() {
		files = append(files, filepath.Join(dir, "memory.memsw.limit_in_bytes"))
	}
	var first error
	for range 2 { // the one that is refused at first is accepted behind the other
		first = nil
		for _, file := range files {
			if err := writeCgroup(file, memory); err != nil && first == nil {
				first = err
			}
		}
		if first == nil {
			break
		}
	}
	return errors.Join(first, writeCgroup(filepath.Join(cgroupRoot, "cpu", cgroup, "cpu.shares"), strconv.Itoa(shares)))
}
