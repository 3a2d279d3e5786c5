package broker

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/big"

	"github.com/remuda/remuda/catalog"
	"github.com/remuda/remuda/store"
)

// bindingSecrets is what Binding.Sealed holds.
type bindingSecrets struct {
	Password    string          `json:"password"`
	Number      int             `json:"number"`
	Parameters  json.RawMessage `json:"parameters,omitempty"`
	Route       route           `json:"route,omitzero"`
	RouteText   string          `json:"route_text,omitempty"`  // as it was given
	Credentials json.RawMessage `json:"credentials,omitempty"` // once the binding is ready
	Other       catalog.Access  `json:"other,omitzero"`        // what it has besides credentials
}

func (b *Broker) sealBinding(id string, s bindingSecrets) ([]byte, error) {
	plain, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("marshal binding secrets: %w", err)
	}
	return b.o.Sealer.Seal(plain, []byte("binding/"+id))
}

func (b *Broker) openBinding(r store.Binding) (bindingSecrets, error) {
	var s bindingSecrets
	plain, err := b.o.Sealer.Open(r.Sealed, []byte("binding/"+r.ID))
	if err != nil {
		return s, fmt.Errorf("open secrets of binding %q: %w", r.ID, err)
	}
	if err := json.Unmarshal(plain, &s); err != nil {
		return s, fmt.Errorf("decode secrets of binding %q: %w", r.ID, err)
	}
	return s, nil
}

// sealParameters seals an instance's parameters; none stay none.
func (b *Broker) sealParameters(instanceID string, parameters json.RawMessage) ([]byte, error) {
	if len(parameters) == 0 {
		return nil, nil
	}
	return b.o.Sealer.Seal(parameters, []byte("instance/"+instanceID))
}

func (b *Broker) openParameters(r store.Instance) (json.RawMessage, error) {
	if len(r.Sealed) == 0 {
		return nil, nil
	}
	plain, err := b.o.Sealer.Open(r.Sealed, []byte("instance/"+r.ID))
	if err != nil {
		return nil, fmt.Errorf("open parameters of instance %q: %w", r.ID, err)
	}
	return plain, nil
}

// digest is the SHA-256, in hex, of attributes that a repeated request must
// repeat. Parameters are not in it, because they may be weak secrets; they are
// compared out of their seal.
func digest(attributes ...string) string {
	b, _ := json.Marshal(attributes) // strings only
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// sameJSON compares two objects that went through object.
func sameJSON(a, b json.RawMessage) bool { return bytes.Equal(a, b) }

const (
	lower        = "abcdefghijklmnopqrstuvwxyz"
	lowerDigits  = lower + "0123456789"
	alphanumeric = lowerDigits + "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
)

// newUsername is [a-z][a-z0-9]{15}: 82 bits, so no two bindings meet.
func newUsername() string { return random(lower, 1) + random(lowerDigits, 15) }

// newPassword is [A-Za-z0-9]{32}: 190 bits.
func newPassword() string { return random(alphanumeric, 32) }

// random draws n characters of the alphabet, each with the same chance.
func random(alphabet string, n int) string {
	out := make([]byte, 0, n)
	limit := byte(256 - 256%len(alphabet))
	for buf := make([]byte, 2*n); len(out) < n; {
		_, _ = rand.Read(buf) // never fails
		for _, c := range buf {
			if (limit == 0 || c < limit) && len(out) < n {
				out = append(out, alphabet[int(c)%len(alphabet)])
			}
		}
	}
	return string(out)
}

// maxNumber is the largest number of a binding (catalog.HookValues).
const maxNumber = 50000

// newNumber draws a number that is not taken: at random, so that a number is
// seldom given again soon after its binding was deleted.
func newNumber(taken map[int]bool) (int, error) {
	if len(taken) >= maxNumber {
		return 0, refuse(Refused, "This service instance cannot have more than %d bindings.", maxNumber)
	}
	start, err := rand.Int(rand.Reader, big.NewInt(maxNumber))
	if err != nil {
		return 0, err
	}
	n := int(start.Int64())
	for taken[n+1] {
		n = (n + 1) % maxNumber
	}
	return n + 1, nil
}

// newOperationID has 130 random bits.
func newOperationID() string { return rand.Text() }
