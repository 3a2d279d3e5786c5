package agent

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// An agent that keeps Places is root without the capabilities that let root touch
// what is not its own. It may take other users' places, though (CAP_SETUID,
// CAP_SETGID), and so it touches everything as its owner.

// actor is one thread whose file system identity can be changed (setfsuid(2)); nothing
// else of it, and no other thread, changes.
type actor struct {
	uid, gid uint32
	one      bool // there is one identity only: none is changed
}

// asOwner calls f on a thread of its own. A thread that cannot become root again
// is given up.
func asOwner(f func(*actor) error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		a := &actor{uid: ^uint32(0), gid: ^uint32(0)}
		err := f(a)
		if back := a.become(0, 0); back == nil {
			runtime.UnlockOSThread()
		} else {
			err = errors.Join(err, back)
		}
		// A change of identity gives a process what /proc/sys/fs/suid_dumpable says.
		if isInit() {
			err = errors.Join(err, unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0))
		}
		done <- err
	}()
	return <-done
}

// become takes the identity for all that the thread does with files. The kernel
// answers no errors, so it is asked what became of it.
func (a *actor) become(uid, gid uint32) error {
	if a.one || a.uid == uid && a.gid == gid {
		return nil
	}
	_, _ = unix.SetfsgidRetGid(int(gid))
	_, _ = unix.SetfsuidRetUid(int(uid))
	g, _ := unix.SetfsgidRetGid(-1)
	u, _ := unix.SetfsuidRetUid(-1)
	a.uid, a.gid = uint32(u), uint32(g)
	if a.uid != uid || a.gid != gid {
		return fmt.Errorf("act as user %d of group %d: not permitted", uid, gid)
	}
	return nil
}

// root is the agent itself.
func (a *actor) root() error { return a.become(0, 0) }

// owner of a thing.
func (a *actor) owner(st *unix.Stat_t) error { return a.become(st.Uid, st.Gid) }

// enterable makes a directory, known by any descriptor, one that its owner can list
// and change, and becomes the owner.
func (a *actor) enterable(fd int, st *unix.Stat_t) error {
	if err := a.owner(st); err != nil {
		return err
	}
	if st.Mode&0o700 == 0o700 {
		return nil
	}
	return chmodFD(fd, 0o700)
}

// openOwn opens, for reading, what an O_PATH descriptor knows, as its owner, also if its mode
// forbids that; the mode stays.
func (a *actor) openOwn(pathFD int, st *unix.Stat_t, flags int) (int, error) {
	if err := a.owner(st); err != nil {
		return -1, err
	}
	fd, err := openAt(unix.AT_FDCWD, magic(pathFD), unix.O_RDONLY|unix.O_NONBLOCK|flags, 0)
	if err != unix.EACCES {
		return fd, err
	}
	if err := chmodFD(pathFD, st.Mode|0o500); err != nil {
		return -1, err
	}
	fd, err = openAt(unix.AT_FDCWD, magic(pathFD), unix.O_RDONLY|unix.O_NONBLOCK|flags, 0)
	return fd, errors.Join(err, chmodFD(pathFD, st.Mode))
}

// magic is the path of an open file, whatever its own path has become and whoever may walk that.
func magic(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// chmodFD works for O_PATH descriptors too.
func chmodFD(fd int, mode uint32) error {
	if err := unix.Fchmodat(unix.AT_FDCWD, magic(fd), mode&0o7777, 0); err != nil {
		return fmt.Errorf("change mode: %w", err)
	}
	return nil
}

const (
	onlyPath = unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC
	listDir  = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
)

// again does what a signal or a slow disk has interrupted.
func again(f func() error) error {
	for {
		if err := f(); err != unix.EINTR {
			return err
		}
	}
}

// openAt is openat(2).
func openAt(dir int, name string, flags int, mode uint32) (fd int, err error) {
	err = again(func() error {
		fd, err = unix.Openat(dir, name, flags|unix.O_CLOEXEC, mode)
		return err
	})
	return fd, err
}

// statAt is lstat of a name in dir.
func statAt(dir int, name string) (st unix.Stat_t, err error) {
	err = again(func() error { return unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW) })
	return st, err
}

func closeFD(fd int) {
	if fd >= 0 {
		_ = unix.Close(fd)
	}
}

func pathError(op, path string, err error) error {
	if err == nil {
		return nil
	}
	return &os.PathError{Op: op, Path: strconv.QuoteToASCII(path), Err: err}
}

// futimens sets the times of an open file.
func futimens(fd int, times *[]unix.Timespec) error {
	_, _, e := unix.Syscall6(unix.SYS_UTIMENSAT, uintptr(fd), 0, uintptr(unsafe.Pointer(&(*times)[0])), 0, 0, 0)
	return nilOr(e)
}
