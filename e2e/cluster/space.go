package cluster

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/remuda/remuda/internal/ownthread"
)

// space is the namespaces of a cluster. The pause program is the first process
// of the PID namespace, and takes all others along when it ends. It ends with
// the thread that has made it, and this thread, which is in the namespaces, is
// the one that starts every process.
type space struct {
	init  *exec.Cmd
	calls chan func()
	quit  chan struct{} // closed to end the thread
	gone  chan struct{} // closed by the thread
	own   bool          // network namespace
}

// sysctls are the host's settings that a kubelet changes. It sees these instead.
var sysctls = map[string]string{
	"vm/overcommit_memory": "1", "vm/panic_on_oom": "0",
	"kernel/panic": "10", "kernel/panic_on_oops": "1",
	"kernel/keys/root_maxkeys": "1000000", "kernel/keys/root_maxbytes": "25000000",
}

// hidden are the host's folders that components write to under fixed names.
var hidden = []string{"/run", "/var/lib", "/var/log"}

func newSpace(dir, pause string, ownNetwork bool) (*space, error) {
	s := &space{calls: make(chan func()), quit: make(chan struct{}), gone: make(chan struct{}), own: ownNetwork}
	entered := make(chan error)
	ownthread.Go(func() { s.thread(dir, pause, entered) })
	if err := <-entered; err != nil {
		return nil, errors.Join(err, s.end())
	}
	// A file system of processes belongs to the namespace of who mounts it.
	if out, err := s.run(exec.Command("/bin/mount", "-t", "proc", "proc", "/proc")); err != nil {
		return nil, errors.Join(fmt.Errorf("mount /proc: %w\n%s", err, out), s.end())
	}
	err := s.do(func() error {
		for name, value := range sysctls {
			file := filepath.Join(dir, "sysctl", name)
			if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
				return err
			}
			if err := os.WriteFile(file, []byte(value+"\n"), 0o644); err != nil {
				return err
			}
			if err := unix.Mount(file, "/proc/sys/"+name, "", unix.MS_BIND, ""); err != nil && !errors.Is(err, unix.ENOENT) {
				return fmt.Errorf("hide sysctl %s: %w", name, err)
			}
		}
		return unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, "") // as kubelets want it
	})
	if err != nil {
		return nil, errors.Join(err, s.end())
	}
	return s, nil
}

// thread makes the namespaces and serves calls in them, on a thread of its own.
func (s *space) thread(dir, pause string, entered chan<- error) {
	defer close(s.gone)
	if err := s.enter(dir, pause); err != nil {
		entered <- err
		return
	}
	entered <- nil
	for {
		select {
		case call := <-s.calls:
			call()
		case <-s.quit:
			return
		}
	}
}

func (s *space) enter(dir, pause string) error {
	init := exec.Command(pause)
	init.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL, Setsid: true,
	}
	if s.own {
		init.SysProcAttr.Cloneflags |= syscall.CLONE_NEWNET
	}
	if err := init.Start(); err != nil {
		return fmt.Errorf("start the first process: %w", err)
	}
	s.init = init
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	for _, kind := range []string{"net", "pid", "mnt"} { // after mnt, /proc may be another one
		if err := enterNamespace(init.Process.Pid, kind); err != nil {
			return err
		}
	}
	return mounts(dir)
}

func enterNamespace(pid int, kind string) error {
	fd, err := unix.Open(fmt.Sprintf("/proc/%d/ns/%s", pid, kind), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s namespace: %w", kind, err)
	}
	defer unix.Close(fd)
	if err := unix.Setns(fd, 0); err != nil {
		return fmt.Errorf("enter %s namespace: %w", kind, err)
	}
	return nil
}

// mounts hides the host's folders in the new mount namespace, but not dir.
func mounts(dir string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for _, folder := range hidden {
		if err := unix.Mount("tmpfs", folder, "tmpfs", 0, "mode=755"); err != nil {
			return fmt.Errorf("hide %s: %w", folder, err)
		}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return unix.Mount(fmt.Sprintf("/proc/self/fd/%d", fd), dir, "", unix.MS_BIND|unix.MS_REC, "")
}

// do runs f on the thread. It must be quick and start no goroutines that need
// the namespaces.
func (s *space) do(f func() error) error {
	errc := make(chan error, 1)
	select {
	case s.calls <- func() { errc <- f() }:
		return <-errc
	case <-s.gone:
		return errors.New("the cluster is stopped")
	}
}

// start starts a process in the namespaces. It has no Pdeathsig: Go compares
// parents for that, and this one is invisible from there.
func (s *space) start(cmd *exec.Cmd) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return s.do(cmd.Start)
}

// run runs a process in the namespaces to its end.
func (s *space) run(cmd *exec.Cmd) ([]byte, error) {
	out, err := os.CreateTemp("", "remuda-out-")
	if err != nil {
		return nil, err
	}
	defer out.Close()
	_ = os.Remove(out.Name())
	cmd.Stdout, cmd.Stderr = out, out
	if err := s.start(cmd); err != nil {
		return nil, err
	}
	ended := cmd.Wait()
	said := make([]byte, 1<<20)
	n, _ := out.ReadAt(said, 0)
	return said[:n], ended
}

// inNetwork runs f on a thread in the network namespace, and gives up the thread.
func (s *space) inNetwork(f func() error) error {
	return ownthread.In(s.init.Process.Pid, []string{"net"}, f)
}

// end kills every process in the namespaces, and leaves them.
func (s *space) end() error {
	if s.init != nil {
		if err := s.init.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return fmt.Errorf("kill the first process: %w", err)
		}
		_ = s.init.Wait() // returns when all others are gone
	}
	close(s.quit)
	<-s.gone
	return nil
}
