package nfs

import (
	"cmp"
	"encoding/binary"
	"slices"
)

// contents is what is in a folder. Entries come in the order of a keyed hash of their
// names, which is their cookie: it is the same after a restart, nobody can foresee it,
// and an entry that stays is neither left out nor seen twice whatever happens to others.
type contents struct {
	names  map[string]*entry
	sorted []*entry // by cookie; some may be gone
	added  []*entry // since then
	gone   int
}

type entry struct {
	name   string
	cookie uint64
	n      *node
	gone   bool
}

func newContents() *contents { return &contents{names: map[string]*entry{}} }

// cookieOf leaves out 0 to 2, which the protocol keeps for itself, and what is more
// than programs with signed offsets take.
func cookieOf(key []byte, name string) uint64 {
	return binary.BigEndian.Uint64(mac(key, []byte(name)))>>2 | 1<<8
}

func (c *contents) add(key []byte, name string, n *node) {
	e := &entry{name: name, cookie: cookieOf(key, name), n: n}
	c.names[name] = e
	c.added = append(c.added, e)
}

func (c *contents) remove(name string) {
	e := c.names[name]
	delete(c.names, name)
	e.gone, e.n = true, nil
	if c.gone++; c.gone > len(c.names)+64 {
		c.settle()
	}
}

// settled says whether after would return all there is.
func (c *contents) settled() bool { return len(c.added) == 0 }

// settle sorts what was added and forgets what is gone.
func (c *contents) settle() {
	c.sorted = slices.DeleteFunc(append(c.sorted, c.added...), func(e *entry) bool { return e.gone })
	slices.SortFunc(c.sorted, func(a, b *entry) int { return cmp.Compare(a.cookie, b.cookie) })
	c.added, c.gone = nil, 0
}

// after returns the entries behind a cookie, some of which may be gone.
func (c *contents) after(cookie uint64) []*entry {
	i, found := slices.BinarySearchFunc(c.sorted, cookie, func(e *entry, cookie uint64) int { return cmp.Compare(e.cookie, cookie) })
	for found && i < len(c.sorted) && c.sorted[i].cookie == cookie {
		i++
	}
	return c.sorted[i:]
}
