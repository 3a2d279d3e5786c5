package backendtest

import (
	"context"
	_ "embed"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/remuda/remuda/catalog"
	"github.com/remuda/remuda/provisioner"
)

//go:embed testdata/trio.yaml
var trioRecipe []byte

// trioMembers are the members of the suite's own recipe, the leader first.
var trioMembers = []string{"store-0", "cache-0", "web-0"}

func parseTrio(t *testing.T) catalog.Recipe {
	t.Helper()
	r, err := catalog.Parse("trio.yaml", trioRecipe)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// trio is a group of three different members.
func trio(t *testing.T, target Target, id string) *tenant {
	t.Helper()
	r := parseTrio(t)
	return create(t, target, id, provisioner.NewDefinition(withShell(r, ""), r.Offering.Plans[0], target.Image))
}

// RunMembers judges a group of three different members: order, link, limits,
// isolation, the death of members, and that all are reset or none.
func RunMembers(t *testing.T, f Factory) {
	target := f(t)
	g := trio(t, target, "trio")
	g.publish(t)
	t.Run("Order", g.order)
	t.Run("Link", g.link)
	t.Run("Apart", func(t *testing.T) {
		target.need(t, Walls)
		g.apart(t, trio(t, target, "other"))
	})
	t.Run("Isolation", func(t *testing.T) { g.isolation(t) })
	t.Run("Limits", g.limits)
	t.Run("ResetOfAll", g.resetOfAll)
	t.Run("MemberDies", func(t *testing.T) { g.dies(t, 1) })
	t.Run("LeaderDies", func(t *testing.T) { g.dies(t, 0) })
	t.Run("HostRestarts", func(t *testing.T) { g.dies(t, 0, 1, 2) })
	t.Run("ResetWithDeadMember", g.resetWithDeadMember)
}

// in runs a script in the member of that place.
func (g *tenant) in(t testing.TB, place int, script string) string {
	t.Helper()
	if place == 0 {
		return g.shell(t, script)
	}
	return g.shellIn(t, trioMembers[place], script)
}

func (g *tenant) order(t *testing.T) {
	var roles []string
	ids := map[string]bool{}
	for _, m := range g.seen.Members {
		roles = append(roles, m.Role)
		ids[m.ID] = true
	}
	if !slices.Equal(roles, []string{"store", "cache", "web"}) || len(ids) != 3 {
		t.Errorf("members are %+v, want the leader first, then the roles in order", g.seen.Members)
	}
	if got := strings.TrimSpace(g.shell(t, "cat /run/peers")); got != "cache-0 web-0 store-0" {
		t.Errorf("the leader knows the peers %q", got)
	}
}

// reach is a script that says "reached" for each address that accepts a
// connection within so many seconds.
func reach(seconds string, addresses ...string) string {
	var b strings.Builder
	for _, a := range addresses {
		host, port, _ := net.SplitHostPort(a)
		fmt.Fprintf(&b, "{ timeout %s bash -c 'exec 3<>/dev/tcp/%s/%s' 2>/dev/null && echo 'reached %s'; } &\n", seconds, host, port, a)
	}
	return b.String() + "wait\necho tried\n"
}

var trioServices = []string{"store-0:6379", "cache-0:11211", "web-0:8080", "store-0:7700", "cache-0:7700", "web-0:7700"}

func (g *tenant) link(t *testing.T) {
	for i, name := range trioMembers {
		said := g.in(t, i, reach("5", trioServices...)+"\nhostname")
		for _, s := range trioServices {
			if !strings.Contains(said, "reached "+s) {
				t.Errorf("%s does not reach %s", name, s)
			}
		}
		if !strings.HasSuffix(strings.TrimSpace(said), name) {
			t.Errorf("%s does not know its own name: %q", name, said)
		}
	}
}

// apart fails when a member reaches anything but its group.
func (g *tenant) apart(t *testing.T, other *tenant) {
	other.publish(t)
	l, err := net.Listen("tcp", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := fmt.Sprint(l.Addr().(*net.TCPAddr).Port)
	addresses := []string{"127.0.0.1:" + port, "169.254.169.254:80", "8.8.8.8:53", "1.1.1.1:443", "10.0.0.1:80", "10.77.255.254:" + port, "10.77.0.254:" + port}
	list, _ := net.InterfaceAddrs()
	for _, a := range list {
		if ip, _, err := net.ParseCIDR(a.String()); err == nil && ip.To4() != nil {
			addresses = append(addresses, net.JoinHostPort(ip.String(), port))
		}
	}
	for _, e := range slices.Concat(g.group.Endpoints, other.group.Endpoints) {
		addresses = append(addresses, net.JoinHostPort("127.0.0.1", fmt.Sprint(e.Port)))
	}
	const kernel = `
perl -e 'use Socket; socket(my $s, PF_INET, SOCK_DGRAM, 0); print "reached DNS\n" if send($s, "x", 0, sockaddr_in(53, inet_aton("8.8.8.8")))'
perl -e 'use Socket; print "reached vsock\n" if socket(my $s, 40, SOCK_STREAM, 0)'
perl -e 'use Socket; print "reached packets\n" if socket(my $s, 17, SOCK_RAW, 3) || socket($s, PF_INET, SOCK_RAW, 1)'
timeout 1 getent hosts example.com && echo reached names
awk 'NR > 1 && $2 == "00000000" { print "reached: a default route" }' /proc/net/route
grep -v ' lo$' /proc/net/if_inet6 2>/dev/null && echo reached IPv6`
	const ask = `bash -c 'exec 3<>/dev/tcp/cache-0/11211; printf "%s\r\n" >&3; read -r -t 2 x <&3; echo "$x"'`
	if said := other.in(t, 1, fmt.Sprintf(ask, `set other 0 0 5\r\nthere`)+"\n"+fmt.Sprintf(ask, "get other")); !strings.Contains(said, "VALUE other") {
		t.Fatalf("the other group does not keep a value: %s", said)
	}
	for i, name := range trioMembers {
		said := g.in(t, i, reach("1", addresses...)+kernel)
		if strings.Contains(said, "reached") || !strings.Contains(said, "tried") {
			t.Errorf("%s: %s", name, said)
		}
		// Groups may use the same addresses: what answers must be one's own.
		if said := g.in(t, i, fmt.Sprintf(ask, "get other")); !strings.HasPrefix(strings.TrimSpace(said), "END") {
			t.Errorf("%s meets another group's server: %q", name, said)
		}
	}
}

func (g *tenant) resetOfAll(t *testing.T) {
	mark := newMark()
	list := g.group.Definition.MemberList()
	for i, m := range list {
		canaries := memberCanaries(m.Role)
		said := g.in(t, i, plantScript(canaries, mark))
		if _, missing := names(canaries, g.in(t, i, findScript(canaries, mark))); len(missing) > 0 {
			t.Fatalf("before the reset these canaries are not found in %s: %q\n%s", m.Name, missing, said)
		}
	}
	g.giveBack(t)
	g.reset(t)
	if g.target.Outside != nil {
		if where := g.target.Outside(t, g.group.ID, mark); len(where) > 0 {
			t.Errorf("after the reset the tenant's bytes are in %q", where)
		}
	}
	g.publish(t)
	for i, m := range list {
		canaries := memberCanaries(m.Role)
		if found, _ := names(canaries, g.in(t, i, findScript(canaries, mark))); len(found) > 0 {
			t.Errorf("after the reset these are left in %s: %q", m.Name, found)
		}
	}
	g.link(t)
}

// observe finds the group in what the back end lists.
func (g *tenant) observe(t testing.TB) provisioner.Observation {
	t.Helper()
	all, err := g.target.Backend.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range all {
		if o.ID == g.group.ID {
			return o
		}
	}
	t.Fatalf("group %s is not listed", g.group.ID)
	return provisioner.Observation{}
}

// await waits until the members are as well as want says.
func (g *tenant) await(t testing.TB, what string, want func(provisioner.Observation) bool) provisioner.Observation {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		o := g.observe(t)
		if want(o) {
			return o
		}
		if time.Now().After(end) {
			t.Fatalf("not seen within 5 s: %s: %+v", what, o)
		}
	}
}

// dies ends members by force; Repair brings them back with their data, at the
// same address, and leaves the others alone.
func (g *tenant) dies(t *testing.T, places ...int) {
	dirs := []string{"/data", "/srv", "/var/lib/http"}
	mark := newMark()
	for _, i := range places {
		g.in(t, i, fmt.Sprintf("echo %s >%s/kept; sync %s/kept", mark, dirs[i], dirs[i]))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", g.address("redis"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ping := func() error {
		_ = c.SetDeadline(time.Now().Add(2 * time.Second))
		if _, err := c.Write([]byte("PING\r\n")); err != nil {
			return err
		}
		_, err := c.Read(make([]byte, 64))
		return err
	}
	before := g.observe(t)
	for _, i := range places {
		g.target.Kill(t, before.Members[i])
	}
	g.await(t, "the members' death", func(o provisioner.Observation) bool {
		for _, i := range places {
			if o.Members[i].Healthy {
				return false
			}
		}
		return true
	})
	o, err := g.target.Backend.Repair(t.Context(), g.group)
	if err != nil {
		t.Fatalf("repair: %v", err)
	}
	if !slices.Equal(o.Endpoints, g.group.Endpoints) {
		t.Errorf("after the repair the endpoints are %+v, not %+v", o.Endpoints, g.group.Endpoints)
	}
	g.note(t, o)
	for i, m := range before.Members {
		same := m.PID == o.Members[i].PID && m.StartedAt.Equal(o.Members[i].StartedAt)
		if slices.Contains(places, i) == same || m.ID != o.Members[i].ID {
			t.Errorf("member %+v is now %+v", m, o.Members[i])
		}
	}
	if err := ping(); err != nil && !slices.Contains(places, 0) {
		t.Errorf("a connection to the leader broke: %v", err)
	}
	for _, i := range places {
		if said := g.in(t, i, fmt.Sprintf("cat %s/kept", dirs[i])); strings.TrimSpace(said) != mark {
			t.Errorf("the data of %s are not there: %s", trioMembers[i], said)
		}
	}
	g.link(t)
}

// resetWithDeadMember is the last: a group whose reset failed has to be closed.
func (g *tenant) resetWithDeadMember(t *testing.T) {
	g.cutoff(t)
	g.target.Kill(t, g.seen.Members[2])
	g.await(t, "the member's death", func(o provisioner.Observation) bool { return !o.Members[2].Healthy })
	g.group.Generation++
	if o, err := g.target.Backend.Reset(t.Context(), g.group); err == nil {
		t.Errorf("a group with a dead member is reset: %+v", o)
	}
	refused(t, g.seen.Endpoints)
}
