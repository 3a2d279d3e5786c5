// Package local is the back end that keeps container groups on this Linux host
// with runc. It needs root.
//
// # What exists where
//
// A group is a folder of its own below the state folder. group.json in it is
// written before anything is made and removed last, so everything a group ever
// had can be found and removed from it alone, whatever happened in between:
//
//	<state>/groups/<id>/group.json         what was ordered, generation, ports, PID 1 of each member
//	<state>/groups/<id>/<member>/disk-N.img  the disk of generation N: sparse ext4
//	<state>/groups/<id>/<member>/run/      the agent's sockets (0700)
//	<state>/groups/<id>/<member>/bundle/   the OCI bundle
//	<state>/groups/<id>/<member>/own/      where a root of the member's own is attached, seen by runc only
//	<state>/runc/                          runc's own state
//	cgroup remuda-<host key>/<id>.<member> limits; the key is made from the state folder's path
//
// A member that is its group's way out (a role with an egress_port) lives in the
// host's network and runs nothing but its agent; see egress.go.
//
// Nothing is mounted in the host's mount namespace and no link, address or
// rule exists in the host's network namespace: file systems are made detached
// (fsopen, fsmount) and moved into the member, so they and their loop devices
// end with it.
//
// # Concurrency
//
// As provisioner.Backend says. Threads that enter a member's namespaces are
// thrown away afterwards.
package local

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/remuda/remuda/provisioner"
	"github.com/remuda/remuda/provisioner/agent"
)

// Options of New.
type Options struct {
	StateDir string // this back end's alone, 0700
	ImageDir string // shared by all back ends of the host
	Agent    string // the binary that serves as agent ("<binary> agent"); copied into the state folder
	Publish  Publish
	Egress   Egress
	Logger   *slog.Logger
	Progress io.Writer // lines for people about long steps; nil for none
	// Persisted, if not nil, is called after every write of a group's record;
	// for tests that crash there.
	Persisted func()
}

// Publish says where instances are published.
type Publish struct {
	Host      string // advertised in credentials: name or address
	Listen    string // IP address to listen on; default Host if it is an address, else 0.0.0.0
	FirstPort int    // inclusive
	LastPort  int    // inclusive
}

// Backend is the local back end.
type Backend struct {
	opts      Options
	key       string // names this back end's cgroups among others of the host
	agentPath string // the copied agent binary
	listenIP  net.IP
	hostIP    string // Publish.Host as an address

	mu      sync.Mutex
	records map[string]*record // by group id; each record has its own lock
	users   map[string]users   // by root folder; images never change
	ports   portRange
}

var _ provisioner.Backend = (*Backend)(nil)

// New prepares the state folder and loads what is on the host. It starts
// nothing. It fails with provisioner.ErrUnavailable and all reasons when the
// host cannot run groups.
func New(opts Options) (*Backend, error) {
	if err := probe(); err != nil {
		return nil, fmt.Errorf("%w: %w", provisioner.ErrUnavailable, err)
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if opts.Persisted == nil {
		opts.Persisted = func() {}
	}
	if opts.Progress == nil {
		opts.Progress = io.Discard
	}
	state, err := filepath.Abs(opts.StateDir)
	if err != nil {
		return nil, fmt.Errorf("resolve state folder: %w", err)
	}
	opts.StateDir = state
	b := &Backend{opts: opts, key: HostKey(state), records: map[string]*record{}, users: map[string]users{}}
	if err := b.resolveHost(); err != nil {
		return nil, err
	}
	for _, dir := range []string{state, b.groupsDir(), b.runcDir(), filepath.Join(state, "agent")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("make state folder: %w", err)
		}
	}
	if opts.Agent != "" {
		if b.agentPath, err = installAgent(opts.Agent, filepath.Join(state, "agent")); err != nil {
			return nil, err
		}
	}
	return b, b.load()
}

// HostKey is eight hex digits that tell the back ends of one host apart. It
// comes from the state folder's path, so that it is the same even when the
// folder's content is lost.
func HostKey(stateDir string) string {
	sum := sha256.Sum256([]byte(stateDir))
	return hex.EncodeToString(sum[:4])
}

func (b *Backend) groupsDir() string         { return filepath.Join(b.opts.StateDir, "groups") }
func (b *Backend) runcDir() string           { return filepath.Join(b.opts.StateDir, "runc") }
func (b *Backend) groupDir(id string) string { return filepath.Join(b.groupsDir(), id) }
func (b *Backend) cgroup(id, member string) string {
	return "/" + b.cgroupParent() + "/" + id + "." + member
}
func (b *Backend) cgroupParent() string { return "remuda-" + b.key }

func (b *Backend) resolveHost() error {
	p := &b.opts.Publish
	if p.Host == "" {
		p.Host = "127.0.0.1"
	}
	if p.FirstPort <= 0 || p.LastPort < p.FirstPort || p.LastPort > 65535 {
		return fmt.Errorf("publish ports %d-%d are not a range of ports", p.FirstPort, p.LastPort)
	}
	b.hostIP = p.Host
	if net.ParseIP(p.Host) == nil {
		addrs, err := net.LookupIP(p.Host)
		if err != nil {
			return fmt.Errorf("publish host %q: %w", p.Host, err)
		}
		for _, a := range addrs {
			if a.To4() != nil {
				b.hostIP = a.String()
				break
			}
		}
	}
	if p.Listen == "" {
		p.Listen = "0.0.0.0"
		if net.ParseIP(p.Host) != nil {
			p.Listen = p.Host
		}
	}
	if b.listenIP = net.ParseIP(p.Listen); b.listenIP == nil {
		return fmt.Errorf("publish listen %q is not an IP address", p.Listen)
	}
	b.ports = portRange{ip: b.listenIP, first: p.FirstPort, last: p.LastPort}
	return nil
}

// load reads the records of earlier runs.
func (b *Backend) load() error {
	entries, err := os.ReadDir(b.groupsDir())
	if err != nil {
		return fmt.Errorf("read groups: %w", err)
	}
	for _, e := range entries {
		r, err := readRecord(b.groupDir(e.Name()), b.opts.Persisted)
		if errors.Is(err, os.ErrNotExist) { // crashed before its first write, or after its last removal
			if err := os.RemoveAll(b.groupDir(e.Name())); err != nil {
				return fmt.Errorf("remove left-over folder of group %q: %w", e.Name(), err)
			}
			continue
		}
		if err != nil {
			return err
		}
		b.records[r.ID] = r
		if r.Hidden {
			if err := b.Close(context.Background(), r.ID); err != nil {
				return err
			}
		}
	}
	return nil
}

// record returns the group's record, or ErrNoGroup.
func (b *Backend) record(id string) (*record, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	r, ok := b.records[id]
	if !ok {
		return nil, fmt.Errorf("group %q: %w", id, provisioner.ErrNoGroup)
	}
	return r, nil
}

// List implements provisioner.Backend. Agents are asked in parallel.
func (b *Backend) List(ctx context.Context) ([]provisioner.Observation, error) {
	b.mu.Lock()
	records := make([]*record, 0, len(b.records))
	for _, r := range b.records {
		if !r.Hidden {
			records = append(records, r)
		}
	}
	b.mu.Unlock()
	out := make([]provisioner.Observation, len(records))
	var wg sync.WaitGroup
	slots := make(chan struct{}, 16)
	for i, r := range records {
		wg.Add(1)
		slots <- struct{}{}
		go func() {
			defer wg.Done()
			defer func() { <-slots }()
			out[i] = b.observe(ctx, r)
		}()
	}
	wg.Wait()
	return out, ctx.Err()
}

// observe looks at each member: is PID 1 the process that was started, and what
// does its agent say.
func (b *Backend) observe(ctx context.Context, r *record) provisioner.Observation {
	rec := r.snapshot()
	o := provisioner.Observation{ID: rec.ID, Generation: rec.Generation, Endpoints: rec.Endpoints}
	for _, m := range rec.Members {
		mo := provisioner.MemberObservation{ID: containerID(rec.ID, m.Name), Role: m.Role}
		switch {
		case !m.alive():
			mo.Reason = "its container has ended"
		default:
			mo.PID, mo.StartedAt = m.PID, startedAt(m.StartTicks)
			mo.Healthy, mo.Reason = b.agentHealth(ctx, rec, m)
			b.refreshNames(rec, m)
		}
		o.Members = append(o.Members, mo)
	}
	return o
}

func (b *Backend) agentHealth(ctx context.Context, rec recordData, m memberRecord) (bool, string) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	st, err := b.client(rec.ID, m.Name).State(ctx)
	switch {
	case err != nil:
		return false, "its agent does not answer: " + err.Error()
	case b.outdated(st):
		if err := b.client(rec.ID, m.Name).SetEgress(ctx, *b.egressRules()); err != nil {
			return false, "it does not learn where it must not lead: " + err.Error()
		}
	}
	switch {
	case st.Generation != rec.Generation:
		return false, fmt.Sprintf("it runs generation %d instead of %d", st.Generation, rec.Generation)
	case st.Phase == agent.Running && !st.Healthy, st.Phase != agent.Running:
		return false, strings.TrimSpace(string(st.Phase) + " " + st.Reason)
	case staleEgress(rec, st):
		return false, "it is the way out of a leader that has ended"
	}
	return true, ""
}

func (b *Backend) memberDir(id, member string) string { return filepath.Join(b.groupDir(id), member) }

// agentDir is the folder with the sockets of a member's agent.
func (b *Backend) agentDir(id, member string) string {
	return filepath.Join(b.memberDir(id, member), "run")
}

func (b *Backend) client(id, member string) *agent.Client {
	return agent.NewClient(b.agentDir(id, member))
}
