package agent

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// extractor makes what an unpacker reads, each thing as its owner. It walks along no
// paths: where it is is a stack of open directories.
type extractor struct {
	*unpacker
	actor  *actor
	places *places
	volume volume
	beside bool // in the folders for the next generation, not in the places
	place  *place
	stack  []*folder // the place's own is the first
	spares map[uint32]*spares
	filled map[uint32]int // files, by user
}

// folder is a directory that is being filled, with mode 0700 or, when things of others
// must be made in it, 0777; it gets its own mode and time when it is left.
type folder struct {
	entry
	fd   int
	open bool // to all
}

// close leaves no spares behind.
func (x *extractor) close() error {
	var errs []error
	for _, s := range x.spares {
		if s != nil && len(s.list) > 0 {
			errs = append(errs, s.empty(&emptier{actor: x.actor}))
		}
		s.close()
	}
	x.leaveAll()
	return errors.Join(errs...)
}

// spare finds the spares of a user.
func (x *extractor) spare(uid uint32) (*spares, error) {
	if s, ok := x.spares[uid]; ok {
		return s, nil
	}
	s, err := openSpares(x.actor, x.volume, uid)
	if err == nil && s != nil {
		err = s.read(x.actor)
	}
	if x.spares == nil {
		x.spares = map[uint32]*spares{}
	}
	x.spares[uid] = s
	return s, err
}

func (x *extractor) leaveAll() {
	for _, f := range x.stack {
		closeFD(f.fd)
	}
	x.stack = nil
}

func (x *extractor) top() *folder { return x.stack[len(x.stack)-1] }

// all extracts until the end.
func (x *extractor) all() error {
	for {
		e, err := x.next()
		if err != nil {
			return err
		}
		switch e.kind {
		case entryFinish:
			return x.leavePlace()
		case entryPlace:
			err = x.enterPlace(e.name)
		case entryLeave:
			err = x.leave()
		default:
			err = x.thing(e)
		}
		if err != nil {
			return x.describe(e, err)
		}
	}
}

func (x *extractor) describe(e entry, err error) error {
	if x.place == nil {
		return fmt.Errorf("unpack: %w", err)
	}
	path := x.place.Path
	for _, f := range x.stack[min(1, len(x.stack)):] {
		path += "/" + f.name
	}
	return fmt.Errorf("unpack %+q: %w", path+"/"+e.name, err)
}

// enterPlace begins with the place of that folder.
func (x *extractor) enterPlace(name string) error {
	if err := x.leavePlace(); err != nil {
		return err
	}
	return x.places.onDisk(x.volume, func(pl *place) error {
		if pl.Folder != name {
			return nil
		}
		open := x.places.open
		if x.beside {
			open = x.places.openNext
		}
		fd, st, err := open(x.actor, x.volume, pl)
		if err != nil {
			return err
		}
		x.place = pl
		x.stack = append(x.stack, &folder{fd: fd, entry: entry{uid: st.Uid, gid: st.Gid}})
		if err := x.actor.owner(&st); err != nil {
			return err
		}
		return chmodFD(fd, 0o700) // without the bit that gives its group to all that is made in it
	})
}

// leavePlace gives the place itself back its mode.
func (x *extractor) leavePlace() error {
	if x.place == nil {
		return nil
	}
	var err error
	if !x.beside {
		err = x.place.restore(x.actor, x.volume, x.stack[0].fd)
	}
	x.leaveAll()
	x.place = nil
	return err
}

// leave ends a directory.
func (x *extractor) leave() error {
	f := x.top()
	if err := x.actor.become(f.uid, f.gid); err != nil {
		return err
	}
	if err := unix.Fchmod(f.fd, f.mode); err != nil {
		return err
	}
	x.stack = x.stack[:len(x.stack)-1]
	defer closeFD(f.fd)
	return unix.UtimesNanoAt(unix.AT_FDCWD, magic(f.fd), times(f.entry), 0)
}

func times(e entry) []unix.Timespec {
	t := unix.Timespec{Sec: e.sec, Nsec: e.nsec}
	return []unix.Timespec{t, t}
}

// thing makes an entry in the directory where the extractor is.
func (x *extractor) thing(e entry) error {
	if x.place == nil {
		return fmt.Errorf("%w: it is in no place of this member", errDamaged)
	}
	if e.kind == entryHard {
		return x.link(e)
	}
	f := x.top()
	if err := x.admit(f, e.uid); err != nil {
		return err
	}
	if err := x.actor.become(e.uid, e.gid); err != nil {
		return err
	}
	switch e.kind {
	case entryDir:
		if err := unix.Mkdirat(f.fd, e.name, 0o700); err != nil {
			return err
		}
		fd, err := openAt(f.fd, e.name, listDir, 0)
		if err != nil {
			return err
		}
		x.stack = append(x.stack, &folder{fd: fd, entry: e})
		return nil
	case entryFile:
		return x.file(f, e)
	case entrySymlink:
		if err := unix.Symlinkat(e.target, f.fd, e.name); err != nil {
			return err
		}
	case entryFifo, entrySocket:
		kind := uint32(unix.S_IFIFO)
		if e.kind == entrySocket {
			kind = unix.S_IFSOCK
		}
		if err := unix.Mknodat(f.fd, e.name, kind|0o600, 0); err != nil {
			return err
		}
		if err := unix.Fchmodat(f.fd, e.name, e.mode, 0); err != nil {
			return err
		}
	}
	return unix.UtimesNanoAt(f.fd, e.name, times(e), unix.AT_SYMLINK_NOFOLLOW)
}

// admit lets a user make things in a directory.
func (x *extractor) admit(f *folder, uid uint32) error {
	if uid == f.uid || f.open {
		return nil
	}
	if err := x.actor.become(f.uid, f.gid); err != nil {
		return err
	}
	f.open = true
	return chmodFD(f.fd, 0o777)
}

func (x *extractor) file(f *folder, e entry) error {
	s, err := x.spare(e.uid)
	if err == nil {
		err = x.actor.become(e.uid, e.gid)
	}
	if err != nil {
		return err
	}
	x.filled[e.uid]++
	fd, ok := s.take(f.fd, e)
	if !ok {
		fd, err = openAt(f.fd, e.name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW, 0o600)
	}
	if err != nil {
		return err
	}
	defer closeFD(fd)
	written := int64(0)
	err = x.extents(func(at int64, data []byte) error {
		written = at + int64(len(data))
		return writeAt(fd, data, at)
	}, func(at, length int64) error {
		written = at + length
		return writeZeros(fd, at, length)
	}, func(at, length int64) error { return claim(fd, at, length) })
	if err != nil {
		return err
	}
	if written < e.size {
		if err := unix.Ftruncate(fd, e.size); err != nil {
			return err
		}
	}
	if e.mode != 0o600 {
		if err := unix.Fchmod(fd, e.mode); err != nil {
			return err
		}
	}
	t := times(e)
	return futimens(fd, &t)
}

// claim gives the file blocks for a part of it, where file systems can.
func claim(fd int, at, length int64) error {
	err := unix.Fallocate(fd, unix.FALLOC_FL_KEEP_SIZE, at, length)
	if err == unix.EOPNOTSUPP {
		return nil
	}
	return err
}

// writeAt writes all of the data there.
func writeAt(fd int, data []byte, at int64) error {
	for len(data) > 0 {
		n, err := unix.Pwrite(fd, data, at)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		data, at = data[n:], at+int64(n)
	}
	return nil
}

func writeZeros(fd int, at, length int64) error {
	for length > 0 {
		n := min(length, int64(len(zeros)))
		if err := writeAt(fd, zeros[:n], at); err != nil {
			return err
		}
		at, length = at+n, length-n
	}
	return nil
}

// link gives a file that is there already another name. The way to it is walked step
// by step: each directory by its owner.
func (x *extractor) link(e entry) error {
	parts := strings.Split(e.target, "/")
	at, err := unix.Dup(x.stack[0].fd)
	if err != nil {
		return err
	}
	defer func() { closeFD(at) }()
	var st unix.Stat_t
	for _, name := range parts {
		if err := unix.Fstat(at, &st); err != nil {
			return err
		}
		if err := x.actor.owner(&st); err != nil {
			return err
		}
		next, err := openAt(at, name, onlyPath, 0)
		if err != nil {
			return err
		}
		closeFD(at)
		at = next
	}
	if err := unix.Fstat(at, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return fmt.Errorf("%w: a directory with several names", errDamaged)
	}
	if err := x.admit(x.top(), st.Uid); err != nil {
		return err
	}
	if err := x.actor.owner(&st); err != nil {
		return err
	}
	return unix.Linkat(unix.AT_FDCWD, magic(at), x.top().fd, e.name, unix.AT_SYMLINK_FOLLOW)
}
