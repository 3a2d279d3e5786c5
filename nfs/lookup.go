package nfs

func (c *compound) putfh() status {
	h := c.d.opaque(128)
	if c.d.bad {
		return errBadxdr
	}
	number, id, ok_ := splitHandle(h)
	if !ok_ {
		return errBadhandle
	}
	if number == 0 {
		if id != 0 || !verifyHandle(h, c.s.exports.rootKey()) {
			return errBadhandle
		}
		c.at = place{set: true}
		return ok
	}
	x := c.s.exports.numbered(number)
	if x == nil {
		return errStale
	}
	if !verifyHandle(h, x.key) {
		return errBadhandle
	}
	n := c.s.tree.find(id)
	if n == nil {
		return errStale
	}
	c.at = place{true, x, n}
	c.known = true
	return ok
}

func (c *compound) putrootfh() status {
	c.at = place{set: true}
	return ok
}

func (c *compound) getfh() status {
	c.e.opaque(c.s.handle(c.at))
	return ok
}

func (s *server) handle(at place) []byte {
	if at.x == nil {
		return appendHandle(nil, s.exports.rootKey(), 0, 0)
	}
	return appendHandle(nil, at.x.key, at.x.Number, at.n.id)
}

func (c *compound) savefh() status {
	c.saved = c.at
	return ok
}

func (c *compound) restorefh() status {
	if !c.saved.set {
		return errRestorefh
	}
	c.at = c.saved
	return ok
}

// component takes a name.
func (c *compound) component() (string, status) {
	b := c.d.opaque(maxIO)
	switch {
	case c.d.bad:
		return "", errBadxdr
	case len(b) == 0:
		return "", errInval
	case len(b) > maxName:
		return "", errNametoolong
	}
	name := string(b)
	if name == "." || name == ".." {
		return "", errBadname
	}
	for _, ch := range b {
		if ch == 0 || ch == '/' {
			return "", errBadname
		}
	}
	return name, ok
}

// folder says what is wrong with an object that is to be a folder.
func (n *node) folder() status {
	switch n.kind {
	case kindFolder:
		return ok
	case kindLink:
		return errSymlink
	}
	return errNotdir
}

func (c *compound) lookup() status {
	name, st := c.component()
	if st != ok {
		return st
	}
	if c.at.x == nil {
		x := c.s.exports.named([]byte(name))
		if x == nil {
			return errNoent
		}
		c.at = place{true, x, c.s.tree.root}
		c.known = true
		return ok
	}
	c.s.tree.mu.RLock()
	defer c.s.tree.mu.RUnlock()
	n, st := c.child(c.at.n, name)
	if st == ok {
		c.at.n = n
	}
	return st
}

// child finds a name in a folder that the export may search. The tree is locked.
func (c *compound) child(in *node, name string) (*node, status) {
	if st := in.folder(); st != ok {
		return nil, st
	}
	if c.s.tree.gone(in) {
		return nil, errStale
	}
	if !c.at.x.may(in, mayExecute) {
		return nil, errAccess
	}
	e := in.entries.names[name]
	if e == nil {
		return nil, errNoent
	}
	return e.n, ok
}

// lookupp goes to the folder above. From an export's root nothing is above.
func (c *compound) lookupp() status {
	if c.at.x == nil {
		return errNoent
	}
	c.s.tree.mu.RLock()
	defer c.s.tree.mu.RUnlock()
	n := c.at.n
	switch {
	case n.kind != kindFolder:
		return errNotdir
	case n == c.s.tree.root:
		return errNoent
	case c.s.tree.gone(n):
		return errStale
	case !c.at.x.may(n, mayExecute):
		return errAccess
	}
	c.at.n = n.links[0].in
	return ok
}

// secinfo names the one flavour of credentials; what they say does not matter.
func (c *compound) secinfo() status {
	before := c.at
	st := c.lookup()
	c.at = before
	if st != ok {
		return st
	}
	c.e.u32(1)
	c.e.u32(authSys)
	return ok
}

// readlink returns the text of a symbolic link, which nothing here follows.
func (c *compound) readlink() status {
	if c.at.n.kind != kindLink {
		return errInval
	}
	t := c.s.tree
	t.mu.RLock()
	defer t.mu.RUnlock()
	target := make([]byte, maxTarget)
	err := t.with(c.at.n, func(fd int) error {
		n, err := readAt(fd, target, 0)
		target = target[:n]
		return err
	})
	if err != nil {
		return statusOf(err)
	}
	c.e.opaque(target)
	return ok
}
