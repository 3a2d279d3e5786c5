package postgrestest

import (
	"bytes"
	"io"
	"net"
	"strconv"
	"sync"
	"time"
)

// Proxy is between store and server, and cuts connections when a COMMIT passes.
type Proxy struct {
	l      net.Listener
	target string
	all    sync.WaitGroup

	mu     sync.Mutex
	conns  map[net.Conn]bool
	cuts   int  // how many more
	after  bool // cut when the server has done it, else before it learns of it
	refuse bool
}

// NewProxy listens on loopback for the server at a port.
func NewProxy(port int) (*Proxy, error) { return NewProxyAt("127.0.0.1:0", port) }

// NewProxyAt listens at an address for the server at a port of loopback.
func NewProxyAt(listen string, port int) (*Proxy, error) {
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return nil, err
	}
	p := &Proxy{l: l, target: "127.0.0.1:" + strconv.Itoa(port), conns: map[net.Conn]bool{}}
	p.all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			p.all.Go(func() { p.serve(c) })
		}
	})
	return p, nil
}

// Close ends the proxy with its connections.
func (p *Proxy) Close() {
	p.l.Close()
	p.RefuseAll(true)
	p.all.Wait()
}

// Port is where it listens.
func (p *Proxy) Port() int { return p.l.Addr().(*net.TCPAddr).Port }

// CutNext cuts so many connections at their next COMMIT.
func (p *Proxy) CutNext(n int, after bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cuts, p.after = n, after
}

// Left is how many cuts have not happened yet.
func (p *Proxy) Left() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cuts
}

// RefuseAll cuts everything and takes no new connections, or takes them again.
func (p *Proxy) RefuseAll(yes bool) {
	p.mu.Lock()
	p.refuse = yes
	p.mu.Unlock()
	if yes {
		p.CutAll()
	}
}

// CutAll ends all connections of now.
func (p *Proxy) CutAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.Close()
	}
}

func (p *Proxy) track(c net.Conn, on bool) (refused bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if on {
		p.conns[c] = true
	} else {
		delete(p.conns, c)
	}
	return p.refuse
}

func (p *Proxy) serve(client net.Conn) {
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
