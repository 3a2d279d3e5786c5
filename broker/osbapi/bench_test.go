package osbapi_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"code.cloudfoundry.org/lager/v3"
	"github.com/pivotal-cf/brokerapi/v10"
	"github.com/pivotal-cf/brokerapi/v10/domain"

	"github.com/remuda/remuda/broker"
	"github.com/remuda/remuda/broker/brokertest"
	"github.com/remuda/remuda/broker/osbapi"
)

// benchClients ask at the same time; benchGroups are warm when they begin, and
// come back as instances are deleted between the rounds.
const (
	benchClients = 16
	benchGroups  = 320
)

// BenchmarkProvision measures a provision over HTTP on loopback, 16 clients,
// every instance on a warm group and every transaction synced to disk, against
// bare brokerapi with a map behind it, in the same run. It reports the medians
// and 99th percentiles in milliseconds, and how many times slower the median is.
func BenchmarkProvision(b *testing.B) {
	f := brokertest.NewSized(b, benchGroups, func(o *broker.Options) { o.SweepInterval = time.Hour })
	api, err := osbapi.New(osbapi.Options{
		Broker: f.Broker, Username: user, Password: password, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		b.Fatal(err)
	}
	ours := &load{b: b, address: serve(b, api), client: newClient(b)}
	bare := &load{b: b, client: newClient(b), address: serve(b, brokerapi.New(&memoryBroker{}, lager.NewLogger("bench"),
		brokerapi.BrokerCredentials{Username: user, Password: password}))}

	fill(b, f)
	for b.Loop() {
		ours.round()
		bare.round()
		b.StopTimer() // until the groups are reset
		brokertest.Eventually(b, "groups are warm again", func() bool { return warm(b, f) >= benchGroups/2 })
		b.StartTimer()
	}
	b.ReportMetric(ms(ours.percentile(50)), "p50-ms")
	b.ReportMetric(ms(ours.percentile(99)), "p99-ms")
	b.ReportMetric(ms(bare.percentile(50)), "bare-p50-ms")
	b.ReportMetric(ms(bare.percentile(99)), "bare-p99-ms")
	b.ReportMetric(float64(ours.percentile(50))/float64(bare.percentile(50)), "p50-ratio")
	b.ReportMetric(ours.rate(), "provisions/s")
	b.ReportMetric(bare.rate(), "bare-provisions/s")
	b.ReportMetric(0, "ns/op") // rounds say nothing
}

// load is clients and what they measured.
type load struct {
	b       *testing.B
	client  *http.Client
	address string
	ids     atomic.Int64
	mu      sync.Mutex
	took    []time.Duration
	wall    time.Duration
}

// round lets every client provision, all at the same time, some instances, and
// then deletes them.
func (l *load) round() {
	const each = benchGroups / 2 / benchClients
	var clients sync.WaitGroup
	var ids [benchClients][]string
	began := time.Now()
	for n := range benchClients {
		clients.Go(func() {
			for range each {
				id := fmt.Sprintf("i%d", l.ids.Add(1))
				began := time.Now()
				l.send("PUT", "/v2/service_instances/"+id, provision, http.StatusCreated)
				took := time.Since(began)
				ids[n] = append(ids[n], id)
				l.mu.Lock()
				l.took = append(l.took, took)
				l.mu.Unlock()
			}
		})
	}
	clients.Wait()
	l.wall += time.Since(began)
	for n := range benchClients {
		clients.Go(func() {
			for _, id := range ids[n] {
				l.send("DELETE", "/v2/service_instances/"+id+deletion, "", http.StatusOK)
			}
		})
	}
	clients.Wait()
}

func (l *load) send(method, target, body string, status int) {
	r, err := http.NewRequest(method, "http://"+l.address+target, strings.NewReader(body))
	if err != nil {
		l.b.Error(err)
		return
	}
	r.SetBasicAuth(user, password)
	r.Header.Set("X-Broker-API-Version", "2.17")
	r.Header.Set("Content-Type", "application/json")
	resp, err := l.client.Do(r)
	if err != nil {
		l.b.Error(err)
		return
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(resp.Body)
	if resp.StatusCode != status {
		l.b.Errorf("%s %s: %s %s", method, target, resp.Status, text)
	}
}

func (l *load) percentile(p int) time.Duration {
	slices.Sort(l.took)
	return l.took[(len(l.took)-1)*p/100]
}

func (l *load) rate() float64 { return float64(len(l.took)) / l.wall.Seconds() }

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func newClient(b *testing.B) *http.Client {
	transport := &http.Transport{MaxIdleConnsPerHost: benchClients}
	b.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// fill makes all groups warm: those above the floor are made for instances that
// wait, and stay warm when these are deleted.
func fill(b *testing.B, f *brokertest.Fixture) {
	b.Helper()
	r := broker.ProvisionRequest{
		ServiceID: brokertest.ServiceID, PlanID: brokertest.SmallID, OrganizationGUID: "o", SpaceGUID: "s", AcceptsIncomplete: true,
	}
	for n := range benchGroups {
		r.InstanceID = fmt.Sprintf("fill%d", n)
		if _, err := f.Broker.Provision(context.Background(), r); err != nil {
			b.Fatal(err)
		}
	}
	f.Pool.Warm(b, benchGroups)
	for n := range benchGroups {
		if err := f.Broker.Deprovision(context.Background(), broker.DeprovisionRequest{
			InstanceID: fmt.Sprintf("fill%d", n), ServiceID: brokertest.ServiceID, PlanID: brokertest.SmallID,
		}); err != nil {
			b.Fatal(err)
		}
	}
	brokertest.Eventually(b, "groups are warm", func() bool { return warm(b, f) == benchGroups })
}

func warm(b *testing.B, f *brokertest.Fixture) int {
	b.Helper()
	for _, l := range f.Pool.Levels() {
		if l.Offering == "box" && l.Plan == "small" {
			return l.Warm
		}
	}
	return 0
}

// memoryBroker is a bare broker: a map. Methods that no benchmark calls are nil.
type memoryBroker struct {
	domain.ServiceBroker
	instances sync.Map
}

func (m *memoryBroker) Services(context.Context) ([]domain.Service, error) {
	return []domain.Service{{ID: brokertest.ServiceID, Name: "box", Plans: []domain.ServicePlan{{ID: brokertest.SmallID, Name: "small"}}}}, nil
}

func (m *memoryBroker) Provision(_ context.Context, id string, d domain.ProvisionDetails, _ bool) (domain.ProvisionedServiceSpec, error) {
	m.instances.Store(id, d)
	return domain.ProvisionedServiceSpec{}, nil
}

func (m *memoryBroker) Deprovision(_ context.Context, id string, _ domain.DeprovisionDetails, _ bool) (domain.DeprovisionServiceSpec, error) {
	m.instances.Delete(id)
	return domain.DeprovisionServiceSpec{}, nil
}
