package nfs

import (
	"strconv"

	"golang.org/x/sys/unix"
)

// setting is what a client wants attributes to be.
type setting struct {
	has          uint64
	size         uint64
	mode         uint32
	owner, group uint32
	times        [2]unix.Timespec // of access and of modification
}

func (s *setting) set(attr int) bool { return s.has&(1<<attr) != 0 }

// setting takes a fattr4 apart.
func (d *decoder) setting() (s setting, st status) {
	want, more := d.bitmap()
	values := decoder{b: d.opaque(4 << 10)}
	switch {
	case d.bad:
		return s, errBadxdr
	case more || want&^supported != 0:
		return s, errAttrnotsupp
	case want&^attrsToSet != 0:
		return s, errInval
	}
	s.has = want
	s.times = [2]unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Nsec: unix.UTIME_OMIT}}
	if s.set(attrSize) {
		s.size = values.u64()
	}
	if s.set(attrMode) {
		s.mode = values.u32()
	}
	if s.set(attrOwner) {
		s.owner, st = values.user()
	}
	if s.set(attrOwnerGroup) && st == ok {
		s.group, st = values.user()
	}
	if s.set(attrTimeAccessSet) {
		s.times[0] = values.setTime()
	}
	if s.set(attrTimeModifySet) {
		s.times[1] = values.setTime()
	}
	switch {
	case st != ok:
		return s, st
	case values.bad || len(values.b) > 0:
		return s, errBadxdr
	case s.mode > 0o7777 || s.times[0].Nsec < 0 || s.times[1].Nsec < 0:
		return s, errInval
	case s.size > maxFile:
		return s, errFbig
	}
	return s, ok
}

// user takes a user or group as a plain number.
func (d *decoder) user() (uint32, status) {
	n, err := strconv.ParseUint(string(d.opaque(maxName)), 10, 32)
	if err != nil && !d.bad {
		return 0, errBadowner
	}
	return uint32(n), ok
}

// setTime returns UTIME_NOW for the server's time, and a negative one for none.
func (d *decoder) setTime() unix.Timespec {
	if d.u32() == 0 {
		return unix.Timespec{Nsec: unix.UTIME_NOW}
	}
	t := unix.Timespec{Sec: int64(d.u64()), Nsec: int64(d.u32())}
	if t.Nsec >= 1e9 {
		t.Nsec = -1
	}
	return t
}

// setattr says which attributes it has set also if it could not set all.
func (c *compound) setattr() status {
	id := c.d.stateid()
	want, st := c.d.setting()
	var done uint64
	if st == ok {
		done, st = c.apply(c.at.n, id, &want)
	}
	c.e.bitmap(done)
	return st
}

// apply checks everything before it sets anything.
func (c *compound) apply(n *node, id stateid, want *setting) (done uint64, st status) {
	t := c.s.tree
	if want.set(attrSize) {
		if st := c.truncate(n, id, want); st != ok {
			return 0, st
		}
		done |= 1 << attrSize
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if st := c.maySet(n, want); st != ok {
		return done, st
	}
	m := n.meta
	if want.set(attrMode) {
		m.mode = want.mode
		if m.mode&unix.S_ISGID != 0 && n.kind != kindFolder && m.gid != c.at.x.GID {
			m.mode &^= unix.S_ISGID
		}
	}
	if want.set(attrOwnerGroup) {
		m.gid = want.group
	}
	if err := t.setMeta(n, m); err != nil {
		return done, statusOf(err)
	}
	done |= want.has & (1<<attrMode | 1<<attrOwner | 1<<attrOwnerGroup)
	if times := want.has & attrsSetBy; times != 0 {
		err := t.with(n, func(fd int) error { return setTimes(fd, &want.times) })
		if err != nil {
			return done, statusOf(err)
		}
		n.touch()
		done |= times
	}
	return done, ok
}

// maySet says whether the export's user may set what is wanted, but the size.
func (c *compound) maySet(n *node, want *setting) status {
	x := c.at.x
	mine := x.UID == n.uid
	now := func(t unix.Timespec) bool { return t.Nsec == unix.UTIME_NOW || t.Nsec == unix.UTIME_OMIT }
	switch {
	case want.set(attrMode) && !mine:
		return errPerm
	case want.set(attrOwner) && want.owner != n.uid:
		return errPerm
	case want.set(attrOwnerGroup) && want.group != n.gid && (!mine || want.group != x.GID):
		return errPerm
	case want.has&attrsSetBy == 0 || mine:
		return ok
	case !now(want.times[0]) || !now(want.times[1]):
		return errPerm
	case !x.may(n, mayWrite):
		return errAccess
	}
	return ok
}

// truncate sets the size, as writing would, once the rest is known to be allowed.
func (c *compound) truncate(n *node, id stateid, want *setting) status {
	if st := n.regular(); st != ok {
		return st
	}
	open, st := c.s.state.use(id, c.at, shareWrite)
	if st != ok {
		return st
	}
	d, st := c.data(func() status {
		st := c.maySet(n, want)
		if st == ok && open == nil && !c.at.x.mayWrite(n) {
			st = errAccess
		}
		return st
	})
	if st != ok {
		return st
	}
	defer c.s.tree.put(d)
	if err := unix.Ftruncate(d.fd, int64(want.size)); err != nil {
		return statusOf(err)
	}
	n.touch()
	return c.written(n)
}

// written takes away the bits that make a program another user's, which it must not
// keep when its content changes.
func (c *compound) written(n *node) status {
	t := c.s.tree
	t.mu.RLock()
	special := n.mode & (unix.S_ISUID | unix.S_ISGID)
	t.mu.RUnlock()
	if special == 0 {
		return ok
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	m := n.meta
	m.mode &^= unix.S_ISUID | unix.S_ISGID
	return statusOf(t.setMeta(n, m))
}

// regular says what is wrong with an object that is to be a file with data.
func (n *node) regular() status {
	switch n.kind {
	case kindFile:
		return ok
	case kindFolder:
		return errIsdir
	}
	return errInval
}
