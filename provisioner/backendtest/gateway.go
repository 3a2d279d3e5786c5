package backendtest

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/remuda/remuda/catalog"
)

var gatewayCanaries = []canary{
	{name: "account", plant: `echo "canary:{PLAIN}$M" >/var/lib/gateway/bindings/canary.users`, find: found(`grep -q "$M" /var/lib/gateway/bindings/canary.users`)},
	{name: "route", plant: `echo "# $M" >/var/lib/gateway/bindings/canary.route`, find: found(`grep -q "$M" /var/lib/gateway/bindings/*.route`)},
	{name: "binding", find: found(`ls /var/lib/gateway/bindings | grep -q '^u0'`)}, // by the suite
}

// outsideAddress is one of this host that is not loopback, for applications that
// a gateway forwards to; "" when there is none.
func outsideAddress() string {
	list, _ := net.InterfaceAddrs()
	for _, a := range list {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() && !p.Addr().IsLoopback() && !p.Addr().IsLinkLocalUnicast() {
			return p.Addr().String()
		}
	}
	return ""
}

// routeFor is the route of the suite's bindings.
func routeFor(r catalog.Recipe) map[string]any {
	host := ""
	if r.RouteServiceURL != "" {
		if host = outsideAddress(); host == "" {
			host = "app.example.com"
		}
	}
	return map[string]any{"host": host, "port": 0, "path": ""}
}

// accessOf gives the credentials of a binding, with the URL of a route in them.
func accessOf(r catalog.Recipe, values map[string]any) (map[string]any, error) {
	access, err := r.RenderAccess(values)
	if err == nil && access.RouteServiceURL != "" {
		access.Credentials["route_service_url"] = access.RouteServiceURL
		access.Credentials["port"] = values["ports"].(map[string]int)[r.Endpoints[0].Name]
	}
	return access.Credentials, err
}

// gatewayURL is the binding's URL at the port that is now the group's.
func gatewayURL(credentials map[string]any) (*url.URL, error) {
	u, err := url.Parse(credentials["route_service_url"].(string))
	if err != nil {
		return nil, err
	}
	u.Host = net.JoinHostPort(u.Hostname(), fmt.Sprint(credentials["port"]))
	return u, nil
}

func gatewayDo(ctx context.Context, credentials map[string]any, forwarded string) (status int, err error) {
	u, err := gatewayURL(credentials)
	if err != nil {
		return 0, err
	}
	req, err := http.NewRequestWithContext(ctx, "GET", u.String(), nil)
	if err != nil {
		return 0, err
	}
	req.Header.Set("X-CF-Forwarded-Url", forwarded)
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}
	resp, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	return resp.StatusCode, resp.Body.Close()
}

// gatewayLogin says whether the gateway knows the URL: it asks for the header.
func gatewayLogin(ctx context.Context, credentials map[string]any) error {
	status, err := gatewayDo(ctx, credentials, "")
	if err == nil && status != http.StatusBadRequest {
		err = fmt.Errorf("the gateway answers %d", status)
	}
	return err
}

// gatewayApp accepts upgrades, and sends back what it gets afterwards.
func gatewayApp(t testing.TB) (address string) {
	t.Helper()
	host := outsideAddress()
	if host == "" {
		t.Skip("this host has no address but loopback, so no application can be there")
	}
	l, err := net.Listen("tcp", host+":0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == "" {
			return
		}
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer c.Close()
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n")
		_, _ = io.Copy(c, rw)
	})}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { server.Close() })
	return l.Addr().String()
}

// gatewaySession keeps a connection through the gateway and the way out open.
func gatewaySession(t testing.TB, credentials map[string]any, mark string) func() error {
	t.Helper()
	app := gatewayApp(t)
	u, err := gatewayURL(credentials)
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.DialTimeout("tcp", u.Host, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: router\r\nX-CF-Forwarded-Url: http://%s/%s\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n", u.Path, app, mark)
	answers := bufio.NewReader(c)
	if line, err := answers.ReadString('\n'); err != nil || !strings.Contains(line, " 101 ") {
		t.Fatalf("the gateway answers %q %v", line, err)
	}
	for line := ""; line != "\r\n"; {
		if line, err = answers.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
	return func() error {
		_ = c.SetDeadline(time.Now().Add(5 * time.Second))
		if _, err := io.WriteString(c, mark+"\n"); err != nil {
			return err
		}
		line, err := answers.ReadString('\n')
		if err == nil && line != mark+"\n" {
			err = fmt.Errorf("the echo is %q", line)
		}
		return err
	}
}

func gatewayUse(t testing.TB, credentials map[string]any) {
	t.Helper()
	status, err := gatewayDo(t.Context(), credentials, "http://"+gatewayApp(t)+"/")
	if err != nil || status != http.StatusOK {
		t.Errorf("a new tenant: %d %v", status, err)
	}
}
