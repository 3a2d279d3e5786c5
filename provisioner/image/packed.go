package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
)

// RootDisk returns the root file system of the image with that hash as one file:
// an ext4 image for members that must not see the file system that holds the
// image folder. It is made once, beside the root folder.
func RootDisk(ctx context.Context, dir, hash string, progressTo io.Writer) (string, error) {
	disk := filepath.Join(dir, hash, "root.ext4")
	return disk, Pack(ctx, Root(dir, hash), disk, progressTo)
}

// Pack makes an ext4 image of a folder, to be mounted read-only, unless it is
// there: as small as its content allows, without a journal. Owners, modes and
// links are kept.
func Pack(ctx context.Context, folder, disk string, progressTo io.Writer) error {
	return MakeOnce(ctx, disk, filepath.Base(disk), progressTo, func(file string) error { return pack(ctx, folder, file) })
}

// MakeOnce makes a file, which people call name, unless it is there. Others who need it too wait, also
// in other processes; it appears complete, by a rename, or not at all. fill
// writes and syncs it at the path that it is given.
func MakeOnce(ctx context.Context, file, name string, progressTo io.Writer, fill func(file string) error) error {
	if exists(file) {
		return nil
	}
	say := progress(progressTo)
	unlock, err := lock(ctx, filepath.Join(filepath.Dir(file), ".lock-"+filepath.Base(file)), func() { say("another broker is making %s; waiting for it", name) })
	if err != nil {
		return fmt.Errorf("wait for %s: %w", name, err)
	}
	defer unlock()
	if exists(file) {
		return nil
	}
	say("packing %s", name)
	if err := fill(file + ".new"); err != nil {
		_ = os.Remove(file + ".new")
		return fmt.Errorf("pack %s: %w", name, err)
	}
	return os.Rename(file+".new", file)
}

func pack(ctx context.Context, folder, disk string) error {
	blocks, inodes, err := measure(folder)
	if err != nil {
		return err
	}
	// What ext4 needs besides: the inodes, 256 bytes each, and its maps.
	blocks += inodes/16 + blocks/50 + 1024
	if err := enoughRoom(filepath.Dir(disk), uint64(blocks)*4096); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-m", "0", "-N", strconv.FormatInt(inodes, 10),
		"-O", "^has_journal,^resize_inode", "-E", "root_owner=0:0,lazy_itable_init=0", "-d", folder, disk, strconv.FormatInt(blocks, 10))
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("mke2fs: %w: %s", err, bytes.TrimSpace(out.Bytes()))
	}
	f, err := os.OpenFile(disk, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Chmod(0o600), f.Sync(), f.Close())
}

// measure counts the blocks of 4 KiB and the inodes that a folder's content needs.
func measure(folder string) (blocks, inodes int64, err error) {
	seen := map[uint64]bool{} // files with several names
	err = filepath.WalkDir(folder, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if ok && st.Nlink > 1 && !info.IsDir() {
			if seen[st.Ino] {
				return nil
			}
			seen[st.Ino] = true
		}
		inodes++
		blocks += (info.Size() + 4095) / 4096
		if info.IsDir() || info.Size() > 4<<20 {
			blocks++ // directories grow, and large files have extents
		}
		return nil
	})
	return blocks, inodes + 64, err
}
