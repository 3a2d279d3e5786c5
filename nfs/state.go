package nfs

import (
	"crypto/rand"
	"encoding/binary"
	"hash/maphash"
	"sync"
	"time"
)

// state is what clients have open and locked. It is in memory only: after a restart
// clients reclaim it (RFC 7530, section 9.6), which they may whenever nothing is in
// the way; there is no time of grace.
type state struct {
	lease   time.Duration // without a sign of life a client's state may go
	limits  limits
	boot    uint32 // of this run, in every stateid
	seed    maphash.Seed
	mu      sync.Mutex
	clients map[uint64]*client // confirmed ones
	named   map[string]*client // by the clients' own names
	pending map[string]*client // not confirmed yet
	ids     map[other]any      // *opened or *locked
	opens   int
	owners  int
	ranges  int
	shut    []*node // with something closed, for the tree to look at
}

// limits are for all clients together; one client can have half.
type limits struct{ clients, opens, owners, ranges int }

// other is the part of a stateid by which it is found: the run, and a random number.
type other [12]byte

type stateid struct {
	seq   uint32
	other other
}

var (
	anonymous = stateid{}
	bypass    = stateid{seq: 1<<32 - 1, other: other{255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255}}
)

func (id stateid) special() bool { return id == anonymous || id == bypass }

// client is a machine, as it has introduced itself.
type client struct {
	id       uint64
	name     string
	from     string  // its address, without a port
	verifier [8]byte // changes when the client restarts
	confirm  [8]byte
	seen     time.Time
	dead     bool
	owners   map[ownerName]*owner
	opens    int
	ranges   int
}

// ownerName is what a client calls one of its programs; for opens and for locks they
// are different ones.
type ownerName struct {
	lock bool
	name string
}

// owner is a program of a client that opens or locks; its requests come in a sequence.
type owner struct {
	busy sync.Mutex // held during a request of the sequence, taken before all others but an export's gate

	client    *client
	name      ownerName
	used      time.Time
	sequence  uint32
	begun     bool // the sequence has
	confirmed bool
	gone      bool
	last      reply
	closed    *opened // can be found for a replay of its CLOSE
	opens     map[openKey]*opened
	locks     map[*opened]*locked
}

type openKey struct {
	n *node
	x *export
}

// reply is the answer to an owner's last request.
type reply struct {
	digest uint64
	status status
	body   []byte
	at     place
}

// opened is a file that an owner has open.
type opened struct {
	id    stateid
	owner *owner
	openKey
	access, deny uint32
	closed       bool
	locks        map[*locked]struct{}
}

// locked is the stateid of an owner's locks in a file that it has open.
type locked struct {
	id    stateid
	owner *owner
	open  *opened
}

// held is what is open and locked of an object.
type held struct {
	opens  map[*opened]struct{}
	ranges []span
}

func newState(lease time.Duration, l limits) *state {
	s := &state{lease: lease, limits: l, seed: maphash.MakeSeed(), clients: map[uint64]*client{}, named: map[string]*client{}, pending: map[string]*client{}, ids: map[other]any{}}
	s.boot = uint32(random64()) | 1 // so that no stateid is special
	return s
}

func random64() uint64 {
	var b [8]byte
	_, _ = rand.Read(b[:])
	return binary.BigEndian.Uint64(b[:])
}

func (s *state) newStateid(for_ any) stateid {
	for {
		id := stateid{seq: 1}
		binary.BigEndian.PutUint32(id.other[:], s.boot)
		binary.BigEndian.PutUint64(id.other[4:], random64())
		if _, taken := s.ids[id.other]; !taken {
			s.ids[id.other] = for_
			return id
		}
	}
}

// client returns one that is confirmed, and notes that it lives.
func (s *state) client(id uint64) (*client, status) {
	c := s.clients[id]
	if c == nil {
		return nil, errStaleClientid
	}
	c.seen = time.Now()
	return c, ok
}

func (s *state) expired(c *client) bool { return time.Since(c.seen) > s.lease }

// owner returns a client's owner, a new one if there is none.
func (s *state) owner(c *client, name ownerName) (*owner, status) {
	if o := c.owners[name]; o != nil {
		o.used = time.Now()
		return o, ok
	}
	if s.owners >= s.limits.owners || len(c.owners) >= max(1, s.limits.owners/2) {
		s.sweep(1)
		if s.owners >= s.limits.owners || len(c.owners) >= max(1, s.limits.owners/2) {
			return nil, errResource
		}
	}
	o := &owner{client: c, name: name, used: time.Now(), opens: map[openKey]*opened{}, locks: map[*opened]*locked{}}
	c.owners[name] = o
	s.owners++
	return o, ok
}

// forgetOwner lets go of an owner that has nothing.
func (s *state) forgetOwner(o *owner) {
	s.forgetClosed(o)
	o.gone = true
	delete(o.client.owners, o.name)
	s.owners--
}

func (s *state) forgetClosed(o *owner) {
	if o.closed != nil {
		delete(s.ids, o.closed.id.other)
		o.closed = nil
	}
}

// shutOpen ends an open and all locks that came with it.
func (s *state) shutOpen(o *opened) {
	if o.closed {
		return
	}
	for l := range o.locks {
		s.forgetLocked(l)
	}
	o.closed = true
	delete(s.ids, o.id.other)
	delete(o.owner.opens, o.openKey)
	delete(o.n.held.opens, o)
	s.trim(o.n)
	o.owner.client.opens--
	s.opens--
	o.n.opens.Add(-1)
	s.shut = append(s.shut, o.n)
}

func (s *state) forgetLocked(l *locked) {
	s.unlock(l.open.n, l.owner, 0, endOfFile)
	delete(s.ids, l.id.other)
	delete(l.open.locks, l)
	delete(l.owner.locks, l.open)
}

// trim lets go of what is held of an object when that is nothing.
func (s *state) trim(n *node) {
	if n.held != nil && len(n.held.opens) == 0 && len(n.held.ranges) == 0 {
		n.held = nil
	}
}

// dropClient ends all that a client has.
func (s *state) dropClient(c *client) {
	if c.dead {
		return
	}
	c.dead = true
	for _, o := range c.owners {
		for _, open := range o.opens {
			s.shutOpen(open)
		}
	}
	for _, o := range c.owners {
		s.forgetOwner(o)
	}
	delete(s.clients, c.id)
	if s.named[c.name] == c {
		delete(s.named, c.name)
	}
}

// patience is for how many leases a client that does not give a sign of life keeps
// what nobody else wants.
const patience = 20

// sweep drops clients that have been silent for so many leases, and owners with nothing.
func (s *state) sweep(leases int) {
	for name, c := range s.pending {
		if s.expired(c) {
			delete(s.pending, name)
		}
	}
	for _, c := range s.clients {
		if time.Since(c.seen) > time.Duration(leases)*s.lease {
			s.dropClient(c)
			continue
		}
		for _, o := range c.owners {
			if len(o.opens) == 0 && len(o.locks) == 0 && time.Since(o.used) > s.lease {
				s.forgetOwner(o)
			}
		}
	}
}

// dropExport ends everything that was opened through an export.
func (s *state) dropExport(x *export) {
	for _, id := range s.ids {
		if o, is := id.(*opened); is && o.x == x {
			s.shutOpen(o)
		}
	}
}

// takeShut returns what the tree is to look at; the state is to be unlocked
// before.
func (s *state) takeShut() []*node {
	list := s.shut
	s.shut = nil
	return list
}
