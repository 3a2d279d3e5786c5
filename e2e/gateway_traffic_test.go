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
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// What goes through a gateway.

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
