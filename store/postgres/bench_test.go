package postgres_test

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
)

const fingerprint = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"

func fillWarm(t testing.TB, s store.Store, n int) {
	t.Helper()
	for from := 0; from < n; from += 1000 {
		err := s.Update(t.Context(), func(tx store.Tx) error {
			for i := from; i < min(from+1000, n); i++ {
				now := time.Now()
				g := store.Group{ID: fmt.Sprintf("g%08x", i), Fingerprint: fingerprint, State: store.GroupWarm, Generation: 1,
					Endpoints: []store.Endpoint{{Name: "mysql", Host: "10.0.0.1", Port: 30000}}, CreatedAt: now, Since: now}
				if err := tx.Groups().Put(g); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// provision is what the use case does in its transaction on a warm hit.
func provision(ctx context.Context, s store.Store, id string) error {
	return s.Update(ctx, func(tx store.Tx) error {
		if _, err := tx.Instances().Get(id); !errors.Is(err, store.ErrNotFound) {
			return fmt.Errorf("instance exists: %w", err)
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

// BenchmarkProvision claims warm groups for so many clients of each of so many brokers.
func BenchmarkProvision(b *testing.B) {
	for _, c := range []struct{ brokers, clients int }{{1, 1}, {1, 8}, {1, 16}, {2, 1}, {2, 8}, {2, 16}} {
		b.Run(fmt.Sprintf("brokers=%d/clients=%d", c.brokers, c.clients), func(b *testing.B) {
			url := database(b)
			var stores []store.Store
			for range c.brokers {
				stores = append(stores, open(b, url))
			}
			fillWarm(b, stores[0], b.N)
			took := make([]time.Duration, b.N)
			var next atomic.Int64
			var wg sync.WaitGroup
			before := processorTime()
			b.ResetTimer()
			for n := range c.brokers * c.clients {
				wg.Go(func() {
					for i := int(next.Add(1)) - 1; i < b.N; i = int(next.Add(1)) - 1 {
						start := time.Now()
						if err := provision(b.Context(), stores[n%c.brokers], fmt.Sprintf("%08x-instance", i*2654435761%4294967296)); err != nil {
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
			b.ReportMetric(float64(used.Microseconds())/float64(b.N), "client-cpu-µs/op")
			b.ReportMetric(ms(took[b.N/2]), "p50-ms")
			b.ReportMetric(ms(took[b.N*99/100]), "p99-ms")
		})
	}
}

// processorTime is that of the brokers, without the server's.
func processorTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
