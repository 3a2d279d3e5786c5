package local

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/remuda/remuda/provisioner"
)

// probe says everything this host lacks. It changes nothing.
func probe() error {
	var errs []error
	lack := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if os.Geteuid() != 0 {
		lack("not root: containers, mounts and loop devices need it (try sudo)")
	}
	for program, pkg := range map[string]string{"runc": "runc", "mke2fs": "e2fsprogs"} {
		if _, err := exec.LookPath(program); err != nil {
			lack("no %s in PATH: install the package %s", program, pkg)
		}
	}
	if _, err := os.Stat("/dev/loop-control"); err != nil {
		lack("no /dev/loop-control: the kernel's loop module is missing; member disks are loop images")
	}
	if b, err := os.ReadFile("/proc/filesystems"); err == nil && !strings.Contains(string(b), "\text4\n") {
		lack("the kernel has no ext4: member disks need it")
	}
	if fd, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC); errors.Is(err, unix.ENOSYS) {
		lack("the kernel has no fsopen (Linux 5.2 or newer is needed)")
	} else if err == nil {
		unix.Close(fd)
	}
	for _, h := range hierarchies() {
		if unix.Access(h, unix.W_OK) != nil && os.Geteuid() == 0 {
			lack("%s cannot be written: limits cannot be set", h)
			break
		}
	}
	if len(hierarchies()) == 0 {
		lack("no cgroup hierarchy in %s", cgroupRoot)
	}
	return errors.Join(errs...)
}

// Check says everything that this host lacks for a back end; nil when nothing.
func Check() error {
	if err := probe(); err != nil {
		return fmt.Errorf("%w: %w", provisioner.ErrUnavailable, err)
	}
	return nil
}
