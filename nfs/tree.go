package nfs

import (
	"container/list"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// tree knows every object below the data folder, by its number and by its names. It
// is made by one walk when the server starts; after that nobody else changes
// anything there.
type tree struct {
	disk
	files
	key     []byte // of cookies
	limit   int    // objects
	device  uint64
	log     *slog.Logger
	offset  uint64 // of change attributes, see change
	mu      sync.RWMutex
	objects map[uint64]*node
	named   int // names of objects
	root    *node
}

// node is an object. What is not said otherwise is guarded by the tree's mutex.
type node struct {
	meta
	links   []name    // its names; only the root and what was removed has none
	entries *contents // of a folder

	changes atomic.Uint64
	fd      *descriptor // guarded by files
	pin     *descriptor // keeps a removed file while it is open
	opens   atomic.Int32
	held    *held // guarded by the state's mutex
}

type name struct {
	in   *node
	name string
}

// newTree opens the folder, which is to be there, and walks through it.
func newTree(root int, key []byte, limit, keep int, offset uint64, log *slog.Logger) (*tree, error) {
	t := &tree{disk: disk{root: root}, key: key, limit: limit, log: log, offset: offset, objects: map[uint64]*node{}}
	t.files = files{idle: list.New(), keep: keep}
	var st unix.Stat_t
	if err := unix.Fstat(root, &st); err != nil {
		return nil, err
	}
	t.device = st.Dev
	m, had, err := readMeta(root)
	switch {
	case errors.Is(err, unix.ENOTSUP):
		return nil, fmt.Errorf("the file system has no extended attributes for users: %w", err)
	case err != nil:
		return nil, err
	case had && m.kind != kindFolder:
		return nil, errors.New("the folder is marked as something else")
	case had:
	default:
		m = meta{id: t.newID(), kind: kindFolder, mode: 0o777, uid: defaultUser, gid: defaultUser}
		if err := writeMeta(root, m); err != nil {
			return nil, err
		}
	}
	t.root = t.add(m)
	return t, t.fill()
}

// newID returns a number that no object has.
func (t *tree) newID() uint64 {
	for {
		id := random64() & maxID
		if _, taken := t.objects[id]; !taken && id != 0 {
			return id
		}
	}
}

func (t *tree) add(m meta) *node {
	n := &node{meta: m}
	if m.kind == kindFolder {
		n.entries = newContents()
	}
	t.objects[m.id] = n
	return n
}

// gone says whether nothing leads to the object any more.
func (t *tree) gone(n *node) bool { return len(n.links) == 0 && n != t.root }

// attach gives the object a name, and detach takes one away.
func (t *tree) attach(in *node, as string, n *node) {
	in.entries.add(t.key, as, n)
	n.links = append(n.links, name{in, as})
	t.named++
}

func (t *tree) detach(in *node, as string) {
	n := in.entries.names[as].n
	t.unlink(in, as, n)
	t.release(n)
}

// unlink takes a name away and keeps the object.
func (t *tree) unlink(in *node, as string, n *node) {
	in.entries.remove(as)
	t.named--
	for i, l := range n.links {
		if l.in == in && l.name == as {
			n.links = append(n.links[:i], n.links[i+1:]...)
			return
		}
	}
}

// release forgets an object that has no name and is not open.
func (t *tree) release(n *node) {
	if n.opens.Load() > 0 {
		return
	}
	if n.pin != nil {
		t.put(n.pin)
		n.pin = nil
	}
	if t.gone(n) {
		t.drop(n)
		delete(t.objects, n.id)
	}
}

// closed is for objects of which something was closed that had been open.
func (t *tree) closed(list []*node) {
	for _, n := range list {
		t.mu.Lock()
		t.release(n)
		t.mu.Unlock()
	}
}

// find returns an object by its number.
func (t *tree) find(id uint64) *node {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.objects[id]
}

// path leads from the root to the object.
func (t *tree) path(n *node) (string, error) {
	var names []string
	for n != t.root {
		if len(n.links) == 0 {
			return "", errStale
		}
		names = append(names, n.links[0].name)
		n = n.links[0].in
	}
	for i, j := 0, len(names)-1; i < j; i, j = i+1, j-1 {
		names[i], names[j] = names[j], names[i]
	}
	return strings.Join(names, "/"), nil
}

// openNode opens the object. The tree is locked, for reading at least.
func (t *tree) openNode(n *node, flags int) (int, error) {
	path, err := t.path(n)
	if err != nil {
		return -1, err
	}
	return t.open(path, flags)
}

// descriptor returns an open file; the tree is locked, for reading at least.
func (t *tree) descriptor(n *node) (*descriptor, error) {
	return t.get(n, func() (int, error) { return t.openNode(n, openFile) })
}

// with calls do with a descriptor of the object, file or folder. The tree is
// locked, for reading at least.
func (t *tree) with(n *node, do func(fd int) error) error {
	if n.kind != kindFolder {
		d, err := t.descriptor(n)
		if err != nil {
			return err
		}
		defer t.put(d)
		return do(d.fd)
	}
	fd, err := t.openNode(n, openFolder)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return do(fd)
}

// stat looks at the object. The tree is locked, for reading at least.
func (t *tree) stat(n *node) (st unix.Stat_t, err error) {
	t.files.mu.Lock()
	d := t.use(n)
	t.files.mu.Unlock()
	if d != nil {
		defer t.put(d)
		return st, unix.Fstat(d.fd, &st)
	}
	fd, err := t.openNode(n, openPath)
	if err != nil {
		return st, err
	}
	defer unix.Close(fd)
	return st, unix.Fstat(fd, &st)
}

// change is the object's change attribute. The kernel's time of change alone may be the
// same before and after something that happens within its tick, so changes are counted
// too. The count begins with the microseconds at the server's start: no object changes a
// million times in a second, so that the sum always grows, restarts included.
func (t *tree) change(n *node, st *unix.Stat_t) uint64 {
	return uint64(st.Ctim.Nano()) + n.changes.Load() + t.offset
}

// touch notes that the object has changed.
func (n *node) touch() { n.changes.Add(1) }

// setMeta changes what is kept of an object. The tree is locked.
func (t *tree) setMeta(n *node, m meta) error {
	if m == n.meta {
		return nil
	}
	if err := t.with(n, func(fd int) error { return writeMeta(fd, m) }); err != nil {
		return err
	}
	n.meta = m
	n.touch()
	return nil
}
