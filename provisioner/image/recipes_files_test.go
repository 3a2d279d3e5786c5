package image_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jlaffaye/ftp"

	"github.com/remuda/remuda/catalog"
)

func TestHTTP(t *testing.T) {
	m := recipeMember(t, "http")
	first, second := m.bind(1), m.bind(2)
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, address string) (net.Conn, error) { return m.dial(ctx, address) }}}
	defer client.CloseIdleConnections()
	call := func(who map[string]any, method string, port int, path, body string, headers ...string) (int, string) {
		t.Helper()
		req, err := http.NewRequest(method, fmt.Sprintf("http://127.0.0.1:%d%s", port, path), strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		if who != nil {
			req.SetBasicAuth(who["username"].(string), who["password"].(string))
		}
		for i := 0; i < len(headers); i += 2 {
			req.Header.Set(headers[i], headers[i+1])
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		text, _ := io.ReadAll(resp.Body)
		if resp.Header.Get("Server") != "nginx" {
			t.Errorf("server says %q", resp.Header.Get("Server"))
		}
		return resp.StatusCode, string(text)
	}
	expect := func(want int, who map[string]any, method string, port int, path, body string, headers ...string) {
		t.Helper()
		if got, text := call(who, method, port, path, body, headers...); got != want {
			t.Errorf("%s %d%s: %d instead of %d: %.80s", method, port, path, got, want, text)
		}
	}
	const site, upload = 8080, 8081
	expect(201, first, "PUT", upload, "/a/b/c.txt", "hello")
	if code, text := call(nil, "GET", site, "/a/b/c.txt", ""); code != 200 || text != "hello" {
		t.Errorf("the site gives %d %q", code, text)
	}
	expect(204, second, "PUT", upload, "/a/b/c.txt", "changed")
	expect(401, nil, "GET", upload, "/a/b/c.txt", "")
	expect(401, nil, "PUT", upload, "/x", "y")
	expect(405, first, "PUT", site, "/x", "y")
	expect(405, nil, "POST", site, "/", "y")
	expect(201, first, "MKCOL", upload, "/dir/", "")
	expect(204, first, "COPY", upload, "/a/b/c.txt", "", "Destination", "http://127.0.0.1:8081/dir/copy.txt")
	expect(204, first, "MOVE", upload, "/dir/copy.txt", "", "Destination", "http://127.0.0.1:8081/.dot")
	expect(200, nil, "GET", site, "/.dot", "")
	expect(204, first, "DELETE", upload, "/dir/", "")
	expect(409, first, "DELETE", upload, "/", "")
	expect(204, first, "PUT", upload, "/.dot", strings.Repeat("x", 4<<20))
	expect(400, nil, "GET", site, "/../../../etc/passwd", "")

	// a long upload of the binding that goes
	reader, writer := io.Pipe()
	done := make(chan error, 1)
	go func() {
		req, _ := http.NewRequest("PUT", "http://127.0.0.1:8081/late", reader)
		req.ContentLength = 1 << 20
		req.SetBasicAuth(first["username"].(string), first["password"].(string))
		resp, err := client.Do(req)
		if err == nil && resp.StatusCode < 300 {
			err = nil
		} else if err == nil {
			err = fmt.Errorf("status %d", resp.StatusCode)
		}
		done <- err
	}()
	_, _ = writer.Write(make([]byte, 1000))
	time.Sleep(200 * time.Millisecond)
	expect(404, nil, "GET", site, "/late", "")
	m.unbind(1)
	expect(401, first, "GET", upload, "/a/b/c.txt", "")
	expect(200, second, "GET", upload, "/a/b/c.txt", "")
	time.Sleep(1500 * time.Millisecond)
	if _, err := writer.Write(make([]byte, 100000)); err == nil {
		_, _ = writer.Write(make([]byte, 1<<20-101000))
	}
	_ = writer.Close()
	if err := <-done; err == nil {
		t.Error("an upload went on after the unbind")
	}
	m.unbind(9) // was never bound
	expect(404, nil, "GET", site, "/late", "")
}

func TestFTP(t *testing.T) {
	m := recipeMember(t, "ftp")
	first, second := m.bind(1), m.bind(2)
	connect := func(who map[string]any) (*ftp.ServerConn, error) {
		c, err := ftp.Dial("127.0.0.1:2121", ftp.DialWithDialFunc(func(_, address string) (net.Conn, error) { return m.dial(context.Background(), address) }))
		if err != nil {
			return nil, err
		}
		return c, c.Login(who["username"].(string), who["password"].(string))
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Error(err)
		}
	}
	one, err := connect(first)
	if err != nil {
		t.Fatal(err)
	}
	must(one.MakeDir("dir"))
	must(one.Stor("dir/a.txt", strings.NewReader("hello")))
	two, err := connect(second)
	if err != nil {
		t.Fatal(err)
	}
	r, err := two.Retr("dir/a.txt")
	must(err)
	text, _ := io.ReadAll(r)
	must(r.Close())
	if string(text) != "hello" {
		t.Errorf("got %q", text)
	}
	must(two.Append("dir/a.txt", strings.NewReader("!")))
	must(two.Stor("dir/b.txt", strings.NewReader("b")))
	must(one.Delete("dir/b.txt"))
	must(two.Rename("dir/a.txt", "a.txt"))
	must(two.RemoveDir("dir"))
	if names, err := one.NameList("/.."); err != nil || len(names) != 1 {
		t.Errorf("the root shows %v, %v", names, err)
	}
	if _, err := one.Retr("/../users"); err == nil {
		t.Error("the file of users can be read")
	}
	if _, err := m.ask("root", "for p in $(pgrep -u 20001); do grep -E '^(Uid|CapEff|CapPrm)' /proc/$p/status; done; ls -la /var/lib/ftp /var/lib/ftp/tree >&2", ""); err != nil {
		t.Error(err)
	}
	if out, _ := m.ask("root", "for p in $(pgrep -u 20001); do grep -E '^(Uid|CapEff|CapPrm)' /proc/$p/status; done", ""); !strings.Contains(out, "20001\t20001\t20001") || strings.Contains(out, "CapEff:\t00000000000000e") {
		t.Errorf("a session keeps rights: %s", out)
	}
	m.unbind(1)
	if err := one.NoOp(); err == nil {
		t.Error("the session of an unbound user lives on")
	}
	if _, err := connect(first); err == nil {
		t.Error("an unbound user gets in")
	}
	must(two.NoOp())
	third, err := connect(m.bind(3))
	if err != nil {
		t.Fatal(err)
	}
	must(third.Append("a.txt", strings.NewReader("?")))
	must(third.Delete("a.txt"))
	must(third.Quit())
	must(two.Quit())
	m.unbind(9) // was never bound
}

func TestExampleRecipe(t *testing.T) {
	img := realImage(t)
	text, err := os.ReadFile("../../catalog/testdata/memcached.yaml")
	if err != nil {
		t.Fatal(err)
	}
	r, err := catalog.Parse("memcached.yaml", text)
	if err != nil {
		t.Fatal(err)
	}
	m := newRunning(t, img, r)
	login := func(who map[string]any) (net.Conn, string) {
		conn, err := m.dial(context.Background(), "127.0.0.1:11211")
		if err != nil {
			t.Fatal(err)
		}
		token := fmt.Sprint(who["username"], " ", who["password"])
		fmt.Fprintf(conn, "set auth 0 0 %d\r\n%s\r\n", len(token), token)
		_ = conn.SetReadDeadline(time.Now().Add(2 * time.Second))
		b := make([]byte, 64)
		n, _ := conn.Read(b)
		return conn, strings.TrimSpace(string(b[:n]))
	}
	first := m.bind(1)
	m.waitFor("the new user", func() error { // the signal is handled a moment later
		conn, answer := login(first)
		_ = conn.Close()
		if answer != "STORED" {
			return fmt.Errorf("login: %q", answer)
		}
		return nil
	})
	conn, _ := login(first)
	m.unbind(1)
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("the session lives on")
	}
	m.startProcess(m.role.Processes[0])
	m.waitFor("memcached", func() error { return m.run(m.role.Ready, m.values) })
	if conn, answer := login(first); answer == "STORED" {
		t.Error("an unbound user gets in")
	} else {
		_ = conn.Close()
	}
}
