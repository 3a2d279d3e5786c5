package osbapi_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/remuda/remuda/broker"
	"github.com/remuda/remuda/broker/brokertest"
	"github.com/remuda/remuda/broker/osbapi"
	"github.com/remuda/remuda/provisioner"
	"github.com/remuda/remuda/provisioner/backendtest"
	"github.com/remuda/remuda/store"
	"github.com/remuda/remuda/store/postgres"
	"github.com/remuda/remuda/store/postgres/postgrestest"
)

// Here brokers are processes of their own on one PostgreSQL, with a back end
// that all reach over HTTP, so that they can be killed.

const (
	processDatabase = "REMUDA_TEST_DATABASE"
	processBackend  = "REMUDA_TEST_BACKEND"
)

// brokerProcess is such a process.
func brokerProcess() error {
	ctx := context.Background()
	s, err := postgres.Open(ctx, postgres.Options{URL: os.Getenv(processDatabase)})
	if err != nil {
		return err
	}
	sealer, err := store.NewSealer(store.Key{ID: "test", Secret: make([]byte, 32)})
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	var definitions []provisioner.Definition
	limits := map[string]provisioner.Limits{}
	for _, r := range brokertest.Catalog() {
		for _, plan := range r.Offering.Plans {
			definitions = append(definitions, provisioner.NewDefinition(r, plan, "image"))
			limits[r.Name+"/"+plan.Name] = provisioner.Limits{Floor: 0, Ceiling: 30, Keep: time.Minute}
		}
	}
	limits["box/small"] = provisioner.Limits{Floor: 12, Ceiling: 30, Keep: time.Minute}
	pool, err := provisioner.New(provisioner.Options{Store: s, Cluster: s, Backend: farBackend{os.Getenv(processBackend)},
		Definitions: definitions, Limits: limits, Creates: 4, Logger: log})
	if err != nil {
		return err
	}
	b, err := broker.New(broker.Options{Store: s, Cluster: s, Groups: pool, Catalog: brokertest.Catalog(), Sealer: sealer, Logger: log})
	if err != nil {
		return err
	}
	api, err := osbapi.New(osbapi.Options{Broker: b, Username: user, Password: password, Logger: log, Ready: func() error {
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		return s.View(ctx, func(store.Tx) error { return nil })
	}})
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	var g errgroup.Group
	g.Go(func() error { return pool.Run(ctx) })
	<-pool.Ready()
	g.Go(func() error { return b.Run(ctx) })
	g.Go(func() error { return http.Serve(l, api) })
	fmt.Println(l.Addr())
	return g.Wait()
}

// farm is brokers as processes.
type farm struct {
	t       *testing.T
	server  *postgrestest.Server
	memory  *backendtest.Memory
	env     []string
	store   *postgres.Store // to look
	clients http.Client
}

func newFarm(t *testing.T) *farm {
	t.Helper()
	server, name := postgrestest.ForTest(t)
	f := &farm{t: t, server: server, memory: backendtest.NewMemory(), clients: http.Client{Transport: &http.Transport{}, Timeout: time.Minute}}
	backend := httptest.NewServer(serveBackend(f.memory))
	t.Cleanup(backend.Close)
	t.Cleanup(f.clients.CloseIdleConnections)
	f.env = append(os.Environ(), processDatabase+"="+server.URL(name), processBackend+"="+backend.URL)
	s, err := postgres.Open(t.Context(), postgres.Options{URL: server.URL(name)})
	if err != nil {
		t.Fatal(err)
	}
	f.store = s
	t.Cleanup(func() { s.Close() })
	return f
}

// process is a broker that can be killed.
type process struct {
	cmd  *exec.Cmd
	url  string
	once sync.Once
}

func (p *process) kill() {
	p.once.Do(func() {
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait()
	})
}

func (f *farm) start() *process {
	f.t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = f.env
	cmd.Stderr = os.Stderr
	if !testing.Verbose() {
		cmd.Stderr = nil
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		f.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		f.t.Fatal(err)
	}
	p := &process{cmd: cmd}
	f.t.Cleanup(p.kill)
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		f.t.Fatalf("broker does not start: %v", err)
	}
	p.url = "http://" + strings.TrimSpace(line)
	return p
}

const boxPlan = `"service_id":"` + brokertest.ServiceID + `","plan_id":"` + brokertest.SmallID + `"`

// call returns 0 when the broker is gone.
func (f *farm) call(p *process, method, path, body string) (status int, text string) {
	r, err := http.NewRequest(method, p.url+"/v2/service_instances/"+path, strings.NewReader(body))
	if err != nil {
		f.t.Error(err)
		return 0, ""
	}
	r.SetBasicAuth(user, password)
	r.Header.Set("X-Broker-API-Version", "2.17")
	r.Header.Set("Content-Type", "application/json")
	answer, err := f.clients.Do(r)
	if err != nil {
		return 0, ""
	}
	defer answer.Body.Close()
	b, err := io.ReadAll(answer.Body)
	if err != nil {
		return 0, ""
	}
	return answer.StatusCode, string(b)
}

func (f *farm) provision(p *process, id string) (int, string) {
	return f.call(p, "PUT", id, `{`+boxPlan+`,"organization_guid":"o","space_guid":"s"}`)
}

func (f *farm) bind(p *process, id string) (int, string) {
	return f.call(p, "PUT", id+"/service_bindings/"+id+"-b", `{`+boxPlan+`}`)
}

func (f *farm) delete(p *process, id string) (int, string) {
	return f.call(p, "DELETE", id+"?service_id="+brokertest.ServiceID+"&plan_id="+brokertest.SmallID, "")
}

func (f *farm) count(state store.GroupState) (n int) {
	err := f.store.View(f.t.Context(), func(tx store.Tx) error {
		all, err := tx.Groups().List()
		n = 0
		for _, g := range all {
			if g.State == state {
				n++
			}
		}
		return err
	})
	if err != nil {
		f.t.Error(err)
	}
	return n
}

func (f *farm) within(limit time.Duration, what string, ok func() bool) {
	f.t.Helper()
	began := time.Now()
	for !ok() {
		if time.Since(began) > limit {
			f.t.Fatalf("not within %s: %s", limit, what)
		}
		time.Sleep(50 * time.Millisecond)
	}
	f.t.Logf("after %s: %s", time.Since(began).Round(10*time.Millisecond), what)
}
