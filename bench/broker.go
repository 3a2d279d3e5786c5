package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/remuda/remuda/broker/osbapi"
)

const (
	username = "remuda"
	password = "bench-password"
)

// server is a running broker with a state folder of its own.
type server struct {
	b       *bench
	state   string
	address string
	config  string
	log     string // file
	process *os.Process
	ended   chan struct{}
	client  *http.Client
	ids     atomic.Int64
	plans   map[string]plan // "offering/plan"
}

// plan is one plan by its ids.
type plan struct{ service, plan string }

// serve starts a broker and waits until it is ready. Close it.
func (b *bench) serve(ctx context.Context, name, config string) (*server, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &server{b: b, state: filepath.Join(b.dir, name), address: l.Addr().String(), config: filepath.Join(b.dir, name+".yaml"), log: filepath.Join(b.dir, name+".log"),
		ended: make(chan struct{}), client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}}
	l.Close()
	if err := os.WriteFile(s.config, []byte(config), 0o600); err != nil {
		return nil, err
	}
	if err := s.start(); err != nil {
		return nil, err
	}
	err = wait(ctx, time.Minute, 5*time.Millisecond, "the broker is ready", func() (bool, error) {
		select {
		case <-s.ended:
			return false, fmt.Errorf("the broker has ended: %s", s.lastWords())
		default:
		}
		res, err := s.client.Get("http://" + s.address + "/readyz")
		if err != nil {
			return false, nil
		}
		res.Body.Close()
		return res.StatusCode == http.StatusOK, nil
	})
	if err == nil {
		err = s.readPlans(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

// start runs the process. The kernel ends it with the thread that started it,
// so that thread waits for it.
func (s *server) start() error {
	log, err := os.Create(s.log)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(s.b.binary, "serve")
	cmd.Env = s.environment()
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		s.process = cmd.Process
		started <- err
		if err == nil {
			_ = cmd.Wait()
			close(s.ended)
		}
	}()
	return <-started
}

func (s *server) environment() []string {
	return append(os.Environ(), "REMUDA_STATE_DIR="+s.state, "REMUDA_LISTEN="+s.address, "REMUDA_USERNAME="+username,
		"REMUDA_PASSWORD="+password, "REMUDA_CONFIG="+s.config, "REMUDA_IMAGE_DIR="+s.b.imageDir, "REMUDA_DATABASE_URL=", "REMUDA_DATABASE_URL_FILE=")
}

// close ends the broker, and then all that it made.
func (s *server) close() error {
	s.client.CloseIdleConnections()
	_ = s.process.Signal(syscall.SIGTERM)
	select {
	case <-s.ended:
	case <-time.After(20 * time.Second):
		_ = s.process.Kill()
		<-s.ended
	}
	cmd := exec.Command(s.b.binary, "groups", "close", "--all")
	cmd.Env = s.environment()
	if said, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("close all groups: %w\n%s", err, said)
	}
	return os.RemoveAll(s.state)
}

// call sends a request; an answer of another status than those wanted is an error.
func (s *server) call(ctx context.Context, method, path string, in, out any, wanted ...int) (status int, err error) {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return 0, err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://"+s.address+path, body)
	if err != nil {
		return 0, err
	}
	req.SetBasicAuth(username, password)
	req.Header.Set("X-Broker-API-Version", "2.17")
	req.Header.Set("Content-Type", "application/json")
	res, err := s.client.Do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		return 0, err
	}
	for _, w := range wanted {
		if res.StatusCode == w {
			if out == nil {
				return w, nil
			}
			return w, json.Unmarshal(text, out)
		}
	}
	return res.StatusCode, fmt.Errorf("%s %s: %s %s", method, path, res.Status, text)
}

func (s *server) readPlans(ctx context.Context) error {
	var c struct {
		Services []struct {
			ID, Name string
			Plans    []struct{ ID, Name string }
		}
	}
	_, err := s.call(ctx, "GET", "/v2/catalog", nil, &c, 200)
	s.plans = map[string]plan{}
	for _, o := range c.Services {
		for _, p := range o.Plans {
			s.plans[o.Name+"/"+p.Name] = plan{o.ID, p.ID}
		}
	}
	return err
}

func (s *server) newID() string { return fmt.Sprintf("bench-%d", s.ids.Add(1)) }

// provision asks for an instance and waits until it is there; warm fails when
// it is not there at once.
func (s *server) provision(ctx context.Context, id, name string, warm bool) error {
	p := s.plans[name]
	body := map[string]any{"service_id": p.service, "plan_id": p.plan, "organization_guid": "org", "space_guid": "space"}
	wanted := []int{201, 202}
	if warm {
		wanted = wanted[:1]
	}
	status, err := s.call(ctx, "PUT", "/v2/service_instances/"+id+"?accepts_incomplete=true", body, nil, wanted...)
	if err != nil || status == 201 {
		return err
	}
	return wait(ctx, time.Minute, 5*time.Millisecond, "the instance is there", func() (bool, error) {
		var last struct{ State, Description string }
		_, err := s.call(ctx, "GET", "/v2/service_instances/"+id+"/last_operation"+p.query(), nil, &last, 200)
		if last.State == "failed" {
			err = errors.New(last.Description)
		}
		return last.State == "succeeded", err
	})
}

func (p plan) query() string { return "?service_id=" + p.service + "&plan_id=" + p.plan }

func (s *server) bind(ctx context.Context, id, name string) (credentials, error) {
	p := s.plans[name]
	var out struct{ Credentials credentials }
	_, err := s.call(ctx, "PUT", "/v2/service_instances/"+id+"/service_bindings/"+id+"-b",
		map[string]any{"service_id": p.service, "plan_id": p.plan}, &out, 201)
	return out.Credentials, err
}

func (s *server) deprovision(ctx context.Context, id, name string) error {
	_, err := s.call(ctx, "DELETE", "/v2/service_instances/"+id+s.plans[name].query(), nil, nil, 200)
	return err
}

// pool is how the pool of a plan stands.
func (s *server) pool(ctx context.Context, name string) (osbapi.Pool, error) {
	var out struct{ Pools []osbapi.Pool }
	if _, err := s.call(ctx, "GET", "/admin/v1/pools", nil, &out, 200); err != nil {
		return osbapi.Pool{}, err
	}
	for _, p := range out.Pools {
		if p.Offering+"/"+p.Plan == name {
			return p, nil
		}
	}
	return osbapi.Pool{}, fmt.Errorf("no pool %s", name)
}

// settled waits until n groups of the plan are warm and none is on its way.
func (s *server) settled(ctx context.Context, name string, n int) error {
	return wait(ctx, 3*time.Minute, 2*time.Millisecond, fmt.Sprintf("%d groups of %s are warm", n, name), func() (bool, error) {
		p, err := s.pool(ctx, name)
		return p.Warm >= n && p.Creating+p.Resetting == 0, err
	})
}

// groupOf is the group of an instance; "" is any group of the plan.
func (s *server) groupOf(ctx context.Context, name, instance string) (osbapi.Group, error) {
	var out struct{ Groups []osbapi.Group }
	_, err := s.call(ctx, "GET", "/admin/v1/groups", nil, &out, 200)
	for _, g := range out.Groups {
		if g.Offering+"/"+g.Plan == name && (instance == "" || g.InstanceID == instance) && len(g.Members) > 0 {
			return g, nil
		}
	}
	return osbapi.Group{}, errors.Join(err, fmt.Errorf("no group of %s serves %q; the broker said: %s", name, instance, s.lastWords()))
}

func (s *server) lastWords() string {
	said, _ := os.ReadFile(s.log)
	lines := strings.Split(strings.TrimSpace(string(said)), "\n")
	return strings.Join(lines[max(0, len(lines)-5):], "\n")
}

// wait until something is so, looking again and again.
func wait(ctx context.Context, bound, every time.Duration, what string, so func() (bool, error)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, bound, fmt.Errorf("not within %s: %s", bound, what))
	defer cancel()
	for {
		yes, err := so()
		if yes {
			return nil
		}
		if ctx.Err() != nil {
			return errors.Join(context.Cause(ctx), err)
		}
		if err != nil {
			return err
		}
		time.Sleep(every)
	}
}
