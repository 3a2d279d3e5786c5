package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
)

const (
	appAddress = "10.99.0.1"
	largeBody  = 16 << 20
)

// gateway measures what the checks of a gateway cost: a binding with all of them,
// against a plain proxy_pass in the same nginx, through the same way out to the
// same application.
func (b *bench) gateway(ctx context.Context) (rows []Row, err error) {
	app, err := serveApp()
	if err != nil {
		return nil, err
	}
	defer app.Close()
	s, err := b.serve(ctx, "gateway", "offerings: [gateway]\npools: {gateway/small: {floor: 0}, gateway/medium: {floor: 1}}\n")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	bound, err := b.bindGateway(ctx, s, "gateway/medium", app.Addr().String())
	if err != nil {
		return nil, err
	}
	ways := []way{{"door", published}, {"direct", published}}
	for _, m := range []struct {
		what, unit, path string
		conns            int
		each             float64
	}{
		{"small answers, 8 connections", "/s", "/", 8, 1},
		{"answers of 16 MiB", "MB/s", "/large", 1, largeBody / 1e6},
	} {
		checked, plain, err := b.perSecond(ctx, ways, m.conns, func(w way) (func() (float64, error), func(), error) {
			request := fmt.Sprintf("GET %s HTTP/1.1\r\nHost: router\r\nX-CF-Forwarded-Url: http://%s%s\r\nX-CF-Proxy-Signature: s\r\nX-CF-Proxy-Metadata: m\r\nX-Forwarded-For: 198.51.100.7\r\n\r\n",
				bound.Path, app.Addr(), m.path)
			if w.name == "direct" {
				request = fmt.Sprintf("GET /plain%s HTTP/1.1\r\nHost: router\r\nX-Forwarded-For: 198.51.100.7\r\n\r\n", m.path)
			}
			c, err := w.dial(ctx, bound.Host)
			if err != nil {
				return nil, nil, err
			}
			answers := bufio.NewReaderSize(c, 256<<10)
			work := func() (float64, error) {
				if _, err := io.WriteString(c, request); err != nil {
					return 0, err
				}
				return m.each, readAnswer(answers)
			}
			return work, func() { c.Close() }, nil
		})
		if err != nil {
			return rows, err
		}
		rows = append(rows, Row{What: "gateway/medium, " + m.what, Value: checked, Unit: m.unit, Against: "nginx without checks", Plain: plain}.atLeast(0.8))
	}
	return rows, nil
}

// bindGateway makes an instance with a route that has every check but the
// password, and beside it, in nginx' own words, one that has none.
func (b *bench) bindGateway(ctx context.Context, s *server, name, app string) (*url.URL, error) {
	if err := s.settled(ctx, name, 1); err != nil {
		return nil, err
	}
	id := s.newID()
	if err := s.provision(ctx, id, name, true); err != nil {
		return nil, err
	}
	g, err := s.groupOf(ctx, name, id)
	if err != nil {
		return nil, err
	}
	_, port, _ := net.SplitHostPort(app)
	n := 0
	if _, err := fmt.Sscan(port, &n); err != nil {
		return nil, err
	}
	plain := fmt.Sprintf("location /plain/ { proxy_set_header Host %s; proxy_set_header Connection close; proxy_pass http://127.%d.%d.%d:3128/; }\n",
		app, n/10000, n/100%100, n%100)
	file := fmt.Sprintf("/proc/%d/root/var/lib/gateway/bindings/plain.route", g.Members[0].PID)
	if err := os.WriteFile(file, []byte(plain), 0o644); err != nil {
		return nil, err
	}
	p := s.plans[name]
	var out struct {
		URL string `json:"route_service_url"`
	}
	_, err = s.call(ctx, "PUT", "/v2/service_instances/"+id+"/service_bindings/"+id+"-b", map[string]any{
		"service_id": p.service, "plan_id": p.plan, "bind_resource": map[string]any{"route": app + "/"},
		"parameters": map[string]any{"requests_per_second": 100000, "burst": 100000, "allow": []string{"198.51.100.0/24"}, "deny": []string{"10.0.0.0/8"}},
	}, &out, 201)
	if err != nil {
		return nil, err
	}
	return url.Parse(out.URL)
}

// serveApp is an application that costs as little as one can.
func serveApp() (net.Listener, error) {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return nil, err
	}
	address, err := netlink.ParseAddr(appAddress + "/32")
	if err != nil {
		return nil, err
	}
	if err := netlink.AddrReplace(lo, address); err != nil {
		return nil, fmt.Errorf("address for an application: %w", err)
	}
	l, err := net.Listen("tcp4", appAddress+":0")
	if err != nil {
		return nil, err
	}
	small := []byte("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
	large := fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n", largeBody)
	large = append(large, make([]byte, largeBody)...)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				head := make([]byte, 0, 4<<10)
				for !bytes.HasSuffix(head, []byte("\r\n\r\n")) {
					n, err := c.Read(head[len(head):cap(head)])
					if err != nil || len(head)+n == cap(head) {
						return
					}
					head = head[:len(head)+n]
				}
				answer := small
				if bytes.HasPrefix(head, []byte("GET /large ")) {
					answer = large
				}
				_, _ = c.Write(answer)
			}()
		}
	}()
	return l, nil
}

// readAnswer reads one answer with a length and throws it away.
func readAnswer(r *bufio.Reader) error {
	status, length := "", 0
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return err
		}
		if status == "" {
			status = strings.TrimSpace(line)
		}
		if line == "\r\n" {
			break
		}
		if text, ok := strings.CutPrefix(line, "Content-Length: "); ok {
			if _, err := fmt.Sscan(text, &length); err != nil {
				return err
			}
		}
	}
	if !strings.HasPrefix(status, "HTTP/1.1 200") {
		return errors.New("the gateway answers " + status)
	}
	_, err := r.Discard(length)
	return err
}
