// Package ownthread runs functions on threads that are thrown away afterwards:
// for what a thread can enter but not leave, such as namespaces.
package ownthread

import (
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
