//go:build kube

package controller_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/remuda/remuda/catalog"
	"github.com/remuda/remuda/e2e/cluster"
	"github.com/remuda/remuda/internal/ownthread"
	"github.com/remuda/remuda/provisioner"
	"github.com/remuda/remuda/provisioner/agent"
	"github.com/remuda/remuda/provisioner/kubernetes"
	"github.com/remuda/remuda/provisioner/kubernetes/controller"
	"github.com/remuda/remuda/provisioner/kubernetes/kubetest"
)

// gatewayGroup is a published gateway, with one binding for a route to this host.
type gatewayGroup struct {
	provisioner.Group
	url string
}

func newGateway(t *testing.T, b *kubernetes.Backend, id, host string) gatewayGroup {
	t.Helper()
	all, err := catalog.Builtin()
	if err != nil {
		t.Fatal(err)
	}
	var g gatewayGroup
	for _, r := range all {
		if r.Name == "gateway" {
			g.Group = provisioner.Group{ID: id, Generation: 1, Definition: provisioner.NewDefinition(r, r.Offering.Plans[0], kubetest.Image)}
		}
	}
	o, err := b.Create(t.Context(), g.Group)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Publish(t.Context(), g.Group); err != nil {
		t.Fatal(err)
	}
	ports := map[string]int{o.Endpoints[0].Name: o.Endpoints[0].Port}
	values := map[string]any{"instance": "i", "binding": "b", "username": "u0000000000000001", "password": "Secret0123456789012345678901234567", "number": 1,
		"parameters": map[string]any{}, "route": map[string]any{"host": host, "port": 0, "path": ""}, "host": o.Endpoints[0].Host, "ports": ports}
	if _, err := b.Program(t.Context(), g.Group, "bind", values); err != nil {
		t.Fatal(err)
	}
	g.url = fmt.Sprintf("http://%s:%d/%s", o.Endpoints[0].Host, o.Endpoints[0].Port, values["password"])
	return g
}

// ask sends a request to be forwarded there.
func (g gatewayGroup) ask(forwarded string) (int, error) {
	req, err := http.NewRequest("GET", g.url, nil)
	if err != nil {
		return 0, err
	}
	req.Header.Set("X-CF-Forwarded-Url", forwarded)
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}
	resp, err := c.Do(req)
	if err != nil {
		return 0, err
	}
	return resp.StatusCode, resp.Body.Close()
}

func (g gatewayGroup) serves(t *testing.T, forwarded string, within time.Duration) {
	t.Helper()
	began := time.Now()
	for {
		status, err := g.ask(forwarded)
		if err == nil && status == http.StatusOK {
			t.Logf("it serves after %s", time.Since(began).Round(time.Millisecond))
			return
		}
		if time.Since(began) > within {
			t.Fatalf("after %s: %d %v", within, status, err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func podOf(t *testing.T, c *cluster.Cluster, group, member string) *corev1.Pod {
	t.Helper()
	pod, err := c.Client().CoreV1().Pods(kubetest.Namespace).Get(t.Context(), kubernetes.PodName(group, member), metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return pod
}

// from calls f in the network of a pod.
func from(t *testing.T, pod *corev1.Pod, f func()) {
	t.Helper()
	err := ownthread.In(kubetest.InitOf(t, pod.Status.ContainerStatuses[0].ContainerID), []string{"net"}, func() error { f(); return nil })
	if err != nil {
		t.Fatal(err)
	}
}

// connect is a plain connection: Go's own might be made by another thread.
func connect(to string) (*os.File, error) {
	a := netip.MustParseAddrPort(to)
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	tv := unix.Timeval{Sec: 5}
	err = errors.Join(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv), unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &tv))
	if err == nil {
		err = unix.Connect(fd, &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())})
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), to), nil
}

// A gateway's way out is a pod without rights that serves its own group's leader alone, leads to no
// group, and is found again when it, or the leader, is another one.
func TestEgress(t *testing.T) {
	c := kubetest.Cluster(t)
	b := newBackend(t, c, controller.Options{StorageClass: cluster.DiskClass})
	host := ""
	list, _ := net.InterfaceAddrs()
	for _, a := range list {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() && p.Addr().IsGlobalUnicast() {
			host = p.Addr().String()
		}
	}
	l, err := net.Listen("tcp", host+":0")
	if err != nil {
		t.Fatal(err)
	}
	app := &http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})}
	go func() { _ = app.Serve(l) }()
	defer app.Close()
	url := "http://" + l.Addr().String() + "/"

	g := newGateway(t, b, "way", host)
	g.serves(t, url, 0)
	other := newGateway(t, b, "wayother", host)
	time.Sleep(time.Second) // for ways out to learn of another group's addresses

	leader, egress := podOf(t, c, "way", "server-0"), podOf(t, c, "way", "egress-0")
	// Also where Pod Security is "restricted".
	copied := egress.DeepCopy()
	copied.ObjectMeta = metav1.ObjectMeta{Name: "copy", Namespace: kubetest.System}
	copied.Spec.NodeName = ""
	if _, err := c.Client().CoreV1().Pods(kubetest.System).Create(t.Context(), copied, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}); err != nil {
		t.Errorf("restricted: %v", err)
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", kubetest.InitOf(t, egress.Status.ContainerStatuses[0].ContainerID)))
	for _, want := range []string{"CapPrm:\t0000000000000000\n", "CapEff:\t0000000000000000\n", "CapBnd:\t0000000000000000\n", "Uid:\t65534\t65534\t65534\t65534\n", "NoNewPrivs:\t1\n"} {
		if err != nil || !strings.Contains(string(status), want) {
			t.Errorf("no %q in %s %v", want, status, err)
		}
	}

	t.Run("Walls", func(t *testing.T) {
		// The node, which no policy stops, meets the agents' own walls.
		f, err := connect(net.JoinHostPort(egress.Status.PodIP, strconv.Itoa(agent.WayPort)))
		if err != nil {
			t.Errorf("the egress from the node: %v", err)
		} else {
			_, _ = f.Write(make([]byte, 200))
			if n, err := f.Read(make([]byte, 1)); n > 0 || !errors.Is(err, syscall.ECONNRESET) && err != io.EOF {
				t.Errorf("the egress says to the node %d bytes, %v", n, err)
			}
			f.Close()
		}
		if f, err := connect(leader.Status.PodIP + ":3128"); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("the leader's end from the node: %v", err)
			f.Close()
		}
		// Policies stop another pod before that.
		from(t, podOf(t, c, "wayother", "server-0"), func() {
			for what, address := range map[string]string{
				"egress of another group": net.JoinHostPort(egress.Status.PodIP, strconv.Itoa(agent.WayPort)),
				"leader's end":            leader.Status.PodIP + ":3128",
			} {
				if f, err := connect(address); err == nil {
					t.Errorf("the %s takes a connection", what)
					f.Close()
				}
			}
		})
		from(t, leader, func() {
			f, err := connect("127.0.0.80:3128")
			if err != nil {
				t.Errorf("the leader's end from its own pod: %v", err)
				return
			}
			f.Close()
			f, err = connect(leader.Status.PodIP + ":3128") // comes over loopback too
			if err == nil {
				if n, err := f.Read(make([]byte, 1)); n > 0 || !errors.Is(err, syscall.ECONNRESET) && err != io.EOF {
					t.Errorf("at its own address it says %d bytes, %v", n, err)
				}
				f.Close()
			}
		})
	})

	// The suite's route is of this host, so other places are asked for by gateways of their own.
	t.Run("Places", func(t *testing.T) {
		otherService := serviceOf(t, c, "wayother")
		for name, forwarded := range map[string]string{
			"agent":         fmt.Sprintf("http://%s:%d/", podOf(t, c, "wayother", "server-0").Status.PodIP, agent.Port),
			"other service": "http://" + otherService + ":8080/",
			"other pod":     fmt.Sprintf("http://%s:20000/", podOf(t, c, "wayother", "server-0").Status.PodIP),
			"own pod":       fmt.Sprintf("http://%s:20000/", egress.Status.PodIP),
			"metadata":      "http://169.254.169.254/",
			"kubelet":       fmt.Sprintf("http://%s:10250/", host),
			"etcd":          fmt.Sprintf("http://%s:2379/", host),
			"loopback":      "http://127.0.0.1:20000/",
		} {
			a, _, _ := strings.Cut(strings.TrimPrefix(forwarded, "http://"), "/")
			to, _, _ := strings.Cut(a, ":")
			bind(t, b, g, to)
			if status, err := g.ask(forwarded); err != nil || status != http.StatusForbidden {
				t.Errorf("%s: %d %v", name, status, err)
			}
		}
		bind(t, b, g, host)
		g.serves(t, url, 5*time.Second)
	})

	t.Run("Container", func(t *testing.T) {
		killPod(t, c, kubetest.Namespace, egress.Name)
		time.Sleep(300 * time.Millisecond)
		g.serves(t, url, 30*time.Second)
	})
	t.Run("Pod", func(t *testing.T) {
		deletePod(t, c, egress.Name)
		g.serves(t, url, 30*time.Second)
		if now := podOf(t, c, "way", "egress-0"); now.Status.PodIP == egress.Status.PodIP {
			t.Logf("it has the address it had, %s", now.Status.PodIP)
		}
	})
	t.Run("Leader", func(t *testing.T) {
		killPod(t, c, kubetest.Namespace, leader.Name)
		time.Sleep(300 * time.Millisecond)
		g.serves(t, url, 30*time.Second)
		deletePod(t, c, leader.Name)
		g.serves(t, url, 60*time.Second)
	})
	t.Run("Cutoff", func(t *testing.T) {
		if err := b.Cutoff(t.Context(), g.ID, 0); err != nil {
			t.Fatal(err)
		}
		egress := podOf(t, c, "way", "egress-0")
		if conn, err := net.Dial("tcp", net.JoinHostPort(egress.Status.PodIP, strconv.Itoa(agent.WayPort))); err == nil {
			conn.Close()
			t.Error("the way out is open after the cutoff")
		}
		if _, err := g.ask(url); err == nil {
			t.Error("the gateway serves after the cutoff")
		}
		other.serves(t, url, 0)
	})
}

// bind gives the binding of the group a route to another host.
func bind(t *testing.T, b *kubernetes.Backend, g gatewayGroup, host string) {
	t.Helper()
	values := map[string]any{"instance": "i", "binding": "b", "username": "u0000000000000001", "password": "Secret0123456789012345678901234567", "number": 1,
		"parameters": map[string]any{}, "route": map[string]any{"host": host, "port": 0, "path": ""}, "host": "", "ports": map[string]int{}}
	if _, err := b.Program(t.Context(), g.Group, "bind", values); err != nil {
		t.Fatal(err)
	}
}

// deletePod returns when its first process has ended.
func deletePod(t *testing.T, c *cluster.Cluster, name string) {
	t.Helper()
	pods := c.Client().CoreV1().Pods(kubetest.Namespace)
	pod, err := pods.Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	pid := kubetest.InitOf(t, pod.Status.ContainerStatuses[0].ContainerID)
	if err := pods.Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	for range 300 {
		if unix.Kill(pid, 0) == unix.ESRCH {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Fatalf("%s does not end", name)
}

func serviceOf(t *testing.T, c *cluster.Cluster, group string) string {
	t.Helper()
	s, err := c.Client().CoreV1().Services(kubetest.Namespace).Get(t.Context(), kubernetes.ServiceName(group, 1), metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return s.Spec.ClusterIP
}
