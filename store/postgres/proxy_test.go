package postgres_test

import (
	"bytes"
	"io"
	"net"
	"strconv"
	"sync"
	"testing"
	"time"
)

// proxy is between store and server, and cuts connections when a COMMIT passes.
type proxy struct {
	l      net.Listener
	target string

	mu     sync.Mutex
	conns  map[net.Conn]bool
	cuts   int  // how many more
	after  bool // cut when the server has done it, else before it learns of it
	refuse bool
}

func newProxy(t *testing.T, port int) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{l: l, target: "127.0.0.1:" + strconv.Itoa(port), conns: map[net.Conn]bool{}}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() { p.serve(c) })
		}
	})
	t.Cleanup(func() { l.Close(); p.cutAll(); all.Wait() })
	return p
}

func (p *proxy) port() int { return p.l.Addr().(*net.TCPAddr).Port }

// cutNext cuts so many connections at their next COMMIT.
func (p *proxy) cutNext(n int, after bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cuts, p.after = n, after
}

// left is how many cuts have not happened yet.
func (p *proxy) left() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cuts
}

// refuseAll cuts everything and takes no new connections, or takes them again.
func (p *proxy) refuseAll(yes bool) {
	p.mu.Lock()
	p.refuse = yes
	p.mu.Unlock()
	if yes {
		p.cutAll()
	}
}

func (p *proxy) cutAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.Close()
	}
}

func (p *proxy) track(c net.Conn, on bool) (refused bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if on {
		p.conns[c] = true
	} else {
		delete(p.conns, c)
	}
	return p.refuse
}

func (p *proxy) serve(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp", p.target)
	if err != nil {
		return
	}
	defer server.Close()
	if p.track(client, true) {
		return
	}
	p.track(server, true)
	defer p.track(client, false)
	defer p.track(server, false)
	done := make(chan struct{})
	var mute sync.Mutex // held while answers are kept back
	go func() {
		defer close(done)
		defer client.Close()
		buf := make([]byte, 64<<10)
		for {
			n, err := server.Read(buf)
			if err != nil {
				return
			}
			mute.Lock()
			_, err = client.Write(buf[:n])
			mute.Unlock()
			if err != nil {
				return
			}
		}
	}()
	defer func() { <-done }()
	defer server.Close()
	buf := make([]byte, 1<<20)
	for {
		n, err := client.Read(buf)
		if err != nil {
			return
		}
		// The views' COMMIT stands alone.
		if bytes.Contains(buf[:n], []byte(";COMMIT;")) && n > 20 {
			p.mu.Lock()
			cut := p.cuts > 0
			after := p.after
			if cut {
				p.cuts--
			}
			p.mu.Unlock()
			if cut && after {
				mute.Lock()
				_, _ = server.Write(buf[:n])
				time.Sleep(100 * time.Millisecond)
				client.Close()
				mute.Unlock()
			}
			if cut {
				return
			}
		}
		if _, err := io.Copy(server, bytes.NewReader(buf[:n])); err != nil {
			return
		}
	}
}
