package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// Where many files are removed and as many made at once, ext4 without a journal looks for a minute at each
// inode that was freed before it takes another (find_inode_bit in fs/ext4/ialloc.c): to fill a disk
// after a wipe takes ten times as long as to write it. So there a wipe makes spares of
// plain files, as many as a filling makes: emptied, and moved to a folder beside the places that
// only the agent can enter. A file that is in any way more than plain is removed as ever, and a
// spare is only used if it is still nothing but an empty file.

// sparePrefix and a user's number name the folder for his spares.
const sparePrefix = "spare."

// spares are those of one user.
type spares struct {
	fd   int // O_PATH
	uid  uint32
	left int      // that may be added
	next int      // name
	list []string // that may be taken
}

func spareName(uid uint32) string { return sparePrefix + strconv.FormatUint(uint64(uid), 10) }

// hasSpares says whether a volume is of the kind that needs them. Where it is not they would cost
// twice what it costs to remove the files.
func hasSpares(v volume) bool {
	var st unix.Statfs_t
	return !v.memory && unix.Fstatfs(v.fd, &st) == nil && st.Type == unix.EXT4_SUPER_MAGIC && !hasJournal(v)
}

// hasJournal finds the journal's statistics, which are named after the device.
func hasJournal(v volume) bool {
	var st unix.Stat_t
	if unix.Fstat(v.fd, &st) != nil {
		return false
	}
	device, err := os.Readlink(fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev)))
	if err != nil {
		return false
	}
	found, _ := filepath.Glob("/proc/fs/jbd2/" + filepath.Base(device) + "-*")
	return len(found) > 0
}

// makeSpares makes the folders for spares; the root of the volume is open to all.
func (p *places) makeSpares(act *actor, v volume) error {
	if !hasSpares(v) {
		return nil
	}
	for uid, gid := range p.owners() {
		if err := act.become(uid, gid); err != nil {
			return err
		}
		if err := unix.Mkdirat(v.fd, spareName(uid), 0o700); err != nil && err != unix.EEXIST {
			return pathError("make", v.path+"/"+spareName(uid), err)
		}
	}
	return nil
}

// owners of disk places, with a group of each.
func (p *places) owners() map[uint32]uint32 {
	out := map[uint32]uint32{}
	for _, pl := range p.list {
		if !pl.Memory && !pl.File {
			out[pl.uid] = pl.gid
		}
	}
	return out
}

// openSpares opens the folder of a user, nil if he has none.
func openSpares(act *actor, v volume, uid uint32) (*spares, error) {
	if act.one {
		return nil, nil // servers could reach them
	}
	if err := act.root(); err != nil {
		return nil, err
	}
	fd, err := openAt(v.fd, spareName(uid), onlyPath|unix.O_DIRECTORY, 0)
	if err == unix.ENOENT {
		return nil, nil
	}
	if err != nil {
		return nil, pathError("open", v.path+"/"+spareName(uid), err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Uid != uid {
		closeFD(fd)
		return nil, errors.Join(err, fmt.Errorf("%s/%s belongs to user %d", v.path, spareName(uid), st.Uid))
	}
	return &spares{fd: fd, uid: uid}, nil
}

func (s *spares) close() {
	if s != nil {
		closeFD(s.fd)
	}
}

// empty removes what is in it: spares that were not used, or what a process of root put there.
func (s *spares) empty(e *emptier) error {
	counted := e.removed
	err := e.empty(s.fd, spareName(s.uid), nil)
	e.removed = counted
	return errors.Join(err, e.actor.become(s.uid, e.actor.gid), chmodFD(s.fd, 0o700))
}

// add makes a spare of a file, or says that it must be removed. The thread acts as
// the owner of dir.
func (s *spares) add(dir int, name string, owner uint32) bool {
	if s == nil || s.left == 0 || owner != s.uid {
		return false
	}
	st, err := statAt(dir, name)
	if err != nil || !plain(&st, s.uid) {
		return false
	}
	if st.Mode&0o7777 != 0o600 && unix.Fchmodat(dir, name, 0o600, 0) != nil {
		return false
	}
	fd, err := openAt(dir, name, unix.O_RDWR|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return false
	}
	defer closeFD(fd)
	if unix.Ftruncate(fd, 0) != nil {
		return false
	}
	if _, ok := bare(fd, s.uid); !ok {
		return false
	}
	if unix.Renameat(dir, name, s.fd, strconv.Itoa(s.next)) != nil {
		return false
	}
	s.next++
	s.left--
	return true
}

// plain says whether it is a file with one name.
func plain(st *unix.Stat_t, uid uint32) bool {
	return st.Mode&unix.S_IFMT == unix.S_IFREG && st.Nlink == 1 && st.Uid == uid
}

// bare says whether an open file is nothing but an empty file: no blocks, also none
// behind its end, no attributes, no flags, no project.
func bare(fd int, uid uint32) (st unix.Stat_t, ok bool) {
	if unix.Fstat(fd, &st) != nil || !plain(&st, uid) || st.Size != 0 || st.Blocks != 0 {
		return st, false
	}
	if n, err := unix.Flistxattr(fd, nil); n != 0 && err != unix.ENOTSUP {
		return st, false
	}
	flags, _ := inodeFlags(fd)
	extra, ok := inodeExtra(fd)
	return st, ok && flags&^ownFlags == 0 && [4]byte(extra[12:16]) == [4]byte{}
}

// take gives a spare a name in a directory of the same user and opens it for writing, or
// says that there is none. The thread acts as that user.
func (s *spares) take(dir int, e entry) (int, bool) {
	for s != nil && s.uid == e.uid && len(s.list) > 0 {
		name := s.list[len(s.list)-1]
		s.list = s.list[:len(s.list)-1]
		fd, err := openAt(s.fd, name, unix.O_RDWR|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
		if err != nil {
			continue
		}
		st, ok := bare(fd, s.uid)
		if ok && (st.Gid == e.gid || unix.Fchown(fd, -1, int(e.gid)) == nil) &&
			(st.Mode&0o7777 == 0o600 || unix.Fchmod(fd, 0o600) == nil) &&
			unix.Renameat2(s.fd, name, dir, e.name, unix.RENAME_NOREPLACE) == nil {
			return fd, true
		}
		closeFD(fd)
	}
	return -1, false
}

// proveSpares fails when more is among the spares than empty files.
func (p *places) proveSpares(act *actor, v volume) error {
	for uid := range p.owners() {
		s, err := openSpares(act, v, uid)
		if err != nil || s == nil {
			return err
		}
		err = s.prove(act)
		s.close()
		if err != nil {
			return pathError("look at", v.path+"/"+spareName(uid), err)
		}
	}
	return act.root()
}

func (s *spares) prove(act *actor) error {
	if err := s.read(act); err != nil {
		return err
	}
	for _, name := range s.list {
		if st, err := statAt(s.fd, name); err != nil || !plain(&st, s.uid) || st.Size != 0 || st.Blocks != 0 {
			return fmt.Errorf("not all in it is empty (%v)", err)
		}
	}
	return nil
}

// read lists the spares that are there, as their user.
func (s *spares) read(act *actor) error {
	var st unix.Stat_t
	if err := unix.Fstat(s.fd, &st); err != nil {
		return err
	}
	names, err := listAs(act, s.fd, st)
	s.list = s.list[:0]
	for name := range names {
		s.list = append(s.list, name)
	}
	return err
}
