package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/remuda/remuda/internal/ownthread"
)

func init() {
	helpers["init"] = helperInit
	helpers["agent"] = func(args []string) error { return Serve(context.Background(), Options{Dir: args[0]}) }
	helpers["ipc"] = helperIPC
	helpers["order"] = helperOrder
}

var memberCapabilities = []uintptr{unix.CAP_SETUID, unix.CAP_SETGID, unix.CAP_KILL}

// helperInit makes the inside of a member and becomes the agent in it, with
// the capabilities and limits of a member.
func helperInit(args []string) error {
	runtime.LockOSThread()
	steps := []struct {
		what string
		do   func() error
	}{
		{"private mounts", func() error { return unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "") }},
		{"proc", func() error { return unix.Mount("proc", "/proc", "proc", 0, "") }},
		{"run", func() error { return unix.Mount("run", "/run", "tmpfs", 0, "mode=0755") }},
		{"dev", func() error { return unix.Mount("dev", "/dev/shm", "tmpfs", 0, "mode=1777") }},
		{"mqueue", func() error {
			if args[1] == "no-mqueue" {
				return nil
			}
			if err := os.MkdirAll(mqueueDir, 0o755); err != nil {
				return err
			}
			return unix.Mount("mqueue", mqueueDir, "mqueue", 0, "")
		}},
		{"loopback", loopbackUp},
		{"capabilities", dropCapabilities},
		{"no new privileges", func() error { return unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }},
	}
	for _, s := range steps {
		if err := s.do(); err != nil {
			return fmt.Errorf("%s: %w", s.what, err)
		}
	}
	return syscall.Exec("/proc/self/exe", []string{os.Args[0], "helper:agent", args[0]}, os.Environ())
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req)
}

func dropCapabilities() error {
	var mask uint32
	for c := uintptr(0); c <= unix.CAP_LAST_CAP; c++ {
		if slices.Contains(memberCapabilities, c) {
			mask |= 1 << c
		} else if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil && err != unix.EINVAL {
			return err
		}
	}
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	data := [2]unix.CapUserData{{Effective: mask, Permitted: mask}}
	return unix.Capset(&head, &data[0])
}

// helperIPC leaves objects of every kind behind, and holds an abstract socket.
func helperIPC([]string) error {
	for what, call := range map[string][5]uintptr{
		"shm": {unix.SYS_SHMGET, 0, 4096, unix.IPC_CREAT | 0o600},
		"sem": {unix.SYS_SEMGET, 0, 1, unix.IPC_CREAT | 0o600},
		"msg": {unix.SYS_MSGGET, 0, unix.IPC_CREAT | 0o600},
	} {
		if _, _, errno := unix.Syscall(call[0], call[1], call[2], call[3]); errno != 0 {
			return fmt.Errorf("%s: %w", what, errno)
		}
	}
	name, _ := unix.BytePtrFromString("canary" + strconv.Itoa(os.Getpid()))
	_, _, errno := unix.Syscall6(unix.SYS_MQ_OPEN, uintptr(unsafe.Pointer(name)), unix.O_CREAT|unix.O_RDWR, 0o600, 0, 0, 0)
	if errno != 0 {
		return fmt.Errorf("mqueue: %w", errno)
	}
	l, err := net.Listen("unix", "@canary"+strconv.Itoa(os.Getpid()))
	if err != nil {
		return err
	}
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println("ipc is there", l.Addr(), udp.LocalAddr())
	time.Sleep(time.Hour)
	return nil
}

// helperOrder tries to give the agent an order from inside.
func helperOrder(args []string) error {
	for _, name := range []string{"agent.sock", "door.sock"} {
		kind := map[string]string{"agent.sock": "unix", "door.sock": "unixpacket"}[name]
		c, err := net.Dial(kind, filepath.Join(args[0], name))
		if err != nil {
			return err
		}
		_, _ = io.WriteString(c, "GET /v1/state HTTP/1.1\r\nHost: a\r\n\r\n")
		if n, err := c.Read(make([]byte, 10)); n > 0 {
			return fmt.Errorf("%s answers: %w", name, err)
		}
	}
	fmt.Print("refused")
	return nil
}

// member is an agent that is PID 1 of its own namespaces.
type member struct {
	*Client
	pid    int
	binary string // the helpers, for every user
	dir    string
}

func serveMember(t testing.TB, flags ...string) member {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root to make namespaces")
	}
	base, err := os.MkdirTemp("/tmp", "agent-test-") // short: helpers dial by path
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(base) })
	must(t, os.Chmod(base, 0o755))
	binary := base + "/helper"
	self, err := os.ReadFile("/proc/self/exe")
	must(t, err)
	must(t, os.WriteFile(binary, self, 0o755))
	must(t, os.Chmod(binary, 0o755))

	cmd := exec.Command(binary, append([]string{"helper:init", base + "/a", "x"}, flags...)...)
	if len(flags) > 0 {
		cmd.Args = append([]string{binary, "helper:init", base + "/a"}, flags...)
	}
	pid := runMember(t, cmd)
	c := NewClient(base + "/a")
	eventually(t, func() error { _, err := c.State(t.Context()); return err })
	return member{Client: c, pid: pid, binary: binary, dir: base + "/a"}
}

// inside counts the processes in the member as the host sees them.
func (m member) inside(t *testing.T) int {
	t.Helper()
	want, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", m.pid))
	must(t, err)
	all, err := filepath.Glob("/proc/[0-9]*/ns/pid")
	must(t, err)
	n := 0
	for _, p := range all {
		if got, err := os.Readlink(p); err == nil && got == want {
			n++
		}
	}
	return n
}

func TestMemberWipe(t *testing.T) {
	m := serveMember(t)
	clean, err := m.Baseline(t.Context())
	must(t, err)
	if len(clean.Processes)+len(clean.Listeners)+len(clean.IPC) != 0 || len(clean.Mounts) == 0 {
		t.Fatalf("baseline of a new member: %+v", clean)
	}
	for round := range 3 {
		must(t, m.Start(t.Context(), StartRequest{
			Generation: round, User: "nobody", TimeoutSeconds: 20, Ports: []int{7000},
			Files: map[string]string{"/run/conf/x": "y"},
			Processes: []Process{
				{Name: "echo", Command: []string{m.binary, "helper:echo", "7000"}},
				{Name: "ipc-nobody", Command: []string{m.binary, "helper:ipc"}},
				{Name: "ipc-daemon", User: "daemon", Command: []string{m.binary, "helper:ipc"}},
				{Name: "ipc-root", User: "root", Command: []string{m.binary, "helper:ipc"}},
				{Name: "storm", Command: []string{"sh", "-c", "ulimit -u 300; next() { next & }; for i in 1 2 3 4 5 6 7 8 9 10; do next & done; sleep 1000"}},
			},
		}))
		for _, script := range []string{
			"setsid sh -c '(sleep 1000 & sleep 1000 &) & sleep 1000' >/dev/null 2>&1 &",
			"trap '' TERM HUP INT; setsid sh -c 'while :; do sleep 0.01; done' >/dev/null 2>&1 &",
		} {
			_, err := m.Run(t.Context(), shell(script))
			must(t, err)
		}
		r, err := m.Run(t.Context(), Program{User: "root", Command: []string{m.binary, "helper:order", m.dir}})
		must(t, err)
		if r.Stdout != "refused" {
			t.Errorf("an order from inside: %+v", r)
		}
		eventually(t, func() error {
			log, err := m.Log(t.Context())
			if err == nil && bytes.Count(log, []byte("ipc is there")) < 3 {
				err = errors.New("no ipc yet")
			}
			return err
		})
		b, err := m.Baseline(t.Context())
		must(t, err)
		for _, want := range []string{"mqueue 0", "mqueue 1", "mqueue 65534", "msg 0", "sem 1", "shm 65534"} {
			if !slices.Contains(b.IPC, want) {
				t.Errorf("ipc %q lacks %s", b.IPC, want)
			}
		}
		if !slices.Contains(b.Listeners, "tcp 127.0.0.1:7000") || !strings.Contains(strings.Join(b.Listeners, "\n"), "unix @canary") {
			t.Errorf("listeners %q", b.Listeners)
		}
		if !slices.Contains(b.Processes, "1 helper") {
			t.Errorf("processes %q", b.Processes)
		}
		begin := time.Now()
		w, err := m.Wipe(t.Context(), WipeRequest{})
		must(t, err)
		t.Logf("wiped %+v in %s", w, time.Since(begin))
		if w.Killed < 6 || len(w.IPC) < 12 {
			t.Errorf("wiped %+v", w)
		}
		after, err := m.Baseline(t.Context())
		must(t, err)
		if !reflect.DeepEqual(clean, after) {
			t.Errorf("after the wipe: %+v\nwant %+v", after, clean)
		}
		if n := m.inside(t); n != 1 {
			t.Errorf("%d processes in the member", n)
		}
	}
	if memory, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", m.pid)); err == nil {
		t.Logf("memory of an idle agent after its wipes:\n%s", memory)
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", m.pid))
	must(t, err)
	if !strings.Contains(string(status), "Uid:\t0\t0\t0\t0\n") || !strings.Contains(string(status), "CapEff:\t00000000000000e0\n") {
		t.Errorf("the agent is changed: %s", status)
	}
}

func TestMemberDoor(t *testing.T) {
	m := serveMember(t)
	must(t, m.Start(t.Context(), StartRequest{
		User: "nobody", Ports: []int{7000},
		Processes: []Process{{Name: "echo", Command: []string{m.binary, "helper:echo", "7000"}}},
	}))
	socket, port := boundSocket(t)
	must(t, m.SendDoors(t.Context(), []Door{{Name: "d", Port: port, Target: 7000}}, []*os.File{socket}))
	must(t, m.OpenDoors(t.Context(), OpenRequest{}))
	conn, err := net.Dial("tcp", "127.0.0.1:"+strconv.Itoa(port))
	must(t, err)
	defer conn.Close()
	roundTrip(t, conn, "through namespaces")
	must(t, syscall.Kill(m.pid, syscall.SIGQUIT)) // ignored
	roundTrip(t, conn, "still there")
	_, err = m.Wipe(t.Context(), WipeRequest{})
	must(t, err)
	if _, err := net.Dial("tcp", conn.RemoteAddr().String()); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("dial after the wipe: %v", err)
	}
}

func TestMemberWithoutQueueMount(t *testing.T) {
	m := serveMember(t, "no-mqueue")
	if _, err := m.Wipe(t.Context(), WipeRequest{}); err == nil || !strings.Contains(err.Error(), "mount mqueue") {
		t.Errorf("queues could hide: %v", err)
	}
	if s, err := m.State(t.Context()); err != nil || s.Phase != Failed {
		t.Errorf("state %+v %v", s, err)
	}
	if err := m.Start(t.Context(), StartRequest{User: "nobody"}); !errors.Is(err, ErrConflict) {
		t.Errorf("start in an unclean member: %v", err)
	}
}

// dialIn connects to a port on the loopback of a process's network namespace.
// A socket belongs to the namespace of the thread that made it.
func dialIn(t testing.TB, pid, port int) net.Conn {
	t.Helper()
	c, err := tryDialIn(pid, port)
	must(t, err)
	must(t, c.(*net.TCPConn).SetNoDelay(true))
	return c
}

func tryDialIn(pid, port int) (net.Conn, error) {
	var c net.Conn
	err := ownthread.In(pid, []string{"net"}, func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		f := os.NewFile(uintptr(fd), "tcp")
		defer f.Close()
		if err := unix.Connect(fd, &unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}}); err != nil {
			return err
		}
		c, err = net.FileConn(f)
		return err
	})
	return c, err
}

// Where memory runs out, all that the agent has started is ended before it.
func TestServersAreEndedFirst(t *testing.T) {
	m := serveMember(t)
	must(t, m.Start(t.Context(), StartRequest{User: "nobody"}))
	own := func() string {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", m.pid))
		must(t, err)
		return strings.TrimSpace(string(text))
	}
	before, err := strconv.Atoi(own())
	must(t, err)
	r, err := m.Run(t.Context(), shell("cat /proc/self/oom_score_adj"))
	must(t, err)
	if got := strings.TrimSpace(r.Stdout); got != strconv.Itoa(min(before+sacrifice, 1000)) || own() != strconv.Itoa(before) {
		t.Errorf("a program has %s, the agent has %s and had %d", got, own(), before)
	}
}
