package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// The cluster's addresses. They exist in its network namespace only.
const (
	NodeName    = "node"
	NodeAddress = "10.240.0.1"
	PodRange    = "10.244.0.0/16"
	ServiceCIDR = "10.96.0.0/16"
)

// Options of a cluster.
type Options struct {
	Log      io.Writer // gets a line for each step; nil for none
	Dir      string    // gets the folder that holds everything; the default is the system's for temporary files
	Programs string    // folder made by scripts/kube; by default scripts/kube is asked

	// InPlace puts the cluster into the network namespace of the calling
	// process, which must be one made for the test: then pods and Services can
	// be reached directly. Otherwise it gets one of its own, see In.
	InPlace bool
}

// Cluster is a running Kubernetes.
type Cluster struct {
	opts     Options
	dir      string
	name     string // of the folder, and of the cgroup
	programs string
	lock     *os.File
	space    *space
	undo     func() error // of what was done to the network namespace of the caller
	client   kubernetes.Interface
	config   *rest.Config
	disks    *disks

	mu      sync.Mutex
	parts   map[string]*part
	stopped bool
}

// Start starts a cluster and waits until its node takes pods.
func Start(ctx context.Context, opts Options) (*Cluster, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("a cluster needs root")
	}
	if opts.Log == nil {
		opts.Log = io.Discard
	}
	c := &Cluster{opts: opts, programs: opts.Programs, parts: map[string]*part{}}
	if c.programs == "" {
		var err error
		if c.programs, err = Programs(ctx, opts.Log); err != nil {
			return nil, err
		}
	}
	if err := sweep(); err != nil {
		return nil, fmt.Errorf("remove what a killed test has left: %w", err)
	}
	if err := c.start(ctx); err != nil {
		return nil, errors.Join(err, c.Stop())
	}
	return c, nil
}

func (c *Cluster) start(ctx context.Context) error {
	begin := time.Now()
	if err := c.claimFolder(); err != nil {
		return err
	}
	if err := c.makeCgroups(); err != nil {
		return err
	}
	var err error
	if c.space, err = newSpace(c.path(), filepath.Join(c.programs, "pause"), !c.opts.InPlace); err != nil {
		return err
	}
	if c.undo, err = c.setUpNetwork(); err != nil {
		return fmt.Errorf("set up the network namespace: %w", err)
	}
	if err := c.writeFiles(); err != nil {
		return err
	}
	if c.client, err = kubernetes.NewForConfig(c.RESTConfig()); err != nil {
		return err
	}
	if err := c.startParts(ctx); err != nil {
		return err
	}
	if c.disks, err = c.startDisks(ctx); err != nil {
		return err
	}
	if err := c.awaitNode(ctx); err != nil {
		return err
	}
	c.say("the cluster is ready after %v", time.Since(begin).Round(100*time.Millisecond))
	return nil
}

// Stop ends every process of the cluster and removes all that it has made. It
// reports what it could not remove.
func (c *Cluster) Stop() error {
	c.stopped = true
	var errs []error
	if c.disks != nil {
		c.disks.stop()
	}
	if c.space != nil {
		errs = append(errs, c.space.end())
	}
	c.mu.Lock()
	for _, p := range c.parts {
		<-p.ended
	}
	c.mu.Unlock()
	if c.undo != nil {
		errs = append(errs, c.undo())
	}
	if c.name != "" {
		errs = append(errs, removeAll(c.name, c.dir))
		errs = append(errs, c.lock.Close())
	}
	return errors.Join(errs...)
}

func (c *Cluster) say(format string, args ...any) {
	fmt.Fprintf(c.opts.Log, "cluster: "+format+"\n", args...)
}

// path returns a path in the cluster's folder.
func (c *Cluster) path(elem ...string) string {
	return filepath.Join(append([]string{c.dir}, elem...)...)
}

// Dir returns the cluster's folder.
func (c *Cluster) Dir() string { return c.dir }

// Kubeconfig returns the path of the administrator's kubeconfig.
func (c *Cluster) Kubeconfig() string { return c.path("admin.kubeconfig") }

// AuditLog returns the path of the API server's audit log: one JSON object a
// line, level Metadata, written before the request is answered.
func (c *Cluster) AuditLog() string { return c.path("log", "audit.log") }

// LogFile returns the path of what a component has said.
func (c *Cluster) LogFile(component string) string { return c.path("log", component+".log") }

// RESTConfig returns the administrator's access, which works from any network
// namespace.
func (c *Cluster) RESTConfig() *rest.Config { return rest.CopyConfig(c.config) }

// Client returns a client with the administrator's access.
func (c *Cluster) Client() kubernetes.Interface { return c.client }

// InitPID returns the process whose namespaces (net, mnt, pid) are the cluster's.
func (c *Cluster) InitPID() int { return c.space.init.Process.Pid }

// In runs f on a thread in the cluster's network namespace. Connections that f
// makes stay there; goroutines that it starts do not.
func (c *Cluster) In(f func() error) error { return c.space.inNetwork(f) }

// Dial connects from the cluster's network namespace to a literal address.
func (c *Cluster) Dial(ctx context.Context, network, address string) (conn net.Conn, err error) {
	if c.opts.InPlace {
		return (&net.Dialer{}).DialContext(ctx, network, address)
	}
	err = c.In(func() error {
		conn, err = (&net.Dialer{}).DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// HTTP returns a client whose connections come from the cluster's network
// namespace, for URLs with literal addresses.
func (c *Cluster) HTTP() *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: c.Dial, DisableKeepAlives: true}, Timeout: 10 * time.Second}
}
