package nfs

import (
	"crypto/rand"
	"time"
)

// setclientid introduces a client (RFC 7530, section 16.33). Callbacks are never
// made, so where they would go is read and forgotten. Nobody at another address can say
// to be a client that has something open and has started anew, for that would end it.
func (c *compound) setclientid() status {
	var verifier [8]byte
	copy(verifier[:], c.d.take(8))
	name := string(c.d.opaque(maxOwner))
	c.d.u32()        // program of callbacks
	c.d.opaque(64)   // network
	c.d.opaque(1024) // address
	c.d.u32()        // number of callbacks
	if c.d.bad {
		return errBadxdr
	}
	s := c.s.state
	s.mu.Lock()
	defer s.mu.Unlock()
	next := &client{id: random64(), name: name, from: c.from, verifier: verifier, seen: time.Now(), owners: map[ownerName]*owner{}}
	known := s.named[name]
	switch {
	case known != nil && known.verifier == verifier:
		next.id = known.id
	case known != nil && known.from != c.from && known.opens > 0 && !s.expired(known):
		c.e.text("tcp")
		c.e.text("") // where the other one is
		return errClidInuse
	default:
		if st := s.room(); st != ok {
			return st
		}
	}
	_, _ = rand.Read(next.confirm[:])
	s.pending[name] = next
	c.e.u64(next.id)
	c.e.b = append(c.e.b, next.confirm[:]...)
	return ok
}

// room makes place for a client: of one that is not confirmed, or silent, or has
// nothing to lose.
func (s *state) room() status {
	if len(s.clients)+len(s.pending) < s.limits.clients {
		return ok
	}
	s.sweep(1)
	for len(s.clients)+len(s.pending) >= s.limits.clients {
		var oldest *client
		for _, c := range s.pending {
			if oldest == nil || c.seen.Before(oldest.seen) {
				oldest = c
			}
		}
		if oldest != nil {
			delete(s.pending, oldest.name)
			continue
		}
		for _, c := range s.clients {
			if c.opens == 0 && (oldest == nil || c.seen.Before(oldest.seen)) {
				oldest = c
			}
		}
		if oldest == nil {
			return errResource
		}
		s.dropClient(oldest)
	}
	return ok
}

func (c *compound) setclientidConfirm() status {
	id := c.d.u64()
	var confirm [8]byte
	copy(confirm[:], c.d.take(8))
	if c.d.bad {
		return errBadxdr
	}
	s := c.s.state
	s.mu.Lock()
	defer func() {
		list := s.takeShut()
		s.mu.Unlock()
		c.s.tree.closed(list)
	}()
	if known := s.clients[id]; known != nil && known.confirm == confirm {
		known.seen = time.Now()
		return ok
	}
	for _, p := range s.pending {
		if p.id != id || p.confirm != confirm {
			continue
		}
		delete(s.pending, p.name)
		known := s.named[p.name]
		if known != nil && known.id == id { // the same client, with other callbacks
			known.confirm, known.seen = confirm, time.Now()
			return ok
		}
		if known != nil { // it has restarted, and knows nothing of what it had
			s.dropClient(known)
		}
		p.seen = time.Now()
		s.clients[id], s.named[p.name] = p, p
		return ok
	}
	return errStaleClientid
}

func (c *compound) renew() status {
	id := c.d.u64()
	if c.d.bad {
		return errBadxdr
	}
	s := c.s.state
	s.mu.Lock()
	defer s.mu.Unlock()
	_, st := s.client(id)
	return st
}
