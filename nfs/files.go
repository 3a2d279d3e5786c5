package nfs

import (
	"container/list"
	"sync"

	"golang.org/x/sys/unix"
)

// files keeps descriptors of files open between requests, idle ones up to a number.
type files struct {
	mu   sync.Mutex
	idle *list.List // of *descriptor, the one that was used last in front
	keep int
}

// descriptor is a file that is open. Whoever gets one puts it back.
type descriptor struct {
	fd   int
	refs int
	at   *list.Element // in idle
	n    *node         // none once no other may get it
}

// get returns the object's descriptor, opening it if need be. Where open is called
// it must still be certain that the object's path is its own.
func (f *files) get(n *node, open func() (int, error)) (*descriptor, error) {
	f.mu.Lock()
	if d := f.use(n); d != nil {
		f.mu.Unlock()
		return d, nil
	}
	f.mu.Unlock()
	fd, err := open()
	if err != nil {
		return nil, err
	}
	return f.add(n, fd), nil
}

func (f *files) use(n *node) *descriptor {
	d := n.fd
	if d == nil {
		return nil
	}
	d.refs++
	if d.at != nil {
		f.idle.Remove(d.at)
		d.at = nil
	}
	return d
}

// add takes over a descriptor.
func (f *files) add(n *node, fd int) *descriptor {
	f.mu.Lock()
	defer f.mu.Unlock()
	if d := f.use(n); d != nil {
		_ = unix.Close(fd)
		return d
	}
	n.fd = &descriptor{fd: fd, refs: 1, n: n}
	return n.fd
}

func (f *files) put(d *descriptor) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if d.refs--; d.refs > 0 {
		return
	}
	if d.n == nil {
		_ = unix.Close(d.fd)
		return
	}
	d.at = f.idle.PushFront(d)
	for f.idle.Len() > f.keep {
		last := f.idle.Remove(f.idle.Back()).(*descriptor)
		last.n.fd = nil
		_ = unix.Close(last.fd)
	}
}

// drop closes the object's descriptor as soon as nobody uses it.
func (f *files) drop(n *node) {
	f.mu.Lock()
	defer f.mu.Unlock()
	d := n.fd
	if d == nil {
		return
	}
	n.fd, d.n = nil, nil
	if d.at != nil {
		f.idle.Remove(d.at)
		d.at = nil
		_ = unix.Close(d.fd)
	}
}

// close closes those that are idle, which are all when no request runs and no file
// is pinned.
func (f *files) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for e := f.idle.Front(); e != nil; e = e.Next() {
		d := e.Value.(*descriptor)
		d.n.fd = nil
		_ = unix.Close(d.fd)
	}
	f.idle.Init()
}
