package nfs

import (
	"crypto/hmac"

	"golang.org/x/sys/unix"
)

// opening is the arguments of OPEN (RFC 7530, section 16.16).
type opening struct {
	sequence     uint32
	access, deny uint32
	client       uint64
	owner        ownerName
	create       bool
	how          uint32
	want         setting
	verifier     [8]byte
	claim        uint32
	name         string
}

func (c *compound) openArguments() (o opening, st status) {
	d := &c.d
	o.sequence, o.access, o.deny, o.client = d.u32(), d.u32(), d.u32(), d.u64()
	o.owner.name = string(d.opaque(maxOwner))
	if o.create = d.flag(); o.create {
		switch o.how = d.u32(); o.how {
		case createUnchecked, createGuarded:
			o.want, st = d.setting()
		case createExclusive:
			copy(o.verifier[:], d.take(8))
		default:
			d.bad = true
		}
	}
	var named status
	switch o.claim = d.u32(); o.claim {
	case claimNull:
		o.name, named = c.component()
	case claimPrevious:
		d.u32() // delegation
	default:
		if st == ok {
			st = errNotsupp
		}
	}
	switch {
	case d.bad:
		return o, errBadxdr
	case st != ok:
		return o, st
	case named != ok:
		return o, named
	case o.access < shareRead || o.access > shareBoth || o.deny > shareBoth:
		return o, errInval
	case o.claim == claimPrevious && o.create:
		return o, errInval
	}
	return o, ok
}

// open opens a file, after making it if wanted.
func (c *compound) open() status {
	rest := c.d.b
	o, st := c.openArguments()
	if st == errBadxdr || st == errNotsupp {
		return st
	}
	owner, st2 := c.opener(&o)
	if st2 != ok {
		return st2
	}
	return c.sequenced(owner, o.sequence, c.args(rest), anew, func() status {
		if st != ok {
			return st
		}
		return c.openFile(owner, &o)
	})
}

// opener returns the owner that opens.
func (c *compound) opener(o *opening) (*owner, status) {
	s := c.s.state
	s.mu.Lock()
	defer c.unlockState()
	client, st := s.client(o.client)
	if st != ok {
		return nil, st
	}
	return s.owner(client, o.owner)
}

func (c *compound) openFile(owner *owner, o *opening) status {
	if !c.at.x.Write && (o.create && o.how != createUnchecked || o.access&shareWrite != 0) {
		return errRofs
	}
	t := c.s.tree
	t.mu.Lock()
	defer t.mu.Unlock()
	n, made, st := c.target(o)
	if st != ok {
		return st
	}
	if !made.new {
		if st := c.mayOpen(n, o); st != ok {
			return st
		}
	}
	at := place{true, c.at.x, n}
	open, st := c.share(owner, at, o.access, o.deny)
	if st != ok {
		return st
	}
	if made.truncate {
		err := t.with(n, func(fd int) error { return unix.Ftruncate(fd, int64(o.want.size)) })
		if err != nil {
			return statusOf(err)
		}
		n.touch()
		made.set |= 1 << attrSize
	}
	c.at = at
	s := c.s.state
	s.mu.Lock()
	defer s.mu.Unlock()
	c.e.stateid(open.id)
	c.e.changed(made.before, made.after)
	flags := uint32(resultPosixLock)
	if o.claim == claimPrevious { // which cannot be an old request that comes late (RFC 7530, section 9.1.11)
		owner.confirmed = true
	}
	if !owner.confirmed {
		flags |= resultConfirm
	}
	c.e.u32(flags)
	c.e.bitmap(made.set)
	c.e.u32(0) // no delegation
	return ok
}

// made is what OPEN has done before it opens.
type made struct {
	new, truncate bool
	before, after uint64
	set           uint64
}

// target returns the file that is to be opened, made if need be. The tree is locked.
func (c *compound) target(o *opening) (n *node, m made, st status) {
	if o.claim == claimPrevious {
		return c.at.n, m, ok
	}
	t, in := c.s.tree, c.at.n
	n, st = c.child(in, o.name)
	switch {
	case st == errNoent && o.create:
		return c.makeTarget(in, o)
	case st != ok:
		return nil, m, st
	}
	st2, err := t.stat(in)
	if err != nil {
		return nil, m, statusOf(err)
	}
	m.before = t.change(in, &st2)
	m.after = m.before
	switch {
	case !o.create:
	case o.how == createGuarded:
		return nil, m, errExist
	case o.how == createExclusive:
		if n.kind != kindFile || n.verifier == [8]byte{} || !hmac.Equal(n.verifier[:], o.verifier[:]) || n.uid != c.at.x.UID {
			return nil, m, errExist
		}
		m.new = true // by the same request, which has come again
	default:
		m.truncate = o.want.set(attrSize)
	}
	return n, m, ok
}

func (c *compound) makeTarget(in *node, o *opening) (n *node, m made, st status) {
	x := c.at.x
	if !x.Write {
		return nil, m, errRofs
	}
	if !x.may(in, mayWrite|mayExecute) {
		return nil, m, errAccess
	}
	t := c.s.tree
	mode := uint32(0o666)
	if o.how == createExclusive {
		mode = 0o600 // until the client sets it
	}
	attributes, st := c.newMeta(in, kindFile, mode, &o.want)
	if st != ok {
		return nil, m, st
	}
	attributes.verifier = o.verifier
	before, after, n, err := t.make(in, o.name, attributes, nil)
	if err != nil {
		return nil, m, statusOf(err)
	}
	c.change = true
	m = made{new: true, before: before, after: after, truncate: o.want.set(attrSize) && o.want.size > 0}
	m.set = t.dress(n, &o.want) | o.want.has&(1<<attrSize)
	return n, m, ok
}

// mayOpen says whether a file that was there before can be opened. The tree is locked.
func (c *compound) mayOpen(n *node, o *opening) status {
	x := c.at.x
	switch {
	case n.kind == kindFolder:
		return errIsdir
	case n.kind != kindFile:
		return errSymlink // makes clients look what it is
	case o.access&shareRead != 0 && !x.may(n, mayRead) && !x.may(n, mayExecute) && !c.had(n, o):
		return errAccess
	case o.access&shareWrite != 0 && !x.may(n, mayWrite) && !c.had(n, o):
		return errAccess
	case o.create && o.want.set(attrSize) && (!x.Write || !x.may(n, mayWrite)):
		return errAccess
	}
	return ok
}

// had says whether a client may have had the file open before its mode changed.
func (c *compound) had(n *node, o *opening) bool {
	return o.claim == claimPrevious && c.at.x.UID == n.uid
}

// share adds to what an owner has open, if others do not deny it. A client that has
// been silent for too long loses what it has rather than being in the way.
func (c *compound) share(owner *owner, at place, access, deny uint32) (*opened, status) {
	s := c.s.state
	s.mu.Lock()
	defer s.mu.Unlock()
	if owner.gone {
		return nil, errExpired
	}
	if h := at.n.held; h != nil {
		for o := range h.opens {
			if o.owner == owner || o.deny&access == 0 && o.access&deny == 0 {
				continue
			}
			if !s.expired(o.owner.client) {
				return nil, errShareDenied
			}
			s.dropClient(o.owner.client)
		}
	}
	key := openKey{at.n, at.x}
	if o := owner.opens[key]; o != nil {
		o.access |= access
		o.deny |= deny
		o.id.seq++
		return o, ok
	}
	client := owner.client
	if s.opens >= s.limits.opens || client.opens >= max(1, s.limits.opens/2) {
		s.sweep(1)
		if s.opens >= s.limits.opens || client.opens >= max(1, s.limits.opens/2) {
			return nil, errResource
		}
	}
	o := &opened{owner: owner, openKey: key, access: access, deny: deny, locks: map[*locked]struct{}{}}
	o.id = s.newStateid(o)
	owner.opens[key] = o
	if at.n.held == nil {
		at.n.held = &held{opens: map[*opened]struct{}{}}
	}
	at.n.held.opens[o] = struct{}{}
	at.n.opens.Add(1)
	client.opens++
	s.opens++
	return o, ok
}

// withOpen carries out a request about an open, in its owner's sequence. It answers
// with the open's new stateid.
func (c *compound) withOpen(id stateid, seq uint32, args []byte, confirmed bool, do func(*opened) status) status {
	o, st := byStateid[*opened](c.s.state, id)
	if st != ok {
		return st
	}
	return c.sequenced(o.owner, seq, args, inOrder, func() status {
		s := c.s.state
		s.mu.Lock()
		defer c.unlockState()
		open, lock, st := s.check(id, c.at)
		switch {
		case st != ok:
			return st
		case lock != nil || open.owner.confirmed != confirmed:
			return errBadStateid
		}
		if st := do(open); st != ok {
			return st
		}
		open.id.seq++
		c.e.stateid(open.id)
		return ok
	})
}

func (c *compound) openConfirm() status {
	rest := c.d.b
	id, seq := c.d.stateid(), c.d.u32()
	if c.d.bad {
		return errBadxdr
	}
	return c.withOpen(id, seq, c.args(rest), false, func(o *opened) status {
		o.owner.confirmed = true
		return ok
	})
}

func (c *compound) openDowngrade() status {
	rest := c.d.b
	id, seq := c.d.stateid(), c.d.u32()
	access, deny := c.d.u32(), c.d.u32()
	if c.d.bad {
		return errBadxdr
	}
	return c.withOpen(id, seq, c.args(rest), true, func(o *opened) status {
		if access == 0 || access&^o.access != 0 || deny&^o.deny != 0 {
			return errInval
		}
		o.access, o.deny = access, deny
		return ok
	})
}

// close ends an open and what was locked with it.
func (c *compound) close() status {
	rest := c.d.b
	seq, id := c.d.u32(), c.d.stateid()
	if c.d.bad {
		return errBadxdr
	}
	return c.withOpen(id, seq, c.args(rest), true, func(o *opened) status {
		s := c.s.state
		s.shutOpen(o)
		s.ids[o.id.other] = o
		o.owner.closed = o
		return ok
	})
}
