package local

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// attachLoop attaches an image file to a free loop device that detaches itself
// when its last user (a mount or the returned file) is gone.
func attachLoop(image string) (*os.File, error) {
	img, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer img.Close()
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer control.Close()
	for range 100 { // another process may take the free device first
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, fmt.Errorf("find a free loop device: %w", err)
		}
		dev, err := openLoop(n)
		if err != nil {
			return nil, err
		}
		cfg := unix.LoopConfig{Fd: uint32(img.Fd())}
		cfg.Info.Flags = unix.LO_FLAGS_AUTOCLEAR
		copy(cfg.Info.File_name[:], filepath.Base(image))
		err = unix.IoctlLoopConfigure(int(dev.Fd()), &cfg)
		if err == nil {
			return dev, nil
		}
		dev.Close()
		if !errors.Is(err, unix.EBUSY) {
			return nil, fmt.Errorf("attach %s: %w", filepath.Base(image), err)
		}
	}
	return nil, errors.New("no loop device stayed free long enough")
}

// openLoop opens /dev/loopN, or makes a node of its own for it where /dev is
// not filled by the kernel.
func openLoop(n int) (*os.File, error) {
	name := fmt.Sprintf("/dev/loop%d", n)
	dev, err := os.OpenFile(name, os.O_RDWR, 0)
	if !errors.Is(err, os.ErrNotExist) {
		return dev, err
	}
	dir, err := os.MkdirTemp("", "remuda-loop-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	node := filepath.Join(dir, "loop")
	if err := unix.Mknod(node, unix.S_IFBLK|0o600, int(unix.Mkdev(7, uint32(n)))); err != nil {
		return nil, fmt.Errorf("make a node for loop device %d: %w", n, err)
	}
	return os.OpenFile(node, os.O_RDWR, 0)
}

// loopsBelow lists the loop devices whose image is in dir.
func loopsBelow(dir string) []string {
	files, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	var out []string
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err == nil && strings.HasPrefix(string(b), dir+"/") {
			out = append(out, filepath.Base(filepath.Dir(filepath.Dir(f))))
		}
	}
	return out
}

// awaitNoLoops waits until no loop device uses an image in dir: the kernel
// takes file systems apart after the last process has gone.
func awaitNoLoops(dir string, bound time.Duration) error {
	for wait, end := time.Millisecond, time.Now().Add(bound); ; wait = min(2*wait, 50*time.Millisecond) {
		left := loopsBelow(dir)
		if len(left) == 0 {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("loop devices %s still hold images of %s", strings.Join(left, ", "), filepath.Base(dir))
		}
		time.Sleep(wait)
	}
}
