package agent

import (
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/remuda/remuda/provisioner/internal/cgroupfs"
)

const cgroupDir = "/sys/fs/cgroup"

// usageWith is what the container uses, as far as it can be seen, with the disk that is mounted there.
func usageWith(disk string) *Usage {
	u := &Usage{Memory: -1, CPU: -1, DiskUsed: -1, DiskTotal: -1}
	if n, err := memoryUsed(cgroupDir); err == nil {
		u.Memory = n
	}
	if n, err := processorTime(cgroupDir); err == nil {
		u.CPU = n
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	var st unix.Statfs_t
	if err == nil && disk != "" && wholeFileSystem(mounts, disk) && unix.Statfs(disk, &st) == nil {
		u.DiskUsed = int64(st.Blocks-st.Bfree) * st.Bsize
		u.DiskTotal = int64(st.Blocks) * st.Bsize
	}
	return u
}

// memoryUsed is what the kernel cannot simply drop. The container sees its own group at
// the root (cgroup v2) or at the root of each controller (v1).
func memoryUsed(dir string) (int64, error) {
	current, stat, inactive := dir+"/memory.current", dir+"/memory.stat", "inactive_file"
	if !unified(dir) {
		current, stat, inactive = dir+"/memory/memory.usage_in_bytes", dir+"/memory/memory.stat", "total_inactive_file"
	}
	return cgroupfs.MemoryUsed(current, stat, inactive)
}

// processorTime is in ns.
func processorTime(dir string) (int64, error) {
	if unified(dir) {
		us, err := cgroupfs.Field(dir+"/cpu.stat", "usage_usec")
		return us * 1000, err
	}
	n, err := cgroupfs.Number(dir + "/cpuacct/cpuacct.usage")
	if os.IsNotExist(err) {
		n, err = cgroupfs.Number(dir + "/cpu,cpuacct/cpuacct.usage")
	}
	return n, err
}

func unified(dir string) bool {
	_, err := os.Stat(dir + "/cgroup.controllers")
	return err == nil
}

// wholeFileSystem says whether the root of a file system is mounted at path. A folder
// of one is shared with others, most likely of the node's disk.
func wholeFileSystem(mountinfo []byte, path string) bool {
	whole := false
	for line := range strings.Lines(string(mountinfo)) {
		if f := strings.Fields(line); len(f) >= 5 && f[4] == path {
			whole = f[3] == "/" // the last one lies on top
		}
	}
	return whole
}
