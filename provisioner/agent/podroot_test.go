package agent

import (
	"errors"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

func podRoot(root string, p pod) error {
	if err := errors.Join(os.MkdirAll(root, 0o755), unix.Mount("root", root, "tmpfs", 0, "mode=0755")); err != nil {
		return err
	}
	for _, name := range []string{"bin", "sbin", "lib", "lib64", "usr", "etc"} {
		if to, err := os.Readlink("/" + name); err == nil {
			if err := os.Symlink(to, root+"/"+name); err != nil {
				return err
			}
			continue
		}
		if _, err := os.Stat("/" + name); err != nil {
			continue
		}
		if err := errors.Join(os.Mkdir(root+"/"+name, 0o755), unix.Mount("/"+name, root+"/"+name, "", unix.MS_BIND, "")); err != nil {
			return err
		}
	}
	for _, dir := range []string{"proc", "dev", "dev/shm", "dev/mqueue", "dev/pts", "remuda", "remuda/disk", "remuda/memory", "remuda/private", "remuda/run"} {
		if err := os.Mkdir(root+"/"+dir, 0o755); err != nil {
			return err
		}
		if dir == "dev" {
			if err := unix.Mount("dev", root+"/dev", "tmpfs", 0, "mode=0755"); err != nil {
				return err
			}
		}
	}
	for name, minor := range map[string]uint32{"null": 3, "zero": 5, "random": 8, "urandom": 9} {
		err := unix.Mknod(root+"/dev/"+name, unix.S_IFCHR|0o666, int(unix.Mkdev(1, minor)))
		if err = errors.Join(err, os.Chmod(root+"/dev/"+name, 0o666)); err != nil {
			return err
		}
	}
	if err := os.Symlink("/proc/self/fd", root+"/dev/fd"); err != nil {
		return err
	}
	last := p.Base + "/last-words"
	err := errors.Join(os.WriteFile(last, []byte("of an earlier one"), 0o666), os.WriteFile(root+"/remuda/private/termination", nil, 0o644),
		unix.Mount(last, root+"/remuda/private/termination", "", unix.MS_BIND, ""), os.Chmod(root+"/remuda/private", 0o700),
		os.WriteFile(root+"/helper", nil, 0o755), unix.Mount(p.Base+"/helper", root+"/helper", "", unix.MS_BIND, ""),
		os.MkdirAll(p.Base+"/a", 0o700), unix.Mount(p.Base+"/a", root+"/remuda/run", "", unix.MS_BIND, ""))
	for _, pl := range p.Places {
		if !pl.File && !strings.HasPrefix(pl.Path, "/run/") {
			err = errors.Join(err, os.MkdirAll(root+pl.Path, 0o755))
		}
	}
	return err
}

func podVolumes(root string, p pod) error {
	disk := errors.Join(os.Mkdir(p.Base+"/disk", 0o777), os.Chmod(p.Base+"/disk", 0o777),
		unix.Mount(p.Base+"/disk", root+DiskVolume, "", unix.MS_BIND, ""))
	if !p.Disk {
		disk = unix.Mount("disk", root+DiskVolume, "tmpfs", 0, "mode=0777")
	}
	err := errors.Join(disk, unix.Mount("memory", root+MemoryVolume, "tmpfs", 0, "mode=0777"))
	if p.One != "" {
		err = errors.Join(err, oneVolumes(root, p))
	}
	return err
}
