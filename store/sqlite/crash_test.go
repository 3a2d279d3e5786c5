package sqlite_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/remuda/remuda/store"
	"github.com/remuda/remuda/store/sqlite"
)

const crashPath = "REMUDA_TEST_CRASH_STORE"

// writeUntilKilled runs in a process of its own: eight writers put instances,
// and say so on standard output only after Update has said that it is done.
func writeUntilKilled(path string) {
	s, err := sqlite.Open(context.Background(), path)
	if err != nil {
		fmt.Println("failed", err)
		os.Exit(1)
	}
	var mu sync.Mutex
	for w := range 8 {
		go func() {
			for n := 0; ; n++ {
				id := fmt.Sprintf("%d-%d-%d", os.Getpid(), w, n)
				err := s.Update(context.Background(), func(tx store.Tx) error {
					if err := tx.Groups().Put(store.Group{ID: id, Fingerprint: "f", State: store.GroupWarm, InstanceID: id}); err != nil {
						return err
					}
					return tx.Instances().Put(store.Instance{ID: id, GroupID: id, State: store.InstanceReady})
				})
				mu.Lock()
				if err != nil {
					fmt.Println("failed", err)
				} else {
					fmt.Println("done", id)
				}
				mu.Unlock()
			}
		}()
	}
	select {}
}

// TestKilledProcessLosesNothing: what Update acknowledged is there after
// SIGKILL, and what it did not is there wholly or not at all.
func TestKilledProcessLosesNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	acknowledged := map[string]bool{}
	for round := range 5 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), crashPath+"="+path)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		killer := (*time.Timer)(nil)
		for lines.Scan() {
			id, ok := strings.CutPrefix(lines.Text(), "done ")
			if !ok {
				t.Errorf("round %d: %s", round, lines.Text())
				break
			}
			acknowledged[id] = true
			if killer == nil {
				killer = time.AfterFunc(time.Duration(20+37*round)*time.Millisecond, func() { cmd.Process.Kill() })
			}
		}
		cmd.Process.Kill()
		cmd.Wait() //nolint:errcheck // it was killed
		checkAcknowledged(t, path, acknowledged)
	}
	if len(acknowledged) < 50 {
		t.Errorf("only %d writes in all", len(acknowledged))
	}
}

func checkAcknowledged(t *testing.T, path string, acknowledged map[string]bool) {
	t.Helper()
	s := open(t, path)
	defer s.Close()
	err := s.View(t.Context(), func(tx store.Tx) error {
		for id := range acknowledged {
			if _, err := tx.Instances().Get(id); err != nil {
				t.Errorf("acknowledged instance %s: %v", id, err)
			}
		}
		all, err := tx.Groups().List()
		if err != nil {
			return err
		}
		for _, g := range all {
			if _, err := tx.Instances().Get(g.ID); err != nil {
				t.Errorf("half a transaction: group %s: %v", g.ID, err)
			}
		}
		n, err := tx.Groups().Count("f")
		if n[store.GroupWarm] != len(all) {
			t.Errorf("%d groups, counted %v", len(all), n)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
