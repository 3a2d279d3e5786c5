package nfs

import (
	"crypto/hmac"
	"encoding/binary"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"sync"
)

// export is a way to the data that one login has. Its token is not kept, only what
// recognises it.
type export struct {
	Number uint32 `json:"number"` // never used twice
	Login  string `json:"login"`
	Proof  []byte `json:"proof"` // a MAC of the token
	Write  bool   `json:"write"`
	UID    uint32 `json:"uid"`
	GID    uint32 `json:"gid"`

	key     []byte       // of its handles
	answers *budget      // its share: half of the memory there is for large ones
	gate    sync.RWMutex // whoever works through the export holds it for reading
	dead    bool         // guarded by gate
}

// Order is a change of exports.
type Order struct {
	Login string `json:"login"`
	// Token is the export's name, which nobody may guess; without one the login
	// loses its export.
	Token string `json:"token,omitempty"`
	Write bool   `json:"write,omitempty"`
	UID   uint32 `json:"uid,omitempty"` // 1 to 65533, as GID
	GID   uint32 `json:"gid,omitempty"`
}

var (
	loginForm = regexp.MustCompile(`^[A-Za-z0-9._@-]{1,128}$`)
	tokenForm = regexp.MustCompile(`^[A-Za-z0-9_-][A-Za-z0-9._-]{15,127}$`)
)

const maxUser = 65533

func (o Order) validate() error {
	switch {
	case !loginForm.MatchString(o.Login):
		return errors.New("the login has a form that is not allowed")
	case o.Token == "":
		return nil
	case !tokenForm.MatchString(o.Token):
		return errors.New("the token is to have 16 to 128 letters, digits, hyphens, dots or underscores")
	case o.UID < 1 || o.UID > maxUser || o.GID < 1 || o.GID > maxUser:
		return fmt.Errorf("users and groups have numbers from 1 to %d", maxUser)
	}
	return nil
}

// exports are all there are.
type exports struct {
	slots *slots
	share int  // bytes of an export's answers
	kept  kept // but Exports: those are the maps'

	order    sync.Mutex // one Order at a time
	mu       sync.RWMutex
	byNumber map[uint32]*export
	byProof  map[string]*export
}

func openExports(dir string, share int) (*exports, error) {
	s, k, err := openSlots(dir)
	if err != nil {
		return nil, err
	}
	x := &exports{slots: s, share: share, kept: k, byNumber: map[uint32]*export{}, byProof: map[string]*export{}}
	for _, e := range k.Exports {
		x.put(e)
	}
	x.kept.Exports = nil
	return x, nil
}

func (x *exports) put(e *export) {
	e.key = mac(x.kept.Key, []byte("handles"), e.Proof, binary.BigEndian.AppendUint32(nil, e.Number))
	e.answers = newBudget(x.share)
	x.byNumber[e.Number] = e
	x.byProof[string(e.Proof)] = e
}

func (x *exports) proof(token []byte) []byte { return mac(x.kept.Key, []byte("token"), token) }

// rootKey is of handles of the pseudo root.
func (x *exports) rootKey() []byte { return mac(x.kept.Key, []byte("root")) }

// named returns the export with the token, if there is one. It takes as long for a
// token that is nearly right as for any other, because what is compared is a MAC.
func (x *exports) named(token []byte) *export {
	p := x.proof(token)
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.byProof[string(p)]
}

func (x *exports) numbered(n uint32) *export {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.byNumber[n]
}

// change carries out an order. What it takes away is closed and its state gone, by
// drop, before it returns; what it gives is on the disk before it can be used.
func (x *exports) change(o Order, drop func(*export)) error {
	if err := o.validate(); err != nil {
		return err
	}
	x.order.Lock()
	defer x.order.Unlock()
	var next *export
	if o.Token != "" {
		next = &export{Number: x.kept.Last + 1, Login: o.Login, Proof: x.proof([]byte(o.Token)), Write: o.Write, UID: o.UID, GID: o.GID}
	}
	var rest, old []*export
	x.mu.RLock()
	for _, e := range x.byNumber {
		switch {
		case e.Login == o.Login && next != nil && e.same(next):
			x.mu.RUnlock()
			return nil
		case e.Login == o.Login:
			old = append(old, e)
		case next != nil && hmac.Equal(e.Proof, next.Proof):
			x.mu.RUnlock()
			return errors.New("another login has this token")
		default:
			rest = append(rest, e)
		}
	}
	x.mu.RUnlock()
	if next == nil && len(old) == 0 {
		return nil
	}
	k := x.kept
	if next != nil {
		k.Last = next.Number
		rest = append(rest, next)
	}
	slices.SortFunc(rest, func(a, b *export) int { return int(int64(a.Number) - int64(b.Number)) })
	k.Exports = rest
	if err := x.slots.write(k); err != nil {
		return fmt.Errorf("keep the exports: %w", err)
	}
	x.kept.Last = k.Last
	x.mu.Lock()
	for _, e := range old {
		delete(x.byNumber, e.Number)
		delete(x.byProof, string(e.Proof))
	}
	if next != nil {
		x.put(next)
	}
	x.mu.Unlock()
	for _, e := range old {
		e.gate.Lock() // whoever is at work finishes, nobody begins
		e.dead = true
		e.gate.Unlock()
		drop(e)
	}
	return nil
}

func (e *export) same(o *export) bool {
	return hmac.Equal(e.Proof, o.Proof) && e.Write == o.Write && e.UID == o.UID && e.GID == o.GID
}
