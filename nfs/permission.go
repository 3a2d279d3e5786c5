package nfs

import "golang.org/x/sys/unix"

// What somebody wants to do, as bits of a mode.
const (
	mayExecute = 1 // or search
	mayWrite   = 2
	mayRead    = 4
)

// may says whether the mode of an object allows the export's user all that it wants.
// The tree is locked.
func (x *export) may(n *node, want uint32) bool {
	bits := n.mode
	switch {
	case x.UID == n.uid:
		bits >>= 6
	case x.GID == n.gid:
		bits >>= 3
	}
	return bits&want == want
}

// mayRead says whether data may be read. A program that is being run is read too, and
// an owner has had the file open before its mode changed.
func (x *export) mayRead(n *node) bool {
	return x.UID == n.uid || x.may(n, mayRead) || x.may(n, mayExecute)
}

func (x *export) mayWrite(n *node) bool { return x.Write && (x.UID == n.uid || x.may(n, mayWrite)) }

// mayRemove says whether a name may be taken out of a folder: in one with the sticky
// bit only by the owner of the object or of the folder.
func (x *export) mayRemove(in, n *node) bool {
	return x.may(in, mayWrite|mayExecute) && (in.mode&unix.S_ISVTX == 0 || x.UID == in.uid || x.UID == n.uid)
}

func (c *compound) access() status {
	want := c.d.u32()
	if c.d.bad {
		return errBadxdr
	}
	if c.at.x == nil {
		c.e.u32(want & (accessRead | accessLookup | accessModify | accessExtend | accessDelete))
		c.e.u32(want & accessLookup)
		return ok
	}
	c.s.tree.mu.RLock()
	defer c.s.tree.mu.RUnlock()
	x, n := c.at.x, c.at.n
	var known, may uint32
	check := func(bits, mode uint32, allowed bool) {
		known |= bits
		if allowed && x.may(n, mode) {
			may |= bits
		}
	}
	check(accessRead, mayRead, true)
	if n.kind == kindFolder {
		check(accessLookup, mayExecute, true)
		check(accessModify|accessExtend|accessDelete, mayWrite|mayExecute, x.Write)
	} else {
		check(accessExecute, mayExecute, true)
		check(accessModify|accessExtend, mayWrite, x.Write)
	}
	c.e.u32(want & known)
	c.e.u32(want & may)
	return ok
}
