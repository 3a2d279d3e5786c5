package drain

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// logServer is a log server that keeps what it gets.
type logServer struct {
	net.Listener
	mu       sync.Mutex
	got      []string
	readOnly bool
	stuck    chan struct{} // nothing is read until it is closed
}

func (l *logServer) serve() {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			l.mu.Lock()
			readOnly, stuck := l.readOnly, l.stuck
			l.mu.Unlock()
			if readOnly {
				return
			}
			if stuck != nil {
				<-stuck
			}
			for r := newReader(c); ; {
				m, err := r.next()
				if err != nil {
					return
				}
				l.mu.Lock()
				l.got = append(l.got, string(m))
				l.mu.Unlock()
			}
		}()
	}
}

func (l *logServer) messages() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string(nil), l.got...)
}

// fixture is a drain in front of a log server.
type fixture struct {
	t       *testing.T
	o       Options
	log     *logServer
	client  *http.Client
	roots   *x509.CertPool
	release chan struct{} // a tail goes on until then
}

func newFixture(t *testing.T, change func(*Options)) *fixture {
	t.Helper()
	dir := t.TempDir()
	f := &fixture{t: t, log: &logServer{}, roots: x509.NewCertPool(), release: make(chan struct{})}
	var err error
	if f.log.Listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	go f.log.serve()
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" || r.Header.Get("AccountID") != "" {
			t.Error("the log server sees the login")
		}
		fmt.Fprintf(w, "%s %s\n", r.URL.Path, r.URL.Query().Get("query"))
		if strings.HasSuffix(r.URL.Path, "/tail") {
			w.(http.Flusher).Flush()
			select {
			case <-r.Context().Done():
			case <-f.release:
			}
		}
	}))
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	shape := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, shape, shape, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, kind string, der []byte) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	f.o = Options{
		TCP: free(t), TLS: free(t), HTTPS: free(t), Certificate: write("cert", "CERTIFICATE", der), Key: write("key", "PRIVATE KEY", secret),
		Users: filepath.Join(dir, "users"), Syslog: f.log.Addr().String(), Search: api.Listener.Addr().String(), Data: dir,
		Streams: 4, Requests: 2, Clients: 20, Logger: slog.New(slog.DiscardHandler),
	}
	if change != nil {
		change(&f.o)
	}
	f.roots.AppendCertsFromPEM(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	f.client = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: f.roots}}, Timeout: 20 * time.Second}
	f.users("alice", "bob")
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- Serve(ctx, f.o) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		close(f.release)
		f.client.CloseIdleConnections()
		api.Close()
		f.log.Close()
	})
	f.until("it listens", func() bool {
		c, err := net.Dial("tcp", f.o.HTTPS)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	return f
}

func free(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// users have their names, backwards, as passwords.
func (f *fixture) users(names ...string) {
	f.t.Helper()
	var text strings.Builder
	for _, name := range names {
		fmt.Fprintf(&text, "\n%s:salt:%x\n", name, sha256.Sum256([]byte("salt"+password(name))))
	}
	if err := os.WriteFile(f.o.Users+".new", []byte(text.String()), 0o600); err != nil {
		f.t.Fatal(err)
	}
	if err := os.Rename(f.o.Users+".new", f.o.Users); err != nil {
		f.t.Fatal(err)
	}
}

func password(name string) string { return "secret of " + name }

func (f *fixture) until(what string, is func() bool) {
	f.t.Helper()
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if is() {
			return
		}
	}
	f.t.Fatalf("it does not happen that %s", what)
}

func (f *fixture) do(user, method, path string, body io.Reader) (*http.Response, error) {
	r, err := http.NewRequest(method, "https://"+f.o.HTTPS+path, body)
	if err != nil {
		f.t.Fatal(err)
	}
	if user != "" {
		r.SetBasicAuth(user, password(user))
	}
	r.Header.Set("AccountID", "7")
	return f.client.Do(r)
}

func (f *fixture) status(user, method, path, body string) (int, http.Header, string) {
	f.t.Helper()
	res, err := f.do(user, method, path, strings.NewReader(body))
	if err != nil {
		f.t.Fatal(err)
	}
	defer res.Body.Close()
	text, _ := io.ReadAll(res.Body)
	return res.StatusCode, res.Header, string(text)
}

func line(text string) string { return "<14>1 2026-01-02T03:04:05.678Z host app [APP/0] - - " + text }

func counted(m string) string { return fmt.Sprintf("%d %s", len(m), m) }

func TestStreams(t *testing.T) {
	f := newFixture(t, nil)
	plain, err := net.Dial("tcp", f.o.TCP)
	if err != nil {
		t.Fatal(err)
	}
	secure, err := tls.Dial("tcp", f.o.TLS, &tls.Config{RootCAs: f.roots})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []net.Conn{plain, secure} {
		// a timestamp that is none is dropped, and told about; the rest arrives
		_, err := io.WriteString(c, counted(line("counted\n"))+line("a line")+"\n"+counted("<14>1 yesterday host app - - - no")+"<13>Jan  2 03:04:05 old style\r\n"+"bare\n"+counted(line("two\nlines")))
		if err != nil {
			t.Fatal(err)
		}
		f.until("all of it arrives", func() bool { return len(f.log.messages()) >= 5 })
		c.Close()
		f.until("the loss is told", func() bool { return len(f.log.messages()) == 6 })
		got := f.log.messages()
		for i, want := range []string{line("counted"), line("a line"), "<13>Jan  2 03:04:05 old style", "bare", line("two\nlines")} {
			if got[i] != want {
				t.Errorf("message %d is %q, want %q", i, got[i], want)
			}
		}
		if !strings.Contains(got[5], "1 messages of a connection were dropped") {
			t.Errorf("the last one is %q", got[5])
		}
		f.log.mu.Lock()
		f.log.got = nil
		f.log.mu.Unlock()
	}
}

// A sender that goes on and on with one line is cut off; nothing is kept of it.
func TestEndlessLine(t *testing.T) {
	f := newFixture(t, nil)
	c, err := net.Dial("tcp", f.o.TCP)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	block := bytes.Repeat([]byte("x"), 64<<10)
	for sent := 0; ; sent += len(block) {
		if _, err := c.Write(block); err != nil {
			break
		}
		if sent > 64<<20 {
			t.Fatal("it takes a line of 64 MiB")
		}
	}
	if n := len(f.log.messages()); n > 0 {
		t.Errorf("%d messages arrived", n)
	}
}

func TestTooManyStreams(t *testing.T) {
	f := newFixture(t, nil)
	var open []net.Conn
	for range 4 {
		c, err := net.Dial("tcp", f.o.TCP)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		open = append(open, c)
	}
	refused := func() bool {
		c, err := net.Dial("tcp", f.o.TLS)
		if err != nil {
			return true
		}
		defer c.Close()
		_ = c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		_, err = c.Read(make([]byte, 1))
		return errors.Is(err, io.EOF)
	}
	f.until("a fifth is refused", refused)
	open[0].Close()
	f.until("there is room again", func() bool { return !refused() })
}

func TestPost(t *testing.T) {
	f := newFixture(t, nil)
	tests := map[string]struct {
		user, body string
		status     int
		want       []string
	}{
		"one":               {"alice", line("a") + "\n", 204, []string{line("a")}},
		"one of two lines":  {"alice", line("a\n<no> b"), 204, []string{line("a\n<no> b")}},
		"lines":             {"bob", line("a") + "\n" + line("b") + "\n", 204, []string{line("a"), line("b")}},
		"counted":           {"bob", counted(line("a\nb")) + counted(line("c")), 204, []string{line("a\nb"), line("c")}},
		"no timestamp":      {"bob", "<14>1 - h a - - - x", 204, []string{"<14>1 - h a - - - x"}},
		"nobody":            {"", line("a"), 401, nil},
		"unknown":           {"carol", line("a"), 401, nil},
		"nothing":           {"bob", "\n", 400, nil},
		"rubbish":           {"bob", "rubbish", 400, nil},
		"wrong timestamp":   {"bob", "<14>1 yesterday h a - - - x", 400, nil},
		"one of two broken": {"bob", counted(line("a")) + counted("<14>1 yesterday h a - - - x"), 400, nil},
		"cut short":         {"bob", "1000 " + line("a"), 400, nil},
		"long message":      {"bob", line(strings.Repeat("x", MaxMessage)), 413, nil},
		"long body":         {"bob", strings.Repeat(line("a")+"\n", 30000), 413, nil},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			f.log.mu.Lock()
			f.log.got = nil
			f.log.mu.Unlock()
			status, _, said := f.status(test.user, "POST", "/drain", test.body)
			if status != test.status {
				t.Errorf("%d %s, want %d", status, said, test.status)
			}
			if got := f.log.messages(); strings.Join(got, "|") != strings.Join(test.want, "|") {
				t.Errorf("the log server has %q", got)
			}
		})
	}
	if status, header, _ := f.status("bob", "GET", "/drain", ""); status != 405 || header.Get("Allow") != "POST" {
		t.Errorf("GET is answered with %d", status)
	}
}

// A log server that does not take messages is a reason to come again.
func TestPostLater(t *testing.T) {
	f := newFixture(t, nil)
	again := func(why string) {
		t.Helper()
		if status, header, said := f.status("bob", "POST", "/drain", line("a")); status != 503 || header.Get("Retry-After") == "" {
			t.Errorf("%s: %d %s", why, status, said)
		}
	}
	f.log.mu.Lock()
	f.log.readOnly = true
	f.log.mu.Unlock()
	for range 20 {
		again("a log server that hangs up")
	}
	stuck := make(chan struct{})
	f.log.mu.Lock()
	f.log.readOnly, f.log.stuck = false, stuck
	f.log.mu.Unlock()
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			if status, _, said := f.status("bob", "POST", "/drain", line("a")); status != 204 {
				t.Errorf("a request that waits: %d %s", status, said)
			}
		})
	}
	time.Sleep(100 * time.Millisecond)
	again("too many requests")
	close(stuck)
	wg.Wait()
}

func TestFullDisk(t *testing.T) {
	f := newFixture(t, func(o *Options) { o.MinFree = 1 << 60 })
	if status, header, _ := f.status("bob", "POST", "/drain", line("a")); status != 503 || header.Get("Retry-After") != "30" {
		t.Errorf("with a full disk: %d", status)
	}
	c, err := net.Dial("tcp", f.o.TCP)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	block := []byte(strings.Repeat(counted(line(strings.Repeat("x", 1000))), 100))
	_ = c.SetWriteDeadline(time.Now().Add(500 * time.Millisecond))
	for sent := 0; ; sent += len(block) {
		if _, err := c.Write(block); err != nil {
			break
		}
		if sent > 64<<20 {
			t.Fatal("it takes 64 MiB with a full disk")
		}
	}
	if n := len(f.log.messages()); n > 0 {
		t.Errorf("%d messages arrived", n)
	}
}

func TestSearch(t *testing.T) {
	f := newFixture(t, nil)
	if status, _, said := f.status("alice", "POST", "/select/logsql/query?query=x", ""); status != 200 || said != "/select/logsql/query x\n" {
		t.Errorf("a search: %d %q", status, said)
	}
	for path, want := range map[string]int{
		"/select/logsql/hits": 200, "/select/vmui": 200, "/select/vmui/static/a.js": 200, "/select/vmui/": 200,
		"/": 404, "/select/logsql/delete": 404, "/insert/jsonline": 404, "/internal/select/query": 404, "/delete/run_task": 404, "/metrics": 404, "/debug/pprof/": 404,
		"/flags": 404, "//select/logsql/query": 404, "/select//logsql/query": 404, "/select/vmui/../../metrics": 404, "/select/vmui/%2e%2e/%2e%2e/metrics": 404, "/select/vmui//x": 404,
	} {
		if status, _, _ := f.status("alice", "GET", path, ""); status != want {
			t.Errorf("%s: %d, want %d", path, status, want)
		}
		if status, _, _ := f.status("", "GET", path, ""); status != 401 {
			t.Errorf("%s without a login: %d", path, status)
		}
	}
	if status, _, _ := f.status("alice", "DELETE", "/select/logsql/query", ""); status != 404 {
		t.Errorf("DELETE: %d", status)
	}
}

// Without its login a tail ends, and nobody else's does; so does an upload.
func TestLoginEnds(t *testing.T) {
	f := newFixture(t, nil)
	open := func(user string) *bufio.Reader {
		res, err := f.do(user, "GET", "/select/logsql/tail?query=x", nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { res.Body.Close() })
		r := bufio.NewReader(res.Body)
		if _, err := r.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
		return r
	}
	alice, bob := open("alice"), open("bob")
	upload := make(chan error, 1)
	r, w := io.Pipe()
	defer w.Close()
	go func() {
		res, err := f.do("alice", "POST", "/drain", r)
		if err == nil {
			err = fmt.Errorf("%s", res.Status)
			res.Body.Close()
		}
		upload <- err
	}()
	_, _ = io.WriteString(w, "half")
	ended := make(chan error, 2)
	go func() { _, err := alice.ReadString('\n'); ended <- err }()
	began := time.Now()
	f.users("bob")
	if status, _, _ := f.status("alice", "GET", "/select/logsql/query", ""); status != 401 {
		t.Errorf("a login that has ended: %d", status)
	}
	select {
	case err := <-ended:
		if err == nil {
			t.Error("the tail goes on")
		}
		t.Logf("the tail ended after %s", time.Since(began))
	case <-time.After(2 * time.Second):
		t.Error("the tail does not end")
	}
	select {
	case err := <-upload:
		if err == nil || strings.Contains(err.Error(), "204") {
			t.Errorf("the upload ended with %v", err)
		}
	case <-time.After(2 * time.Second):
		t.Error("the upload does not end")
	}
	go func() { _, err := bob.ReadString('\n'); ended <- err }()
	select {
	case err := <-ended:
		t.Errorf("another one's tail ended: %v", err)
	case <-time.After(300 * time.Millisecond):
	}
}
