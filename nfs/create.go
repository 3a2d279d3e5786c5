package nfs

import (
	"golang.org/x/sys/unix"
)

const maxLinks = 60000 // of an object; file systems have limits of their own

// create makes what is not a file: folders, symbolic links, fifos and sockets.
func (c *compound) create() status {
	k := kind(min(c.d.u32(), 255))
	var target []byte
	switch k {
	case kindLink:
		target = c.d.opaque(maxIO)
	case kindBlock, kindChar:
		c.d.u64()
	}
	name, st := c.component()
	if c.d.bad {
		return errBadxdr
	}
	want, st2 := c.d.setting()
	switch {
	case st != ok:
		return st
	case st2 != ok:
		return st2
	case k == kindBlock || k == kindChar:
		return errPerm
	case k != kindFolder && k != kindLink && k != kindFifo && k != kindSocket:
		return errBadtype
	case k == kindLink && len(target) == 0:
		return errInval
	case len(target) > maxTarget:
		return errNametoolong
	}
	mode := uint32(0o777)
	if k == kindFifo || k == kindSocket {
		mode = 0o666
	}
	t := c.s.tree
	t.mu.Lock()
	defer t.mu.Unlock()
	in := c.at.n
	if st := c.mayAdd(in, name); st != ok {
		return st
	}
	if want.set(attrSize) {
		return errInval
	}
	m, st := c.newMeta(in, k, mode, &want)
	if st != ok {
		return st
	}
	before, after, n, err := t.make(in, name, m, target)
	if err != nil {
		return statusOf(err)
	}
	c.at.n = n
	c.e.changed(before, after)
	c.e.bitmap(t.dress(n, &want))
	return ok
}

// changed is a change_info4; what it tells of has happened without interruption.
func (e *encoder) changed(before, after uint64) {
	e.u32(1)
	e.u64(before)
	e.u64(after)
}

// mayAdd says whether a new name can be put in a folder. The tree is locked.
func (c *compound) mayAdd(in *node, name string) status {
	switch _, st := c.child(in, name); {
	case st == ok:
		return errExist
	case st != errNoent:
		return st
	case !c.at.x.may(in, mayWrite|mayExecute):
		return errAccess
	}
	return ok
}

// newMeta is of a new object of the export's user.
func (c *compound) newMeta(in *node, k kind, mode uint32, want *setting) (m meta, st status) {
	x := c.at.x
	m = meta{id: c.s.tree.newID(), kind: k, mode: mode, uid: x.UID, gid: x.GID}
	if in.mode&unix.S_ISGID != 0 {
		m.gid = in.gid
	}
	if want.set(attrMode) {
		m.mode = want.mode
	}
	if in.mode&unix.S_ISGID != 0 {
		if k == kindFolder {
			m.mode |= unix.S_ISGID
		} else if m.gid != x.GID {
			m.mode &^= unix.S_ISGID
		}
	}
	if want.set(attrOwner) && want.owner != m.uid || want.set(attrOwnerGroup) && want.group != m.gid && want.group != x.GID {
		return m, errPerm
	}
	if want.set(attrOwnerGroup) {
		m.gid = want.group
	}
	return m, ok
}

// make makes an object and returns the folder's change attribute before and after. The tree
// is locked.
func (t *tree) make(in *node, name string, m meta, content []byte) (before, after uint64, n *node, err error) {
	if len(t.objects) >= t.limit {
		return 0, 0, nil, errNospc
	}
	before, after, err = t.changing(in, func(at int) error {
		if m.kind == kindFolder {
			if err := t.makeFolder(at, name, m); err != nil {
				return err
			}
			n = t.add(m)
		} else {
			fd, err := t.makeFile(at, name, m, content)
			if err != nil {
				return err
			}
			n = t.add(m)
			t.put(t.files.add(n, fd))
		}
		t.attach(in, name, n)
		return nil
	})
	return before, after, n, err
}

// dress gives a new object the times that are wanted, and returns which attributes it has as
// wanted: those that newMeta has seen to, too. The tree is locked.
func (t *tree) dress(n *node, want *setting) (done uint64) {
	done = want.has & (1<<attrMode | 1<<attrOwner | 1<<attrOwnerGroup)
	if times := want.has & attrsSetBy; times != 0 {
		if err := t.with(n, func(fd int) error { return setTimes(fd, &want.times) }); err == nil {
			done |= times
		}
	}
	return done
}

// changing opens a folder and lets do change what is in it. The tree is locked.
func (t *tree) changing(in *node, do func(at int) error) (before, after uint64, err error) {
	at, err := t.openNode(in, openFolder)
	if err != nil {
		return 0, 0, err
	}
	defer unix.Close(at)
	var st unix.Stat_t
	if err := unix.Fstat(at, &st); err != nil {
		return 0, 0, err
	}
	before = t.change(in, &st)
	if err := do(at); err != nil {
		return 0, 0, err
	}
	in.touch()
	if err := unix.Fstat(at, &st); err != nil {
		return 0, 0, err
	}
	return before, t.change(in, &st), nil
}

// link gives the saved object another name in the current folder.
func (c *compound) link() status {
	name, st := c.component()
	if st != ok {
		return st
	}
	t := c.s.tree
	t.mu.Lock()
	defer t.mu.Unlock()
	in, n := c.at.n, c.saved.n
	if st := c.mayAdd(in, name); st != ok {
		return st
	}
	switch {
	case n.kind == kindFolder:
		return errIsdir
	case t.gone(n):
		return errNoent
	case len(n.links) >= maxLinks:
		return errMlink
	case t.named >= 2*t.limit:
		return errNospc
	case n.uid != c.at.x.UID && (n.kind != kindFile || !c.at.x.may(n, mayRead|mayWrite)):
		return errPerm // as Linux does with fs.protected_hardlinks
	}
	from := n.links[0]
	before, after, err := t.changing(in, func(at int) error {
		src, err := t.openNode(from.in, openFolder)
		if err != nil {
			return err
		}
		defer unix.Close(src)
		return unix.Linkat(src, from.name, at, name, 0)
	})
	if err != nil {
		return statusOf(err)
	}
	t.attach(in, name, n)
	n.touch()
	c.e.changed(before, after)
	return ok
}
