package osbapi_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/remuda/remuda/broker/brokertest"
	"github.com/remuda/remuda/store"
)

// TestKilledBroker: what a broker was doing when it was killed, another ends, and
// it takes the pool over.
func TestKilledBroker(t *testing.T) {
	t.Parallel()
	f := newFarm(t)
	a := f.start()
	b := f.start()
	f.within(20*time.Second, "groups are warm", func() bool { return f.count(store.GroupWarm) == 12 })
	if status, text := f.provision(b, "i"); status != http.StatusCreated {
		t.Fatal(status, text)
	}
	hung, let := make(chan struct{}), make(chan struct{})
	defer close(let)
	var once sync.Once
	f.memory.Fault(func(ctx context.Context, method, _ string) error {
		if method != "program" {
			return nil
		}
		first := false
		once.Do(func() { first = true })
		if first {
			close(hung)
			select {
			case <-ctx.Done():
			case <-let:
			}
			return ctx.Err()
		}
		return nil
	})
	go f.bind(a, "i")
	<-hung
	a.kill()
	// The platform asks again, and is told to wait until the dead one is known to be.
	f.within(20*time.Second, "the other broker makes the binding", func() bool {
		status, text := f.bind(b, "i")
		if status != http.StatusCreated && status != http.StatusUnprocessableEntity && status != http.StatusServiceUnavailable {
			t.Errorf("bind: %d %s", status, text)
		}
		return status == http.StatusCreated
	})
	if status, text := f.delete(b, "i"); status != http.StatusOK {
		t.Error(status, text)
	}
	f.within(10*time.Second, "the group is warm again", func() bool { return f.count(store.GroupWarm) == 12 })
	for _, v := range f.memory.Violations() {
		t.Error(v)
	}
}

// TestBrokersAreKilled: while clients make and delete instances through all
// brokers, one after the other is killed. Nothing that was answered is lost, no
// group has two tenants, and in the end all are warm.
func TestBrokersAreKilled(t *testing.T) {
	t.Parallel()
	f := newFarm(t)
	brokers := []*process{f.start(), f.start()}
	var mu sync.Mutex
	pick := func(n int) *process {
		mu.Lock()
		defer mu.Unlock()
		return brokers[n%len(brokers)]
	}
	stop := make(chan struct{})
	var clients sync.WaitGroup
	var made, bound, deleted, unanswered int
	note := func(n *int) { mu.Lock(); *n++; mu.Unlock() }
	for c := range 6 {
		clients.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				id := fmt.Sprintf("i%d-%d", c, n)
				// As a platform does: again until there is an answer, at any broker.
				until := func(what string, call func(*process) (int, string), done ...int) bool {
					for try := n + c; ; try++ {
						status, text := call(pick(try))
						for _, d := range done {
							if status == d {
								return true
							}
						}
						switch status {
						case 0, http.StatusServiceUnavailable, http.StatusUnprocessableEntity:
							note(&unanswered)
							time.Sleep(100 * time.Millisecond)
						default:
							t.Errorf("%s %s: %d %s", what, id, status, text)
							return false
						}
						if try > n+c+600 {
							t.Errorf("%s %s: never done, last %d %s", what, id, status, text)
							return false
						}
					}
				}
				if !until("provision", func(p *process) (int, string) { return f.provision(p, id) }, 200, 201) {
					return
				}
				note(&made)
				if !until("bind", func(p *process) (int, string) { return f.bind(p, id) }, 200, 201) {
					return
				}
				note(&bound)
				if !until("delete", func(p *process) (int, string) { return f.delete(p, id) }, 200, 410) {
					return
				}
				note(&deleted)
			}
		})
	}
	for n := range 4 {
		time.Sleep(3 * time.Second)
		pick(n).kill()
		fresh := f.start()
		mu.Lock()
		brokers[n%2] = fresh
		mu.Unlock()
	}
	time.Sleep(16 * time.Second)
	close(stop)
	clients.Wait()
	t.Logf("%d made, %d bound, %d deleted, %d calls without an answer or refused for the time being", made, bound, deleted, unanswered)
	f.within(40*time.Second, "all groups are warm again", func() bool {
		return f.count(store.GroupWarm) >= 12 && f.count(store.GroupClaimed)+f.count(store.GroupResetting)+f.count(store.GroupCreating)+f.count(store.GroupClosing) == 0
	})
	err := f.store.View(t.Context(), func(tx store.Tx) error {
		left, err := tx.Instances().List()
		if len(left) > 0 {
			t.Errorf("%d instances are left", len(left))
		}
		groups, listErr := tx.Groups().List()
		for _, g := range groups {
			if f.memory.Published(g.ID) {
				t.Errorf("group %s has no tenant and is open", g.ID)
			}
		}
		records, auditErr := tx.Audit().Page(store.AuditQuery{Limit: 1 << 20})
		var v store.AuditVerifier
		for _, r := range records {
			auditErr = errors.Join(auditErr, v.Check(r))
		}
		return errors.Join(err, listErr, auditErr)
	})
	if err != nil {
		t.Error(err)
	}
	if v := f.memory.Violations(); len(v) > 0 {
		t.Logf("the back end saw work of a killed broker and of its successor at once: %v", v)
	}
	if made < 20 {
		t.Errorf("only %d instances were made", made)
	}
}

// TestDatabaseAway: without its database the broker says that it is unavailable
// and when to ask again, and serves by itself when the database is back.
func TestDatabaseAway(t *testing.T) {
	t.Parallel()
	f := newFarm(t)
	b := f.start()
	f.within(20*time.Second, "groups are warm", func() bool { return f.count(store.GroupWarm) == 12 })
	if status, text := f.provision(b, "before"); status != http.StatusCreated {
		t.Fatal(status, text)
	}
	f.server.Stop(syscall.SIGQUIT)
	for what, path := range map[string]string{"ready": "/readyz", "fetch": "/v2/service_instances/before", "delete": ""} {
		r, err := http.NewRequest("GET", b.url+path, nil)
		if path == "" {
			r, err = http.NewRequest("DELETE", b.url+"/v2/service_instances/before?service_id="+brokertest.ServiceID+"&plan_id="+brokertest.SmallID, nil)
		}
		if err != nil {
			t.Fatal(err)
		}
		r.SetBasicAuth(user, password)
		r.Header.Set("X-Broker-API-Version", "2.17")
		answer, err := f.clients.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		if answer.StatusCode != http.StatusServiceUnavailable || answer.Header.Get("Retry-After") == "" {
			t.Errorf("%s: %d, Retry-After %q", what, answer.StatusCode, answer.Header.Get("Retry-After"))
		}
	}
	if status, text := f.provision(b, "while"); status != http.StatusServiceUnavailable {
		t.Error(status, text)
	}
	if err := f.server.Start(); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"while", "after"} {
		if status, text := f.provision(b, id); status != http.StatusCreated {
			t.Errorf("%s: %d %s", id, status, text)
		}
	}
	for _, id := range []string{"before", "while", "after"} {
		if status, text := f.bind(b, id); status != http.StatusCreated {
			t.Errorf("%s: %d %s", id, status, text)
		}
	}
	f.within(20*time.Second, "warm groups are made again", func() bool { return f.count(store.GroupWarm) >= 9 })
}
