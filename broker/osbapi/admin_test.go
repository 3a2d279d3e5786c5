package osbapi_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/remuda/remuda/broker/osbapi"
)

func TestAdmin(t *testing.T) {
	at := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	w := newWorld(t, func(o *osbapi.Options) {
		o.Pools = func(context.Context) ([]osbapi.Pool, error) {
			return []osbapi.Pool{{
				Offering: "box", Plan: "small", Definition: "f1", Warm: 1, Claimed: 2, Creating: 3, Resetting: 4,
				Floor: 5, Target: 6, Ceiling: 20,
			}}, nil
		}
		o.Groups = func(context.Context) ([]osbapi.Group, error) {
			return []osbapi.Group{
				{
					ID: "g1", Definition: "f1", Offering: "box", Plan: "small", State: "claimed", Generation: 2,
					InstanceID: "i1", Address: "127.0.0.1:7000", CreatedAt: at, ClaimedAt: &at,
					Members: []osbapi.Member{{ID: "m1", Role: "server", PID: 42, StartedAt: &at, Healthy: true}},
				},
				{ID: "g2", Definition: "f1", Offering: "box", Plan: "small", State: "creating", Generation: 1, CreatedAt: at},
			}, nil
		}
		o.Instances = func(context.Context) ([]osbapi.Instance, error) { return nil, nil }
	}, nil)
	golden(t, "admin_pools", w.call("GET", "/admin/v1/pools", ""))
	golden(t, "admin_groups", w.call("GET", "/admin/v1/groups", ""))
	golden(t, "admin_instances_empty", w.call("GET", "/admin/v1/instances", ""))
}

func TestReady(t *testing.T) {
	err := errors.New("the secret reason")
	w := newWorld(t, func(o *osbapi.Options) { o.Ready = func() error { return err } }, nil)
	rec := w.call("GET", "/readyz", "")
	golden(t, "readyz_unavailable", rec)
	if strings.Contains(rec.Body.String(), "secret") || !strings.Contains(w.log.String(), "secret reason") {
		t.Errorf("body %s, log %s", rec.Body, w.log.String())
	}
	err = nil
	if rec := w.call("GET", "/readyz", ""); rec.Code != 200 {
		t.Errorf("%d", rec.Code)
	}
	if rec := w.call("HEAD", "/readyz", ""); rec.Code != 200 {
		t.Errorf("HEAD: %d", rec.Code)
	}
}

func TestMetrics(t *testing.T) {
	registry := prometheus.NewRegistry()
	w := newWorld(t, func(o *osbapi.Options) { o.Registry, o.OpenMetrics = registry, true }, nil)
	w.call("GET", "/v2/catalog", "")
	w.call("PUT", instance, provision)
	w.call("BREW", "/pot/of/tea", "")
	r := request("GET", "/metrics", "")
	r.Header.Del("Authorization")
	rec := w.do(r)
	if rec.Code != http.StatusOK {
		t.Fatalf("%d %s", rec.Code, rec.Body)
	}
	for _, want := range []string{
		`remuda_http_request_duration_seconds_count{operation="catalog",status="200"} 1`,
		`remuda_http_request_duration_seconds_count{operation="provision",status="422"} 1`,
		`remuda_http_request_duration_seconds_count{operation="none",status="404"} 1`,
	} {
		if !strings.Contains(rec.Body.String(), want) {
			t.Errorf("no %s", want)
		}
	}
	if strings.Contains(rec.Body.String(), "BREW") {
		t.Error("a client can make up labels")
	}
}
