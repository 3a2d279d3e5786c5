package agent

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What a process of the agent's user may change of the agent itself, and what would hold for
// what is started later: limits (prlimit(2)), and how its threads are scheduled. What can
// be taken back is; for the rest the agent knows how it began.

// limitCount is how many resources have limits, RLIMIT_CPU to RLIMIT_RTTIME.
const limitCount = 16

// ownState describes the agent's limits and in what ways its threads are scheduled.
func ownState() (string, error) {
	var out strings.Builder
	for i := range limitCount {
		var l unix.Rlimit
		if err := unix.Getrlimit(i, &l); err != nil {
			return "", fmt.Errorf("read limit %d: %w", i, err)
		}
		fmt.Fprintf(&out, "limit %d %d %d\n", i, l.Cur, l.Max)
	}
	ways := map[string]bool{}
	err := eachThread(func(tid int) error {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/stat", tid))
		if err != nil {
			return nil // it has ended
		}
		way, ok := scheduling(string(stat))
		if !ok {
			return fmt.Errorf("read how thread %d is scheduled", tid)
		}
		const process = 1 // IOPRIO_WHO_PROCESS
		priority, _, _ := unix.Syscall(unix.SYS_IOPRIO_GET, process, uintptr(tid), 0)
		ways[fmt.Sprintf("thread %s %d", way, int(priority))] = true
		return nil
	})
	out.WriteString(strings.Join(slices.Sorted(maps.Keys(ways)), "\n"))
	return out.String(), err
}

// scheduling is nice value, real-time priority and policy in a line of /proc/PID/stat, see proc_pid_stat(5).
func scheduling(stat string) (string, bool) {
	f := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(f) < 39 {
		return "", false
	}
	return f[16] + " " + f[37] + " " + f[38], true
}

// proveSelf fails when the agent is not as it was when it began, and lets its threads run on all
// processors that it has.
func (p *places) proveSelf() error {
	if !p.one || !isInit() {
		return nil
	}
	var all [128]byte // 1024 processors
	for i := range all {
		all[i] = 0xff
	}
	err := eachThread(func(tid int) error {
		_, _, e := unix.Syscall(unix.SYS_SCHED_SETAFFINITY, uintptr(tid), unsafe.Sizeof(all), uintptr(unsafe.Pointer(&all)))
		if e != 0 && e != unix.ESRCH {
			return fmt.Errorf("let thread %d run on all processors: %w", tid, e)
		}
		return nil
	})
	if err != nil {
		return err
	}
	now, err := ownState()
	if err == nil && now != p.self {
		err = fmt.Errorf("limits or scheduling of the agent were changed from %q to %q", p.self, now)
	}
	return err
}

func eachThread(f func(tid int) error) error {
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return err
	}
	for _, t := range threads {
		tid, err := strconv.Atoi(t.Name())
		if err == nil {
			err = f(tid)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
