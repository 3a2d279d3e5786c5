package nfs

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// filler is the walk through the data folder. What a crash left half made is taken
// away. What somebody else has put there gets the attribute that it lacks: it
// belongs to the default user then, with the mode that it has.
type filler struct {
	*tree
	inodes map[uint64]*node // of files with several names
	odd    int              // objects that cannot be shown
}

func (t *tree) fill() error {
	f := &filler{tree: t, inodes: map[uint64]*node{}}
	todo := []*node{t.root}
	for len(todo) > 0 {
		n := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		folders, err := f.folder(n)
		if err != nil {
			return err
		}
		todo = append(todo, folders...)
	}
	if f.odd > 0 {
		t.log.Warn("objects of other users, kinds or devices are not shown", "count", f.odd)
	}
	if len(t.objects) > t.limit {
		t.log.Warn("there are more objects than the limit; no more can be made", "count", len(t.objects), "limit", t.limit)
	}
	return nil
}

// folder takes in what is in a folder, and returns the folders in it.
func (f *filler) folder(in *node) (folders []*node, err error) {
	fd, err := f.openNode(in, openFolder)
	if err != nil {
		return nil, fmt.Errorf("open a folder: %w", err)
	}
	dir := os.NewFile(uintptr(fd), "folder")
	defer dir.Close()
	var names []string
	for {
		some, err := dir.Readdirnames(1024)
		names = append(names, some...)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("read a folder: %w", err)
		}
	}
	for _, name := range names {
		n, err := f.object(fd, name)
		switch {
		case errors.Is(err, unix.EIO):
			return nil, fmt.Errorf("look at an object: %w", err)
		case err != nil:
			f.odd++
			continue
		case n == nil:
			continue
		}
		f.attach(in, name, n)
		if n.kind == kindFolder {
			folders = append(folders, n)
		}
	}
	return folders, nil
}

var errOdd = errors.New("neither a file nor a folder")

// object returns none for what was half made and is no more.
func (f *filler) object(at int, name string) (*node, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(at, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return nil, err
	}
	if st.Dev != f.device {
		return nil, errOdd
	}
	m := meta{kind: kindFile, mode: st.Mode & 0o777, uid: defaultUser, gid: defaultUser}
	flags, own := openFile, uint32(fileMode)
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		if n := f.inodes[st.Ino]; n != nil {
			return n, nil
		}
	case unix.S_IFDIR:
		m.kind, flags, own = kindFolder, openFolder, folderMode
	case unix.S_IFLNK, unix.S_IFIFO, unix.S_IFSOCK:
		if err := f.adopt(at, name, &st); err != nil {
			return nil, err
		}
		return f.object(at, name)
	default:
		return nil, errOdd
	}
	fd, err := f.openat(at, name, flags, 0)
	if errors.Is(err, unix.EACCES) && unix.Fchmodat(at, name, own, 0) == nil { // it is ours, with a mode of somebody else's
		fd, err = f.openat(at, name, flags, 0)
	}
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	kept, ok, err := readMeta(fd)
	if err != nil {
		return nil, err
	}
	if !ok && st.Mode&0o7777 == own|unfinished {
		remove := 0
		if m.kind == kindFolder {
			remove = unix.AT_REMOVEDIR
		}
		if err := unix.Unlinkat(at, name, remove); err == nil {
			return nil, nil
		}
	}
	if ok && (kept.kind == kindFolder) == (m.kind == kindFolder) {
		m = kept
	}
	if _, taken := f.objects[m.id]; taken || m.id == 0 { // a copy, or not from here
		m.id = f.newID()
		if err := writeMeta(fd, m); err != nil {
			f.log.Warn("an object cannot be marked, its handles end with this run", "error", err)
		}
	}
	if st.Mode&0o7777 != own {
		_ = unix.Fchmod(fd, own)
	}
	n := f.add(m)
	if st.Nlink > 1 && m.kind != kindFolder {
		f.inodes[st.Ino] = n
	}
	return n, nil
}

// adopt makes a file that stands for it of a symbolic link, fifo or socket that
// somebody else has made.
func (f *filler) adopt(at int, name string, st *unix.Stat_t) error {
	m := meta{id: f.newID(), kind: kindFifo, mode: st.Mode & 0o777, uid: defaultUser, gid: defaultUser}
	var target []byte
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFSOCK:
		m.kind = kindSocket
	case unix.S_IFLNK:
		m.kind, target = kindLink, make([]byte, maxTarget+1)
		n, err := unix.Readlinkat(at, name, target)
		if err != nil {
			return err
		}
		if n > maxTarget {
			return errOdd
		}
		target = target[:n]
	}
	temporary := fmt.Sprintf(".remuda.%x", m.id)
	fd, err := f.makeFile(at, temporary, m, target)
	if err != nil {
		return err
	}
	_ = unix.Close(fd)
	return unix.Renameat(at, temporary, at, name)
}

// makeFile makes a file; until it is finished its mode says that it is not.
func (d *disk) makeFile(at int, name string, m meta, content []byte) (fd int, err error) {
	fd, err = d.openat(at, name, openFile|unix.O_CREAT|unix.O_EXCL, fileMode|unfinished)
	if err != nil {
		return -1, err
	}
	if len(content) > 0 {
		var n int
		if n, err = writeAt(fd, content, 0); err == nil && n < len(content) {
			err = unix.ENOSPC
		}
	}
	if err == nil {
		err = finish(fd, m, fileMode)
	}
	if err != nil {
		_ = unix.Close(fd)
		_ = unix.Unlinkat(at, name, 0)
		return -1, err
	}
	return fd, nil
}

// makeFolder makes a folder, in the same way.
func (d *disk) makeFolder(at int, name string, m meta) error {
	if err := unix.Mkdirat(at, name, folderMode|unfinished); err != nil {
		return err
	}
	fd, err := d.openat(at, name, openFolder, 0)
	if err == nil {
		err = finish(fd, m, folderMode)
		_ = unix.Close(fd)
	}
	if err != nil {
		_ = unix.Unlinkat(at, name, unix.AT_REMOVEDIR)
	}
	return err
}

func finish(fd int, m meta, mode uint32) error {
	if err := writeMeta(fd, m); err != nil {
		return err
	}
	return unix.Fchmod(fd, mode)
}
