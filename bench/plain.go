package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/remuda/remuda/catalog"
)

const loopback = "127.0.0.1"

// plain is a recipe's server run by hand: the same root file system, the same
// template and configuration, no broker and no agent.
type plain struct {
	b        *bench
	recipe   catalog.Recipe
	role     catalog.Role
	files    map[string]string // below /run
	uid, gid int
	port     int
	dir      string
	bind     catalog.Program
	creds    credentials
}

func (b *bench) plain(offering, planName string) (*plain, error) {
	r := b.recipes[offering]
	i := slices.IndexFunc(r.Offering.Plans, func(p catalog.Plan) bool { return p.Name == planName })
	p := &plain{b: b, recipe: r, role: r.Roles[0], port: r.Endpoints[0].Port, dir: filepath.Join(b.dir, "plain-"+offering)}
	size := r.Offering.Plans[i].Members[p.role.Name]
	ports := map[string]int{r.Endpoints[0].Name: p.port}
	start := map[string]any{
		"member": "plain", "memory_mib": size.Memory.MiB(), "disk_mib": size.Disk.MiB(), "cpu": int(math.Ceil(size.CPU)),
		"host": loopback, "hostname": loopback, "ports": ports, "last_ports": ports, "peers": map[string][]string{}, "environment": map[string]string{},
	}
	hook := map[string]any{
		"instance": "plain", "binding": "plain", "username": "benchbenchbench1", "password": "0123456789abcdef0123456789abcdef",
		"number": 1, "parameters": map[string]any{}, "route": map[string]any{"host": "", "port": 0, "path": ""}, "output": map[string]string{}, "host": loopback, "ports": ports,
	}
	var err error
	if p.files, err = catalog.RenderAll(p.role.Files, start); err != nil {
		return nil, err
	}
	if p.bind, err = catalog.RenderProgram(*r.Bind, hook); err != nil {
		return nil, err
	}
	c, err := r.RenderCredentials(hook)
	if err != nil {
		return nil, err
	}
	p.creds = c
	if p.uid, p.gid, err = b.user(p.role.User); err != nil {
		return nil, err
	}
	return p, os.MkdirAll(p.dir, 0o711)
}

// user looks a user of the image up.
func (b *bench) user(name string) (uid, gid int, err error) {
	passwd, err := os.ReadFile(filepath.Join(b.rootfs, "etc/passwd"))
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(passwd)) {
		if f := strings.Split(line, ":"); len(f) > 3 && f[0] == name {
			uid, err1 := strconv.Atoi(f[2])
			gid, err2 := strconv.Atoi(f[3])
			return uid, gid, errors.Join(err1, err2)
		}
	}
	return 0, 0, fmt.Errorf("no user %q in the image", name)
}

// folder makes an empty folder of the server's user.
func (p *plain) folder(name string) (string, error) {
	dir := filepath.Join(p.dir, name)
	if err := errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o700), os.Chown(dir, p.uid, p.gid)); err != nil {
		return "", err
	}
	return dir, nil
}

// runFolder makes what the server sees as /run.
func (p *plain) runFolder(name string) (string, error) {
	dir, err := p.folder(name)
	if err != nil {
		return "", err
	}
	for file, text := range p.files {
		path := filepath.Join(dir, strings.TrimPrefix(file, "/run/"))
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			return "", err
		}
	}
	return dir, nil
}

// data is the one writable path of the recipe.
func (p *plain) data() string { return p.role.Paths[0].Path }

// root binds the root file system to a folder of its own, with /run, /tmp and
// /dev, so that programs can be started in it with chroot(2).
func (p *plain) root() (string, error) {
	root := filepath.Join(p.dir, "root")
	run, err := p.runFolder("run")
	if err != nil {
		return "", err
	}
	tmp, err := p.folder("tmp")
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(root, 0o755); err != nil {
		return "", err
	}
	binds := map[string]string{root: p.b.rootfs, root + "/run": run, root + "/tmp": tmp, root + "/dev": "/dev"}
	for _, target := range slices.Sorted(maps.Keys(binds)) { // the root first
		if err := unix.Mount(binds[target], target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return "", fmt.Errorf("bind %s: %w", target, err)
		}
	}
	return root, nil
}

// program runs a program in the root as the server's user.
func (p *plain) program(ctx context.Context, root string, prog catalog.Program) error {
	cmd := exec.CommandContext(ctx, prog.Command[0], prog.Command[1:]...)
	cmd.Env, cmd.Dir, cmd.Stdin = p.environment(), "/", strings.NewReader(prog.Stdin)
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root, Credential: &syscall.Credential{Uid: uint32(p.uid), Gid: uint32(p.gid)}}
	if said, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", prog.Command[0], err, said)
	}
	return nil
}

func (p *plain) environment() []string {
	return []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=" + p.data(), "USER=" + p.role.User}
}

// process is a server in a PID namespace of its own, whose end is the end of
// all that it started.
type process struct {
	cmd   *exec.Cmd
	said  bytes.Buffer
	ended chan struct{}
}

func (p *plain) start(root string) (*process, error) {
	command := p.role.Processes[0].Command
	s := &process{cmd: exec.Command(command[0], command[1:]...), ended: make(chan struct{})}
	s.cmd.Env, s.cmd.Dir = p.environment(), "/"
	s.cmd.Stdout, s.cmd.Stderr = &s.said, &s.said
	s.cmd.SysProcAttr = &syscall.SysProcAttr{
		Chroot: root, Credential: &syscall.Credential{Uid: uint32(p.uid), Gid: uint32(p.gid)},
		Cloneflags: syscall.CLONE_NEWPID, Setpgid: true, Pdeathsig: syscall.SIGKILL,
	}
	started := make(chan error)
	go func() { // see server.start for why this thread stays
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := s.cmd.Start()
		started <- err
		if err == nil {
			_ = s.cmd.Wait()
			close(s.ended)
		}
	}()
	return s, <-started
}

// stop sends the signal and waits for the end.
func (s *process) stop(sig syscall.Signal) {
	_ = s.cmd.Process.Signal(sig)
	<-s.ended
}

// pristine makes the data that every start begins with, with a login in it, and
// returns its folder.
func (p *plain) pristine(ctx context.Context, root string) (dir string, err error) {
	if dir, err = p.folder("lower"); err != nil {
		return "", err
	}
	target := root + p.data()
	if err := unix.Mount(dir, target, "", unix.MS_BIND, ""); err != nil {
		return "", err
	}
	for _, prog := range []*catalog.Program{p.role.Template, p.role.Prepare} {
		if prog == nil {
			continue
		}
		if err := p.program(ctx, root, *prog); err != nil {
			return "", err
		}
	}
	s, err := p.start(root)
	if err != nil {
		return "", err
	}
	defer s.stop(syscall.SIGKILL)
	var last error
	err = wait(ctx, 1e9*60, 1e7, "the server is ready", func() (bool, error) {
		last = p.program(ctx, root, *p.role.Ready)
		return last == nil, nil
	})
	if err != nil {
		return "", fmt.Errorf("%w: %w\n%s", err, last, s.said.String())
	}
	if err := p.program(ctx, root, p.bind); err != nil {
		return "", err
	}
	if err := answers(ctx, p.recipe.Name, p.creds); err != nil {
		return "", err
	}
	stop := syscall.SIGTERM
	if p.role.Processes[0].Stop != "" {
		stop = unix.SignalNum("SIG" + p.role.Processes[0].Stop)
	}
	s.stop(stop)
	return dir, unix.Unmount(target, 0)
}
