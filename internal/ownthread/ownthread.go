// Package ownthread runs functions on threads that are thrown away afterwards:
// for what a thread can enter but not leave, such as namespaces.
package ownthread

import (
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// Go calls fn on a thread of its own, which ends with fn. That is never the
// process' first one: the runtime does not end it, so it would keep what fn
// entered, and /proc/self shows what it sees.
func Go(fn func()) { go take(fn, func() {}) }

// Do is Go, and waits for the end.
func Do(fn func() error) error {
	errc := make(chan error, 1)
	Go(func() { errc <- fn() })
	return <-errc
}

// In is Do on a thread that has entered the namespaces ("mnt", "ipc", "net") of
// a process. fn must not start goroutines or processes.
func In(pid int, kinds []string, fn func() error) error {
	return Do(func() error {
		// A thread that shares its root and working directory with others
		// cannot change its mount namespace.
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return fmt.Errorf("unshare: %w", err)
		}
		var fds []int
		for _, kind := range kinds {
			fd, err := unix.Open(fmt.Sprintf("/proc/%d/ns/%s", pid, kind), unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				return fmt.Errorf("open %s namespace of process %d: %w", kind, pid, err)
			}
			defer unix.Close(fd)
			fds = append(fds, fd)
		}
		for i, fd := range fds {
			if err := unix.Setns(fd, 0); err != nil {
				return fmt.Errorf("enter %s namespace of process %d: %w", kinds[i], pid, err)
			}
		}
		return fn()
	})
}

// take calls taken once it has a thread that will do.
func take(fn, taken func()) {
	runtime.LockOSThread() // and never unlocked: the runtime ends the thread
	if unix.Gettid() == unix.Getpid() {
		other := make(chan struct{})
		go take(fn, func() { close(other) })
		<-other // the first thread is kept busy until then
		runtime.UnlockOSThread()
		taken()
		return
	}
	taken()
	fn()
}
