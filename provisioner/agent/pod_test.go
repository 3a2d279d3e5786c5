package agent

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func init() {
	helpers["pod"] = helperPod
	helpers["layout"] = func(args []string) error {
		if os.Getuid() == 0 {
			if err := restrict(); err != nil {
				return err
			}
		}
		opts, err := FromEnvironment(Options{})
		if err != nil {
			return err
		}
		return Layout(opts.Places, args[0])
	}
	helpers["pod-agent"] = func(args []string) error {
		opts, err := FromEnvironment(Options{Dir: "/remuda/run", Listen: args[0], OneUser: args[1]})
		if err != nil {
			return err
		}
		if args[0] == "" {
			opts.Listen = ""
		}
		return Serve(context.Background(), opts)
	}
}

// pod says how a container in a pod is made.
type pod struct {
	Base   string // on the host: helper, a for the agent's sockets
	Places []Place
	Disk   bool // the disk volume is a folder of the host's, else a tmpfs
	Listen string
	Score  int    // oom_score_adj
	One    string // name of the one user that all are
}

// helperPod does what a kubelet and a runtime do: volumes, an init container, mounts of
// folders of the volumes, and a container whose root is read-only.
func helperPod(args []string) error {
	runtime.LockOSThread()
	var p pod
	if err := json.Unmarshal([]byte(args[0]), &p); err != nil {
		return err
	}
	root := p.Base + "/root"
	steps := []struct {
		what string
		do   func() error
	}{
		{"private mounts", func() error { return unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "") }},
		{"root", func() error { return podRoot(root, p) }},
		{"volumes", func() error { return podVolumes(root, p) }},
		{"pivot", func() error {
			if err := unix.Chdir(root); err != nil {
				return err
			}
			if err := unix.PivotRoot(".", "."); err != nil {
				return err
			}
			return errors.Join(unix.Unmount(".", unix.MNT_DETACH), unix.Chdir("/"))
		}},
		{"proc", func() error { return unix.Mount("proc", "/proc", "proc", 0, "") }},
		{"layout", func() error {
			// Again nothing changes.
			return errors.Join(podLayout(p), podLayout(p))
		}},
		{"mounts of folders", func() error { return podMounts(p) }},
		{"mqueue", func() error { return unix.Mount("mqueue", mqueueDir, "mqueue", 0, "") }},
		{"read-only root", func() error { return unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, "") }},
		{"loopback", loopbackUp},
		{"score", func() error { return os.WriteFile(oomScore, []byte(strconv.Itoa(p.Score)), 0) }},
		{"restrict", func() error {
			if p.One != "" {
				return becomeOne()
			}
			return restrict()
		}},
	}
	for _, s := range steps {
		if err := s.do(); err != nil {
			return fmt.Errorf("%s: %w", s.what, err)
		}
	}
	return syscall.Exec("/helper", []string{"helper", "helper:pod-agent", p.Listen, p.One}, os.Environ())
}

func podLayout(p pod) error {
	cmd := exec.Command("/helper", "helper:layout", p.One)
	cmd.Env, cmd.Stderr = os.Environ(), os.Stderr
	if p.One != "" {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: oneCredential}
	}
	return cmd.Run()
}

func restrict() error {
	return errors.Join(dropCapabilities(), unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
}

func podMounts(p pod) error {
	for _, pl := range p.Places { // in order: some lie in others
		volume := DiskVolume
		if pl.Memory {
			volume = MemoryVolume
		}
		if err := unix.Mount(volume+"/"+pl.Folder, pl.Path, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("%s: %w", pl.Path, err)
		}
	}
	// As if the container had been started again.
	err := errors.Join(os.MkdirAll("/dev/shm/of/earlier", 0o700), os.WriteFile("/data/earlier", nil, 0o600))
	if p.One != "" {
		err = errors.Join(err, oneMounts())
	}
	return err
}

var podPlaces = []Place{
	{Path: "/tmp", Folder: "tmp", User: "root", Mode: 0o1777},
	{Path: "/data", Folder: "p0", User: "nobody", Mode: 0o700},
	{Path: "/files", Folder: "p1", User: "root", Mode: 0o2775},
	{Path: "/run", Folder: "run", User: "root", Mode: 0o755, Memory: true},
	{Path: "/run/deep/server", Folder: "p2", User: "daemon", Mode: 0o750, Memory: true},
	{Path: "/dev/shm", Folder: "shm", User: "root", Mode: 0o1777, Memory: true},
	{Path: "/etc/hosts", Folder: "hosts", Memory: true, File: true, Mode: 0o644},
}

// servePod starts an agent in a container of a pod.
func servePod(t testing.TB, p pod, env ...string) member {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root to make namespaces")
	}
	base, err := os.MkdirTemp("/tmp", "agent-pod-")
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(base)) })
	must(t, os.Chmod(base, 0o755))
	self, err := os.ReadFile("/proc/self/exe")
	must(t, err)
	must(t, os.WriteFile(base+"/helper", self, 0o755))
	p.Base = base
	if p.Places == nil {
		p.Places = podPlaces
	}
	config, err := json.Marshal(p)
	must(t, err)
	places, err := json.Marshal(p.Places)
	must(t, err)
	cmd := exec.Command(base+"/helper", "helper:pod", string(config))
	cmd.Env = append(append(os.Environ(), EnvPlaces+"="+string(places)), env...)
	pid := runMember(t, cmd)
	m := member{pid: pid, binary: "/helper", dir: base + "/a"}
	if p.Listen == "" {
		m.Client = NewClient(base + "/a")
		eventually(t, func() error { _, err := m.State(t.Context()); return err })
	}
	return m
}

// runMember starts a command in namespaces of its own and ends it with the test.
func runMember(t testing.TB, cmd *exec.Cmd) (pid int) {
	t.Helper()
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS,
		Pdeathsig:  syscall.SIGKILL,
	}
	// The kernel kills the agent when the thread that started it ends, so one
	// thread is kept for that.
	started, ended := make(chan error), make(chan struct{})
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		started <- cmd.Start()
		<-ended
	}()
	if err := <-started; err != nil {
		close(ended)
		t.Skipf("cannot make namespaces: %v", err)
	}
	t.Cleanup(func() {
		defer close(ended)
		_ = cmd.Process.Signal(syscall.SIGTERM)
		timer := time.AfterFunc(10*time.Second, func() { _ = cmd.Process.Kill() })
		defer timer.Stop()
		if err := cmd.Wait(); err != nil {
			t.Errorf("the agent ended: %v\n%s", err, &stderr)
		}
	})
	return cmd.Process.Pid
}

// path in the pod as the host sees it.
func (m member) path(name string) string { return fmt.Sprintf("/proc/%d/root%s", m.pid, name) }

// tree describes all that is in the volumes, byte for byte.
func (m member) tree(t testing.TB, volume string) string {
	t.Helper()
	var out strings.Builder
	inodes := map[uint64]string{}
	root := m.path(volume)
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == root+"/"+pristineName {
			return err
		}
		if strings.HasPrefix(path, root+"/"+sparePrefix) || strings.HasPrefix(path, root+"/"+nextPrefix) {
			return fs.SkipDir
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		name := strings.TrimPrefix(path, root)
		fmt.Fprintf(&out, "%q %o %d:%d", name, st.Mode, st.Uid, st.Gid)
		if name != "" {
			fmt.Fprintf(&out, " %d.%09d", st.Mtim.Sec, st.Mtim.Nsec)
		}
		if first, ok := inodes[st.Ino]; ok && !d.IsDir() {
			fmt.Fprintf(&out, " = %q", first)
		}
		inodes[st.Ino] = name
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			fmt.Fprintf(&out, " %d %x", st.Size, sha256.Sum256(content))
			if holes := st.Size/512 - st.Blocks; holes > 1<<10 {
				fmt.Fprintf(&out, " %d MiB of holes", holes>>11)
			}
		case unix.S_IFLNK:
			to, _ := os.Readlink(path)
			fmt.Fprintf(&out, " → %q", to)
		}
		fmt.Fprintln(&out)
		return nil
	})
	must(t, err)
	return out.String()
}

func (m member) begin(t testing.TB) {
	t.Helper()
	must(t, m.Start(t.Context(), StartRequest{User: "nobody", TimeoutSeconds: 20, Files: map[string]string{"/run/conf/x": "y"}}))
}

func (m member) run(t testing.TB, p Program) string {
	t.Helper()
	p.TimeoutSeconds = 120
	r, err := m.Run(t.Context(), p)
	must(t, err)
	if r.ExitCode != 0 {
		t.Fatalf("%v: %+v", p.Command, r)
	}
	return r.Stdout
}

func TestPodWipe(t *testing.T) {
	t.Run("memory", func(t *testing.T) { testPodWipe(t, servePod(t, pod{}), 2) })
	t.Run("disk", func(t *testing.T) { testPodWipe(t, servePod(t, pod{Disk: true}), 1) })
}

func testPodWipe(t *testing.T, m member, rounds int) {
	if got := m.tree(t, MemoryVolume); !strings.Contains(got, `"" 40700 0:0`) || !strings.Contains(got, `"/p2" 40750 1:1`) ||
		!strings.Contains(got, `"/shm" 41777 0:0`) || !strings.Contains(got, `"/hosts" 100644 0:0`) {
		t.Errorf("laid out: %s", got)
	}
	if strings.Contains(m.tree(t, MemoryVolume), "earlier") || !strings.Contains(m.tree(t, DiskVolume), "earlier") {
		t.Error("memory is not emptied at the start, or the disk is")
	}
	must(t, os.WriteFile(m.path(DiskVolume+"/"+partName), []byte("half"), 0o600))
	_, err := m.Wipe(t.Context(), WipeRequest{})
	must(t, err)
	disk, memory := m.tree(t, DiskVolume), m.tree(t, MemoryVolume)
	if !strings.Contains(disk, `"/p1" 42775 0:0`) || !strings.Contains(disk, `"/p0" 40700 65534:65534`) || !strings.Contains(disk, `"/tmp" 41777 0:0`) {
		t.Errorf("laid out: %s", disk)
	}
	clean, err := m.Baseline(t.Context())
	must(t, err)
	for round := range rounds {
		m.begin(t)
		m.run(t, Program{Command: []string{m.binary, "helper:nasty", "/data", "/tmp", "/dev/shm"}})
		m.run(t, Program{User: "daemon", Command: []string{m.binary, "helper:nasty", "/run/deep/server", "/tmp", "/dev/shm"}})
		m.run(t, Program{User: "root", Command: []string{m.binary, "helper:nasty-root"}})
		began := time.Now()
		w, err := m.Wipe(t.Context(), WipeRequest{})
		must(t, err)
		t.Logf("round %d: wiped %+v in %s", round, w, time.Since(began))
		if got := m.tree(t, DiskVolume); got != disk {
			t.Errorf("the disk after a wipe:\n%swas\n%s", got, disk)
		}
		if got := m.tree(t, MemoryVolume); got != memory {
			t.Errorf("memory after a wipe:\n%swas\n%s", got, memory)
		}
		after, err := m.Baseline(t.Context())
		must(t, err)
		if fmt.Sprint(after) != fmt.Sprint(clean) {
			t.Errorf("after the wipe: %+v\nwant %+v", after, clean)
		}
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", m.pid))
	must(t, err)
	if !strings.Contains(string(status), "Uid:\t0\t0\t0\t0\n") || !strings.Contains(string(status), "CapEff:\t00000000000000e0\n") ||
		!strings.Contains(string(status), "Gid:\t0\t0\t0\t0\n") {
		t.Errorf("the agent is changed: %s", status)
	}
}

// dialTLS makes the client reach the agent at its loopback.
func (m member) dialTLS(t testing.TB, config *tls.Config) {
	t.Cleanup(m.CloseIdle)
	m.http.Transport.(*http.Transport).DialTLSContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
		raw, err := tryDialIn(m.pid, Port)
		if err != nil {
			return nil, err
		}
		c := tls.Client(raw, config)
		return c, c.HandshakeContext(ctx)
	}
}
