package agent

import "sync"

// ring keeps the last bytes written to it. It takes memory as it is used.
type ring struct {
	mu   sync.Mutex
	max  int
	buf  []byte
	next int // where the oldest byte is, once buf is full
}

func newRing(limit int) *ring { return &ring{max: limit} }

func (r *ring) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := len(p)
	if len(p) > r.max {
		p = p[len(p)-r.max:]
	}
	if room := r.max - len(r.buf); room > 0 {
		k := min(room, len(p))
		r.buf = append(r.buf, p[:k]...)
		p = p[k:]
	}
	for len(p) > 0 {
		k := copy(r.buf[r.next:], p)
		r.next = (r.next + k) % r.max
		p = p[k:]
	}
	return n, nil
}

// bytes is a copy of what is there, the oldest byte first.
func (r *ring) bytes() []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]byte, 0, len(r.buf))
	out = append(out, r.buf[r.next:]...)
	return append(out, r.buf[:r.next]...)
}

// tail is the end of what is there, at most n bytes.
func (r *ring) tail(n int) string {
	b := r.bytes()
	return string(b[max(0, len(b)-n):])
}

// clear overwrites and forgets everything.
func (r *ring) clear() {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.buf[:cap(r.buf)])
	r.buf, r.next = nil, 0
}
