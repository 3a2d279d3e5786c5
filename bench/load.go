package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const clients = 16

// load is clients that provision at the same time, and what they measured.
type load struct {
	client  *http.Client
	address string
	plan    plan
	etag    string // of the catalog, where it is asked for by it
	ids     atomic.Int64
	took    series
	wall    time.Duration
}

// round lets the clients provision n instances in all, and returns their ids.
func (l *load) round(ctx context.Context, n int) ([]string, error) {
	body := fmt.Sprintf(`{"service_id":%q,"plan_id":%q,"organization_guid":"org","space_guid":"space"}`, l.plan.service, l.plan.plan)
	ids := make([]string, n)
	took := make(series, n)
	for i := range ids {
		ids[i] = fmt.Sprintf("load-%d", l.ids.Add(1))
	}
	began := time.Now()
	err := spread(n, func(i int) error {
		began := time.Now()
		err := l.send(ctx, "PUT", "/v2/service_instances/"+ids[i]+"?accepts_incomplete=true", body, http.StatusCreated)
		took[i] = time.Since(began)
		return err
	})
	l.wall += time.Since(began)
	l.took = append(l.took, took...)
	return ids, err
}

// delete gives the instances back.
func (l *load) delete(ctx context.Context, ids []string) error {
	return spread(len(ids), func(i int) error {
		return l.send(ctx, "DELETE", "/v2/service_instances/"+ids[i]+l.plan.query(), "", http.StatusOK)
	})
}

// spread lets the clients do n things.
func spread(n int, do func(i int) error) error {
	var next atomic.Int64
	var all sync.WaitGroup
	errs := make([]error, clients)
	for c := range clients {
		all.Go(func() {
			for i := int(next.Add(1)) - 1; i < n && errs[c] == nil; i = int(next.Add(1)) - 1 {
				errs[c] = do(i)
			}
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

func (l *load) send(ctx context.Context, method, path, body string, want int) error {
	return l.sendWith(ctx, method, path, body, want, nil)
}

// sendWith sends with more headers.
func (l *load) sendWith(ctx context.Context, method, path, body string, want int, headers map[string]string) error {
	r, err := http.NewRequestWithContext(ctx, method, "http://"+l.address+path, strings.NewReader(body))
	if err != nil {
		return err
	}
	r.SetBasicAuth(username, password)
	r.Header.Set("X-Broker-API-Version", "2.17")
	r.Header.Set("Content-Type", "application/json")
	for name, value := range headers {
		r.Header.Set(name, value)
	}
	res, err := l.client.Do(r)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != want {
		err = fmt.Errorf("%s %s: %s %s", method, path, res.Status, text)
	}
	return err
}

// rate is how many instances were provisioned in a second.
func (l *load) rate() float64 { return float64(len(l.took)) / l.wall.Seconds() }
