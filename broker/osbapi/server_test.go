package osbapi_test

import (
	"bufio"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/remuda/remuda/broker"
	"github.com/remuda/remuda/broker/brokertest"
	"github.com/remuda/remuda/broker/osbapi"
	"github.com/remuda/remuda/store"
)

// serve runs the API behind a real server.
func serve(t testing.TB, api http.Handler) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := osbapi.NewServer(api)
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		_ = s.Close()
		<-done
	})
	return l.Addr().String()
}

func head(method, target, more string) string {
	login := base64.StdEncoding.EncodeToString([]byte(user + ":" + password))
	return method + " " + target + " HTTP/1.1\r\nHost: x\r\nX-Broker-API-Version: 2.17\r\nAuthorization: Basic " + login + "\r\n" + more + "\r\n"
}

// A body that comes too slowly is refused, and nothing happens.
func TestSlowBody(t *testing.T) {
	w := newWorld(t, func(o *osbapi.Options) { o.BodyTimeout = 100 * time.Millisecond }, nil)
	w.Pool.Warm(t, 1)
	address := serve(t, w.api)
	for name, sent := range map[string]string{
		"half":      head("PUT", instance, "Content-Length: 1000\r\n") + provision[:20],
		"all but 1": head("PUT", instance, fmt.Sprintf("Content-Length: %d\r\n", len(provision)+1)) + provision,
		"chunked":   head("PUT", instance, "Transfer-Encoding: chunked\r\n") + fmt.Sprintf("%x\r\n%s\r\n", len(provision), provision),
	} {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(conn, sent); err != nil {
			t.Fatal(err)
		}
		_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		_ = conn.Close()
		if resp.StatusCode != http.StatusRequestTimeout {
			t.Errorf("%s: %s", name, resp.Status)
		}
	}
	w.View(t, func(tx store.Tx) error {
		page, err := tx.Instances().Page("", 1)
		if len(page) > 0 {
			t.Error("an instance was made from half a request")
		}
		return err
	})
}

// A client that vanishes in the middle of its body changes nothing either.
func TestBrokenBody(t *testing.T) {
	w := newWorld(t, nil, nil)
	w.Pool.Warm(t, 1)
	address := serve(t, w.api)
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, head("PUT", instance, fmt.Sprintf("Content-Length: %d\r\n", len(provision)+5))+provision); err != nil {
		t.Fatal(err)
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if resp.StatusCode != 400 {
		t.Error(resp.Status)
	}
}

// The time limit on bodies does not end work that takes longer.
func TestSlowHook(t *testing.T) {
	w := newWorld(t, func(o *osbapi.Options) { o.BodyTimeout = 50 * time.Millisecond }, nil)
	w.Pool.Warm(t, 1)
	address := serve(t, w.api)
	w.Pool.OnHook(func(ctx context.Context, _ brokertest.Run) error {
		time.Sleep(200 * time.Millisecond)
		return ctx.Err()
	})
	for _, step := range []struct{ target, body string }{{instance, provision}, {binding, bind}} {
		r, err := http.NewRequest("PUT", "http://"+address+step.target, strings.NewReader(step.body))
		if err != nil {
			t.Fatal(err)
		}
		r.SetBasicAuth(user, password)
		r.Header.Set("X-Broker-API-Version", "2.17")
		r.Close = true
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != 201 {
			t.Error(resp.Status)
		}
	}
}

// An id with dots and slashes arrives as it was sent.
func TestRawPaths(t *testing.T) {
	w := newWorld(t, nil, nil)
	address := serve(t, w.api)
	for target, status := range map[string]int{
		"/v2/service_instances/../catalog":               404,
		"/v2/service_instances/..":                       400,
		"/v2/service_instances/..%2f..%2fetc":            400,
		"/v2/../v2/catalog":                              404,
		"//v2/catalog":                                   404,
		"/v2/service_instances/a%2fservice_bindings%2fb": 400,
		"http://x/v2/catalog":                            200,
		"*":                                              404,
	} {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(conn, head("GET", target, "Connection: close\r\n"))
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Errorf("%s: %v", target, err)
		} else if resp.StatusCode != status {
			t.Errorf("%s: %s, want %d", target, resp.Status, status)
		}
		_ = conn.Close()
	}
}

func TestStoreAway(t *testing.T) {
	w := newWorld(t, nil, func(o *broker.Options) { o.SweepInterval = time.Hour })
	w.Pool.Warm(t, 1)
	if err := w.Store.Close(); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct{ method, target, body string }{
		{"PUT", instance, provision}, {"GET", instance, ""}, {"DELETE", instance + deletion, ""},
		{"PUT", binding, bind}, {"GET", binding, ""}, {"DELETE", binding + deletion, ""},
		{"GET", instance + "/last_operation", ""}, {"GET", "/admin/v1/instances", ""},
	} {
		rec := w.call(step.method, step.target, step.body)
		if rec.Code != http.StatusServiceUnavailable {
			t.Errorf("%s %s: %d %s", step.method, step.target, rec.Code, rec.Body)
		}
	}
}
