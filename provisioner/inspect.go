package provisioner

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"unicode"
)

// Inspector is what a back end may offer besides: a look at a group that changes
// nothing. It may be called at any time, also during work on the group.
type Inspector interface {
	// Inspect takes well under a second. What cannot be seen is unknown in the
	// answer, not an error. ErrNoGroup when there is no such group.
	Inspect(ctx context.Context, id string) (Inspection, error)
}

// Inspection is what a group uses of what it may use.
type Inspection struct {
	Members []MemberInspection // the leader first
}

// MemberInspection is what is to be seen of one member.
type MemberInspection struct {
	MemberObservation
	Name   string // in its group, such as "server-0"
	Memory Usage  // bytes, without cached files that can be dropped
	Disk   Usage  // bytes
	CPU    Usage  // thousandths of a core, just now
	Log    string // what its servers wrote last, made by LogTail
}

// Usage is a part of a limit. Used is -1 when it is unknown.
type Usage struct{ Used, Limit int64 }

// MaxLogTail is the longest Log of an inspection, in bytes.
const MaxLogTail = 16 << 10

// LogTail makes text from the end of a log: whole lines, valid UTF-8, no control
// characters but line ends and tabs.
func LogTail(log []byte) string {
	if len(log) > MaxLogTail {
		log = log[len(log)-MaxLogTail:]
		for i, c := range log {
			if c == '\n' {
				log = log[i+1:]
				break
			}
		}
	}
	text := strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || unicode.IsGraphic(r) {
			return r
		}
		return -1
	}, strings.ToValidUTF8(string(log), ""))
	return strings.TrimRight(text, "\n")
}

// Inspect looks at a claimed group. The error wraps errors.ErrUnsupported when
// the back end cannot.
func (p *Pool) Inspect(ctx context.Context, groupID string) (Inspection, error) {
	inspector, ok := p.o.Backend.(Inspector)
	if !ok {
		return Inspection{}, fmt.Errorf("inspect group %q: %w", groupID, errors.ErrUnsupported)
	}
	if _, err := p.claimed(ctx, groupID); err != nil {
		return Inspection{}, err
	}
	return inspector.Inspect(ctx, groupID)
}
