package nfs

import (
	"bytes"
	"hash/maphash"
	"sync"
	"time"
)

// replies keeps answers to requests that must not be carried out twice, for clients
// that lose a connection and send a request again on another one. Behind a relay the
// port is no sign of the client, so that the whole request, with what the client says of
// itself, has to be the same.
type replies struct {
	seed maphash.Seed
	mu   sync.Mutex
	by   map[replyKey]int // index of ring
	ring []cached
	next int
}

const (
	replyCount  = 1024
	replySize   = 2 << 10 // bytes
	replyPeriod = 2 * time.Minute
)

type replyKey struct {
	from string // address without a port
	xid  uint32
	hash uint64 // of the whole request
}

type cached struct {
	key  replyKey
	body []byte
	at   time.Time
}

func newReplies() *replies {
	return &replies{seed: maphash.MakeSeed(), by: map[replyKey]int{}, ring: make([]cached, replyCount)}
}

func (r *replies) key(from string, xid uint32, request []byte) replyKey {
	k := replyKey{from: from, xid: xid}
	if len(request) <= replySize { // others are WRITEs, which can be carried out twice
		k.hash = maphash.Bytes(r.seed, request)
	}
	return k
}

func (r *replies) get(k replyKey) []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	i, is := r.by[k]
	if !is || time.Since(r.ring[i].at) > replyPeriod {
		return nil
	}
	return r.ring[i].body
}

func (r *replies) put(k replyKey, body []byte) {
	if len(body) > replySize || k.hash == 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.by, r.ring[r.next].key)
	r.ring[r.next] = cached{k, bytes.Clone(body), time.Now()}
	r.by[k] = r.next
	r.next = (r.next + 1) % replyCount
}
