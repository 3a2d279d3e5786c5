package nfs

import (
	"slices"

	"golang.org/x/sys/unix"
)

// How safe data are to be when WRITE returns.
const (
	unstable = 0
	dataSync = 1
	fileSync = 2
)

// data opens the current file if allowed says so, which is called with the tree locked.
func (c *compound) data(allowed func() status) (*descriptor, status) {
	t := c.s.tree
	t.mu.RLock()
	defer t.mu.RUnlock()
	if st := allowed(); st != ok {
		return nil, st
	}
	d, err := t.descriptor(c.at.n)
	return d, statusOf(err)
}

// read returns up to 1 MiB of a file.
func (c *compound) read() status {
	id := c.d.stateid()
	offset, count := c.d.u64(), c.d.u32()
	if c.d.bad {
		return errBadxdr
	}
	n := c.at.n
	if st := n.regular(); st != ok {
		return st
	}
	open, st := c.s.state.use(id, c.at, shareRead)
	if st != ok {
		return st
	}
	d, st := c.data(func() status {
		if (open == nil || open.access&shareRead == 0) && !c.at.x.mayRead(n) {
			return errAccess
		}
		return ok
	})
	if st != ok {
		return st
	}
	defer c.s.tree.put(d)
	var info unix.Stat_t
	if err := unix.Fstat(d.fd, &info); err != nil {
		return statusOf(err)
	}
	size := uint64(max(info.Size, 0))
	length := 0
	if offset < size {
		length = int(min(uint64(count), maxIO, size-offset))
	}
	head := len(c.e.b)
	c.e.u32(0)
	c.e.u32(0)
	c.e.b = slices.Grow(c.e.b, length+1<<10)
	data := c.e.b[head+8 : head+8+length]
	got, err := 0, error(nil)
	if length > 0 {
		if got, err = readAt(d.fd, data, int64(offset)); err != nil && got == 0 {
			return statusOf(err)
		}
	}
	if err == nil && (got < length || offset+uint64(got) >= size) {
		c.e.put(head, 1) // the end of the file
	}
	c.e.put(head+4, uint32(got))
	c.e.b = c.e.b[:head+8+got]
	c.e.pad(got)
	return ok
}

// write writes up to 1 MiB, or what there is room for.
func (c *compound) write() status {
	id := c.d.stateid()
	offset, stable := c.d.u64(), c.d.u32()
	data := c.d.opaque(maxIO)
	if c.d.bad || stable > fileSync {
		return errBadxdr
	}
	n := c.at.n
	if st := n.regular(); st != ok {
		return st
	}
	if offset > maxFile-uint64(len(data)) {
		return errFbig
	}
	open, st := c.s.state.use(id, c.at, shareWrite)
	if st != ok {
		return st
	}
	d, st := c.data(func() status {
		if open == nil && !c.at.x.mayWrite(n) {
			return errAccess
		}
		return ok
	})
	if st != ok {
		return st
	}
	defer c.s.tree.put(d)
	put, err := writeAt(d.fd, data, int64(offset))
	if err != nil {
		return statusOf(err)
	}
	n.touch()
	if st := c.written(n); st != ok {
		return st
	}
	if stable != unstable {
		if err := unix.Fdatasync(d.fd); err != nil {
			return statusOf(err)
		}
	}
	c.e.u32(uint32(put))
	c.e.u32(stable)
	c.e.b = append(c.e.b, c.s.verifier[:]...)
	return ok
}

// commit lets everything that was written to a file reach the disk.
func (c *compound) commit() status {
	c.d.u64()
	c.d.u32()
	if c.d.bad {
		return errBadxdr
	}
	if st := c.at.n.regular(); st != ok {
		return st
	}
	d, st := c.data(func() status { return ok })
	if st != ok {
		return st
	}
	defer c.s.tree.put(d)
	if err := unix.Fsync(d.fd); err != nil {
		return statusOf(err)
	}
	c.e.b = append(c.e.b, c.s.verifier[:]...)
	return ok
}
