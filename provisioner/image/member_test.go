package image_test

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/remuda/remuda/catalog"
	"github.com/remuda/remuda/provisioner/image"
)

// These tests run the built-in recipes in the real image, in namespaces of
// their own and with exactly the rights that members have, and without any back
// end: what fails here is the recipe's or the image's fault.

var (
	sharedOnce  sync.Once
	sharedImage image.Image
	sharedErr   error
)

// imageDir is where the tests keep the image: that of the system, so that it is
// built only once.
func imageDir() string {
	if dir := os.Getenv("REMUDA_IMAGE_DIR"); dir != "" {
		return dir
	}
	return "/var/cache/remuda"
}

// realImage builds the image of the built-in recipes or takes the one that is there.
func realImage(t *testing.T) image.Image {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("the image and its containers need root")
	}
	if _, err := exec.LookPath("mmdebstrap"); err != nil {
		t.Skip("mmdebstrap is not installed")
	}
	if testing.Short() {
		t.Skip("the image takes a minute to build; not with -short")
	}
	sharedOnce.Do(func() {
		recipes, err := catalog.Builtin()
		if err != nil {
			sharedErr = err
			return
		}
		sharedImage, sharedErr = image.Ensure(context.Background(), image.OptionsFor(imageDir(), recipes, os.Stderr))
	})
	if sharedErr != nil {
		t.Fatal(sharedErr)
	}
	return sharedImage
}

// member is a container with one role of a recipe.
type member struct {
	t      testing.TB
	recipe catalog.Recipe
	role   catalog.Role
	root   string // where its root file system is, inside its mount namespace
	init   *exec.Cmd
	values map[string]any
	caps   string
	secret string
}

// newMember starts a container whose disk paths are below the directory disk,
// on which the ext4 image is mounted when one is given.
func newMember(t testing.TB, img image.Image, r catalog.Recipe, disk, ext4 string) *member {
	t.Helper()
	role := r.Roles[0]
	m := &member{t: t, recipe: r, role: role, root: t.TempDir(), secret: fmt.Sprintf("s3cret%d", time.Now().UnixNano()), caps: "-all,+setuid,+setgid,+kill"}
	for _, c := range role.Capabilities {
		m.caps += ",+" + strings.ToLower(c)
	}
	ports, last := map[string]any{}, map[string]any{}
	next := 30000
	for _, e := range r.Endpoints {
		ports[e.Name], last[e.Name] = e.Port, e.Port
		if e.Count > 0 {
			ports[e.Name], last[e.Name] = next, next+e.Count-1
		}
	}
	m.values = map[string]any{
		"member": role.Name + "-0", "memory_mib": 256, "cpu": 1, "disk_mib": 1024, "host": "127.0.0.1",
		"hostname": "127.0.0.1", "ports": ports, "last_ports": last, "peers": map[string]any{}, "environment": r.Environment,
	}
	var script strings.Builder
	if ext4 != "" {
		fmt.Fprintf(&script, "mount -o loop %s %s || exit 1\n", ext4, disk)
	}
	fmt.Fprintf(&script, "set -e\nmount --rbind %[1]s %[2]s\nmount -o remount,bind,ro %[2]s\ncd %[2]s\n", img.Path, m.root)
	script.WriteString("mount -t proc proc proc\nmount -t tmpfs -o mode=0755 tmpfs run\nmount -t tmpfs tmpfs tmp\nmount -t tmpfs -o mode=0755 tmpfs dev\nmkdir dev/shm\nchmod 1777 tmp dev/shm\n")
	script.WriteString("for d in null zero full random urandom; do : >dev/$d; mount --bind /dev/$d dev/$d; done\nln -s /proc/self/fd dev/fd\n")
	for _, p := range role.Paths {
		fmt.Fprintf(&script, "mount --bind %s%s .%s\n", disk, p.Path, p.Path)
	}
	script.WriteString("ip link set lo up\nexec chroot . /bin/sh -c 'trap : TERM; while :; do sleep 3600 & wait $!; done'\n")
	m.init = exec.Command("/bin/sh", "-c", script.String())
	m.init.Stderr = os.Stderr
	m.init.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS, Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL,
	}
	runtime.LockOSThread() // Pdeathsig is about the thread
	t.Cleanup(runtime.UnlockOSThread)
	if err := m.init.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.close)
	m.waitFor("the container", func() error {
		if err := m.sh("root", "test -e /remuda/agent && test -e /dev/urandom"); err != nil {
			return err
		}
		return nil
	})
	return m
}

func (m *member) close() {
	_ = m.init.Process.Kill() // PID 1: everything in the container dies with it
	_ = m.init.Wait()
}

// command makes a command inside the container, with the rights of a member's program.
func (m *member) command(ctx context.Context, user string, env map[string]string, words ...string) *exec.Cmd {
	args := []string{"-t", strconv.Itoa(m.init.Process.Pid), "-m", "-p", "-n", "-i", "-u", "-r", "-w", "--", "/usr/bin/setpriv", "--inh-caps=-all", "--bounding-set=" + m.caps, "--no-new-privs"}
	if user != "root" {
		args = append(args, "--reuid="+user, "--regid="+m.group(user), "--init-groups")
	} else {
		args = append(args, "--clear-groups")
	}
	cmd := exec.CommandContext(ctx, "nsenter", append(append(args, "--"), words...)...)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	for k, v := range env {
		cmd.Env = append(cmd.Env, k+"="+v)
	}
	return cmd
}

// group is the number of a user's main group in the image.
func (m *member) group(name string) string {
	return lookup(m.t, filepath.Join(m.imageRoot(), "etc/passwd"), name)[3]
}

func (m *member) imageRoot() string { return fmt.Sprintf("/proc/%d/root", m.init.Process.Pid) }

func lookup(t testing.TB, file, name string) []string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(string(text), "\n") {
		if f := strings.Split(line, ":"); f[0] == name {
			return f
		}
	}
	t.Fatal(user.UnknownUserError(name))
	return nil
}

// run runs one of the recipe's programs.
func (m *member) run(p *catalog.Program, values map[string]any) error {
	if p == nil {
		return nil
	}
	rendered, err := catalog.RenderProgram(*p, values)
	if err != nil {
		return err
	}
	env := map[string]string{"MEMBER_SECRET": m.secret}
	for k, v := range m.recipe.Environment {
		env[k] = v
	}
	for k, v := range rendered.Env {
		env[k] = v
	}
	user := rendered.User
	if user == "" {
		user = m.role.User
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	_, err = output(m.command(ctx, user, env, rendered.Command...), rendered.Stdin)
	return err
}

func output(cmd *exec.Cmd, stdin string) (string, error) {
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%w: %s%s", err, out.String(), errs.String())
	}
	return out.String(), nil
}

// sh runs a line of shell in the container.
func (m *member) sh(user, line string) error {
	_, err := m.ask(user, line, "")
	return err
}

func (m *member) ask(user, line, stdin string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if user == "root" {
		// the test's own business, not a program's: all rights
		args := []string{"-t", strconv.Itoa(m.init.Process.Pid), "-m", "-p", "-n", "-i", "-u", "-r", "-w", "--", "/bin/sh", "-c", line}
		return output(exec.CommandContext(ctx, "nsenter", args...), stdin)
	}
	return output(m.command(ctx, user, nil, "/bin/sh", "-c", line), stdin)
}

// start does what the agent does for a generation: files, prepare, processes, ready.
func (m *member) start() {
	m.t.Helper()
	begin := time.Now()
	files, err := catalog.RenderAll(m.role.Files, m.values)
	if err != nil {
		m.t.Fatal(err)
	}
	for path, text := range files {
		if _, err := m.ask("root", fmt.Sprintf("mkdir -p $(dirname %[1]s) && cat >%[1]s && chmod 644 %[1]s", path), text); err != nil {
			m.t.Fatal(err)
		}
	}
	if err := m.run(m.role.Prepare, m.values); err != nil {
		m.t.Fatal("prepare: ", err)
	}
	for _, p := range m.role.Processes {
		m.startProcess(p)
	}
	m.waitFor("the servers", func() error { return m.run(m.role.Ready, m.values) })
	m.t.Logf("%s serves %d ms after its start", m.recipe.Name, time.Since(begin).Milliseconds())
}

func (m *member) startProcess(p catalog.Process) {
	m.t.Helper()
	words, err := catalog.RenderCommand(p.Command, m.values)
	if err != nil {
		m.t.Fatal(err)
	}
	user := p.User
	if user == "" {
		user = m.role.User
	}
	cmd := m.command(context.Background(), user, m.recipe.Environment, words...)
	log := &prefixed{t: m.t, prefix: p.Name}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { _ = cmd.Wait(); close(done) }()
	m.t.Cleanup(func() {
		m.close()
		<-done
	})
}

// prefixed gives what a server says to the test's log while it may still be written to.
type prefixed struct {
	t      testing.TB
	prefix string
}

func (p *prefixed) Write(b []byte) (int, error) {
	if testing.Verbose() {
		fmt.Fprintf(os.Stderr, "    %s: %s\n", p.prefix, bytes.TrimSpace(b))
	}
	return len(b), nil
}

func (m *member) waitFor(what string, try func() error) {
	m.t.Helper()
	var err error
	for range 600 {
		if err = try(); err == nil {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	m.t.Fatalf("%s did not come up: %v", what, err)
}

// dial connects to a port of the container's loopback.
func (m *member) dial(ctx context.Context, address string) (net.Conn, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	own, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, err
	}
	defer func() { _ = own.Close() }()
	theirs, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", m.init.Process.Pid))
	if err != nil {
		return nil, err
	}
	defer func() { _ = theirs.Close() }()
	if err := unix.Setns(int(theirs.Fd()), unix.CLONE_NEWNET); err != nil {
		return nil, err
	}
	conn, err := net.DialTimeout("tcp", address, 5*time.Second)
	if back := unix.Setns(int(own.Fd()), unix.CLONE_NEWNET); back != nil {
		panic(back)
	}
	return conn, err
}

// binding makes the values of one binding.
func (m *member) binding(number int) map[string]any {
	v := map[string]any{
		"instance": "instance-1", "binding": fmt.Sprint("binding-", number), "number": number, "parameters": map[string]any{},
		"username": fmt.Sprintf("u%015d", number), "password": fmt.Sprintf("Pw%030d", number), "host": m.values["host"], "ports": m.values["ports"],
	}
	return v
}

func (m *member) bind(number int) map[string]any {
	m.t.Helper()
	v := m.binding(number)
	for range 2 { // a hook does no harm when it runs twice
		begin := time.Now()
		if err := m.run(m.recipe.Bind, v); err != nil {
			m.t.Fatal("bind: ", err)
		}
		m.t.Logf("bind took %d ms", time.Since(begin).Milliseconds())
	}
	return v
}

func (m *member) unbind(number int) {
	m.t.Helper()
	v := m.binding(number)
	v["password"] = "nobodyKnowsThisOne0000000000000"
	for range 2 {
		begin := time.Now()
		if err := m.run(m.recipe.Unbind, v); err != nil {
			m.t.Fatal("unbind: ", err)
		}
		m.t.Logf("unbind took %d ms", time.Since(begin).Milliseconds())
	}
}

// emptyDisk makes the paths of a role below dir, as a fresh disk has them.
func emptyDisk(t testing.TB, img image.Image, role catalog.Role, dir string) {
	t.Helper()
	for _, p := range role.Paths {
		full := filepath.Join(dir, p.Path)
		if err := os.MkdirAll(full, 0o755); err != nil {
			t.Fatal(err)
		}
		owner, mode := p.User, p.Mode
		if owner == "" {
			owner = role.User
		}
		if mode == "" {
			mode = "0700"
		}
		f := lookup(t, filepath.Join(img.Path, "etc/passwd"), owner)
		uid, _ := strconv.Atoi(f[2])
		gid, _ := strconv.Atoi(f[3])
		bits, _ := strconv.ParseUint(mode, 8, 32)
		if err := syscall.Chown(full, uid, gid); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Chmod(full, uint32(bits)); err != nil {
			t.Fatal(err)
		}
	}
}

// recipeMember gives a running member of a built-in recipe, from its template.
func recipeMember(t testing.TB, name string) *member {
	t.Helper()
	tt, _ := t.(*testing.T)
	img := realImage(tt)
	recipes, err := catalog.Builtin()
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range recipes {
		if r.Name == name {
			m := newRunning(t, img, r)
			return m
		}
	}
	t.Fatalf("there is no recipe %q", name)
	return nil
}

func newRunning(t testing.TB, img image.Image, r catalog.Recipe) *member {
	t.Helper()
	disk := t.TempDir()
	if err := os.Chmod(disk, 0o755); err != nil {
		t.Fatal(err)
	}
	emptyDisk(t, img, r.Roles[0], disk)
	m := newMember(t, img, r, disk, "")
	begin := time.Now()
	if err := m.run(r.Roles[0].Template, nil); err != nil {
		t.Fatal("template: ", err)
	}
	t.Logf("template of %s: %d ms, %d KiB", r.Name, time.Since(begin).Milliseconds(), diskUse(t, disk)>>10)
	m.start()
	return m
}

// onDisk gives a running member on a real disk of that size, from a template.
func onDisk(t *testing.T, name string, size catalog.Bytes) *member {
	t.Helper()
	img := realImage(t)
	recipes, err := catalog.Builtin()
	if err != nil {
		t.Fatal(err)
	}
	r := recipes[slices.IndexFunc(recipes, func(r catalog.Recipe) bool { return r.Name == name })]
	dir := t.TempDir()
	all, err := image.EnsureTemplates(t.Context(), image.TemplateOptions{Dir: dir, Key: name, Sizes: []catalog.Bytes{size}, Fill: func(_ context.Context, content string) error {
		emptyDisk(t, img, r.Roles[0], content)
		m := newMember(t, img, r, content, "")
		defer m.close()
		return m.run(r.Roles[0].Template, nil)
	}})
	if err != nil {
		t.Fatal(err)
	}
	clone, disk := filepath.Join(dir, "clone.ext4"), filepath.Join(dir, "disk")
	begin := time.Now()
	if err := image.Clone(all[0].Path, clone); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(clone)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("clone: %d KiB in %d ms", info.Sys().(*syscall.Stat_t).Blocks/2, time.Since(begin).Milliseconds())
	if err := os.Mkdir(disk, 0o755); err != nil {
		t.Fatal(err)
	}
	m := newMember(t, img, r, disk, clone)
	m.start()
	return m
}

func diskUse(t testing.TB, dir string) (bytes int64) {
	t.Helper()
	err := filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err == nil {
			bytes += info.Sys().(*syscall.Stat_t).Blocks * 512
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return bytes
}
