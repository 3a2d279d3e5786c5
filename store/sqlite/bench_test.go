package sqlite_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/remuda/remuda/store"
	"github.com/remuda/remuda/store/sqlite"
)

const fingerprint = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"

func fillWarm(b *testing.B, s store.Store, prefix string, n int) {
	b.Helper()
	for from := 0; from < n; from += 5000 {
		err := s.Update(b.Context(), func(tx store.Tx) error {
			for i := from; i < min(from+5000, n); i++ {
				now := time.Now()
				g := store.Group{ID: fmt.Sprintf("%s%08x", prefix, i), Fingerprint: fingerprint, State: store.GroupWarm, Generation: 1,
					Endpoints: []store.Endpoint{{Name: "mysql", Host: "10.0.0.1", Port: 30000}}, CreatedAt: now, Since: now}
				if err := tx.Groups().Put(g); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
	}
}

// provision is what the use case does in its transaction on a warm hit.
func provision(ctx context.Context, s store.Store, id string) error {
	return s.Update(ctx, func(tx store.Tx) error {
		if _, err := tx.Instances().Get(id); !errors.Is(err, store.ErrNotFound) {
			return fmt.Errorf("instance exists: %v", err)
		}
		now := time.Now()
		g, err := tx.Groups().ClaimWarm(fingerprint, id, now)
		if err != nil {
			return err
		}
		inst := store.Instance{
			ID: id, ServiceID: "5f0a3a0e-3a3c-4d47-9f3b-1f8f8a6f7a11", PlanID: "0a5b9c1e-7a3f-4a91-8d2e-6f0c5d0b2c22",
			Fingerprint: fingerprint, State: store.InstanceReady, GroupID: g.ID, OrgGUID: "org", SpaceGUID: "space",
			Context: []byte(`{"platform":"cloudfoundry"}`), Digest: fingerprint, CreatedAt: now,
		}
		if err := tx.Instances().Put(inst); err != nil {
			return err
		}
		_, err = tx.Audit().Append(store.AuditRecord{
			Time: now, RequestID: "9f86d081-884c-7d65", User: "broker", Address: "10.0.0.1", Operation: string(store.OpProvision),
			InstanceID: id, ServiceID: inst.ServiceID, PlanID: inst.PlanID, Status: 201, Result: "created",
		})
		return err
	})
}

// BenchmarkProvision claims a warm group and inserts the instance, 16 clients
// at a time, with so many instances there already.
func BenchmarkProvision(b *testing.B) {
	for _, before := range []int{0, 100_000} {
		b.Run(fmt.Sprintf("instances=%d", before), func(b *testing.B) {
			s, err := sqlite.Open(b.Context(), b.TempDir()+"/store.db")
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			fillInstances(b, s, before)
			fillWarm(b, s, "g", b.N)
			took := make([]time.Duration, b.N)
			before := processorTime()
			b.ResetTimer()
			const clients = 16
			var next atomic.Int64
			var wg sync.WaitGroup
			for range clients {
				wg.Go(func() {
					for i := next.Add(1) - 1; i < int64(b.N); i = next.Add(1) - 1 {
						start := time.Now()
						if err := provision(b.Context(), s, fmt.Sprintf("%08x-instance", i*2654435761%4294967296)); err != nil {
							b.Error(err)
							return
						}
						took[i] = time.Since(start)
					}
				})
			}
			wg.Wait()
			b.StopTimer()
			used := processorTime() - before
			slices.Sort(took)
			ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "provisions/s")
			b.ReportMetric(float64(used.Microseconds())/float64(b.N), "cpu-µs/op")
			b.ReportMetric(ms(took[b.N/2]), "p50-ms")
			b.ReportMetric(ms(took[b.N*99/100]), "p99-ms")
		})
	}
}

// processorTime says more than the clock does while others use the machine.
func processorTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func fillInstances(b *testing.B, s store.Store, n int) {
	fillWarm(b, s, "old", n)
	for from := 0; from < n; from += 5000 {
		err := s.Update(b.Context(), func(tx store.Tx) error {
			for i := from; i < min(from+5000, n); i++ {
				id := fmt.Sprintf("%08x-before", uint32(i)*2654435761)
				g, err := tx.Groups().ClaimWarm(fingerprint, id, time.Now())
				if err != nil {
					return err
				}
				if err := tx.Instances().Put(store.Instance{ID: id, Fingerprint: fingerprint, State: store.InstanceReady,
					GroupID: g.ID, CreatedAt: time.Now()}); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkLookups shows that what every request reads does not depend on how
// much there is.
func BenchmarkLookups(b *testing.B) {
	for _, before := range []int{1000, 100_000} {
		s, err := sqlite.Open(b.Context(), b.TempDir()+"/store.db")
		if err != nil {
			b.Fatal(err)
		}
		fillInstances(b, s, before)
		lookups := map[string]func(store.Tx) error{
			"get":     func(tx store.Tx) error { _, err := tx.Instances().Get("00000000-before"); return err },
			"count":   func(tx store.Tx) error { _, err := tx.Groups().Count(fingerprint); return err },
			"waiting": func(tx store.Tx) error { _, err := tx.Instances().Waiting(fingerprint, 1); return err },
		}
		for name, look := range lookups {
			b.Run(fmt.Sprintf("%s/instances=%d", name, before), func(b *testing.B) {
				for b.Loop() {
					if err := s.View(b.Context(), look); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
		s.Close()
	}
}
