package agent

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

const mqueueDir = "/dev/mqueue"

// ipcObject is a System V object or a message queue.
type ipcObject struct {
	kind  string // shm, sem, msg, mqueue
	id    int    // System V
	name  string // mqueue
	owner uint32
}

func (o ipcObject) String() string { return fmt.Sprintf("%s %d", o.kind, o.owner) }

func listIPC() ([]string, error) {
	objects, err := ipcObjects()
	out := []string{}
	for _, o := range objects {
		out = append(out, o.String())
	}
	slices.Sort(out)
	return slices.Compact(out), err
}

func ipcObjects() ([]ipcObject, error) {
	var out []ipcObject
	for _, kind := range []string{"shm", "sem", "msg"} {
		data, err := os.ReadFile("/proc/sysvipc/" + kind)
		if os.IsNotExist(err) {
			continue // a kernel without it
		}
		if err != nil {
			return out, err
		}
		out = append(out, parseSysv(data, kind)...)
	}
	if !mqueueMounted() {
		return out, nil
	}
	queues, err := os.ReadDir(mqueueDir)
	for _, q := range queues {
		var st unix.Stat_t
		if e := unix.Lstat(mqueueDir+"/"+q.Name(), &st); e != nil {
			err = errors.Join(err, e)
			continue
		}
		out = append(out, ipcObject{kind: "mqueue", name: q.Name(), owner: st.Uid})
	}
	return out, err
}

// parseSysv reads /proc/sysvipc/{shm,sem,msg}; the first line names the columns.
func parseSysv(data []byte, kind string) []ipcObject {
	var out []ipcObject
	var columns []string
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line)
		if columns == nil {
			columns = f
			continue
		}
		at := func(name string) (uint64, bool) {
			i := slices.Index(columns, name)
			if i < 0 || i >= len(f) {
				return 0, false
			}
			n, err := strconv.ParseUint(f[i], 10, 32)
			return n, err == nil
		}
		id, ok1 := at(map[string]string{"shm": "shmid", "sem": "semid", "msg": "msqid"}[kind])
		uid, ok2 := at("uid")
		if ok1 && ok2 {
			out = append(out, ipcObject{kind: kind, id: int(id), owner: uint32(uid)})
		}
	}
	return out
}

// removeIPC removes System V objects and message queues of every owner, and
// says what was there. Only PID 1 does so: elsewhere they would be the host's.
//
// The agent has no CAP_SYS_ADMIN, so an object is removed by its owner: one
// thread takes the owner's effective uid for the call. All processes are dead
// by then.
func removeIPC() ([]string, error) {
	if !isInit() {
		return nil, nil
	}
	there, err := listIPC()
	if err != nil {
		return nil, fmt.Errorf("list ipc: %w", err)
	}
	if err := asOwners(); err != nil {
		return there, err
	}
	if err := checkQueues(); err != nil {
		return there, err
	}
	left, err := listIPC()
	if err == nil && len(left) > 0 {
		err = fmt.Errorf("remove ipc: left are %s", strings.Join(left, ", "))
	}
	return there, err
}

// asOwners removes all objects on one thread. The thread is given up when it
// cannot become itself again.
func asOwners() error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := removeObjects()
		if unix.Geteuid() == os.Getuid() {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}

func removeObjects() error {
	objects, err := ipcObjects()
	if err != nil {
		return fmt.Errorf("list ipc: %w", err)
	}
	var errs []error
	for _, o := range objects {
		err := o.remove()
		if (err == unix.EPERM || err == unix.EACCES) && os.Getuid() == 0 {
			err = asUser(o.owner, o.remove)
		}
		if err != nil && err != unix.EINVAL && err != unix.EIDRM && err != unix.ENOENT {
			errs = append(errs, fmt.Errorf("remove %s: %w", o, err))
		}
	}
	return errors.Join(errs...)
}

// asUser calls f with the effective uid of this thread changed, no other's.
func asUser(uid uint32, f func() error) error {
	const same = ^uintptr(0)
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, same, uintptr(uid), same); errno != 0 {
		return errno
	}
	err := f()
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, same, 0, same); errno != 0 {
		return errors.Join(err, errno)
	}
	return err
}

func (o ipcObject) remove() error {
	var errno unix.Errno
	switch o.kind {
	case "shm":
		_, _, errno = unix.RawSyscall(unix.SYS_SHMCTL, uintptr(o.id), unix.IPC_RMID, 0)
	case "sem":
		_, _, errno = unix.RawSyscall(unix.SYS_SEMCTL, uintptr(o.id), 0, unix.IPC_RMID)
	case "msg":
		_, _, errno = unix.RawSyscall(unix.SYS_MSGCTL, uintptr(o.id), unix.IPC_RMID, 0)
	case "mqueue":
		return unlinkQueue(o.name)
	}
	if errno != 0 {
		return errno
	}
	return nil
}

func mqueueMounted() bool {
	var st unix.Statfs_t
	const magic = 0x19800202
	return unix.Statfs(mqueueDir, &st) == nil && st.Type == magic
}

// checkQueues makes sure that no message queue can hide: either none can be
// made here at all, or /dev/mqueue shows the ones of this IPC namespace.
func checkQueues() error {
	const probe = "remuda-agent-probe"
	name, _ := unix.BytePtrFromString(probe)
	fd, _, errno := unix.Syscall6(unix.SYS_MQ_OPEN, uintptr(unsafe.Pointer(name)),
		unix.O_CREAT|unix.O_EXCL|unix.O_RDWR|unix.O_CLOEXEC, 0o600, 0, 0, 0)
	switch errno {
	case 0:
	case unix.ENOSYS, unix.EPERM:
		return nil // the kernel or its filter has none
	default:
		return fmt.Errorf("probe message queues: %w", errno)
	}
	_ = unix.Close(int(fd))
	seen := mqueueMounted() && unix.Access(mqueueDir+"/"+probe, unix.F_OK) == nil
	if err := unlinkQueue(probe); err != nil {
		return fmt.Errorf("probe message queues: %w", err)
	}
	if !seen {
		return errors.New("message queues can be made here but not listed: mount mqueue on " + mqueueDir)
	}
	return nil
}

func unlinkQueue(name string) error {
	p, err := unix.BytePtrFromString(name)
	if err != nil {
		return err
	}
	if _, _, errno := unix.Syscall(unix.SYS_MQ_UNLINK, uintptr(unsafe.Pointer(p)), 0, 0); errno != 0 {
		return errno
	}
	return nil
}
