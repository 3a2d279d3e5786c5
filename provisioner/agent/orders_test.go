package agent

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

func init() {
	helpers["environ"] = func([]string) error {
		for _, name := range []string{"/proc/1/environ", "/proc/1/maps", "/proc/1/mem"} {
			data, err := os.ReadFile(name)
			if len(data) > 0 || err == nil && name != "/proc/1/mem" {
				return fmt.Errorf("%s can be read: %d bytes, %v", name, len(data), err)
			}
		}
		for _, e := range os.Environ() {
			if strings.HasPrefix(e, "REMUDA") {
				return fmt.Errorf("the environment has %s", e)
			}
		}
		fmt.Print("closed")
		return nil
	}
}

// authority signs certificates for tests.
type authority struct {
	pem  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t testing.TB) authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	cert := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: rand.Text()}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, &key.PublicKey, key)
	must(t, err)
	cert, err = x509.ParseCertificate(der)
	must(t, err)
	return authority{string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), cert, key}
}

func (a authority) sign(t testing.TB, name string, life time.Duration, usage ...x509.ExtKeyUsage) Identity {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	spec := &x509.Certificate{SerialNumber: big.NewInt(2), DNSNames: []string{name}, ExtKeyUsage: usage,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(life), KeyUsage: x509.KeyUsageDigitalSignature}
	der, err := x509.CreateCertificate(rand.Reader, spec, a.cert, &key.PublicKey, a.key)
	must(t, err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	return Identity{string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})), a.pem}
}

func (a authority) agent(t testing.TB) Identity {
	return a.sign(t, AgentName("g"), time.Hour, x509.ExtKeyUsageServerAuth)
}

func (a authority) orders(t testing.TB) Identity {
	return a.sign(t, OrdersName, time.Hour, x509.ExtKeyUsageClientAuth)
}

// peer is a client with an identity; server says whose agents it trusts.
func (i Identity) peer(t testing.TB, server authority) *tls.Config {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AddCert(server.cert)
	c := &tls.Config{RootCAs: pool, ServerName: AgentName("g")}
	if i.Key != "" {
		pair, err := tls.X509KeyPair([]byte(i.Certificate), []byte(i.Key))
		must(t, err)
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
	}
	return c
}

// serveNetwork runs an agent in this process that listens in the network.
func serveNetwork(t testing.TB, i Identity) string {
	t.Helper()
	address := "127.0.0.1:" + strconv.Itoa(freePort(t))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- Serve(ctx, Options{Listen: address, Identity: i, RunDir: t.TempDir(), StopTimeout: time.Second})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	eventually(t, func() error {
		c, err := net.Dial("tcp", address)
		if err == nil {
			_ = c.Close()
		}
		return err
	})
	return address
}

func clientOf(t testing.TB, address string, config *tls.Config) *Client {
	c := NewClientTLS(address, func() (*tls.Config, error) { return config, nil })
	t.Cleanup(c.CloseIdle)
	return c
}

func TestOrdersNeedACertificate(t *testing.T) {
	ours, others := newAuthority(t), newAuthority(t)
	address := serveNetwork(t, ours.agent(t))
	good := clientOf(t, address, ours.orders(t).peer(t, ours))
	for range 3 {
		_, err := good.State(t.Context())
		must(t, err)
	}
	old := ours.orders(t).peer(t, ours)
	old.MaxVersion = tls.VersionTLS12
	for name, config := range map[string]*tls.Config{
		"none":             Identity{}.peer(t, ours),
		"of another":       others.orders(t).peer(t, ours),
		"of an agent":      ours.agent(t).peer(t, ours),
		"another purpose":  ours.sign(t, OrdersName, time.Hour, x509.ExtKeyUsageServerAuth).peer(t, ours),
		"no purpose":       ours.sign(t, OrdersName, time.Hour).peer(t, ours),
		"another name":     ours.sign(t, "x."+OrdersName, time.Hour, x509.ExtKeyUsageClientAuth).peer(t, ours),
		"a wildcard":       ours.sign(t, "*.remuda", time.Hour, x509.ExtKeyUsageClientAuth).peer(t, ours),
		"too old":          ours.sign(t, OrdersName, -time.Minute, x509.ExtKeyUsageClientAuth).peer(t, ours),
		"old protocol":     old,
		"of another agent": ours.orders(t).peer(t, others),
	} {
		if _, err := clientOf(t, address, config).State(t.Context()); err == nil {
			t.Errorf("%s: may give orders", name)
		}
	}
	// New ones hold for new connections; the one that is open goes on.
	if err := good.SetIdentity(t.Context(), Identity{Certificate: ours.agent(t).Certificate}); !errors.Is(err, ErrInvalid) {
		t.Errorf("half an identity: %v", err)
	}
	_, err := good.State(t.Context())
	must(t, err)
	must(t, good.SetIdentity(t.Context(), others.agent(t)))
	_, err = good.State(t.Context())
	must(t, err)
	if _, err := clientOf(t, address, ours.orders(t).peer(t, others)).State(t.Context()); err == nil {
		t.Error("those of the old authority may still give orders")
	}
	_, err = clientOf(t, address, others.orders(t).peer(t, others)).State(t.Context())
	must(t, err)
}

func TestStrangersAreBounded(t *testing.T) {
	ours := newAuthority(t)
	address := serveNetwork(t, ours.agent(t))
	var strangers []net.Conn
	for range 50 {
		c, err := net.Dial("tcp", address)
		must(t, err)
		defer c.Close()
		strangers = append(strangers, c)
	}
	// Orders come from the same address here, and get through since the oldest have to go.
	_, err := clientOf(t, address, ours.orders(t).peer(t, ours)).State(t.Context())
	must(t, err)
	must(t, strangers[0].SetDeadline(time.Now().Add(2*time.Second)))
	if _, err := strangers[0].Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) || err == nil {
		t.Errorf("the oldest stranger stays: %v", err)
	}
	last := strangers[49]
	must(t, last.SetDeadline(time.Now().Add(2*handshakeTimeout)))
	began := time.Now()
	if _, err := io.ReadAll(last); errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) > handshakeTimeout+time.Second {
		t.Errorf("a stranger who says nothing stays %s: %v", time.Since(began), err)
	}
	config := ours.orders(t).peer(t, ours)
	open := 0
	for range ordersLimit + 8 {
		c, err := tls.Dial("tcp", address, config)
		if err != nil {
			continue
		}
		defer c.Close()
		_, _ = io.WriteString(c, "GET /v1/state HTTP/1.1\r\nHost: a\r\n\r\n")
		_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
		if n, _ := c.Read(make([]byte, 1)); n == 1 {
			open++
		}
	}
	if open < ordersLimit-2 || open > ordersLimit {
		t.Errorf("%d connections of those who may give orders", open)
	}
}

func TestExcess(t *testing.T) {
	from := func(sources ...string) (out []*stranger) {
		for _, s := range sources {
			out = append(out, &stranger{source: sourceOf(&net.TCPAddr{IP: net.ParseIP(s)})})
		}
		return out
	}
	var many []string
	for i := range handshakesLimit - 1 {
		many = append(many, fmt.Sprintf("10.0.0.%d", i))
	}
	for _, c := range []struct {
		sources []string
		want    int
	}{
		{[]string{"1.1.1.1"}, -1},
		{[]string{"2.2.2.2", "1.1.1.1", "1.1.1.1", "1.1.1.1", "1.1.1.1"}, -1},
		{[]string{"2.2.2.2", "1.1.1.1", "1.1.1.1", "1.1.1.1", "1.1.1.1", "1.1.1.1"}, 1},
		{[]string{"2.2.2.2", "a::1", "a::2", "a::3", "a::4", "a::5"}, 1},
		{append(slices.Clone(many), "3.3.3.3"), -1},
		{append(slices.Clone(many), "3.3.3.3", "4.4.4.4"), 0},
		{append(slices.Clone(many), "3.3.3.3", "3.3.3.3"), handshakesLimit - 1},
	} {
		list := from(c.sources...)
		var want *stranger
		if c.want >= 0 {
			want = list[c.want]
		}
		if got := excess(list); got != want {
			t.Errorf("%v: %v has to go", c.sources, got)
		}
	}
}

func TestOrdersOfDoors(t *testing.T) {
	var o orders
	for i, step := range []struct {
		open  bool
		order int64
		ok    bool
	}{
		{true, 0, true}, {true, 5, true}, {true, 5, true}, {false, 4, false}, {true, 4, false}, {false, 0, true},
		{false, 5, true}, {true, 5, false}, {false, 5, true}, {true, 6, true}, {false, 9, true}, {false, 7, true},
		{true, 8, false}, {true, 9, false}, {false, 5, false}, {true, 0, true}, {true, 10, true}, {false, 9, false},
	} {
		do := o.toClose
		if step.open {
			do = o.toOpen
		}
		err := do(step.order)
		if (err == nil) != step.ok || err != nil && !errors.Is(err, ErrConflict) {
			t.Errorf("step %d, %+v: %v", i, step, err)
		}
	}
}

func TestBindDoors(t *testing.T) {
	c := serveHere(t)
	must(t, c.Start(t.Context(), StartRequest{User: me(t)}))
	one, two := freePort(t), freePort(t)
	here := netip.MustParseAddr("127.0.0.1")
	bind := func(ports ...int) error {
		r := DoorsRequest{Address: here}
		for _, p := range ports {
			r.Doors = append(r.Doors, Door{Name: strconv.Itoa(p), Port: p, Target: 1})
		}
		return c.BindDoors(t.Context(), r)
	}
	must(t, bind(one))
	must(t, c.OpenDoors(t.Context(), OpenRequest{Order: 3}))
	before, err := c.Baseline(t.Context())
	must(t, err)
	if slices.Contains(before.Listeners, "tcp 127.0.0.1:"+strconv.Itoa(one)) {
		t.Error("an own door is in the baseline")
	}
	must(t, bind(one, two)) // takes over, and closes
	s, err := c.State(t.Context())
	must(t, err)
	if len(s.Doors) != 2 || s.Doors[0].Open || s.Doors[1].Open {
		t.Errorf("doors %+v", s.Doors)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	if err := bind(two, l.Addr().(*net.TCPAddr).Port); !errors.Is(err, ErrConflict) {
		t.Errorf("bound a port that is taken: %v", err)
	}
	for _, ports := range [][]int{{0}, {one, one}, {70000}} {
		if err := bind(ports...); !errors.Is(err, ErrInvalid) {
			t.Errorf("bound %v: %v", ports, err)
		}
	}
	if err := c.OpenDoors(t.Context(), OpenRequest{Order: 2}); !errors.Is(err, ErrConflict) {
		t.Errorf("an old order: %v", err)
	}
	must(t, c.OpenDoors(t.Context(), OpenRequest{Order: 3}))
	_, err = c.CloseDoors(t.Context(), CloseRequest{Order: 4})
	must(t, err)
	_, err = c.Wipe(t.Context(), WipeRequest{})
	must(t, err)
	must(t, c.Start(t.Context(), StartRequest{User: me(t)}))
	if err := c.OpenDoors(t.Context(), OpenRequest{Order: 4}); !errors.Is(err, ErrConflict) {
		t.Errorf("a wipe forgets orders: %v", err)
	}
	must(t, c.OpenDoors(t.Context(), OpenRequest{Order: 5}))
	must(t, bind())
}

// An agent in a pod is told its secrets by its environment, and is asked over the network.
func TestPodIdentity(t *testing.T) {
	ours := newAuthority(t)
	i := ours.agent(t)
	m := servePod(t, pod{Listen: "127.0.0.1:7464", Score: 900}, EnvCertificate+"="+i.Certificate, EnvKey+"="+i.Key, EnvAuthorities+"="+i.Authorities)
	config := ours.orders(t).peer(t, ours)
	m.Client = NewClientTLS("", nil)
	m.dialTLS(t, config)
	eventually(t, func() error { _, err := m.State(t.Context()); return err })
	clean, err := m.Baseline(t.Context())
	must(t, err)
	if len(clean.Listeners) > 0 || len(clean.Files) < 5 || !slices.ContainsFunc(clean.Files, func(s string) bool { return strings.HasPrefix(s, "/dev/null device") }) {
		t.Errorf("baseline %+v", clean)
	}
	m.begin(t)
	for _, user := range []string{"nobody", "root"} {
		if said := m.run(t, Program{User: user, Command: []string{m.binary, "helper:environ"}}); said != "closed" {
			t.Errorf("as %s: %s", user, said)
		}
	}
	if said := m.run(t, shell("cat /proc/self/oom_score_adj; ulimit -c; ulimit -Hc; env")); !strings.HasPrefix(said, "1000\n0\n0\n") || strings.Contains(said, "REMUDA") {
		t.Errorf("a program has %s", said)
	}
	if score, err := os.ReadFile(m.proc("oom_score_adj")); err != nil || string(score) != "900\n" {
		t.Errorf("the agent has score %s %v", score, err)
	}
	must(t, m.SetHosts(t.Context(), HostsRequest{Names: map[string]netip.Addr{"b": netip.MustParseAddr("10.1.2.3"), "a.x": netip.MustParseAddr("fd00::1")}}))
	const want = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfd00::1\ta.x\n10.1.2.3\tb\n"
	if said := m.run(t, shell("cat /etc/hosts")); said != want {
		t.Errorf("hosts %q", said)
	}
	if err := m.SetHosts(t.Context(), HostsRequest{Names: map[string]netip.Addr{"b c": {}}}); !errors.Is(err, ErrInvalid) {
		t.Errorf("a strange name: %v", err)
	}
	s, err := m.State(t.Context())
	must(t, err)
	if s.Usage == nil || s.Usage.DiskTotal <= 0 || s.Usage.DiskUsed < 0 {
		t.Errorf("usage %+v", s.Usage)
	}
	if _, err := m.Wipe(t.Context(), WipeRequest{}); err != nil {
		t.Error(err)
	}
	after, err := m.Baseline(t.Context())
	must(t, err)
	if fmt.Sprint(after) != fmt.Sprint(clean) {
		t.Errorf("after the wipe: %+v\nwant %+v", after, clean)
	}
	if env, err := os.ReadFile(m.proc("environ")); err != nil || !bytes.Contains(env, []byte("REMUDA_KEY")) {
		t.Errorf("the test looked for the wrong thing: %v", err)
	}
}

func (m member) proc(name string) string { return fmt.Sprintf("/proc/%d/%s", m.pid, name) }
