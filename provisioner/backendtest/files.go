package backendtest

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/jlaffaye/ftp"
)

var ftpCanaries = []canary{
	{name: "account", plant: `echo "canary:$M:20999:20000::/var/lib/ftp/tree:/bin/false" >>/var/lib/ftp/users`, find: found(`grep -q canary /var/lib/ftp/users`)},
	{name: "files", find: found(`find /var/lib/ftp/tree | grep -q canary`)}, // by the session
	{name: "scoreboard", plant: `echo "$M" >>/run/proftpd.scoreboard; echo "$M" >/run/canary`, find: found(`grep -qsaF "$M" /run/proftpd.scoreboard /run/canary`)},
	{name: "configuration", plant: `echo "# $M" >>/run/proftpd.conf`, find: found(`grep -qF "$M" /run/proftpd.conf`)},
}

func ftpOpen(ctx context.Context, credentials map[string]any) (*ftp.ServerConn, error) {
	c, err := ftp.Dial(hostPort(credentials), ftp.DialWithContext(ctx), ftp.DialWithTimeout(5*time.Second))
	if err != nil {
		return nil, err
	}
	if err := c.Login(credentials["username"].(string), credentials["password"].(string)); err != nil {
		_ = c.Quit()
		return nil, err
	}
	return c, nil
}

func ftpLogin(ctx context.Context, credentials map[string]any) error {
	c, err := ftpOpen(ctx, credentials)
	if err == nil {
		_ = c.Quit()
	}
	return err
}

// ftpSession stores files and leaves an upload half done: its data connection stays open.
func ftpSession(t testing.TB, credentials map[string]any, mark string) func() error {
	t.Helper()
	c, err := ftpOpen(t.Context(), credentials)
	if err != nil {
		t.Fatalf("open a session: %v", err)
	}
	t.Cleanup(func() { _ = c.Quit() })
	for _, dir := range []string{"canary", "canary/.hidden"} {
		if err := c.MakeDir(dir); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Stor("canary/.hidden/"+mark, strings.NewReader(strings.Repeat(mark, 1000))); err != nil {
		t.Fatal(err)
	}
	half, err := ftpOpen(t.Context(), credentials)
	if err != nil {
		t.Fatal(err)
	}
	r, w := io.Pipe()
	t.Cleanup(func() { w.Close() })
	go func() { _ = half.Stor("canary/half", r); _ = half.Quit() }()
	_, _ = io.WriteString(w, strings.Repeat(mark, 5000))
	return c.NoOp
}

func ftpUse(t testing.TB, credentials map[string]any) {
	t.Helper()
	c, err := ftpOpen(t.Context(), credentials)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Quit()
	if err := c.Stor("mine", strings.NewReader("mine")); err != nil {
		t.Errorf("a new tenant: %v", err)
	}
}

var httpCanaries = []canary{
	{name: "account", plant: `echo "canary:{PLAIN}$M" >>/var/lib/http/users`, find: found(`grep -q canary /var/lib/http/users`)},
	{name: "files", find: found(`find /var/lib/http/site | grep -q canary`)}, // by the session
	{name: "half upload", find: found(`find /var/lib/http/tmp -type f | grep -q .`)},
}

func uploadAddress(credentials map[string]any) string {
	return net.JoinHostPort(credentials["hostname"].(string), fmt.Sprint(credentials["upload_port"]))
}

func httpDo(ctx context.Context, credentials map[string]any, method, path string, body io.Reader) error {
	url := fmt.Sprintf("http://%s/%s", uploadAddress(credentials), path)
	req, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		return err
	}
	req.SetBasicAuth(credentials["username"].(string), credentials["password"].(string))
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 400 && resp.StatusCode != http.StatusNotFound && resp.StatusCode != http.StatusForbidden {
		return fmt.Errorf("%s %s: %s", method, path, resp.Status)
	}
	return nil
}

func httpLogin(ctx context.Context, credentials map[string]any) error {
	return httpDo(ctx, credentials, "GET", "", nil)
}

// httpSession stores files and leaves an upload half done.
func httpSession(t testing.TB, credentials map[string]any, mark string) func() error {
	t.Helper()
	if err := httpDo(t.Context(), credentials, "PUT", "canary/.hidden/"+mark, strings.NewReader(strings.Repeat(mark, 1000))); err != nil {
		t.Fatal(err)
	}
	c, err := net.DialTimeout("tcp", uploadAddress(credentials), 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	req, _ := http.NewRequest("PUT", "/canary-half", nil)
	req.SetBasicAuth(credentials["username"].(string), credentials["password"].(string))
	fmt.Fprintf(c, "PUT /canary-half HTTP/1.1\r\nHost: x\r\nAuthorization: %s\r\nContent-Length: 99999999\r\n\r\n%s",
		req.Header.Get("Authorization"), strings.Repeat(mark, 20000))
	return func() error {
		if _, err := io.WriteString(c, mark); err != nil {
			return err
		}
		_ = c.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
		if _, err := c.Read(make([]byte, 1)); err != nil && !isTimeout(err) {
			return err
		}
		return nil
	}
}

func isTimeout(err error) bool {
	e, ok := err.(net.Error)
	return ok && e.Timeout()
}

func httpUse(t testing.TB, credentials map[string]any) {
	t.Helper()
	if err := httpDo(t.Context(), credentials, "PUT", "mine", strings.NewReader("mine")); err != nil {
		t.Errorf("a new tenant: %v", err)
	}
}
