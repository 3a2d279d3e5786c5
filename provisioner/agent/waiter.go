package agent

import (
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// DoorThread is the name of the thread that copies what goes through the doors.
const DoorThread = "door"

func nameThread() {
	name := [16]byte{} // longer names would be cut
	copy(name[:15], DoorThread)
	_ = unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(&name[0])), 0, 0, 0)
}

// Bounds of a waiter's window.
const (
	leastWindow = 10 * time.Microsecond
	mostWindow  = 50 * time.Microsecond
)

// waiter waits for events of an epoll. To put a thread to sleep and to wake it
// takes longer than many a server needs to answer, so it first looks again and
// again for a while, if it may and as long as that has been worth it: the window
// grows when events came shortly after it, and shrinks when they came much later
// (as Linux' haltpoll governor does for idle processors). So it costs at most
// mostWindow of processor time for an event, and nothing where they are rare;
// and it yields to every thread that has work to do.
type waiter struct {
	mayPoll atomic.Bool
	window  time.Duration
}

func (w *waiter) wait(epoll int, events []unix.EpollEvent) (int, error) {
	if !w.mayPoll.Load() {
		return unix.EpollWait(epoll, events, -1)
	}
	began := time.Now()
	for first := true; first || time.Since(began) < w.window; first = false {
		n, _, e := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(epoll), uintptr(unsafe.Pointer(&events[0])), uintptr(len(events)), 0, 0, 0)
		if e != 0 || n > 0 {
			return int(n), nilOr(e)
		}
		_, _, _ = unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
	}
	n, err := unix.EpollWait(epoll, events, -1)
	w.window = nextWindow(w.window, time.Since(began))
	return n, err
}

// nextWindow after a wait that outlasted the window.
func nextWindow(window, took time.Duration) time.Duration {
	if took <= mostWindow {
		return min(max(2*window, leastWindow), mostWindow)
	}
	if window /= 2; window < leastWindow {
		return 0
	}
	return window
}

func nilOr(e unix.Errno) error {
	if e == 0 {
		return nil
	}
	return e
}
