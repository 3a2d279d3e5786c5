package local

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/remuda/remuda/provisioner"
	"github.com/remuda/remuda/provisioner/internal/cgroupfs"
)

// sampleTime is how long processor time is watched for an inspection.
const sampleTime = 200 * time.Millisecond

var _ provisioner.Inspector = (*Backend)(nil)

// Inspect implements provisioner.Inspector. All members are watched at once.
func (b *Backend) Inspect(ctx context.Context, id string) (provisioner.Inspection, error) {
	r, err := b.record(id)
	if err != nil {
		return provisioner.Inspection{}, err
	}
	rec := r.snapshot()
	seen := b.observe(ctx, r)
	list := rec.Definition.MemberList()
	out := make([]provisioner.MemberInspection, min(len(list), len(seen.Members), len(rec.Members)))
	var wg sync.WaitGroup
	for i := range out {
		m := &out[i]
		size := list[i].Size
		m.MemberObservation, m.Name = seen.Members[i], rec.Members[i].Name
		m.Memory = provisioner.Usage{Used: -1, Limit: int64(size.Memory)}
		m.Disk = provisioner.Usage{Used: -1, Limit: int64(size.Disk)}
		m.CPU = provisioner.Usage{Used: -1, Limit: int64(size.CPU * 1000)}
		if rec.Members[i].alive() {
			wg.Go(func() { b.inspectMember(ctx, rec, rec.Members[i], m) })
		}
	}
	wg.Wait()
	return provisioner.Inspection{Members: out}, ctx.Err()
}

// inspectMember fills in what it can see. What a process of the member has
// ended for is unknown.
func (b *Backend) inspectMember(ctx context.Context, rec recordData, m memberRecord, out *provisioner.MemberInspection) {
	cgroup := b.cgroup(rec.ID, m.Name)
	before, beforeErr := processorTime(cgroup)
	began := time.Now()
	if used, err := memoryUsed(cgroup); err == nil {
		out.Memory.Used = used
	}
	if free, err := diskFree(m.PID); err == nil && m.alive() {
		out.Disk.Used = max(out.Disk.Limit-free, 0)
	}
	asking, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if log, err := b.client(rec.ID, m.Name).Log(asking); err == nil {
		out.Log = provisioner.LogTail(log)
	}
	select {
	case <-ctx.Done():
		return
	case <-time.After(sampleTime - time.Since(began)):
	}
	after, err := processorTime(cgroup)
	if err == nil && beforeErr == nil {
		out.CPU.Used = int64(1000 * (after - before) / max(time.Since(began), time.Millisecond))
	}
}

// memoryUsed is what the kernel cannot simply drop.
func memoryUsed(cgroup string) (int64, error) {
	dir, current, inactive := filepath.Join(cgroupRoot, cgroup), "memory.current", "inactive_file"
	if !unified() {
		dir, current, inactive = filepath.Join(cgroupRoot, "memory", cgroup), "memory.usage_in_bytes", "total_inactive_file"
	}
	return cgroupfs.MemoryUsed(filepath.Join(dir, current), filepath.Join(dir, "memory.stat"), inactive)
}

// processorTime is what the member has used since its container began.
func processorTime(cgroup string) (time.Duration, error) {
	if unified() {
		us, err := cgroupfs.Field(filepath.Join(cgroupRoot, limited(cgroup), "cpu.stat"), "usage_usec")
		return time.Duration(us) * time.Microsecond, err
	}
	ns, err := cgroupfs.Number(filepath.Join(cgroupRoot, "cpuacct", cgroup, "cpuacct.usage"))
	return time.Duration(ns), err
}

// diskFree asks the file system of a member's disk through its root.
func diskFree(pid int) (int64, error) {
	st, err := diskStat(pid)
	return int64(st.Bfree) * st.Bsize, err
}

func diskStat(pid int) (st unix.Statfs_t, err error) {
	err = unix.Statfs(fmt.Sprintf("/proc/%d/root%s", pid, diskMount), &st)
	return st, err
}
