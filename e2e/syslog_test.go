package e2e

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/remuda/remuda/provisioner/backendtest"
)

// logs are a binding of a log server.
type logs struct {
	t      testing.TB
	drain  *url.URL
	c      map[string]any
	tls    *tls.Config
	client *http.Client
}

// bindLogs binds with the kind of drain; "" for none given.
func (h *host) bindLogs(id, binding, drain string, p plan) *logs {
	h.t.Helper()
	body := map[string]any{"service_id": p.service, "plan_id": p.plan}
	if drain != "" {
		body["parameters"] = map[string]any{"drain": drain}
	}
	a := h.call("PUT", bindingPath(id, binding), body)
	h.want("bind", a, 201)
	l := &logs{t: h.t}
	l.c, _ = a.body["credentials"].(map[string]any)
	text, _ := a.body["syslog_drain_url"].(string)
	u, err := url.Parse(text)
	if err != nil || u.Host == "" {
		h.t.Fatalf("syslog_drain_url is %q", text)
	}
	l.drain = u
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(fmt.Sprint(l.c["ca_certificate"]))) {
		h.t.Fatal("the credentials have no certificate")
	}
	l.tls = &tls.Config{RootCAs: roots}
	l.client = &http.Client{Transport: &http.Transport{TLSClientConfig: l.tls, DisableKeepAlives: true}}
	return l
}

// message as a platform sends it for an application.
func message(at time.Time, app, text string) string {
	return fmt.Sprintf("<14>1 %s org.space.%s %s [APP/PROC/WEB/0] - [tags@47450 origin=\"rep\"] %s\n", at.UTC().Format("2006-01-02T15:04:05.000000Z"), app, app, text)
}

func octets(m string) string { return fmt.Sprintf("%d %s", len(m), m) }

// open connects to a drain for streams.
func (l *logs) open() net.Conn {
	l.t.Helper()
	var c net.Conn
	var err error
	if l.drain.Scheme == "syslog-tls" {
		c, err = tls.Dial("tcp", l.drain.Host, l.tls)
	} else {
		c, err = net.Dial("tcp", l.drain.Host)
	}
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { c.Close() })
	return c
}

// post sends to a drain over HTTPS.
func (l *logs) post(body string) (int, error) {
	u := *l.drain
	u.Scheme, u.User = "https", nil
	r, err := http.NewRequest("POST", u.String(), strings.NewReader(body))
	if err != nil {
		return 0, err
	}
	password, _ := l.drain.User.Password()
	r.SetBasicAuth(l.drain.User.Username(), password)
	res, err := l.client.Do(r)
	if err != nil {
		return 0, err
	}
	return res.StatusCode, res.Body.Close()
}

// get asks the URL of the credentials with that name.
func (l *logs) get(ctx context.Context, name, query string) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, "GET", fmt.Sprint(l.c[name])+"?query="+url.QueryEscape(query), nil)
	if err != nil {
		return nil, err
	}
	r.SetBasicAuth(fmt.Sprint(l.c["username"]), fmt.Sprint(l.c["password"]))
	return l.client.Do(r)
}

// entry is a message as a search gives it back.
type entry struct {
	Time time.Time `json:"_time"`
	Text string    `json:"_msg"`
	App  string    `json:"app_name"`
	Host string    `json:"hostname"`
	Proc string    `json:"proc_id"`
}

func (l *logs) search(query string) ([]entry, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	res, err := l.get(ctx, "query_url", query)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the search answers %s", res.Status)
	}
	var out []entry
	for d := json.NewDecoder(res.Body); ; {
		var e entry
		if err := d.Decode(&e); err == io.EOF {
			return out, nil
		} else if err != nil {
			return out, err
		}
		out = append(out, e)
	}
}

// found waits until a search has the message, as it was sent.
func (l *logs) found(at time.Time, app, text string) {
	l.t.Helper()
	eventually(l.t, 15*time.Second, func() error {
		got, err := l.search(fmt.Sprintf("app_name:=%q", app))
		if err != nil {
			return err
		}
		for _, e := range got {
			if e.Text == text && e.Time.Equal(at.Truncate(time.Microsecond)) && e.Host == "org.space."+app && e.Proc == "[APP/PROC/WEB/0]" {
				return nil
			}
		}
		return fmt.Errorf("a search for %s gives %+v", app, got)
	})
}

// Every kind of drain: what is sent is found as it was, and followed live. A
// binding's end is that of its searches, tails and HTTPS drain, and of no other's.
func TestSyslog(t *testing.T) {
	h := newHost(t, backendtest.Binary(t), "offerings: [syslog]\npools: {syslog/small: {floor: 1, ceiling: 1}, syslog/medium: {floor: 0}}")
	h.start()
	h.settled(3*time.Minute, 1)
	p := h.plan("syslog", "small")
	h.want("provision", h.call("PUT", instancePath("logs")+"?accepts_incomplete=true", p.body(map[string]any{"parameters": map[string]any{"retention_days": 30}})), 201)
	first := h.groupOf("logs")
	kinds := map[string]*logs{}
	for kind, scheme := range map[string]string{"": "syslog-tls", "tcp": "syslog", "tls": "syslog-tls", "https": "https", "https-batch": "https-batch"} {
		kinds[kind] = h.bindLogs("logs", "b-"+kind, kind, p)
		if got := kinds[kind].drain.Scheme; got != scheme {
			t.Errorf("the scheme of %q is %s", kind, got)
		}
	}
	reader := kinds[""]
	at := time.Now().Add(-time.Hour)
	for _, kind := range []string{"tcp", "tls", ""} {
		c := kinds[kind].open()
		if _, err := io.WriteString(c, octets(message(at, "counted"+kind, "first"))+octets(message(at, "counted"+kind, "second"))+message(at, "line"+kind, "third")); err != nil {
			t.Fatal(err)
		}
		reader.found(at, "counted"+kind, "first")
		reader.found(at, "counted"+kind, "second")
		reader.found(at, "line"+kind, "third")
	}
	for kind, body := range map[string]string{"https": message(at, "https", "one"), "https-batch": message(at, "https-batch", "one") + message(at, "https-batch", "two")} {
		if status, err := kinds[kind].post(body); err != nil || status != http.StatusNoContent {
			t.Errorf("%s: %d %v", kind, status, err)
		}
		reader.found(at, kind, "one")
	}
	reader.found(at, "https-batch", "two")
	// who does not know the certificate's authority does not get in
	if c, err := tls.Dial("tcp", kinds["tls"].drain.Host, &tls.Config{RootCAs: x509.NewCertPool()}); err == nil {
		c.Close()
		t.Error("the certificate is trusted by nobody's word")
	}
	// old messages stay within the retention, and older ones do not come in
	if status, err := kinds["https"].post(message(at.AddDate(0, 0, -20), "old", "kept")); err != nil || status != http.StatusNoContent {
		t.Errorf("an old message: %d %v", status, err)
	}
	reader.found(at.AddDate(0, 0, -20), "old", "kept")
	h.want("another retention", h.patch("logs", p, map[string]any{"parameters": map[string]any{"retention_days": 3}}), 200)
	eventually(t, 15*time.Second, func() error {
		got, err := reader.search(`app_name:="old"`)
		if err == nil && len(got) > 0 {
			err = fmt.Errorf("after the retention there is %+v", got)
		}
		return err
	})
	reader.found(at, "https", "one")
	// only searches are there
	for path, want := range map[string]int{"/select/vmui/": 200, "/metrics": 404, "/insert/jsonline": 404, "/internal/force_flush": 404, "/flags": 404, "/debug/pprof/": 404} {
		reader.c["other"] = "https://" + kinds["https"].drain.Host + path
		if res, err := reader.get(t.Context(), "other", ""); err != nil || res.StatusCode != want {
			t.Errorf("%s: %v %v", path, res, err)
		} else {
			res.Body.Close()
		}
	}
	gone, kept := h.follow(kinds["https"]), h.follow(reader)
	h.want("unbind", h.unbind("logs", "b-https", p), 200)
	if _, err := kinds["https"].search("*"); err == nil || !strings.Contains(err.Error(), "401") {
		t.Errorf("a search after the unbind: %v", err)
	}
	if status, err := kinds["https"].post(message(at, "late", "late")); err != nil || status != http.StatusUnauthorized {
		t.Errorf("a drain after the unbind: %d %v", status, err)
	}
	late := time.After(2 * time.Second)
	for open := true; open; {
		select {
		case _, open = <-gone: // what it showed before
		case <-late:
			t.Fatal("the tail goes on after the unbind")
		}
	}
	c := kinds["tcp"].open()
	_, _ = io.WriteString(c, octets(message(time.Now(), "followed", "after the unbind")))
	select {
	case line, ok := <-kept:
		if !ok || !strings.Contains(line, "after the unbind") {
			t.Errorf("the other binding's tail gives %q %v", line, ok)
		}
	case <-time.After(15 * time.Second):
		t.Error("the other binding's tail shows nothing")
	}
	h.want("deprovision", h.deprovision("logs", p), 200)
	if _, err := reader.search("*"); err == nil {
		t.Error("the tenant still gets in after the deprovision")
	}
	h.reused(first)
	// the same group for the next tenant: it has nothing, and other keys
	h.want("provision again", h.provision("next", p), 201)
	if h.groupOf("next").ID != first.ID {
		t.Fatal("the next tenant has another group, so this proves nothing")
	}
	next := h.bindLogs("next", "b", "", p)
	if next.c["ca_certificate"] == reader.c["ca_certificate"] {
		t.Error("the next tenant has the same certificate")
	}
	if got, err := next.search("*"); err != nil || len(got) > 0 {
		t.Errorf("the next tenant finds %+v %v", got, err)
	}
	mark := time.Now()
	if _, err := io.WriteString(next.open(), octets(message(mark, "next", "mine"))); err != nil {
		t.Fatal(err)
	}
	next.found(mark, "next", "mine")
	h.want("deprovision", h.deprovision("next", p), 200)
}

// follow opens a tail and waits until it shows something.
func (h *host) follow(l *logs) <-chan string {
	h.t.Helper()
	lines := make(chan string, 100)
	ctx, cancel := context.WithCancel(context.Background())
	h.t.Cleanup(cancel)
	app := "followed"
	go func() {
		defer close(lines)
		res, err := l.get(ctx, "tail_url", fmt.Sprintf("app_name:=%q", app))
		if err != nil {
			return
		}
		defer res.Body.Close()
		for s := bufio.NewScanner(res.Body); s.Scan(); {
			lines <- s.Text()
		}
	}()
	tcp := *l
	tcp.drain = &url.URL{Scheme: "syslog", Host: net.JoinHostPort(fmt.Sprint(l.c["host"]), fmt.Sprint(l.c["tcp_port"]))}
	c := tcp.open()
	defer c.Close()
	late := time.After(20 * time.Second)
	for n := 0; ; n++ {
		_, _ = io.WriteString(c, octets(message(time.Now(), app, fmt.Sprint("line ", n))))
		select {
		case _, ok := <-lines:
			if !ok {
				h.t.Fatal("the tail ended at once")
			}
			time.Sleep(4 * time.Second) // what is still on its way
			for len(lines) > 0 {
				<-lines
			}
			return lines
		case <-late:
			h.t.Fatal("the tail shows nothing")
		case <-time.After(time.Second):
		}
	}
}

// A flood of random bytes from as many connections as there may be, and a line that
// never ends, neither end the server nor take its data; what was taken is there.
func TestSyslogFlood(t *testing.T) {
	h := newHost(t, backendtest.Binary(t), "offerings: [syslog]\npools: {syslog/small: {floor: 1}, syslog/medium: {floor: 0}}")
	h.start()
	h.settled(3*time.Minute, 1)
	p := h.plan("syslog", "small")
	h.want("provision", h.provision("flood", p), 201)
	l := h.bindLogs("flood", "b", "tcp", p)
	pids := h.servers()
	const streams, each, size = 60, 5000, 1000 // 300 MB
	noise := make([]byte, 4<<20)
	f, err := os.Open("/dev/urandom")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := io.ReadFull(f, noise); err != nil {
		t.Fatal(err)
	}
	for i := range noise {
		noise[i] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+/"[noise[i]%64]
	}
	began := time.Now()
	ended := make(chan error, streams)
	for s := range streams {
		c := l.open()
		go func() {
			defer c.Close()
			w := bufio.NewWriterSize(c, 64<<10)
			for i := range each {
				at := (s*7919 + i*101) % (len(noise) - size)
				if _, err := w.WriteString(octets(message(time.Now(), "flood", string(noise[at:at+size-150])))); err != nil {
					ended <- err
					return
				}
			}
			ended <- w.Flush()
		}()
	}
	endless := l.open()
	go func() {
		for {
			if _, err := endless.Write(noise); err != nil {
				return
			}
		}
	}()
	for range streams {
		if err := <-ended; err != nil {
			t.Errorf("a stream ended with %v", err)
		}
	}
	took := time.Since(began)
	count := func() (n int, err error) {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		res, err := l.get(ctx, "query_url", `app_name:="flood" | stats count() n`)
		if err != nil {
			return 0, err
		}
		defer res.Body.Close()
		var row struct{ N string }
		if err := json.NewDecoder(res.Body).Decode(&row); err != nil {
			return 0, err
		}
		_, err = fmt.Sscan(row.N, &n)
		return n, err
	}
	n := 0 // what has just come is found a few seconds later
	for end := time.Now().Add(40 * time.Second); n != streams*each && time.Now().Before(end); time.Sleep(time.Second) {
		if n, err = count(); err != nil {
			t.Logf("count: %v", err)
		}
	}
	t.Logf("%d of %d messages are there; sending took %s, %.0f/s", n, streams*each, took.Round(100*time.Millisecond), streams*each/took.Seconds())
	if n != streams*each {
		t.Errorf("%d of %d messages are there", n, streams*each)
	}
	if now := h.servers(); now != pids {
		t.Fatalf("processes were %s and are %s: one was killed", pids, now)
	}
	// And on until the disk is full: senders wait, the rest works, and nothing ends.
	web := h.bindLogs("flood", "web", "https", p)
	waiting := make(chan int, 4)
	for s := range 4 {
		c := l.open()
		go func() {
			written := 0
			random := rand.NewChaCha8([32]byte{byte(s)})
			text := make([]byte, 16000) // nothing that could be compressed much
			for written < 1<<30 {
				_, _ = random.Read(text)
				for i := range text {
					text[i] = ' ' + text[i]%95
				}
				_ = c.SetWriteDeadline(time.Now().Add(8 * time.Second))
				n, err := io.WriteString(c, octets(message(time.Now(), fmt.Sprint("more", s), string(text))))
				written += n
				if err != nil {
					break
				}
			}
			waiting <- written
		}()
	}
	all := 0
	for range 4 {
		written := <-waiting
		if all += written; written >= 1<<30 {
			t.Error("a disk of 1 GiB takes a stream of as much")
		}
	}
	t.Logf("%d MB more fill the disk", all/1e6)
	eventually(t, 20*time.Second, func() error {
		status, err := web.post(message(time.Now(), "full", "full"))
		if err == nil && status != http.StatusServiceUnavailable {
			err = fmt.Errorf("a drain to a full disk answers %d", status)
		}
		return err
	})
	if _, err := web.search(`app_name:="flood" | limit 1`); err != nil {
		t.Errorf("a search with a full disk: %v", err)
	}
	h.want("unbind with a full disk", h.unbind("flood", "web", p), 200)
	if _, err := web.search(`*`); err == nil {
		t.Error("with a full disk the login of a deleted binding still works")
	}
	h.bindLogs("flood", "another", "", p)
	if now := h.servers(); now != pids {
		t.Errorf("processes were %s and are %s: one was killed by the full disk", pids, now)
	}
	h.want("deprovision", h.deprovision("flood", p), 200)
}

// servers are the server processes of the only claimed group's member.
func (h *host) servers() (pids string) {
	h.t.Helper()
	for _, g := range h.groups() {
		if g.State != "claimed" {
			continue
		}
		inside, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", g.Members[0].PID))
		if err != nil {
			h.t.Fatal(err)
		}
		all, _ := filepath.Glob("/proc/[0-9]*")
		for _, p := range all {
			if ns, _ := os.Readlink(p + "/ns/pid"); ns != inside {
				continue
			}
			if name, _ := os.ReadFile(p + "/comm"); string(name) == "agent\n" || string(name) == "victoria-logs\n" {
				pids += " " + filepath.Base(p)
			}
		}
		return pids
	}
	h.t.Fatal("no group is claimed")
	return ""
}
