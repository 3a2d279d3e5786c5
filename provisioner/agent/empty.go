package agent

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// keep names what stays in a directory that is emptied: nil for a thing that stays
// as it is, else what stays in that directory.
type keep map[string]keep

// emptier removes what is in directories, each thing as the owner of the directory
// that it is in. It follows nothing, walks along no paths and needs few descriptors,
// however deep tenants have made their trees. Nothing else may run meanwhile.
type emptier struct {
	actor   *actor
	removed int
	spares  *spares // of the owner of what is emptied; nil for none
	buf     [32 << 10]byte
	stack   []*level
}

// openLevels is how many directories of a way down are open at once. Those above
// them are found again as the parents of their children.
const openLevels = 64

// level is a directory on the way down.
type level struct {
	fd       int // -1: not open just now
	dev, ino uint64
	uid, gid uint32
	keep     keep
	stays    bool            // the directory itself
	entered  map[string]bool // of keep
	name     string          // in the level above; "" when forgotten
	dirs     []string        // in it, that are not empty
	changed  bool            // since it was last read from its beginning
}

// empty removes all that is in the directory dir but what keep names. path is for errors.
func (e *emptier) empty(dir int, path string, keep keep) error {
	defer func() {
		for _, l := range e.stack {
			closeFD(l.fd)
		}
		e.stack = nil
	}()
	if err := e.push(dir, "", keep, true); err != nil {
		return fmt.Errorf("empty %s: %w", path, err)
	}
	for len(e.stack) > 0 {
		if err := e.step(); err != nil {
			return fmt.Errorf("empty %s: %w", e.where(path), err)
		}
	}
	return nil
}

// where is the path of the current level as far as it is known.
func (e *emptier) where(path string) string {
	for _, l := range e.stack[min(1, len(e.stack)):] {
		if l.name == "" || len(path) > 400 {
			return path + "/…"
		}
		path += "/" + strings.Trim(fmt.Sprintf("%+q", l.name), `"`)
	}
	return path
}

// step does one thing in the deepest level: it goes into a directory, reads on, or
// leaves the level.
func (e *emptier) step() error {
	l := e.stack[len(e.stack)-1]
	if err := e.actor.become(l.uid, l.gid); err != nil {
		return err
	}
	if n := len(l.dirs); n > 0 {
		name := l.dirs[n-1]
		l.dirs = l.dirs[:n-1]
		sub, kept := l.keep[name]
		if kept {
			if l.entered[name] {
				return nil
			}
			l.entered[name] = true
		}
		fd, err := openAt(l.fd, name, onlyPath|unix.O_DIRECTORY, 0)
		if err != nil {
			return fmt.Errorf("open %+q: %w", name, err)
		}
		defer closeFD(fd)
		return e.push(fd, name, sub, kept)
	}
	n, err := unix.ReadDirent(l.fd, e.buf[:])
	switch {
	case err == unix.EINTR:
		return nil
	case err != nil:
		return fmt.Errorf("list: %w", err)
	case n > 0:
		return e.clear(l, e.buf[:n])
	case l.changed: // file systems may skip names while others are removed
		l.changed = false
		_, err := unix.Seek(l.fd, 0, unix.SEEK_SET)
		return err
	}
	return e.pop(l)
}

// clear removes the names of one read; directories that are not empty are remembered.
func (e *emptier) clear(l *level, dirents []byte) error {
	for name, kind := range entries(dirents) {
		sub, kept := l.keep[name]
		if kept {
			if sub != nil && !l.entered[name] {
				l.dirs = append(l.dirs, name)
			}
			continue
		}
		l.changed = true
		err := unix.EISDIR
		if kind == unix.DT_REG && e.spares.add(l.fd, name, l.uid) {
			e.removed++
			continue
		}
		if kind != unix.DT_DIR {
			err = errno(unix.Unlinkat(l.fd, name, 0))
		}
		if err == unix.EISDIR {
			err = errno(unix.Unlinkat(l.fd, name, unix.AT_REMOVEDIR))
		}
		switch err {
		case 0:
			e.removed++
		case unix.ENOENT, unix.EINTR: // seen again, if it is there
		case unix.ENOTEMPTY, unix.EEXIST:
			l.dirs = append(l.dirs, name)
		default:
			return fmt.Errorf("remove %+q: %w", name, err)
		}
	}
	return nil
}

// push goes into a directory, which an O_PATH descriptor knows, as its owner.
func (e *emptier) push(fd int, name string, keep keep, stays bool) error {
	if n := len(e.stack) - openLevels; n > 0 { // the first stays open: it has no parent here
		old := e.stack[n]
		closeFD(old.fd)
		old.fd, old.dirs, e.stack[n+1].name = -1, nil, ""
	}
	l, err := e.enter(fd)
	if err != nil {
		return fmt.Errorf("open %+q: %w", name, err)
	}
	l.name, l.keep, l.stays, l.entered = name, keep, stays, map[string]bool{}
	e.stack = append(e.stack, l)
	return nil
}

// enter opens the directory behind an O_PATH descriptor for listing, and becomes its owner.
func (e *emptier) enter(fd int) (*level, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, err
	}
	if err := e.actor.enterable(fd, &st); err != nil {
		return nil, err
	}
	dir, err := openAt(fd, ".", listDir, 0)
	if err != nil {
		return nil, err
	}
	return &level{fd: dir, dev: st.Dev, ino: st.Ino, uid: st.Uid, gid: st.Gid}, nil
}

// pop leaves a level in which there is nothing any more, and removes it.
func (e *emptier) pop(l *level) error {
	e.stack = e.stack[:len(e.stack)-1]
	defer closeFD(l.fd)
	if len(e.stack) == 0 {
		return nil
	}
	up := e.stack[len(e.stack)-1]
	if up.fd < 0 {
		if err := e.reopen(up, l.fd); err != nil {
			return err
		}
	}
	if l.stays || l.name == "" {
		return nil // or seen and removed when the level above is read again
	}
	if err := e.actor.become(up.uid, up.gid); err != nil {
		return err
	}
	if err := unix.Unlinkat(up.fd, l.name, unix.AT_REMOVEDIR); err != nil {
		return fmt.Errorf("remove %+q: %w", l.name, err)
	}
	e.removed++
	return nil
}

// reopen opens the level above the directory child again.
func (e *emptier) reopen(up *level, child int) error {
	fd, err := openAt(child, "..", onlyPath|unix.O_DIRECTORY, 0)
	if err != nil {
		return fmt.Errorf("open the directory above: %w", err)
	}
	defer closeFD(fd)
	l, err := e.enter(fd)
	if err != nil {
		return fmt.Errorf("open the directory above: %w", err)
	}
	if l.dev != up.dev || l.ino != up.ino {
		closeFD(l.fd)
		return errors.New("open the directory above: it is another one")
	}
	up.fd = l.fd
	return nil
}

// errno of a system call's error.
func errno(err error) unix.Errno {
	var n unix.Errno
	_ = errors.As(err, &n)
	return n
}

// entries walks through what getdents64(2) has answered: names and types (DT_…),
// without "." and "..".
func entries(dirents []byte) func(yield func(string, byte) bool) {
	const header = 19 // ino, off, reclen, type
	return func(yield func(string, byte) bool) {
		for len(dirents) > header {
			size := int(binary.NativeEndian.Uint16(dirents[16:]))
			if size <= header || size > len(dirents) {
				return
			}
			name, kind := dirents[header:size], dirents[18]
			if i := slices.Index(name, 0); i >= 0 {
				name = name[:i]
			}
			dirents = dirents[size:]
			if s := string(name); s != "." && s != ".." && !yield(s, kind) {
				return
			}
		}
	}
}

// list names what is in the directory that fd has open, with types.
func list(fd int) (map[string]byte, error) {
	if _, err := unix.Seek(fd, 0, unix.SEEK_SET); err != nil {
		return nil, err
	}
	out := map[string]byte{}
	buf := make([]byte, 32<<10)
	for {
		n, err := unix.ReadDirent(fd, buf)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return out, err
		case n == 0:
			return out, nil
		default:
			for name, kind := range entries(buf[:n]) {
				out[name] = kind
			}
		}
	}
}
