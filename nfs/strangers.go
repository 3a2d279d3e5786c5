package nfs

import (
	"container/list"
	"net"
	"sync"
)

// strangers are connections that have shown neither a handle nor a token. When there
// are as many connections as can be, the one that has been a stranger for longest makes
// way: whoever knows nothing cannot keep those out who do.
type strangers struct {
	mu  sync.Mutex
	all *list.List // of net.Conn, the oldest in front
}

func newStrangers() *strangers { return &strangers{all: list.New()} }

// add returns what to call, any number of times, when it is none any more.
func (s *strangers) add(c net.Conn) (remove func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.all.PushBack(c)
	return sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.all.Remove(e)
	})
}

// end closes the oldest one and says whether there was any.
func (s *strangers) end() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.all.Front()
	if e == nil {
		return false
	}
	_ = s.all.Remove(e).(net.Conn).Close()
	return true
}
