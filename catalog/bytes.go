package catalog

import (
	"encoding/json"
	"fmt"
	"math"
	"regexp"
	"strconv"

	"github.com/docker/go-units"
	"go.yaml.in/yaml/v3"
)

// Bytes is a size in bytes, written like "256MiB" in YAML and as a number in JSON.
type Bytes int64

// Common units.
const (
	KiB Bytes = 1 << (10 * (iota + 1))
	MiB
	GiB
)

var bytesPattern = regexp.MustCompile(`^[0-9]{1,15}(\.[0-9]{1,3})?(KiB|MiB|GiB|TiB)$`)

// ParseBytes reads "1.5GiB". Only the binary units are known, so that nobody
// has to guess what "MB" means; a number without a unit is a fault too.
func ParseBytes(s string) (Bytes, error) {
	if !bytesPattern.MatchString(s) {
		return 0, fmt.Errorf("%q is not a size like 256MiB or 1GiB", s)
	}
	n, err := units.RAMInBytes(s)
	if err != nil || n < 0 || n == math.MaxInt64 {
		return 0, fmt.Errorf("%q is too large a size", s)
	}
	return Bytes(n), nil
}

// String gives the form that ParseBytes reads, in the largest unit that is exact.
func (b Bytes) String() string {
	for _, u := range []struct {
		size Bytes
		name string
	}{{GiB, "GiB"}, {MiB, "MiB"}, {KiB, "KiB"}} {
		if b >= u.size && b%u.size == 0 {
			return strconv.FormatInt(int64(b/u.size), 10) + u.name
		}
	}
	return strconv.FormatInt(int64(b), 10) + "B"
}

// MiB is the size in whole MiB, rounded down.
func (b Bytes) MiB() int { return int(b / MiB) }

// UnmarshalYAML reads "256MiB".
func (b *Bytes) UnmarshalYAML(n *yaml.Node) error {
	v, err := ParseBytes(n.Value)
	if n.Kind != yaml.ScalarNode || err != nil {
		if err == nil {
			err = fmt.Errorf("a size like 256MiB is expected")
		}
		return &yaml.TypeError{Errors: []string{fmt.Sprintf("line %d: %v", n.Line, err)}}
	}
	*b = v
	return nil
}

// MarshalYAML writes "256MiB".
func (b Bytes) MarshalYAML() (any, error) { return b.String(), nil }

// UnmarshalJSON reads a number of bytes, not negative.
func (b *Bytes) UnmarshalJSON(raw []byte) error {
	var n int64
	if err := json.Unmarshal(raw, &n); err != nil || n < 0 {
		return fmt.Errorf("%.40s is not a number of bytes", raw)
	}
	*b = Bytes(n)
	return nil
}
