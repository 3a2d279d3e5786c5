package nfs

import (
	"bytes"
	"hash/maphash"
	"time"
)

// opened returns the open or, for one of locks, the open that they belong to, if
// the stateid is one of this file and export and of now.
func (s *state) check(id stateid, at place) (*opened, *locked, status) {
	if id.special() {
		return nil, nil, errBadStateid
	}
	if st := s.ours(id); st != ok {
		return nil, nil, st
	}
	var now stateid
	var open *opened
	var lock *locked
	switch found := s.ids[id.other].(type) {
	case *opened:
		open, now = found, found.id
	case *locked:
		open, lock, now = found.open, found, found.id
	}
	switch {
	case open == nil || open.closed || open.n != at.n || open.x != at.x:
		return nil, nil, errBadStateid
	case id.seq > now.seq:
		return nil, nil, errBadStateid
	case id.seq < now.seq:
		return nil, nil, errOldStateid
	}
	open.owner.client.seen = time.Now()
	return open, lock, ok
}

// byStateid finds the open or the locks that a stateid is of, for the sequence of their
// owner; also an open just closed.
func byStateid[T *opened | *locked](s *state, id stateid) (T, status) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if st := s.ours(id); st != ok {
		return nil, st
	}
	found, is := s.ids[id.other].(T)
	if !is {
		return nil, errBadStateid
	}
	return found, ok
}

// ours says whether a stateid is of this run of the server.
func (s *state) ours(id stateid) status {
	if uint32(id.other[0])<<24|uint32(id.other[1])<<16|uint32(id.other[2])<<8|uint32(id.other[3]) != s.boot {
		return errStaleStateid
	}
	return ok
}

// use says whether data may be read or written with a stateid (RFC 7530, section
// 9.1.6). It returns no open for one of nobody's open.
func (s *state) use(id stateid, at place, want uint32) (*opened, status) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if id.special() {
		if h := at.n.held; h != nil && !(id == bypass && want == shareRead) {
			for o := range h.opens {
				if o.deny&want != 0 {
					return nil, errLocked
				}
			}
		}
		return nil, ok
	}
	o, _, st := s.check(id, at)
	switch {
	case st != ok:
		return nil, st
	case !o.owner.confirmed:
		return nil, errBadStateid
	case want == shareWrite && o.access&shareWrite == 0:
		return nil, errOpenmode
	}
	return o, ok // a client reads a file that it has open for writing to fill its pages
}

// advances says whether a request with this outcome has its place in the owner's
// sequence (RFC 7530, section 9.1.7).
func advances(st status) bool {
	switch st {
	case errStaleClientid, errStaleStateid, errBadStateid, errBadSeqid, errBadxdr, errResource, errNofilehandle:
		return false
	}
	return true
}

// order says whether a request may begin an owner's sequence anew, if the owner has
// confirmed no open or has no locks.
type order bool

const (
	inOrder order = false
	anew    order = true
)

// sequenced carries out a request of an owner, if it is the next one; the last one gets
// the answer that it got before.
func (c *compound) sequenced(o *owner, seq uint32, args []byte, begins order, run func() status) status {
	s := c.s.state
	o.busy.Lock()
	defer o.busy.Unlock()
	if !s.alive(o) {
		return errExpired
	}
	if begins == anew {
		c.beginAnew(o, seq)
	}
	digest := maphash.Bytes(s.seed, args)
	if o.begun {
		switch seq {
		case o.sequence:
			if o.last.digest != digest {
				return errBadSeqid
			}
			c.e.b = append(c.e.b, o.last.body...)
			if o.last.status == ok {
				c.at = o.last.at
			}
			return o.last.status
		case o.sequence + 1:
		default:
			return errBadSeqid
		}
	}
	s.goOn(o)
	at := len(c.e.b)
	st := run()
	if advances(st) {
		o.begun, o.sequence = true, seq
		o.last = reply{digest: digest, status: st, body: bytes.Clone(c.e.b[at:]), at: c.at}
	}
	return st
}

// beginAnew forgets the sequence of an owner that has nothing, or nothing confirmed.
func (c *compound) beginAnew(o *owner, seq uint32) {
	s := c.s.state
	s.mu.Lock()
	defer c.unlockState()
	switch {
	case o.name.lock:
		o.begun = o.begun && len(o.locks) > 0
	case o.begun && !o.confirmed && seq != o.sequence:
		for _, open := range o.opens {
			s.shutOpen(open)
		}
		o.begun = false
	}
}

// alive says whether an owner is still one.
func (s *state) alive(o *owner) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	o.used = time.Now()
	return !o.gone
}

// goOn lets go of what only a replay of an owner's last request needs.
func (s *state) goOn(o *owner) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forgetClosed(o)
}

// args are the bytes that were decoded since rest was what was left.
func (c *compound) args(rest []byte) []byte { return rest[:len(rest)-len(c.d.b)] }

// unlockState lets others at the state, and the tree look at what was closed.
func (c *compound) unlockState() {
	list := c.s.state.takeShut()
	c.s.state.mu.Unlock()
	c.s.tree.closed(list)
}
