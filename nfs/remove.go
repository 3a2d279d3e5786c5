package nfs

import (
	"golang.org/x/sys/unix"
)

// remove takes a name out of the current folder.
func (c *compound) remove() status {
	name, st := c.component()
	if st != ok {
		return st
	}
	t := c.s.tree
	t.mu.Lock()
	defer t.mu.Unlock()
	in := c.at.n
	n, st := c.child(in, name)
	switch {
	case st != ok:
		return st
	case !c.at.x.mayRemove(in, n):
		return errAccess
	case n.kind == kindFolder && len(n.entries.names) > 0:
		return errNotempty
	}
	if st := c.hold(n); st != ok {
		return st
	}
	before, after, err := t.changing(in, func(at int) error { return unlink(at, name, n) })
	if err != nil {
		return statusOf(err)
	}
	t.detach(in, name)
	n.touch()
	c.e.changed(before, after)
	return ok
}

func unlink(at int, name string, n *node) error {
	if n.kind == kindFolder {
		return unix.Unlinkat(at, name, unix.AT_REMOVEDIR)
	}
	return unix.Unlinkat(at, name, 0)
}

// hold keeps a file readable that is open and about to lose its last name. The tree
// is locked.
func (c *compound) hold(n *node) status {
	if n.kind != kindFile || len(n.links) > 1 || n.pin != nil || n.opens.Load() == 0 {
		return ok
	}
	d, err := c.s.tree.descriptor(n)
	if err != nil {
		return statusOf(err)
	}
	n.pin = d
	return ok
}

// rename moves a name from the saved folder to the current one.
func (c *compound) rename() status {
	from, st := c.component()
	if st != ok && c.d.bad {
		return st
	}
	to, st2 := c.component()
	switch {
	case c.d.bad:
		return errBadxdr
	case st != ok:
		return st
	case st2 != ok:
		return st2
	}
	t, x := c.s.tree, c.at.x
	t.mu.Lock()
	defer t.mu.Unlock()
	src, dst := c.saved.n, c.at.n
	n, st := c.child(src, from)
	if st != ok {
		return st
	}
	old, st := c.child(dst, to)
	if st != ok && st != errNoent {
		return st
	}
	if !x.mayRemove(src, n) || !x.may(dst, mayWrite|mayExecute) || old != nil && !x.mayRemove(dst, old) {
		return errAccess
	}
	if st := t.canReplace(n, old, dst); st != ok {
		return st
	}
	if n.kind == kindFolder && src != dst && n.uid != x.UID && !x.may(n, mayWrite) {
		return errAccess // its own entry for the folder above changes
	}
	if old == n {
		return c.renamed(src, dst, func(int, int) error { return nil })
	}
	if old != nil {
		if st := c.hold(old); st != ok {
			return st
		}
	}
	st = c.renamed(src, dst, func(at, there int) error { return unix.Renameat(at, from, there, to) })
	if st != ok {
		return st
	}
	if old != nil {
		t.detach(dst, to)
		old.touch()
	}
	t.unlink(src, from, n)
	t.attach(dst, to, n)
	n.touch()
	return ok
}

// canReplace says whether n can take the place of old in a folder.
func (t *tree) canReplace(n, old, dst *node) status {
	if n.kind == kindFolder {
		for up := dst; ; up = up.links[0].in {
			if up == n {
				return errInval
			}
			if up == t.root {
				break
			}
		}
	}
	switch {
	case old == nil || old == n:
		return ok
	case (old.kind == kindFolder) != (n.kind == kindFolder):
		return errExist
	case old.kind == kindFolder && len(old.entries.names) > 0:
		return errNotempty
	}
	return ok
}

func (c *compound) renamed(src, dst *node, do func(at, to int) error) status {
	t := c.s.tree
	var toBefore, toAfter uint64
	before, after, err := t.changing(src, func(at int) (err error) {
		toBefore, toAfter, err = t.changing(dst, func(to int) error { return do(at, to) })
		return err
	})
	if err != nil {
		return statusOf(err)
	}
	c.e.changed(before, after)
	c.e.changed(toBefore, toAfter)
	return ok
}
