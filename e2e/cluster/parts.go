package cluster

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// part is a component's process.
type part struct {
	cmd   *exec.Cmd
	ended chan struct{}
	err   error // how it ended
}

// startParts starts everything in the order in which it is needed.
func (c *Cluster) startParts(ctx context.Context) error {
	for _, name := range []string{"etcd", "containerd"} {
		if err := c.launch(name); err != nil {
			return err
		}
	}
	imported := make(chan error, 1)
	go func() {
		imported <- func() error {
			if err := c.await(ctx, "containerd"); err != nil {
				return err
			}
			image := c.path("pause.tar")
			err := WriteImage(image, Image{Name: pauseImage, Entrypoint: []string{"/pause"},
				Files: map[string]string{"pause": filepath.Join(c.programs, "pause")}})
			if err != nil {
				return err
			}
			return c.ImportImage(ctx, image)
		}()
	}()
	err := func() error {
		if err := c.await(ctx, "etcd"); err != nil {
			return err
		}
		return c.StartComponent(ctx, "kube-apiserver")
	}()
	if err := errors.Join(err, <-imported); err != nil {
		return err
	}
	others := []string{"kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "policies"}
	for _, name := range others {
		if err := c.launch(name); err != nil {
			return err
		}
	}
	for _, name := range others {
		if err := c.await(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

// StartComponent starts a component that was killed, and waits until it is well.
// Names are those of the programs: etcd, kube-apiserver, containerd and so on.
func (c *Cluster) StartComponent(ctx context.Context, name string) error {
	if err := c.launch(name); err != nil {
		return err
	}
	return c.await(ctx, name)
}

// Restart kills a component, starts it again and waits until it is well.
func (c *Cluster) Restart(ctx context.Context, name string) error {
	if err := c.Kill(name); err != nil {
		return err
	}
	return c.StartComponent(ctx, name)
}

// Kill ends a component with SIGKILL. Containers go on without containerd.
func (c *Cluster) Kill(name string) error {
	c.mu.Lock()
	p := c.parts[name]
	c.mu.Unlock()
	if p == nil {
		return fmt.Errorf("no component %q", name)
	}
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-p.ended
	return nil
}

// PID returns the process of a component, as this process sees it.
func (c *Cluster) PID(name string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p := c.parts[name]; p != nil {
		return p.cmd.Process.Pid
	}
	return 0
}

func (c *Cluster) launch(name string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p := c.parts[name]; p != nil {
		select {
		case <-p.ended:
		default:
			return fmt.Errorf("%s runs already", name)
		}
	}
	args, known := c.arguments()[name]
	if !known {
		return fmt.Errorf("no component %q", name)
	}
	program := filepath.Join(c.programs, name)
	if name == "containerd" {
		program = "/usr/bin/containerd"
	}
	log, err := os.OpenFile(c.LogFile(name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(program, args...)
	cmd.Dir = c.dir
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=" + c.dir, "TMPDIR=" + c.path("tmp")}
	cmd.Stdout, cmd.Stderr = log, log
	if err := c.space.start(cmd); err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	p := &part{cmd: cmd, ended: make(chan struct{})}
	c.parts[name] = p
	go func() { p.err = cmd.Wait(); close(p.ended) }()
	return nil
}

// health are the addresses at which components say that they are well.
var health = map[string]string{
	"etcd":                    "http://127.0.0.1:2379/health",
	"kube-apiserver":          "https://" + NodeAddress + ":6443/readyz",
	"kube-controller-manager": "https://127.0.0.1:10257/healthz",
	"kube-scheduler":          "https://127.0.0.1:10259/healthz",
	"kubelet":                 "http://127.0.0.1:10248/healthz",
	"kube-proxy":              "http://127.0.0.1:10256/healthz",
	"policies":                "http://127.0.0.1:9080/healthz",
}

// await waits until a component is well, or has ended.
func (c *Cluster) await(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	c.mu.Lock()
	p := c.parts[name]
	c.mu.Unlock()
	client := &http.Client{Transport: &http.Transport{
		DialContext: c.Dial, DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, // each has a certificate of its own making
	}, Timeout: 5 * time.Second}
	begin := time.Now()
	for {
		if c.well(ctx, client, name) {
			c.say("%s is well after %v", name, time.Since(begin).Round(10*time.Millisecond))
			return nil
		}
		select {
		case <-p.ended:
			return fmt.Errorf("%s has ended: %v\n%s", name, p.err, tail(c.LogFile(name)))
		case <-ctx.Done():
			return fmt.Errorf("%s does not become well: %w\n%s", name, ctx.Err(), tail(c.LogFile(name)))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (c *Cluster) well(ctx context.Context, client *http.Client, name string) bool {
	if name == "containerd" {
		_, err := c.space.run(c.ctr("version"))
		return err == nil
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, health[name], nil)
	if err != nil {
		return false
	}
	res, err := client.Do(req)
	if err != nil {
		return false
	}
	res.Body.Close()
	return res.StatusCode == http.StatusOK
}

// awaitNode waits until a pod could be made and would be placed.
func (c *Cluster) awaitNode(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	for {
		node, err := c.client.CoreV1().Nodes().Get(ctx, NodeName, metav1.GetOptions{})
		if err == nil && ready(node) && len(node.Spec.Taints) == 0 {
			_, err = c.client.CoreV1().ServiceAccounts(metav1.NamespaceDefault).Get(ctx, "default", metav1.GetOptions{})
			if err == nil {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the node does not become ready (%v): %w\n%s", err, ctx.Err(), tail(c.LogFile("kubelet")))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func ready(node *corev1.Node) bool {
	for _, condition := range node.Status.Conditions {
		if condition.Type == corev1.NodeReady {
			return condition.Status == corev1.ConditionTrue
		}
	}
	return false
}

// tail returns the end of a file.
func tail(path string) string {
	said, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(said[max(0, len(said)-4000):])
}

func (c *Cluster) ctr(args ...string) *exec.Cmd {
	return exec.Command("/usr/bin/ctr", append([]string{"-a", containerdSocket, "-n", "k8s.io"}, args...)...)
}

// ImportImage gives the node the images of a file (docker-archive or OCI tar).
func (c *Cluster) ImportImage(ctx context.Context, path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	cmd := c.ctr("images", "import", "-")
	cmd.Stdin = file
	stop := context.AfterFunc(ctx, func() {
		if cmd.Process != nil {
			_ = cmd.Process.Kill()
		}
	})
	defer stop()
	if out, err := c.space.run(cmd); err != nil {
		return fmt.Errorf("import image %s: %w\n%s", path, err, out)
	}
	return nil
}

// TagImage gives an image of the node another name.
func (c *Cluster) TagImage(ctx context.Context, name, other string) error {
	if out, err := c.space.run(c.ctr("images", "tag", "--force", name, other)); err != nil {
		return fmt.Errorf("tag image %s: %w\n%s", name, err, out)
	}
	return ctx.Err()
}

// Kubectl runs kubectl as the administrator and returns all that it says.
func (c *Cluster) Kubectl(args ...string) (string, error) {
	cmd := exec.Command(filepath.Join(c.programs, "kubectl"), args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+c.Kubeconfig(), "HOME="+c.dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var out []byte
	err := c.In(func() (err error) {
		out, err = cmd.CombinedOutput()
		return err
	})
	if err != nil {
		err = fmt.Errorf("kubectl %v: %w\n%s", args, err, out)
	}
	return string(out), err
}
