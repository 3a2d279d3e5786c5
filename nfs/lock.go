package nfs

// locking is the arguments of LOCK, LOCKT and LOCKU that say what is locked.
type locking struct {
	kind        uint32
	first, last uint64
}

func (l locking) write() bool { return l.kind == lockWrite || l.kind == lockWriteW }

// span decodes offset and length.
func (l *locking) span(offset, length uint64) status {
	var is bool
	if l.first, l.last, is = spanOf(offset, length); !is || l.kind < lockRead || l.kind > lockWriteW {
		return errInval
	}
	return ok
}

// lock locks a range for one owner against others (RFC 7530, section 16.10). It
// binds those who ask. A lock that was had before a restart is taken like any other.
func (c *compound) lock() status {
	rest := c.d.b
	l := locking{kind: c.d.u32()}
	c.d.flag() // reclaim
	offset, length := c.d.u64(), c.d.u64()
	if !c.d.flag() {
		return c.lockMore(rest, l, offset, length)
	}
	openSeq, id, seq := c.d.u32(), c.d.stateid(), c.d.u32()
	c.d.u64() // the client, which the open has too
	name := ownerName{lock: true, name: string(c.d.opaque(maxOwner))}
	if c.d.bad {
		return errBadxdr
	}
	args := c.args(rest)
	open, st := byStateid[*opened](c.s.state, id)
	if st != ok {
		return st
	}
	return c.sequenced(open.owner, openSeq, args, inOrder, func() status {
		owner, st := c.newLocker(id, name)
		if st != ok {
			return st
		}
		return c.sequenced(owner, seq, args, anew, func() status { return c.take(owner, open, l, offset, length) })
	})
}

// newLocker returns the owner of locks that come with an open.
func (c *compound) newLocker(id stateid, name ownerName) (*owner, status) {
	s := c.s.state
	s.mu.Lock()
	defer c.unlockState()
	open, lock, st := s.check(id, c.at)
	switch {
	case st != ok:
		return nil, st
	case lock != nil:
		return nil, errBadStateid
	}
	return s.owner(open.owner.client, name)
}

// lockMore is LOCK by an owner that has locked something in the file before.
func (c *compound) lockMore(rest []byte, l locking, offset, length uint64) status {
	id, seq := c.d.stateid(), c.d.u32()
	if c.d.bad {
		return errBadxdr
	}
	return c.withLock(id, seq, c.args(rest), func(have *locked) status {
		return c.take(have.owner, have.open, l, offset, length)
	})
}

// withLock carries out a request about locks, in their owner's sequence.
func (c *compound) withLock(id stateid, seq uint32, args []byte, do func(*locked) status) status {
	have, st := byStateid[*locked](c.s.state, id)
	if st != ok {
		return st
	}
	return c.sequenced(have.owner, seq, args, inOrder, func() status {
		if st := c.stillLocked(id); st != ok {
			return st
		}
		return do(have)
	})
}

func (c *compound) stillLocked(id stateid) status {
	s := c.s.state
	s.mu.Lock()
	defer s.mu.Unlock()
	_, _, st := s.check(id, c.at)
	return st
}

// take locks, or tells what is in the way.
func (c *compound) take(owner *owner, open *opened, l locking, offset, length uint64) status {
	if st := l.span(offset, length); st != ok {
		return st
	}
	s := c.s.state
	s.mu.Lock()
	defer c.unlockState()
	switch {
	case owner.gone || open.closed || !open.owner.confirmed:
		return errBadStateid
	case l.write() && open.access&shareWrite == 0, !l.write() && open.access&shareRead == 0:
		return errOpenmode
	}
	want := span{l.first, l.last, l.write(), owner}
	if other, is := s.conflict(open.n, want); is {
		c.deny(owner.client, other)
		return errDenied
	}
	if client := owner.client; s.ranges+2 > s.limits.ranges || client.ranges+2 > max(2, s.limits.ranges/2) {
		return errResource
	}
	s.setRanges(open.n, owner.client, join(open.n.held.ranges, want))
	have := owner.locks[open]
	if have == nil {
		have = &locked{owner: owner, open: open}
		have.id = s.newStateid(have)
		owner.locks[open] = have
		open.locks[have] = struct{}{}
	} else {
		have.id.seq++
	}
	c.e.stateid(have.id)
	return ok
}

// conflict returns a lock that is in the way. One of a client that has been silent for
// too long is not.
func (s *state) conflict(n *node, want span) (span, bool) {
	for n.held != nil {
		other, is := conflict(n.held.ranges, want)
		if !is {
			break
		}
		if !s.expired(other.owner.client) {
			return other, true
		}
		s.dropClient(other.owner.client)
	}
	return span{}, false
}

// deny is a LOCK4denied. Who has the lock is told only to its own client.
func (c *compound) deny(asks *client, s span) {
	c.e.u64(s.first)
	c.e.u64(s.length())
	if s.write {
		c.e.u32(lockWrite)
	} else {
		c.e.u32(lockRead)
	}
	if s.owner.client == asks {
		c.e.u64(asks.id)
		c.e.text(s.owner.name.name)
		return
	}
	c.e.u64(0)
	c.e.text("")
}

// setRanges replaces what is locked in an object, all the difference being a client's.
func (s *state) setRanges(n *node, c *client, list []span) {
	more := len(list) - len(n.held.ranges)
	n.held.ranges = list
	s.ranges += more
	c.ranges += more
}

func (s *state) unlock(n *node, o *owner, first, last uint64) {
	if n.held != nil {
		s.setRanges(n, o.client, cut(n.held.ranges, o, first, last))
	}
}

// lockt says whether a lock would be granted.
func (c *compound) lockt() status {
	l := locking{kind: c.d.u32()}
	offset, length := c.d.u64(), c.d.u64()
	id := c.d.u64()
	name := ownerName{lock: true, name: string(c.d.opaque(maxOwner))}
	if c.d.bad {
		return errBadxdr
	}
	if st := l.span(offset, length); st != ok {
		return st
	}
	if st := c.at.n.regular(); st != ok {
		return st
	}
	s := c.s.state
	s.mu.Lock()
	defer c.unlockState()
	client, st := s.client(id)
	if st != ok {
		return st
	}
	if other, is := s.conflict(c.at.n, span{l.first, l.last, l.write(), client.owners[name]}); is {
		c.deny(client, other)
		return errDenied
	}
	return ok
}

// locku unlocks a range, which need not be one that was locked.
func (c *compound) locku() status {
	rest := c.d.b
	l := locking{kind: c.d.u32()}
	seq, id := c.d.u32(), c.d.stateid()
	offset, length := c.d.u64(), c.d.u64()
	if c.d.bad {
		return errBadxdr
	}
	return c.withLock(id, seq, c.args(rest), func(have *locked) status {
		if st := l.span(offset, length); st != ok {
			return st
		}
		s := c.s.state
		s.mu.Lock()
		defer s.mu.Unlock()
		if have.open.closed {
			return errBadStateid
		}
		if client := have.owner.client; s.ranges+1 > s.limits.ranges || client.ranges+1 > max(2, s.limits.ranges/2) {
			return errResource
		}
		s.unlock(have.open.n, have.owner, l.first, l.last)
		have.id.seq++
		c.e.stateid(have.id)
		return ok
	})
}

func (c *compound) releaseLockowner() status {
	id := c.d.u64()
	name := ownerName{lock: true, name: string(c.d.opaque(maxOwner))}
	if c.d.bad {
		return errBadxdr
	}
	s := c.s.state
	s.mu.Lock()
	defer c.unlockState()
	client, st := s.client(id)
	if st != ok {
		return st
	}
	o := client.owners[name]
	if o == nil {
		return ok
	}
	for open := range o.locks {
		for _, r := range open.n.held.ranges {
			if r.owner == o {
				return errLocksHeld
			}
		}
	}
	for _, l := range o.locks {
		s.forgetLocked(l)
	}
	s.forgetOwner(o)
	return ok
}
