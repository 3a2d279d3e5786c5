package nfs

import (
	"golang.org/x/sys/unix"
)

// readdir lists the current folder (RFC 7530, section 16.24). The pseudo root is
// not listed: names of exports are secrets.
func (c *compound) readdir() status {
	cookie := c.d.u64()
	c.d.u64() // the verifier: cookies are good for ever
	hint, limit := c.d.u32(), c.d.u32()
	want, _ := c.d.bitmap()
	switch {
	case c.d.bad:
		return errBadxdr
	case want&attrsSetBy != 0:
		return errInval
	case c.at.x == nil:
		return errAccess
	case cookie == 1 || cookie == 2:
		return errBadCookie
	}
	t, in := c.s.tree, c.at.n
	if st := in.folder(); st != ok {
		return st
	}
	settled := c.lockSettled(in)
	defer settled()
	if t.gone(in) {
		return errStale
	}
	if !c.at.x.may(in, mayRead) {
		return errAccess
	}
	fd, err := t.openNode(in, openFolder)
	if err != nil {
		return statusOf(err)
	}
	defer unix.Close(fd)
	l := listing{c: c, fd: fd, want: want & supported, end: len(c.e.b) + int(min(limit, maxListing)) - 8, names: int(min(hint, maxListing))}
	c.e.u64(0)
	all := true
	for _, e := range in.entries.after(cookie) {
		if e.gone {
			continue
		}
		if all, err = l.entry(e); err != nil {
			return statusOf(err)
		}
		if !all {
			break
		}
	}
	if !all && l.count == 0 || l.end < len(c.e.b) {
		return errToosmall
	}
	c.e.flag(false) // no more entries here
	c.e.flag(all)
	return ok
}

// lockSettled locks the tree for reading when the folder's entries are sorted.
func (c *compound) lockSettled(in *node) (unlock func()) {
	mu := &c.s.tree.mu
	mu.RLock()
	if in.entries.settled() {
		return mu.RUnlock
	}
	mu.RUnlock()
	mu.Lock()
	in.entries.settle()
	return mu.Unlock
}

// listing is an answer to READDIR that grows.
type listing struct {
	c     *compound
	fd    int
	want  uint64
	end   int // of the answer, with room for what follows the entries
	names int // bytes of names and cookies that the client would like, 0 for any
	count int
}

// entry appends one and says whether there was room for it.
func (l *listing) entry(e *entry) (bool, error) {
	b := &l.c.e
	at := len(b.b)
	b.flag(true)
	b.u64(e.cookie)
	b.text(e.name)
	size := len(b.b) - at
	a, err := l.look(e)
	switch {
	case err == nil:
		a.encode(b, l.want)
	case l.want&(1<<attrRdattrError) != 0:
		b.bitmap(1 << attrRdattrError)
		b.u32(4)
		b.u32(uint32(statusOf(err)))
	default:
		return false, err
	}
	if len(b.b) > l.end || l.count > 0 && l.names > 0 && size > l.names {
		b.b = b.b[:at]
		return false, nil
	}
	l.names = max(l.names-size, min(l.names, 1))
	l.count++
	return true, nil
}

func (l *listing) look(e *entry) (a attributes, err error) {
	s := l.c.s
	a.s, a.at, a.meta = s, place{true, l.c.at.x, e.n}, e.n.meta
	if err := unix.Fstatat(l.fd, e.name, &a.st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return a, err
	}
	a.chang = s.tree.change(e.n, &a.st)
	if l.want&attrsOfDisk != 0 {
		err = s.lookAtDisk(&a)
	}
	return a, err
}
