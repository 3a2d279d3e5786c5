package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const isolated = "REMUDA_BENCH_ISOLATED"

// isolate runs the program again in network and mount namespaces of its own, so
// that servers meet nothing of the host and mounts end with it. It says whether
// this process is the one that shall go on.
func isolate() (goOn bool, err error) {
	if os.Geteuid() != 0 {
		return false, errors.New("containers need root; run this as root")
	}
	if os.Getenv(isolated) != "" {
		_ = os.Unsetenv(isolated)
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return false, fmt.Errorf("make mounts private: %w", err)
		}
		lo, err := netlink.LinkByName("lo")
		if err == nil {
			err = netlink.LinkSetUp(lo)
		}
		if err != nil {
			return false, fmt.Errorf("loopback of the own network namespace: %w", err)
		}
		return true, nil
	}
	signal.Ignore(syscall.SIGINT) // the other process gets it too, and cleans up
	terminate := make(chan os.Signal, 1)
	signal.Notify(terminate, syscall.SIGTERM)
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), isolated+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGTERM}
	if err := cmd.Start(); err != nil {
		return false, fmt.Errorf("start in namespaces of its own: %w", err)
	}
	go func() {
		for range terminate {
			_ = cmd.Process.Signal(syscall.SIGTERM)
		}
	}()
	var ended *exec.ExitError
	if err := cmd.Wait(); errors.As(err, &ended) {
		os.Exit(max(ended.ExitCode(), 1)) // it has said why
	} else if err != nil {
		return false, err
	}
	return false, nil
}

// remove deletes the working folder, and complains about anything else that is
// left of the measurements.
func (b *bench) remove() error {
	var errs []error
	files, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, f := range files {
		if image, err := os.ReadFile(f); err == nil && strings.HasPrefix(string(image), b.dir+"/") {
			errs = append(errs, fmt.Errorf("left behind: %s holds %s", f, image))
		}
	}
	if err := b.unmountAll(); err != nil {
		return errors.Join(append(errs, err)...) // nothing must be deleted through a mount
	}
	return errors.Join(append(errs, os.RemoveAll(b.dir))...)
}

// unmountAll takes apart what is mounted below the working folder.
func (b *bench) unmountAll() error {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	lines := strings.Split(string(mounts), "\n")
	for i := len(lines) - 1; i >= 0; i-- {
		if f := strings.Fields(lines[i]); len(f) > 4 && strings.HasPrefix(f[4], b.dir+"/") {
			if err := unix.Unmount(f[4], unix.MNT_DETACH); err != nil {
				return fmt.Errorf("unmount %s: %w", f[4], err)
			}
		}
	}
	return nil
}
