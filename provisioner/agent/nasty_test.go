package agent

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func init() {
	helpers["nasty"] = func(dirs []string) error {
		for i, dir := range dirs {
			if err := nasty(dir+"/"+strconv.Itoa(os.Getuid()), i == 0); err != nil {
				return fmt.Errorf("%s: %w", dir, err)
			}
		}
		own := dirs[0]
		// Owners can change the place itself.
		err := errors.Join(
			unix.Setxattr(own, "user.mark", []byte("a tenant's"), 0),
			unix.Setxattr(own, "system.posix_acl_default", accessList, 0),
			unix.Setxattr(own, "system.posix_acl_access", accessList, 0),
			syscall.Chmod(own, 0o511), os.Chtimes(own, time.Now(), time.Now()))
		return err
	}
	helpers["nasty-root"] = nastyRoot
}

// accessList of version 2: owner, user 1, group, mask, others.
var accessList = []byte{2, 0, 0, 0,
	1, 0, 7, 0, 255, 255, 255, 255, 2, 0, 7, 0, 1, 0, 0, 0, 4, 0, 7, 0, 255, 255, 255, 255,
	16, 0, 7, 0, 255, 255, 255, 255, 32, 0, 5, 0, 255, 255, 255, 255}

// nasty makes what is hard to remove.
func nasty(dir string, much bool) error {
	depth, files := 200, 200
	if much {
		depth, files = 12000, 5000
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	if err := deepTree(dir, depth); err != nil {
		return fmt.Errorf("deep tree: %w", err)
	}
	for i := range files {
		if err := os.WriteFile(dir+"/"+strconv.Itoa(i), nil, 0o600); err != nil {
			return err
		}
	}
	many := dir + "/many"
	for i := range 300 {
		if err := os.MkdirAll(fmt.Sprintf("%s/%d/%s", many, i, "with\nnew\xffline"), 0o700); err != nil {
			return err
		}
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: dir + "/socket"})
	if err != nil {
		return err
	}
	l.SetUnlinkOnClose(false)
	defer l.Close()
	f, err := os.Create(dir + "/sparse")
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(1<<40), f.Close(),
		os.WriteFile(dir+"/-rf \n*", []byte("x"), 0), os.Link(dir+"/-rf \n*", dir+"/hard"),
		os.WriteFile(dir+"/"+strings.Repeat("\xff", 255), nil, 0), syscall.Mkfifo(dir+"/fifo", 0),
		os.Symlink("/etc", dir+"/out"), os.Symlink("..", dir+"/up"), os.Symlink("/remuda/disk", dir+"/disk"),
		os.MkdirAll(dir+"/closed/inner/x", 0o700), syscall.Chmod(dir+"/closed/inner", 0), syscall.Chmod(dir+"/closed", 0),
		os.Mkdir(dir+"/group", 0o2500), syscall.Chmod(many, 0o2500), syscall.Chmod(dir, 0))
}

// deepTree makes directories in directories, far beyond the longest path.
func deepTree(dir string, depth int) error {
	fd, err := openAt(unix.AT_FDCWD, dir, listDir, 0)
	if err != nil {
		return err
	}
	for i := range depth {
		name := "d"
		if i%1000 == 0 {
			name = strings.Repeat("long", 60)
		}
		err := unix.Mkdirat(fd, name, 0o700)
		if i%100 == 0 {
			err = errors.Join(err, unix.Mkdirat(fd, "beside", 0o700), unix.Mkdirat(fd, "beside/x", 0o700))
		}
		next, openErr := openAt(fd, name, listDir, 0)
		if i%1000 == 999 {
			err = errors.Join(err, unix.Fchmod(fd, 0))
		}
		closeFD(fd)
		if err = errors.Join(err, openErr); err != nil {
			return err
		}
		fd = next
	}
	closeFD(fd)
	return nil
}

// nastyRoot is what a server of root's can do that, as an FTP server, becomes its users.
func nastyRoot([]string) error {
	err := asOwner(func(act *actor) error {
		for uid := uint32(20001); uid < 20010; uid++ {
			if err := act.root(); err != nil {
				return err
			}
			home := "/files/home" + strconv.Itoa(int(uid))
			if err := errors.Join(os.Mkdir(home, 0o777), syscall.Chmod(home, 0o1777)); err != nil {
				return err
			}
			if err := act.become(uid, 20000); err != nil {
				return err
			}
			if err := errors.Join(os.MkdirAll(home+"/a/b/c", 0o700), os.WriteFile(home+"/a/f", []byte("x"), 0)); err != nil {
				return err
			}
			if err := act.become(uid+1, 20000); err != nil {
				return err
			}
			if err := errors.Join(os.MkdirAll(home+"/other/b/c", 0o700), syscall.Chmod(home+"/other/b", 0), syscall.Chmod(home+"/other", 0)); err != nil {
				return err
			}
		}
		return nil
	})
	return errors.Join(err, os.Mkdir("/dev/new", 0o700), os.WriteFile("/dev/new/x", nil, 0), os.Symlink("/", "/dev/link"),
		os.WriteFile("/remuda/private/termination", []byte("last words"), 0o644),
		os.WriteFile("/etc/hosts", []byte("1.2.3.4 somewhere"), 0o644), os.WriteFile("/run/left", nil, 0),
		os.MkdirAll("/run/deep/beside/x", 0o700), syscall.Chmod("/run/deep", 0o711), syscall.Chmod("/run", 0o711))
}
