package postgres

import (
	"slices"
	"testing"
	"time"
)

// TestWatch: only who shows nothing all the time that somebody looks is dead.
func TestWatch(t *testing.T) {
	type look struct {
		at      int // seconds
		batches map[string]int64
		dead    []string
	}
	quiet := func(at int, dead ...string) look { return look{at, map[string]int64{"a": 1}, dead} }
	for name, looks := range map[string][]look{
		"silent":       {quiet(0), quiet(2), quiet(4), quiet(6), quiet(8), quiet(10, "a"), quiet(12, "a")},
		"busy":         {quiet(0), quiet(4), quiet(8), {9, map[string]int64{"a": 2}, nil}, {13, map[string]int64{"a": 2}, nil}, {18, map[string]int64{"a": 2}, nil}, {19, map[string]int64{"a": 2}, []string{"a"}}},
		"looked away":  {quiet(0), quiet(2), quiet(20), quiet(24), quiet(28), quiet(30, "a")},
		"gone and new": {quiet(0), quiet(4), {8, map[string]int64{"b": 1}, nil}, quiet(11), quiet(15), quiet(20), quiet(21, "a")},
		"two":          {quiet(0), {4, map[string]int64{"a": 1, "b": 1}, nil}, {8, map[string]int64{"a": 1, "b": 1}, nil}, {10, map[string]int64{"a": 1, "b": 2}, []string{"a"}}},
	} {
		w, start := watch{}, time.Now()
		for _, l := range looks {
			if dead := w.see(l.batches, start.Add(time.Duration(l.at)*time.Second)); !slices.Equal(dead, l.dead) {
				t.Errorf("%s: at %d dead are %v, want %v", name, l.at, dead, l.dead)
			}
		}
	}
}

func TestLiterals(t *testing.T) {
	for value, want := range map[any]string{
		"":           "''",
		"it's":       "'it''s'",
		`back\slash`: ` E'back\\slash'`,
		`\'`:         ` E'\\'''`,
		int64(-5):    "-5",
		7:            "7",
		true:         "true",
	} {
		if got, err := literal(nil, value); err != nil || string(got) != want {
			t.Errorf("%v: %s, %v", value, got, err)
		}
	}
	for _, bad := range []any{"a\x00b", "\xff", 1.5, nil} {
		if got, err := literal(nil, bad); err == nil {
			t.Errorf("%v: %s", bad, got)
		}
	}
	if got := numbered("a ? b ?, ?"); got != "a $1 b $2, $3" {
		t.Error(got)
	}
}
