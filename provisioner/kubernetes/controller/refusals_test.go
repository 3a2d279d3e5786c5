package controller

import (
	"testing"
	"time"
)

// What the API server refuses is tried ever less often, and logged once a minute.
func TestRefusals(t *testing.T) {
	var r refusals
	now := time.Unix(1e9, 0)
	tries, lines := 0, 0
	for end := now.Add(10*time.Minute - time.Second); now.Before(end); tries++ {
		if r.news(now) {
			lines++
		}
		now = now.Add(r.pause())
	}
	if tries > 25 || lines < 9 || lines > 10 {
		t.Errorf("%d tries and %d lines in ten minutes", tries, lines)
	}
	for range 100 {
		if p := r.pause(); p != time.Minute {
			t.Fatalf("pause %s", p)
		}
	}
}
