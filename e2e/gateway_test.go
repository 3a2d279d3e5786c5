package e2e

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
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
func (g *gateway) wire(t *testing.T) {
	l := g.net.listen()
	got := make(chan string, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		head := ""
		for r := bufio.NewReader(c); !strings.HasSuffix(head, "\r\n\r\n"); {
			line, err := r.ReadString('\n')
			if err != nil {
				break
			}
			head += line
		}
		got <- head
		_, _ = io.WriteString(c, "HTTP/1.1 207 Odd Words\r\nX-Accel-Redirect: /x\r\nX_under: 1\r\nServer: mine\r\nSet-Cookie: a=b\r\nSet-Cookie: c=d\r\nContent-Length: 2\r\n\r\nok")
	}()
	url := g.route("shop", "wire", l.Addr().String(), nil)
	address := strings.TrimPrefix(url, "http://")
	address, path, _ := strings.Cut(address, "/")
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	target := `/a%2Fb//../c/./;x=y?q=%20&x=[1]"{}^|~@:é`
	target = strings.ReplaceAll(target, "é", "%C3%A9")
	_, _ = fmt.Fprintf(c, "REPORT /%s HTTP/1.1\r\nHost: router.example\r\nX_CF_Forwarded_Url: http://evil.test/\r\nX-CF-Forwarded-Url: http://%s%s\r\nX-CF-Proxy-Signature: s1g==\r\nX-CF-Proxy-Metadata: eyJ9\r\n"+
		"X-Forwarded-For: 192.0.2.7, 192.0.2.8\r\nAuthorization: Bearer app\r\nCookie: a=b; c=d\r\nUser-Agent: me\r\nAccept-Encoding: br\r\nTE: trailers\r\n\r\n", path, l.Addr(), target)
	head := <-got
	line, rest, _ := strings.Cut(head, "\r\n")
	if want := "REPORT " + target + " HTTP/1.1"; line != want {
		t.Errorf("the request line is %q, want %q", line, want)
	}
	for _, want := range []string{"Host: " + l.Addr().String(), "X-CF-Forwarded-Url: http://" + l.Addr().String() + target, "X-CF-Proxy-Signature: s1g==", "X-CF-Proxy-Metadata: eyJ9",
		"X-Forwarded-For: 192.0.2.7, 192.0.2.8", "Authorization: Bearer app", "Cookie: a=b; c=d", "User-Agent: me", "Accept-Encoding: br"} {
		if strings.Count("\r\n"+rest, "\r\n"+want+"\r\n") != 1 {
			t.Errorf("%q did not arrive once:\n%s", want, rest)
		}
	}
	if strings.Contains(head, "router.example") || strings.Contains(head, "evil.test") || strings.Contains(head, path) {
		t.Errorf("the application sees what is the gateway's:\n%s", head)
	}
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(res.Body)
	h := res.Header
	if res.StatusCode != 207 || string(body) != "ok" || h.Get("Server") != "mine" || h.Get("X-Accel-Redirect") != "/x" || len(h["Set-Cookie"]) != 2 || h["X_under"] == nil {
		t.Errorf("answer %s %q %v", res.Status, body, h)
	}
}

// Neither direction waits for the end of the other.
func (g *gateway) streams(t *testing.T) {
	step := make(chan string)
	app := g.net.serve(func(w http.ResponseWriter, r *http.Request) {
		if err := http.NewResponseController(w).EnableFullDuplex(); err != nil {
			t.Error(err)
		}
		w.Header().Set("Content-Type", "text/event-stream")
		for i := range 2 {
			fmt.Fprintf(w, "data: %d\n\n", i)
			_ = http.NewResponseController(w).Flush()
			piece := make([]byte, 5)
			_, _ = io.ReadFull(r.Body, piece)
			step <- string(piece)
		}
	})
	url := g.route("shop", "streams", app, nil)
	out, in := io.Pipe()
	req, _ := http.NewRequest("POST", url, out)
	req.Header.Set("X-CF-Forwarded-Url", "http://"+app+"/events")
	go func() { _, _ = io.WriteString(in, "first") }() // nginx answers nothing before it has something to send on
	res, err := direct.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	lines := bufio.NewReader(res.Body)
	expect := func(want string) {
		t.Helper()
		if line, err := lines.ReadString('\n'); line != want+"\n" {
			t.Fatalf("got %q %v, want %q", line, err, want)
		}
		_, _ = lines.ReadString('\n')
	}
	arrived := func(want string) {
		t.Helper()
		select {
		case got := <-step:
			if got != want {
				t.Fatalf("the application got %q, want %q", got, want)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("%q does not reach the application before the request ends", want)
		}
	}
	expect("data: 0")
	arrived("first")
	expect("data: 1")
	_, _ = io.WriteString(in, "again")
	arrived("again")
	in.Close()
}

func (g *gateway) webSocket(t *testing.T) {
	app := g.net.serve(echoUpgrade)
	url := g.route("shop", "socket", app, nil)
	c, _ := upgrade(t, url, app)
	for _, text := range []string{"hello", strings.Repeat("x", 100_000)} {
		echoed(t, c, text)
	}
}

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

func (g *gateway) largeBodies(t *testing.T) {
	app := g.net.serve(func(w http.ResponseWriter, r *http.Request) {
		h := sha256.New()
		body, _ := io.ReadAll(io.TeeReader(r.Body, h))
		w.Header().Set("X-Sum", fmt.Sprintf("%x", h.Sum(nil)))
		_, _ = w.Write(body)
	})
	url := g.route("shop", "large", app, nil)
	text := make([]byte, 40<<20)
	for i := range text {
		text[i] = byte(rand.Uint32())
	}
	sum := fmt.Sprintf("%x", sha256.Sum256(text))
	for _, length := range []int64{int64(len(text)), -1} {
		req, _ := http.NewRequest("PUT", url, io.NopCloser(bytes.NewReader(text)))
		req.ContentLength = length
		req.Header.Set("X-CF-Forwarded-Url", "http://"+app+"/")
		res, err := direct.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		h := sha256.New()
		n, err := io.Copy(h, res.Body)
		res.Body.Close()
		if err != nil || res.Header.Get("X-Sum") != sum || fmt.Sprintf("%x", h.Sum(nil)) != sum {
			t.Errorf("length %d: %s, %d bytes came back, %v", length, res.Status, n, err)
		}
	}
}

func ok(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "ok") }

func (g *gateway) rates(t *testing.T) {
	app := g.net.serve(ok)
	for _, by := range []string{"client", "route"} {
		url := g.route("shop", "rates-"+by, app, map[string]any{"requests_per_second": 1, "burst": 2, "limit_by": by})
		count := map[int]int{}
		for range 12 {
			r := through(t, url, "http://"+app+"/", "X-Forwarded-For", "198.51.100.9, 203.0.113.1")
			count[r.status]++
			if r.status == 429 && (r.header.Get("Retry-After") == "" || strings.Count(strings.TrimSpace(r.body), "\n") != 0) {
				t.Errorf("answer %+v", r)
			}
		}
		if count[200] < 3 || count[429] < 5 || count[200]+count[429] != 12 {
			t.Errorf("by %s: answers %v", by, count)
		}
		other := through(t, url, "http://"+app+"/", "X-Forwarded-For", "203.0.113.1, 203.0.113.2")
		other.want(t, "another client, limited by "+by, map[string]int{"client": 200, "route": 429}[by])
	}
}

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
func (g *gateway) busy(t *testing.T) {
	app := g.net.serve(func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(time.Duration(rand.IntN(50)) * time.Millisecond)
		ok(w, r)
	})
	url := g.route("shop", "busy", app, nil)
	stop := make(chan struct{})
	var all sync.WaitGroup
	var good, bad atomic.Int64
	for range 8 {
		all.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if r := through(t, url, "http://"+app+"/"); r.status != 200 {
					bad.Add(1)
					t.Logf("%d %s", r.status, r.body)
				} else {
					good.Add(1)
				}
			}
		})
	}
	for i := range 5 {
		g.route("shop", fmt.Sprintf("busy-%d", i), "app.test", map[string]any{"requests_per_second": 5})
		g.want("unbind", g.unbind("shop", fmt.Sprintf("busy-%d", i), g.plan), 200)
	}
	close(stop)
	all.Wait()
	if bad.Load() != 0 || good.Load() < 50 {
		t.Errorf("%d requests went well, %d did not", good.Load(), bad.Load())
	}
}

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
func TestGatewayLives(t *testing.T) {
	g := newGateway(t)
	g.instance("shop")
	app := g.net.serve(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "" {
			echoUpgrade(w, r)
			return
		}
		ok(w, r)
	})
	url := g.route("shop", "b", app, nil)
	c, _ := upgrade(t, url, app)
	echoed(t, c, "with a broker")
	works := func(what string) {
		t.Helper()
		through(t, url, "http://"+app+"/").want(t, what, 200)
	}
	g.kill()
	echoed(t, c, "without a broker")
	works("without a broker")
	g.start()
	echoed(t, c, "with the next broker")
	works("with the next broker")
	g.tell("another", "egress: {deny: [10.255.0.0/16, "+g.net.app+"/32]}")
	eventually(t, 10*time.Second, func() error {
		if r := through(t, url, "http://"+app+"/"); r.status != 403 {
			return fmt.Errorf("what the broker denies now: %d %s", r.status, r.body)
		}
		return nil
	})
	echoed(t, c, "of before")
	g.tell("the first", "egress: {deny: [10.255.0.0/16]}")
	eventually(t, 10*time.Second, func() error {
		if r := through(t, url, "http://"+app+"/"); r.status != 200 {
			return fmt.Errorf("what the broker allows again: %d %s", r.status, r.body)
		}
		return nil
	})

	group := g.groupOf("shop")
	for i, role := range []string{"server", "egress"} {
		if group.Members[i].Role != role {
			t.Fatalf("members %+v", group.Members)
		}
		backendtest.Kill(t, role, group.Members[i].PID)
		eventually(t, 20*time.Second, func() error {
			if r := through(t, url, "http://"+app+"/"); r.status != 200 {
				return fmt.Errorf("after the death of %s: %d %s", role, r.status, r.body)
			}
			return nil
		})
	}
	if err := tryEcho(c, "late"); err == nil {
		t.Error("a connection outlives the members that it went through")
	}
	// All is well again before the reset, which wants the same members after it.
	eventually(t, 20*time.Second, func() error {
		for _, m := range g.groupOf("shop").Members {
			if !m.Healthy {
				return fmt.Errorf("member %+v", m)
			}
		}
		return nil
	})
	time.Sleep(2 * time.Second) // a repair that was ordered while one was at work
	group = g.groupOf("shop")
	c, _ = upgrade(t, url, app)
	g.want("deprovision", g.deprovision("shop", g.plan), 200)
	if err := tryEcho(c, "late"); err == nil {
		t.Error("a connection outlives the instance")
	}
	if r := through(t, url, "http://"+app+"/"); r.status != 0 {
		t.Errorf("after the deprovision: %+v", r)
	}
	g.reused(group)
}

// A change of the plan keeps URLs and routes; a successor has its predecessor's
// route and parameters, under a URL of its own.
func TestGatewayChanges(t *testing.T) {
	g := newGateway(t)
	g.instance("shop")
	app := g.net.serve(ok)
	url := g.route("shop", "old", app, map[string]any{"allow": []string{"198.51.100.0/24"}})
	check := func(what, url string, inside int) {
		t.Helper()
		through(t, url, "http://"+app+"/", "X-Forwarded-For", "198.51.100.1").want(t, what, inside)
		if inside == 200 {
			through(t, url, "http://"+app+"/", "X-Forwarded-For", "203.0.113.1").want(t, what+", a client from elsewhere", 403)
		}
	}
	check("before", url, 200)
	group := g.groupOf("shop")
	medium := g.host.plan("gateway", "medium")
	g.want("change to medium", g.patch("shop", g.plan, map[string]any{"plan_id": medium.plan}), 200)
	check("after the change", url, 200)
	if now := g.groupOf("shop"); now.Members[0].PID != group.Members[0].PID || now.Members[1].PID != group.Members[1].PID {
		t.Errorf("members were %+v, are %+v", group.Members, now.Members)
	}
	a := g.call("PUT", bindingPath("shop", "new"), map[string]any{"predecessor_binding_id": "old"})
	g.want("rotation", a, 201)
	successor, _ := a.body["route_service_url"].(string)
	if successor == url {
		t.Error("the successor has its predecessor's URL")
	}
	check("the predecessor", url, 200)
	check("the successor", successor, 200)
	g.want("delete the predecessor", g.unbind("shop", "old", medium), 200)
	check("the predecessor when it is deleted", url, 404)
	check("the successor then", successor, 200)
	g.want("deprovision", g.deprovision("shop", medium), 200)
	g.reused(group)
}
