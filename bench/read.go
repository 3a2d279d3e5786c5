package main

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/pivotal-cf/brokerapi/v10/domain/apiresponses"
)

// read measures what platforms ask again and again: the catalog, against
// brokerapi's own handler with the same catalog, and the poll of an operation,
// against the catalog.
func (b *bench) read(ctx context.Context) (rows []Row, err error) {
	ours, err := b.newInProcess(ctx, "read", 100, 0)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, ours.close()) }()
	var catalog apiresponses.CatalogResponse
	etag, err := ours.decode(ctx, "/v2/catalog", &catalog)
	if err != nil {
		return nil, err
	}
	bare, err := newBare(ours.plan, catalog.Services...)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, bare.close()) }()
	ids, err := ours.round(ctx, 50)
	if err != nil {
		return nil, err
	}
	poll := "/v2/service_instances/" + ids[0] + "/last_operation" + ours.plan.query()
	ours.etag = etag
	n := b.times(20000, 2000)
	var fresh, plain, whole, p99, catalog99 []float64
	for range b.times(7, 3) {
		for _, m := range []struct {
			from   *inProcess
			path   string
			status int
			rate   *[]float64
			p99    *[]float64
		}{
			{ours, "/v2/catalog", http.StatusNotModified, &fresh, nil},
			{bare, "/v2/catalog", http.StatusOK, &plain, nil},
			{ours, "/v2/catalog", http.StatusOK, &whole, &catalog99},
			{ours, poll, http.StatusOK, nil, &p99},
		} {
			took := make(series, n)
			began := time.Now()
			err := spread(n, func(i int) error {
				began := time.Now()
				err := m.from.get(ctx, m.path, m.status)
				took[i] = time.Since(began)
				return err
			})
			if err != nil {
				return nil, err
			}
			if m.rate != nil {
				*m.rate = append(*m.rate, float64(n)/time.Since(began).Seconds())
			}
			if m.p99 != nil {
				*m.p99 = append(*m.p99, took.percentile(99))
			}
		}
	}
	const bareName = "brokerapi's catalog handler"
	return []Row{
		Row{What: "catalog, known by its ETag", Value: median(fresh), Unit: "/s", Against: bareName, Plain: median(plain)}.atLeast(1),
		Row{What: "catalog, whole", Value: median(whole), Unit: "/s", Against: bareName, Plain: median(plain)}.atLeast(1),
		Row{What: "poll of an operation, p99", Value: median(p99), Unit: "ms", Against: "the catalog's", Plain: median(catalog99)}.atMost(5),
	}, ours.delete(ctx, ids)
}

// get asks for a path; for StatusNotModified with the entity tag that is known.
func (l *load) get(ctx context.Context, path string, want int) error {
	if want == http.StatusNotModified {
		return l.sendWith(ctx, "GET", path, "", want, map[string]string{"If-None-Match": l.etag})
	}
	return l.sendWith(ctx, "GET", path, "", want, nil)
}

// decode reads a JSON answer, and returns its entity tag.
func (l *load) decode(ctx context.Context, path string, into any) (etag string, err error) {
	r, err := http.NewRequestWithContext(ctx, "GET", "http://"+l.address+path, nil)
	if err != nil {
		return "", err
	}
	r.SetBasicAuth(username, password)
	r.Header.Set("X-Broker-API-Version", "2.17")
	res, err := l.client.Do(r)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	return res.Header.Get("ETag"), json.NewDecoder(res.Body).Decode(into)
}
