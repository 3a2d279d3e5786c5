package local

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/remuda/remuda/internal/ownthread"
)

// inNamespaces runs fn on a thread that has entered the namespaces ("mnt",
// "ipc", "net") of a process, and throws the thread away. fn must not start
// goroutines or processes.
func inNamespaces(pid int, kinds []string, fn func() error) error {
	return ownthread.Do(func() error {
		// A thread that shares its root and working directory with others
		// cannot change its mount namespace.
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return fmt.Errorf("unshare: %w", err)
		}
		var fds []int
		for _, kind := range kinds {
			fd, err := unix.Open(fmt.Sprintf("/proc/%d/ns/%s", pid, kind), unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				return fmt.Errorf("open %s namespace of process %d: %w", kind, pid, err)
			}
			defer unix.Close(fd)
			fds = append(fds, fd)
		}
		for i, fd := range fds {
			if err := unix.Setns(fd, 0); err != nil {
				return fmt.Errorf("enter %s namespace of process %d: %w", kinds[i], pid, err)
			}
		}
		return fn()
	})
}
