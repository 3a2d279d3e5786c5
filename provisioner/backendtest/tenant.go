package backendtest

import (
	"bytes"
	"context"
	_ "embed"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/remuda/remuda/catalog"
	"github.com/remuda/remuda/provisioner"
	"github.com/remuda/remuda/store"
)

//go:embed testdata/shell.pl
var shellServer string

const (
	shellPort     = 7700
	shellEndpoint = "shell"
	shellPatience = 60 * time.Second
)

// withShell is a copy of a recipe with a way into every member: a shell beside
// its servers, under user ("" for the role's own), published for the leader and
// on the private link for the others; and its Provision program is a shell too,
// which has what programs have and servers do not, MEMBER_SECRET.
func withShell(r catalog.Recipe, user string) catalog.Recipe {
	r.Roles = slices.Clone(r.Roles)
	for i := range r.Roles {
		if r.Roles[i].EgressPort != 0 {
			continue // nothing runs there
		}
		address := "127.0.0.1"
		if len(r.Roles) > 1 {
			address = "0.0.0.0"
		}
		r.Roles[i].Processes = append(slices.Clone(r.Roles[i].Processes), catalog.Process{
			Name: "shell", User: user, Command: []string{"/usr/bin/perl", "-e", shellServer, address, strconv.Itoa(shellPort)},
		})
		r.Roles[i].Ports = append(slices.Clone(r.Roles[i].Ports), shellPort)
	}
	r.Endpoints = append(slices.Clone(r.Endpoints), catalog.Endpoint{Name: shellEndpoint, Port: shellPort})
	r.Provision = &catalog.Program{Command: []string{"/bin/sh", "-s"}, Stdin: "{{.parameters.script}}", TimeoutSeconds: 60}
	return r
}

// tenant is a group under test, whoever has it just now.
type tenant struct {
	target Target
	group  provisioner.Group
	seen   provisioner.Observation
	number int // of bindings
}

// create orders a group that is closed when the test ends.
func create(t testing.TB, target Target, id string, d provisioner.Definition) *tenant {
	t.Helper()
	g := &tenant{target: target, group: provisioner.Group{ID: id, Generation: 1, Definition: d}}
	t.Cleanup(func() {
		if err := target.Backend.Close(context.Background(), id); err != nil {
			t.Errorf("close group %s: %v", id, err)
		}
	})
	o, err := target.Backend.Create(t.Context(), g.group)
	if err != nil {
		t.Fatalf("create group %s: %v", id, err)
	}
	g.note(t, o)
	return g
}

// note takes over what was observed, which must be well.
func (g *tenant) note(t testing.TB, o provisioner.Observation) {
	t.Helper()
	if !o.Healthy() || o.Generation != g.group.Generation {
		t.Fatalf("group %s is not well: %+v", g.group.ID, o)
	}
	g.seen, g.group.Endpoints = o, o.Endpoints
}

func (g *tenant) publish(t testing.TB) {
	t.Helper()
	if err := g.target.Backend.Publish(t.Context(), g.group); err != nil {
		t.Fatalf("publish group %s: %v", g.group.ID, err)
	}
}

// cutoff leaves the group as it is.
func (g *tenant) cutoff(t testing.TB) {
	t.Helper()
	g.cutoffFor(t, 0)
}

// giveBack cuts off what reset is called for next.
func (g *tenant) giveBack(t testing.TB) {
	t.Helper()
	g.cutoffFor(t, g.group.Generation+1)
}

func (g *tenant) cutoffFor(t testing.TB, next int) {
	t.Helper()
	if err := g.target.Backend.Cutoff(t.Context(), g.group.ID, next); err != nil {
		t.Fatalf("cut off group %s for generation %d: %v", g.group.ID, next, err)
	}
}

// reset brings the group to its next generation, in the same containers.
func (g *tenant) reset(t testing.TB) {
	t.Helper()
	before := g.seen
	g.group.Generation++
	g.group.Endpoints = nil
	o, err := g.target.Backend.Reset(t.Context(), g.group)
	if err != nil {
		t.Fatalf("reset group %s: %v", g.group.ID, err)
	}
	g.note(t, o)
	sameContainers(t, before, o)
}

func sameContainers(t testing.TB, before, after provisioner.Observation) {
	t.Helper()
	if len(before.Members) != len(after.Members) {
		t.Fatalf("%d members became %d", len(before.Members), len(after.Members))
	}
	for i, m := range before.Members {
		n := after.Members[i]
		if m.ID != n.ID || m.Role != n.Role || m.PID != n.PID || !m.StartedAt.Equal(n.StartedAt) {
			t.Errorf("member %+v is another one now: %+v", m, n)
		}
	}
}

// address of an endpoint as a client dials it.
func (g *tenant) address(name string) string {
	for _, e := range g.group.Endpoints {
		if e.Name == name {
			return net.JoinHostPort(e.Host, strconv.Itoa(e.Port))
		}
	}
	return ""
}

// admin runs a script with what the recipe's own programs have, and returns
// what it said.
func (g *tenant) admin(t testing.TB, script string) string {
	t.Helper()
	values := map[string]any{"parameters": map[string]any{"script": "{\n" + script + "\n} >/dev/shm/said 2>&1 </dev/null\nchmod 644 /dev/shm/said\n"}}
	if _, err := g.target.Backend.Program(t.Context(), g.group, "provision", values); err != nil {
		t.Fatalf("run a script in %s: %v", g.group.ID, err)
	}
	return g.shell(t, "cat /dev/shm/said; rm -f /dev/shm/said")
}

// shell runs a script in the leader and returns what it said.
func (g *tenant) shell(t testing.TB, script string) string {
	t.Helper()
	said, err := g.tryShell(script)
	if err != nil {
		t.Fatalf("shell of %s: %v\n%s", g.group.ID, err, said)
	}
	return said
}

func (g *tenant) tryShell(script string) (string, error) {
	c, err := net.DialTimeout("tcp", g.address(shellEndpoint), 5*time.Second)
	if err != nil {
		return "", err
	}
	defer c.Close()
	const end = "---the-end---"
	_ = c.SetDeadline(time.Now().Add(shellPatience))
	if _, err := fmt.Fprintf(c, "(\n%s\n) </dev/null 2>&1\necho; echo %s; exit\n", script, end); err != nil {
		return "", err
	}
	var said bytes.Buffer
	buf := make([]byte, 32<<10)
	for {
		n, err := c.Read(buf)
		said.Write(buf[:n])
		if text, _, ok := strings.Cut(said.String(), "\n"+end); ok {
			return text, nil
		}
		if err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return said.String(), err
		}
	}
}

// shellIn runs a script in another member, through the leader and the link.
func (g *tenant) shellIn(t testing.TB, member, script string) string {
	t.Helper()
	const relay = `use Socket; socket(my $s, PF_INET, SOCK_STREAM, 0); my $a = inet_aton($ARGV[0]) or die "no address of $ARGV[0]\n";
connect($s, sockaddr_in($ARGV[1], $a)) or die "connect: $!\n"; local $/; my $script = <STDIN>; syswrite($s, $script) or die $!;
shutdown($s, 1); while (sysread($s, my $b, 65536)) { syswrite(STDOUT, $b) }`
	return g.shell(t, fmt.Sprintf("perl -e '%s' %s %d <<'---script---'\n(\n%s\n) </dev/null 2>&1\n---script---\n", relay, member, shellPort, script))
}

// bind makes a login like a binding's, and returns its credentials.
func (g *tenant) bind(t testing.TB) map[string]any {
	t.Helper()
	g.number++
	ports := map[string]int{}
	host := "127.0.0.1"
	for _, e := range g.group.Endpoints {
		ports[e.Name], host = e.Port, e.Host
	}
	values := map[string]any{
		"instance": "instance", "binding": fmt.Sprintf("binding-%d", g.number), "username": fmt.Sprintf("u%015d", g.number),
		"password": strings.Repeat("Secret", 5) + fmt.Sprintf("%02d", g.number), "number": g.number,
		"parameters": map[string]any{}, "route": routeFor(g.group.Definition.Recipe), "host": host, "ports": ports,
	}
	output, err := g.target.Backend.Program(t.Context(), g.group, "bind", values)
	if err != nil {
		t.Fatalf("bind: %v", err)
	}
	values["output"] = output
	credentials, err := accessOf(g.group.Definition.Recipe, values)
	if err != nil {
		t.Fatal(err)
	}
	return credentials
}

// refused fails unless every port of the endpoints refuses connections.
func refused(t testing.TB, endpoints []store.Endpoint) {
	t.Helper()
	for _, e := range endpoints {
		for port := e.Port; port < e.Port+max(e.Count, 1); port++ {
			c, err := net.DialTimeout("tcp", net.JoinHostPort(e.Host, strconv.Itoa(port)), 2*time.Second)
			if err == nil {
				c.Close()
				t.Errorf("port %d of endpoint %q accepts a connection", port, e.Name)
			}
		}
	}
}
