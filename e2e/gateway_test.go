package e2e

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/remuda/remuda/provisioner/backendtest"
)

// gateway is a broker that offers gateways, beside a network with applications.
type gateway struct {
	*host
	net   *network
	names string // the file that the broker sees as /etc/hosts
	plan  plan
}

// newGateway starts a broker at an address that is not loopback, with names of
// its own: it runs in a mount namespace where another file is /etc/hosts.
func newGateway(t *testing.T) *gateway {
	t.Helper()
	backendtest.NeedRoot(t)
	n := newNetwork(t)
	dir := t.TempDir()
	g := &gateway{net: n, names: filepath.Join(dir, "hosts")}
	g.writeNames(fmt.Sprintf("127.0.0.1 localhost rebound.test\n169.254.1.1 link.test\n%s own.test\n%s app.test\n", n.here, n.app))
	binary := backendtest.Binary(t)
	wrapper := filepath.Join(dir, "remuda")
	script := fmt.Sprintf("#!/bin/sh\n[ \"$1\" = serve ] || exec %[1]s \"$@\"\nexec unshare --mount --propagation private sh -c 'mount --bind %[2]s /etc/hosts && exec %[1]s serve'\n", binary, g.names)
	if err := os.WriteFile(wrapper, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	g.host = newHost(t, wrapper, g.settings("egress: {deny: [10.255.0.0/16]}"))
	_, port, _ := net.SplitHostPort(g.listen)
	g.listen = net.JoinHostPort(n.here, port)
	g.start()
	g.settled(3*time.Minute, 1)
	g.plan = g.host.plan("gateway", "small")
	return g
}

func (g *gateway) settings(more string) string {
	return fmt.Sprintf("offerings: [gateway]\npools: {gateway/medium: {floor: 0}}\npublish: {host: %s, ports: 21000-21999}\n%s\n", g.net.here, more)
}

// tell starts another broker with other settings.
func (g *gateway) tell(which, more string) {
	g.t.Helper()
	g.terminate()
	if err := os.WriteFile(g.config, []byte(g.settings(more)), 0o600); err != nil {
		g.t.Fatal(err)
	}
	if !g.start() {
		g.t.Fatalf("%s broker does not start", which)
	}
}

func (g *gateway) writeNames(text string) {
	g.net.t.Helper()
	if err := os.WriteFile(g.names, []byte(text), 0o644); err != nil {
		g.net.t.Fatal(err)
	}
}

// instance provisions one that is warm.
func (g *gateway) instance(id string) {
	g.t.Helper()
	g.want("provision", g.provision(id, g.plan), 201)
}

// route binds a route and returns the URL that requests for it go to.
func (g *gateway) route(id, binding, route string, parameters map[string]any) string {
	g.t.Helper()
	a := g.tryRoute(id, binding, route, parameters)
	g.want("bind", a, 201)
	url, _ := a.body["route_service_url"].(string)
	if !strings.HasPrefix(url, "http://"+g.net.here+":") {
		g.t.Fatalf("route_service_url is %q", url)
	}
	return url
}

func (g *gateway) tryRoute(id, binding, route string, parameters map[string]any) answer {
	body := g.plan.body(map[string]any{"bind_resource": map[string]any{"route": route}})
	if parameters != nil {
		body["parameters"] = parameters
	}
	return g.call("PUT", bindingPath(id, binding), body)
}

// reply is what came back through a gateway.
type reply struct {
	status int
	header http.Header
	body   string
}

var direct = &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

// through sends a request for a URL, as a router does.
func through(t testing.TB, url, forwarded string, headers ...string) reply {
	t.Helper()
	req, err := http.NewRequest("GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if forwarded != "" {
		req.Header.Set("X-CF-Forwarded-Url", forwarded)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Add(headers[i], headers[i+1])
	}
	res, err := direct.Do(req)
	if err != nil {
		return reply{body: err.Error()}
	}
	defer res.Body.Close()
	b, _ := io.ReadAll(res.Body)
	return reply{res.StatusCode, res.Header, string(b)}
}

func (r reply) want(t testing.TB, what string, status int) {
	t.Helper()
	if r.status != status {
		t.Errorf("%s: %d %q, want %d", what, r.status, r.body, status)
	}
}

// serve serves HTTP at the applications' address.
func (n *network) serve(h http.HandlerFunc) (address string) {
	n.t.Helper()
	s := &httptest.Server{Listener: n.listen(), Config: &http.Server{Handler: h}}
	s.Start()
	n.t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// counted serves at an address of this host, and counts connections.
func counted(t testing.TB, address string) (string, *atomic.Int64) {
	t.Helper()
	l, err := net.Listen("tcp4", address)
	if err != nil {
		t.Fatal(err)
	}
	var n atomic.Int64
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			n.Add(1)
			_, _ = c.Read(make([]byte, 4096))
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
			c.Close()
		}
	}()
	t.Cleanup(func() { l.Close() })
	return l.Addr().String(), &n
}

func TestGateway(t *testing.T) {
	g := newGateway(t)
	g.instance("shop")
	for name, test := range map[string]func(*gateway, *testing.T){
		"Wire": (*gateway).wire, "Streams": (*gateway).streams, "WebSocket": (*gateway).webSocket, "LargeBodies": (*gateway).largeBodies,
		"Rates": (*gateway).rates, "Password": (*gateway).password, "Addresses": (*gateway).addresses, "Places": (*gateway).places,
		"Routes": (*gateway).routes, "Parameters": (*gateway).parameters, "TLS": (*gateway).tls, "Busy": (*gateway).busy, "Names": (*gateway).follows, "Unbind": (*gateway).unbinds,
	} {
		t.Run(name, func(t *testing.T) {
			g.t = t
			test(g, t)
		})
	}
	g.t = t
	g.want("deprovision", g.deprovision("shop", g.plan), 200)
}

// What arrives is what was sent, but for the request line and Host.
// Neither direction waits for the end of the other.
// echoUpgrade takes a connection over and sends back what it gets.
func echoUpgrade(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Upgrade") != "websocket" || r.Header.Get("Connection") != "upgrade" {
		http.Error(w, "no upgrade", http.StatusBadRequest)
		return
	}
	c, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer c.Close()
	_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n")
	_, _ = io.Copy(c, rw)
}

func upgrade(t testing.TB, url, app string) (net.Conn, *http.Response) {
	t.Helper()
	address, path, _ := strings.Cut(strings.TrimPrefix(url, "http://"), "/")
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_, _ = fmt.Fprintf(c, "GET /%s HTTP/1.1\r\nHost: r\r\nX-CF-Forwarded-Url: http://%s/ws\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: x\r\n\r\n", path, app)
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	var head []byte
	for one := make([]byte, 1); !bytes.HasSuffix(head, []byte("\r\n\r\n")); {
		if _, err := c.Read(one); err != nil {
			t.Fatalf("upgrade: %q %v", head, err)
		}
		head = append(head, one[0])
	}
	res, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(head)), nil)
	if err != nil || res.StatusCode != 101 {
		t.Fatalf("upgrade: %q %v", head, err)
	}
	return c, res
}

func echoed(t testing.TB, c net.Conn, text string) {
	t.Helper()
	if err := tryEcho(c, text); err != nil {
		t.Fatal(err)
	}
}

func tryEcho(c net.Conn, text string) error {
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	go func() { _, _ = io.WriteString(c, text) }()
	got := make([]byte, len(text))
	if _, err := io.ReadFull(c, got); err != nil {
		return err
	}
	if string(got) != text {
		return fmt.Errorf("the echo is different")
	}
	return nil
}

func ok(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "ok") }

func (g *gateway) password(t *testing.T) {
	app := g.net.serve(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "authorization=%q", r.Header.Get("Authorization"))
	})
	url := g.route("shop", "password", app, map[string]any{"basic_auth": map[string]any{"username": "me", "password": `s3cr:e"t\'$x`}})
	none := through(t, url, "http://"+app+"/")
	none.want(t, "no password", 401)
	if !strings.HasPrefix(none.header.Get("WWW-Authenticate"), "Basic ") {
		t.Errorf("headers %v", none.header)
	}
	for password, status := range map[string]int{`s3cr:e"t\'$x`: 200, "wrong-password": 401} {
		req, _ := http.NewRequest("GET", "/", nil)
		req.SetBasicAuth("me", password)
		r := through(t, url, "http://"+app+"/", "Authorization", req.Header.Get("Authorization"))
		r.want(t, "with a password", status)
		if status == 200 && r.body != `authorization=""` {
			t.Errorf("the application sees %s", r.body)
		}
	}
}

func (g *gateway) addresses(t *testing.T) {
	app := g.net.serve(ok)
	for i, test := range []struct {
		allow, deny []string
		in, out     []string
	}{
		{[]string{"198.51.100.0/24", "2001:db8::/32"}, []string{"198.51.100.66"},
			[]string{"198.51.100.1", "1.2.3.4, 198.51.100.1", "2001:db8::7", "::ffff:198.51.100.2"}, []string{"198.51.100.66", "198.51.100.1, 1.2.3.4", "2001:db9::7", "", "nonsense", "127.0.0.1"}},
		{nil, []string{"0.0.0.0/1", "::1/128"}, []string{"198.51.100.66", "2001:db8::1"}, []string{"1.2.3.4", "198.51.100.66, 1.2.3.4", "::1", ""}},
	} {
		parameters := map[string]any{"deny": test.deny}
		if test.allow != nil {
			parameters["allow"] = test.allow
		}
		url := g.route("shop", fmt.Sprintf("addresses-%d", i), app, parameters)
		for _, list := range []struct {
			addresses []string
			status    int
		}{{test.in, 200}, {test.out, 403}} {
			for _, a := range list.addresses {
				headers := []string{"X-Forwarded-For", a}
				if a == "" {
					headers = nil
				}
				through(t, url, "http://"+app+"/", headers...).want(t, fmt.Sprintf("%+v, client %q", test, a), list.status)
			}
		}
	}
}

// Nothing that is this host's or the broker's is reached, by whatever name.
func (g *gateway) places(t *testing.T) {
	loopback, reached := counted(t, "127.0.0.1:0")
	_, port, _ := net.SplitHostPort(loopback)
	published := ""
	for i, place := range []struct {
		address string
		status  []int
	}{
		{"127.0.0.1:" + port, []int{403}}, {"localhost:" + port, []int{403}}, {"rebound.test:" + port, []int{403}}, {"127.9.9.9:" + port, []int{403}},
		{"0.0.0.0:" + port, []int{403}}, {"169.254.169.254", []int{403}}, {"link.test", []int{403}}, {"224.0.0.1", []int{403}}, {"255.255.255.255", []int{403}},
		{"10.255.1.1", []int{403}}, {g.listen, []int{403}}, {"own.test:" + portText(g.listen), []int{403}}, {"published", []int{403}},
		{"no-such-name.invalid", []int{502, 504}},
	} {
		if place.address == "published" {
			place.address = published
		}
		url := g.route("shop", fmt.Sprintf("places-%d", i), place.address, nil)
		published, _, _ = strings.Cut(strings.TrimPrefix(url, "http://"), "/")
		r := through(t, url, "http://"+place.address+"/")
		if !contains(place.status, r.status) || strings.Count(strings.TrimSpace(r.body), "\n") != 0 || strings.Contains(r.body, "<") {
			t.Errorf("%s: %d %q, want %v and one sentence", place.address, r.status, r.body, place.status)
		}
		g.want("unbind", g.unbind("shop", fmt.Sprintf("places-%d", i), g.plan), 200)
	}
	if n := reached.Load(); n != 0 {
		t.Errorf("loopback was reached %d times", n)
	}
	own, _ := counted(t, g.net.here+":0")
	url := g.route("shop", "places-own", own, nil)
	through(t, url, "http://"+own+"/").want(t, "another server at this host's address", 200)
}

func portText(address string) string {
	_, port, _ := net.SplitHostPort(address)
	return port
}

func contains(list []int, n int) bool {
	for _, m := range list {
		if m == n {
			return true
		}
	}
	return false
}

// Only the binding's route is forwarded to.
func (g *gateway) routes(t *testing.T) {
	app, other := g.net.serve(ok), g.net.serve(ok)
	g.want("a binding without a route", g.call("PUT", bindingPath("shop", "none"), g.plan.body(nil)), 400)
	g.want("it is not there", g.call("GET", bindingPath("shop", "none"), nil), 404)
	with := g.route("shop", "routes-path", app+"/v1", nil)
	whole := g.route("shop", "routes-host", g.net.app, nil)
	named := g.route("shop", "routes-name", "App.test", nil)
	if with == whole {
		t.Error("two bindings share a URL")
	}
	appPort := portText(app)
	for _, test := range []struct {
		url, forwarded string
		status         int
	}{
		{with, "http://" + app + "/v1", 200}, {with, "http://" + app + "/v1/x?y", 200}, {with, "http://" + app + "/v1?/../", 200},
		{with, "http://" + app + "/v2", 403}, {with, "http://" + app + "/v10", 403}, {with, "http://" + app, 403},
		{with, "http://" + app + "/v1/../v2", 403}, {with, "http://" + app + "/v1/%2E./v2", 403}, {with, "http://" + app + "/v1/..%2fv2", 403}, {with, "http://" + app + "/v1/..;/v2", 403},
		{with, "http://" + other + "/v1", 403},
		{whole, "http://" + app + "/", 200}, {whole, "http://" + other + "/", 200}, {whole, "http://" + app, 200}, {whole, "http://" + app + "?x=1", 200},
		{whole, "http://" + app + "/?" + strings.Repeat("x", 20<<10), 200}, {whole, "http://" + app + "/" + strings.Repeat("x", 33<<10), 400},
		{whole, "http://app.test:" + appPort + "/", 403}, {named, "http://app.test:" + appPort + "/", 200}, {named, "http://APP.TEST:" + appPort + "/", 200},
		{named, "http://evil-app.test:" + appPort + "/", 403}, {named, "http://app.test.evil:" + appPort + "/", 403}, {named, "http://appxtest:" + appPort + "/", 403},
		{whole, "", 400}, {whole, "/", 400}, {whole, "http:///", 400}, {whole, "ftp://" + app + "/", 400}, {whole, "http://u@" + app + "/", 400}, {whole, "http://u:p@" + app + "/", 400},
		{whole, "http://" + app + "/#f", 400}, {whole, "http://" + app + "/a b", 400}, {whole, "http://" + app + "\\x", 400}, {whole, "http://" + app + "/\\", 400}, {whole, "http://" + app + "/\xc3\xa9", 400},
		{whole, "http://" + g.net.app + ":0/", 400}, {whole, "http://" + g.net.app + ":99999/", 400}, {whole, "http://" + g.net.app + ":080/", 400}, {whole, "http://" + g.net.app + ":/", 400},
		{whole, "http://[::1]:" + appPort + "/", 403}, {whole, "http://" + app + ", http://" + app, 400},
		{whole[:len(whole)-1] + "!", "http://" + app + "/", 404}, {whole[:strings.LastIndex(whole, "/")] + "/", "http://" + app + "/", 404},
	} {
		through(t, test.url, test.forwarded).want(t, fmt.Sprintf("%q", test.forwarded), test.status)
	}
	// Ports of every number of digits find their way: nobody listens there.
	for _, port := range []string{"1", "10", "101", "110", "999", "1000", "1001", "1010", "1100", "9999", "10000", "10001", "10010", "10100", "11000", "65535"} {
		r := through(t, whole, "http://"+g.net.app+":"+port+"/")
		if r.status != 502 || !strings.Contains(r.body, "does not accept") {
			t.Errorf("port %s: %d %q", port, r.status, r.body)
		}
	}
}

// Bad parameters are refused before anything happens.
func (g *gateway) parameters(t *testing.T) {
	for i, p := range []map[string]any{
		{"allow": []string{"10.0.0.0/33"}}, {"allow": []string{"10.0.0.256"}}, {"deny": []string{"all"}}, {"deny": []string{"::1::"}}, {"deny": []string{"1:2:3:4:5:6:7::"}}, {"deny": []string{"1:2"}}, {"deny": []string{"10.0.0.0/8; return 200"}},
		{"requests_per_second": 0}, {"requests_per_second": "5r/s;"}, {"burst": 5}, {"limit_by": "x", "requests_per_second": 1},
		{"basic_auth": map[string]any{"username": "a:b", "password": "12345678"}}, {"basic_auth": map[string]any{"username": "a"}},
		{"basic_auth": map[string]any{"username": "a", "password": "1234 5678"}}, {"unknown": 1},
	} {
		g.want(fmt.Sprintf("bind with %v", p), g.tryRoute("shop", fmt.Sprintf("bad-%d", i), "app.test", p), 400)
	}
	app := g.net.serve(ok)
	url := g.route("shop", "good", app, map[string]any{"allow": []string{"1:2:3:4:5:6:7:8/128", "::/0", "1::", "1::2:3", "::2:3:4:5:6:7:8", "1:2:3:4:5:6::8/9", "fFfF::AbC", "0.0.0.0/0"}, "deny": []string{},
		"requests_per_second": 1e2, "burst": 0, "limit_by": "client", "skip_tls_verification": false})
	through(t, url, "http://"+app+"/", "X-Forwarded-For", "9.9.9.9").want(t, "all parameters", 200)
}

func (g *gateway) tls(t *testing.T) {
	s := &httptest.Server{Listener: g.net.listen(), Config: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s", r.TLS.ServerName, r.Host)
	})}}
	s.StartTLS()
	t.Cleanup(s.Close)
	_, port, _ := net.SplitHostPort(s.Listener.Addr().String())
	strict := g.route("shop", "tls-strict", "app.test", nil)
	loose := g.route("shop", "tls-loose", "app.test", map[string]any{"skip_tls_verification": true})
	through(t, strict, "https://app.test:"+port+"/").want(t, "a certificate that nobody knows", 502)
	r := through(t, loose, "https://app.test:"+port+"/")
	if r.status != 200 || r.body != "app.test app.test:"+port {
		t.Errorf("without verification: %+v", r)
	}
	bare := g.route("shop", "tls-bare", g.net.app, nil)
	if r := through(t, bare, "https://"+g.net.app+":"+port+"/"); r.status != 502 || !strings.Contains(r.body, "only a name") {
		t.Errorf("https to an address: %+v", r)
	}
	rebound := g.route("shop", "tls-rebound", "rebound.test", map[string]any{"skip_tls_verification": true})
	if r := through(t, rebound, "https://rebound.test:"+port+"/"); r.status != 502 || r.body != "The application cannot be reached.\n" {
		t.Errorf("https to loopback: %+v", r)
	}
}

// Names that the host learns later are known soon.
func (g *gateway) follows(t *testing.T) {
	app := g.net.serve(ok)
	url := g.route("shop", "names", "later.test", nil)
	forwarded := "http://later.test:" + portText(app) + "/"
	through(t, url, forwarded).want(t, "a name that nobody knows", 502)
	text, err := os.ReadFile(g.names)
	if err != nil {
		t.Fatal(err)
	}
	g.writeNames(string(text) + g.net.app + " later.test\n")
	eventually(t, 15*time.Second, func() error {
		if r := through(t, url, forwarded); r.status != 200 {
			return fmt.Errorf("%d %s", r.status, r.body)
		}
		return nil
	})
}

// Requests notice nothing of the binds and unbinds of others.
// An unbind ends what is under way for its binding; a bind ends nothing.
func (g *gateway) unbinds(t *testing.T) {
	app := g.net.serve(echoUpgrade)
	gone := g.route("shop", "gone", app, nil)
	one, _ := upgrade(t, gone, app)
	stays := g.route("shop", "stays", app, nil)
	echoed(t, one, "after the bind of another")
	g.want("unbind", g.unbind("shop", "gone", g.plan), 200)
	through(t, gone, "http://"+app+"/").want(t, "after the unbind", 404)
	if err := tryEcho(one, "late"); err == nil {
		t.Error("a connection outlives its binding")
	}
	two, _ := upgrade(t, stays, app)
	echoed(t, two, "the other binding")
	g.want("unbind again", g.unbind("shop", "gone", g.plan), 410)
	echoed(t, two, "undisturbed")
}

// Traffic does not need the broker, and outlives it; members that die are
// brought back, with the way out; a reset leaves nothing.
// A change of the plan keeps URLs and routes; a successor has its predecessor's
// route and parameters, under a URL of its own.
