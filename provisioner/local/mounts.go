package local

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/remuda/remuda/catalog"
	"github.com/remuda/remuda/internal/ownthread"
)

// diskMount is where a member's disk is attached; only root may enter it, and
// servers see its folders at their recipe's paths.
const diskMount = "/remuda/disk"

// place is one writable path of a member.
type place struct {
	target string // in the member
	folder string // in the root of the disk; "" for memory
	uid    int
	gid    int
	mode   uint32
	size   catalog.Bytes // of a memory place
}

// places returns all writable paths of a role: the recipe's, and /tmp (disk),
// /run and /dev/shm (memory), which every member has. Nothing else is writable.
func places(role catalog.Role, size catalog.Size, users users) ([]place, error) {
	memory := max(size.Memory/4, 16<<20)
	out := []place{
		{target: "/tmp", folder: "tmp", mode: 0o1777},
		{target: "/run", mode: 0o755, size: memory},
		{target: "/dev/shm", mode: 0o1777, size: memory},
	}
	for i, p := range role.Paths {
		owner := p.User
		if owner == "" {
			owner = role.User
		}
		uid, gid, err := users.lookup(owner)
		if err != nil {
			return nil, err
		}
		mode := uint64(0o700)
		if p.Mode != "" {
			if mode, err = strconv.ParseUint(p.Mode, 8, 12); err != nil {
				return nil, fmt.Errorf("mode of %s: %w", p.Path, err)
			}
		}
		pl := place{target: p.Path, uid: uid, gid: gid, mode: uint32(mode), size: memory}
		if !p.Memory {
			pl.folder = "p" + strconv.Itoa(i)
		}
		out = append(out, pl)
	}
	return out, nil
}

// mountGeneration gives a running member fresh file systems at all its places:
// those of the last generation are unmounted, which fails when anything still
// uses them, and new ones are moved in. The disk is the image's.
func mountGeneration(pid int, image string, places []place) error {
	disk, err := newDisk(image)
	if err != nil {
		return err
	}
	defer disk.Close()
	memory, err := newMemory(places)
	if err != nil {
		return err
	}
	defer memory.close()
	return ownthread.In(pid, []string{"mnt"}, func() error {
		if err := unmountPlaces(places); err != nil {
			return err
		}
		if err := moveMount(disk, diskMount); err != nil {
			return err
		}
		// Memory first: a recipe's path may lie below /run, never the other way.
		if err := memory.move(); err != nil {
			return err
		}
		for _, p := range places {
			if p.folder == "" {
				continue
			}
			if err := unix.Mount(diskMount+"/"+p.folder, p.target, "", unix.MS_BIND, ""); err != nil {
				return fmt.Errorf("bind %s: %w", p.target, err)
			}
		}
		return nil
	})
}

// mountMemory gives a member its memory places only; its disk folders are
// bound from the host (for making a template).
func mountMemory(pid int, places []place) error {
	memory, err := newMemory(places)
	if err != nil {
		return err
	}
	defer memory.close()
	return ownthread.In(pid, []string{"mnt"}, memory.move)
}

// memory is the fresh tmpfs of each memory place, attached nowhere yet.
type memory struct {
	files   []*os.File
	targets []string
}

func newMemory(places []place) (*memory, error) {
	m := &memory{}
	for _, p := range places {
		if p.folder != "" {
			continue
		}
		f, err := newTmpfs(p)
		if err != nil {
			m.close()
			return nil, err
		}
		m.files, m.targets = append(m.files, f), append(m.targets, p.target)
	}
	return m, nil
}

// move attaches them all, in the mount namespace of the thread.
func (m *memory) move() error {
	for i, f := range m.files {
		if err := moveMount(f, m.targets[i]); err != nil {
			return err
		}
	}
	return nil
}

func (m *memory) close() { closeAll(m.files) }

// unmountGeneration takes all places away, so that nothing holds the disk.
func unmountGeneration(pid int, places []place) error {
	return ownthread.In(pid, []string{"mnt"}, func() error { return unmountPlaces(places) })
}

func unmountPlaces(places []place) error {
	for i := len(places) - 1; i >= 0; i-- {
		if err := unmountAll(places[i].target); err != nil {
			return err
		}
	}
	return unmountAll(diskMount)
}

// unmountAll unmounts whatever is stacked at target. It is never lazy: success
// proves that nothing uses the file system any more.
func unmountAll(target string) error {
	for range 16 {
		err := unix.Unmount(target, unix.UMOUNT_NOFOLLOW)
		switch {
		case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT): // not a mount point
			return nil
		case err != nil:
			return fmt.Errorf("unmount %s: %w", target, err)
		}
	}
	return fmt.Errorf("unmount %s: too many file systems on top of each other", target)
}

// agentRun is where a member sees the folder with its agent's sockets.
const agentRun = "/remuda/run"

// sealAgent makes the agent's folder read-only for the member once the sockets
// are there: a server that runs as root could put a socket of its own in their
// place, and would be told what the agent is told.
func sealAgent(pid int) error {
	return ownthread.In(pid, []string{"mnt"}, func() error {
		const flags = unix.MS_REMOUNT | unix.MS_BIND | unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
		if err := unix.Mount("", agentRun, "", flags, ""); err != nil {
			return fmt.Errorf("seal the agent's folder: %w", err)
		}
		return nil
	})
}

// newDisk makes a detached mount of an ext4 image.
func newDisk(image string) (*os.File, error) {
	loop, err := attachLoop(image)
	if err != nil {
		return nil, fmt.Errorf("attach disk: %w", err)
	}
	defer loop.Close()
	return newMount("ext4", unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC, map[string]string{
		"source": fmt.Sprintf("/proc/self/fd/%d", loop.Fd()),
		"errors": "remount-ro",
	})
}

func newTmpfs(p place) (*os.File, error) {
	return newMount("tmpfs", unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC, map[string]string{
		"source": "tmpfs",
		"size":   strconv.FormatInt(int64(p.size), 10),
		"mode":   strconv.FormatUint(uint64(p.mode), 8),
		"uid":    strconv.Itoa(p.uid),
		"gid":    strconv.Itoa(p.gid),
	})
}

// newMount makes a mount that is attached nowhere; closing the file ends it
// unless it was moved somewhere. An option without a value is a flag.
func newMount(fstype string, attrs int, options map[string]string) (*os.File, error) {
	fs, err := unix.Fsopen(fstype, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", fstype, err)
	}
	defer unix.Close(fs)
	for k, v := range options {
		set := func() error { return unix.FsconfigSetString(fs, k, v) }
		if v == "" {
			set = func() error { return unix.FsconfigSetFlag(fs, k) }
		}
		if err := set(); err != nil {
			return nil, fmt.Errorf("set %s of %s: %w", k, fstype, err)
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return nil, fmt.Errorf("create %s: %w%s", fstype, err, kernelSays(fs))
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, attrs)
	if err != nil {
		return nil, fmt.Errorf("mount %s: %w", fstype, err)
	}
	return os.NewFile(uintptr(fd), fstype), nil
}

// kernelSays reads the kernel's words about a failed file system context.
func kernelSays(fs int) string {
	buf := make([]byte, 512)
	n, err := unix.Read(fs, buf)
	if err != nil || n <= 0 {
		return ""
	}
	return " (" + string(buf[:n]) + ")"
}

func moveMount(f *os.File, target string) error {
	if err := unix.MoveMount(int(f.Fd()), "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("move %s to %s: %w", f.Name(), target, err)
	}
	return nil
}
