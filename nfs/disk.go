package nfs

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// disk opens what is in a folder, and never anything else: no symbolic link is
// followed, no mount is entered, and no path leads out.
type disk struct {
	root int // descriptor of the folder
	old  atomic.Bool
}

const (
	openFolder = unix.O_RDONLY | unix.O_DIRECTORY
	openFile   = unix.O_RDWR | unix.O_NONBLOCK
	openPath   = unix.O_PATH
	pathLimit  = 3500 // bytes that the kernel takes at once, with room to spare
)

// open opens a path below the root, of any length; "" is the root.
func (d *disk) open(path string, flags int) (int, error) {
	at, owned := d.root, false
	for len(path) > pathLimit {
		cut := strings.LastIndexByte(path[:pathLimit], '/')
		next, err := d.openat(at, path[:cut], unix.O_PATH|unix.O_DIRECTORY, 0)
		if owned {
			_ = unix.Close(at)
		}
		if err != nil {
			return -1, err
		}
		at, owned, path = next, true, path[cut+1:]
	}
	fd, err := d.openat(at, path, flags, 0)
	if owned {
		_ = unix.Close(at)
	}
	return fd, err
}

// openat opens a path below at.
func (d *disk) openat(at int, path string, flags int, mode uint32) (int, error) {
	flags |= unix.O_NOFOLLOW | unix.O_CLOEXEC
	if path == "" {
		path = "."
	}
	if d.old.Load() {
		return d.walk(at, path, flags, mode)
	}
	how := &unix.OpenHow{Flags: uint64(flags), Mode: uint64(mode), Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV}
	fd, err := ignoringEINTR(func() (int, error) { return unix.Openat2(at, path, how) })
	if !errors.Is(err, unix.ENOSYS) && !errors.Is(err, unix.EPERM) {
		return fd, err
	}
	// A filter of system calls says EPERM too, but so may the file.
	if fd, err = d.walk(at, path, flags, mode); err == nil {
		d.old.Store(true)
	}
	return fd, err
}

// walk is for kernels without openat2: one name at a time. That no mount is entered
// is the tree's care, who knows nothing of what is on other devices.
func (d *disk) walk(at int, path string, flags int, mode uint32) (int, error) {
	owned := false
	for {
		name, rest, more := strings.Cut(path, "/")
		if name == ".." || name == "" {
			return -1, unix.EXDEV
		}
		f, m := unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, uint32(0)
		if !more {
			f, m = flags, mode
		}
		fd, err := ignoringEINTR(func() (int, error) { return unix.Openat(at, name, f, m) })
		if owned {
			_ = unix.Close(at)
		}
		if err != nil || !more {
			return fd, err
		}
		at, owned, path = fd, true, rest
	}
}

// setTimes sets access and modification time; nsec may be UTIME_NOW or UTIME_OMIT.
func setTimes(fd int, times *[2]unix.Timespec) error {
	_, _, errno := unix.Syscall6(unix.SYS_UTIMENSAT, uintptr(fd), 0, uintptr(unsafe.Pointer(times)), 0, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// readAt fills b unless the file ends before.
func readAt(fd int, b []byte, offset int64) (n int, err error) {
	for n < len(b) {
		got, err := ignoringEINTR(func() (int, error) { return unix.Pread(fd, b[n:], offset+int64(n)) })
		if err != nil {
			return n, err
		}
		if got == 0 {
			break
		}
		n += got
	}
	return n, nil
}

// writeAt writes as much of b as there is room for; an error means nothing at all.
func writeAt(fd int, b []byte, offset int64) (n int, err error) {
	for n < len(b) {
		put, err := ignoringEINTR(func() (int, error) { return unix.Pwrite(fd, b[n:], offset+int64(n)) })
		if err != nil {
			if n > 0 {
				return n, nil
			}
			return 0, err
		}
		n += put
	}
	return n, nil
}

// statusOf says what an error of the system means to a client.
func statusOf(err error) status {
	var st status
	var errno unix.Errno
	switch {
	case err == nil:
		return ok
	case errors.As(err, &st):
		return st
	case !errors.As(err, &errno):
		return errServerfault
	}
	switch errno {
	case unix.ENOENT:
		return errNoent
	case unix.EEXIST:
		return errExist
	case unix.ENOTDIR:
		return errNotdir
	case unix.EISDIR:
		return errIsdir
	case unix.EINVAL:
		return errInval
	case unix.EFBIG:
		return errFbig
	case unix.ENOSPC:
		return errNospc
	case unix.EROFS:
		return errRofs
	case unix.EMLINK:
		return errMlink
	case unix.ENAMETOOLONG:
		return errNametoolong
	case unix.ENOTEMPTY:
		return errNotempty
	case unix.EDQUOT:
		return errDquot
	case unix.ESTALE:
		return errStale
	case unix.EMFILE, unix.ENFILE, unix.ENOMEM, unix.EAGAIN:
		return errDelay
	case unix.EACCES, unix.EPERM:
		return errAccess
	}
	return errIO
}

func (s status) Error() string { return fmt.Sprintf("NFS status %d", uint32(s)) }
