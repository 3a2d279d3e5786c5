package agent

import (
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// wellKnown is the time that emptied places show: none of a tenant's.
var wellKnown = []unix.Timespec{{Sec: 1577836800}, {Sec: 1577836800}} // 2020-01-01

// restore gives a place, known by an O_PATH descriptor, back all that its owner can have
// changed: group, mode, extended attributes, access lists, flags and times. The thread is root afterwards.
func (pl *place) restore(act *actor, v volume, fd int) error {
	if err := act.become(pl.owner(), pl.gid); err != nil {
		return err
	}
	err := errors.Join(
		describe("give it its group", unix.Fchownat(unix.AT_FDCWD, magic(fd), -1, int(pl.gid), 0)),
		chmodFD(fd, 0o700),   // an owner needs the right to write for what follows
		removeAttributes(fd), // before the mode, which an access list would change
		chmodFD(fd, pl.Mode),
	)
	if err == nil {
		err = pl.sameFlags(act, v, fd)
	}
	if err == nil {
		err = unix.UtimesNanoAt(unix.AT_FDCWD, magic(fd), wellKnown, 0)
	}
	var st unix.Stat_t
	if err == nil {
		err = unix.Fstat(fd, &st)
	}
	if err == nil && (st.Gid != pl.gid || st.Mode&0o7777 != pl.Mode) {
		err = fmt.Errorf("it has group %d and mode %o in spite of all, not %d and %o", st.Gid, st.Mode&0o7777, pl.gid, pl.Mode)
	}
	return errors.Join(err, act.root())
}

func describe(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}

// removeAttributes removes extended attributes and access lists. Those of security
// modules belong to no tenant.
func removeAttributes(fd int) error {
	names, err := attributes(fd)
	for _, name := range names {
		if e := unix.Removexattr(magic(fd), name); e != nil {
			err = errors.Join(err, fmt.Errorf("remove attribute %+q: %w", name, e))
		}
	}
	if err != nil || len(names) == 0 {
		return err
	}
	if names, err = attributes(fd); err == nil && len(names) > 0 {
		err = fmt.Errorf("attribute %+q cannot be removed", names[0])
	}
	return err
}

// attributes names the extended attributes that a user can set.
func attributes(fd int) ([]string, error) {
	buf := make([]byte, 64<<10) // the most there can be
	n, err := unix.Listxattr(magic(fd), buf)
	if err == unix.ENOTSUP {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list attributes: %w", err)
	}
	var out []string
	for name := range strings.SplitSeq(string(buf[:n]), "\x00") {
		if name != "" && !strings.HasPrefix(name, "security.") && !strings.HasPrefix(name, "trusted.") {
			out = append(out, name)
		}
	}
	return out, nil
}

// Of ioctl_fs(2) and linux/fs.h; arm64 and amd64 have the same.
const (
	getFlags   = 0x80086601 // FS_IOC_GETFLAGS
	setFlags   = 0x40086602
	getExtra   = 0x801c581f // FS_IOC_FSGETXATTR
	setExtra   = 0x401c5820
	extraBytes = 28 // struct fsxattr
	// ownFlags are what the file system says for itself: how it keeps the directory.
	ownFlags = 0x1000 | 0x40000 | 0x80000 | 0x200000 | 0x10000000 | 0x00000100
)

// sameFlags gives the place the inode flags (chattr(1)) and the project of its volume's root,
// which it was made with.
func (pl *place) sameFlags(act *actor, v volume, fd int) error {
	if err := act.root(); err != nil {
		return err
	}
	flags, ok1 := inodeFlags(v.fd)
	extra, ok2 := inodeExtra(v.fd)
	if err := act.become(pl.owner(), pl.gid); err != nil {
		return err
	}
	if pl.Mode&0o400 == 0 {
		return nil // its owner cannot ask, nor set
	}
	self, err := openAt(unix.AT_FDCWD, magic(fd), unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer closeFD(self)
	if got, ok := inodeFlags(self); ok && ok1 && !pl.File && (got^flags)&^ownFlags != 0 {
		want := got&ownFlags | flags&^ownFlags
		if err := ioctl(self, setFlags, unsafe.Pointer(&want)); err != nil {
			return fmt.Errorf("set flags: %w", err)
		}
		if got, _ = inodeFlags(self); (got^flags)&^ownFlags != 0 {
			return fmt.Errorf("flags are %#x in spite of all, not %#x", got, flags)
		}
	}
	// Bytes 12 to 16 are the project.
	if got, ok := inodeExtra(self); ok && ok2 && [4]byte(got[12:16]) != [4]byte(extra[12:16]) {
		copy(got[12:16], extra[12:16])
		if err := ioctl(self, setExtra, unsafe.Pointer(&got)); err != nil {
			return fmt.Errorf("set project %d: %w", binary.NativeEndian.Uint32(got[12:]), err)
		}
	}
	return nil
}

func inodeFlags(fd int) (flags uint32, ok bool) {
	var both [2]uint32 // a long by the ioctl's number, an int in fact
	err := ioctl(fd, getFlags, unsafe.Pointer(&both))
	return both[0], err == nil
}

func inodeExtra(fd int) (extra [extraBytes]byte, ok bool) {
	err := ioctl(fd, getExtra, unsafe.Pointer(&extra))
	return extra, err == nil
}

func ioctl(fd int, request uintptr, p unsafe.Pointer) error {
	_, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(p))
	runtime.KeepAlive(p)
	return nilOr(e)
}
