// Package osbapi serves the Open Service Broker API 2.17 over HTTP, and beside
// it health, metrics and what an operator wants to see.
//
// What all calls share is in API.ServeHTTP and happens in this order: request
// identity, panic guard, route, authentication, method, version, originating
// identity. An operation then decodes its request, calls its use case in package
// broker, and gives back an answer; there is one file per operation. Every
// answer is JSON, except that of /metrics. An API may be used concurrently.
//
// Of brokerapi it uses the constant-time authentication and those answer types
// that can say what the specification asks for.
package osbapi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/gorilla/mux"
	"github.com/pivotal-cf/brokerapi/v10/auth"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/remuda/remuda/broker"
)

// Options is what an API needs.
type Options struct {
	Broker   *broker.Broker
	Username string // of basic authentication
	Password string
	Logger   *slog.Logger // default slog.Default()
	// Registry gets the latency histogram and is what /metrics shows; default a new one.
	Registry *prometheus.Registry
	// OpenMetrics serves /metrics without login. By default it asks for the
	// broker's: names and counts of plans are the operator's business.
	OpenMetrics bool
	// Ready is nil when the broker can serve; default always. Its error is logged only.
	Ready func() error
	// Pools, Groups and Instances are shown to operators. Without them the
	// lists are empty, but for Instances, which come from Broker.
	Pools     func(context.Context) ([]Pool, error)
	Groups    func(context.Context) ([]Group, error)
	Instances func(context.Context) ([]Instance, error)
	// Dashboard serves everything below /dashboard/, without the broker's login;
	// default nothing. It checks by itself who may see what.
	Dashboard http.Handler
	// DashboardLink makes a link to an instance's page for an operator.
	DashboardLink func(ctx context.Context, instanceID string) (string, error)
	// DashboardClient is the OAuth client of an offering's dashboards, for the
	// catalog; default none.
	DashboardClient func(offering string) (c DashboardClient, ok bool)
	// BodyTimeout is how long a client may take to send a body; default 30 s.
	BodyTimeout time.Duration
}

// API is the handler of all paths.
type API struct {
	o        Options
	log      *slog.Logger
	auth     *auth.Wrapper
	router   *mux.Router
	catalogs map[int]document // by minor version
	latency  *prometheus.HistogramVec
}

// endpoint is what answers one method of one path.
type endpoint struct {
	operation string // for metrics and logs
	handle    func(*call) (answer, error)
	raw       http.Handler // instead of handle
	osb       bool         // checks the headers of the Open Service Broker API
	open      bool         // needs no login
}

// methods are the endpoints of one path.
type methods map[string]endpoint

// ServeHTTP is never called: ServeHTTP of API looks inside.
func (methods) ServeHTTP(http.ResponseWriter, *http.Request) {}

// allow is the Allow header.
func (m methods) allow() string {
	names := make([]string, 0, len(m)+1)
	for name := range m {
		names = append(names, name)
	}
	if _, ok := m[http.MethodGet]; ok {
		names = append(names, http.MethodHead)
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// New makes the handler. It fails when the catalog cannot be written as JSON or
// the registry has its metrics already.
func New(o Options) (*API, error) {
	if o.Broker == nil || o.Username == "" || o.Password == "" {
		return nil, errors.New("osbapi: Broker, Username and Password must be given")
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Registry == nil {
		o.Registry = prometheus.NewRegistry()
	}
	if o.BodyTimeout == 0 {
		o.BodyTimeout = 30 * time.Second
	}
	a := &API{o: o, log: o.Logger, auth: auth.NewWrapper(o.Username, o.Password)}
	var err error
	if a.catalogs, err = newCatalogs(o.Broker.Catalog(), o.DashboardClient); err != nil {
		return nil, fmt.Errorf("write catalog: %w", err)
	}
	a.latency = newLatency()
	if err := o.Registry.Register(a.latency); err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	a.route()
	return a, nil
}

// route is the list of all paths. Ids are matched as they were sent, still
// escaped, and nothing is cleaned or redirected, so that an escaped slash stays
// part of its id and is refused as such.
func (a *API) route() {
	a.router = mux.NewRouter().SkipClean(true).UseEncodedPath()
	osb := func(operation string, handle func(*call) (answer, error)) endpoint {
		return endpoint{operation: operation, handle: handle, osb: true}
	}
	const (
		instance = "/v2/service_instances/{instance_id}"
		binding  = instance + "/service_bindings/{binding_id}"
	)
	paths := map[string]methods{
		"/v2/catalog": {"GET": osb("catalog", a.getCatalog)},
		instance: {
			"GET":    osb("fetch_instance", a.fetchInstance),
			"PUT":    osb("provision", a.provision),
			"PATCH":  osb("update", a.update),
			"DELETE": osb("deprovision", a.deprovision),
		},
		instance + "/last_operation": {"GET": osb("last_operation", a.lastOperation)},
		binding: {
			"GET":    osb("fetch_binding", a.fetchBinding),
			"PUT":    osb("bind", a.bind),
			"DELETE": osb("unbind", a.unbind),
		},
		binding + "/last_operation": {"GET": osb("last_binding_operation", a.lastOperation)},
		"/healthz":                  {"GET": {operation: "healthz", handle: a.healthz, open: true}},
		"/readyz":                   {"GET": {operation: "readyz", handle: a.readyz, open: true}},
		"/metrics": {"GET": {operation: "metrics", open: a.o.OpenMetrics,
			raw: promhttp.HandlerFor(a.o.Registry, promhttp.HandlerOpts{})}},
		"/admin/v1/pools":     {"GET": {operation: "admin_pools", handle: a.pools}},
		"/admin/v1/groups":    {"GET": {operation: "admin_groups", handle: a.groups}},
		"/admin/v1/instances": {"GET": {operation: "admin_instances", handle: a.instances}},
		"/admin/v1/audit":     {"GET": {operation: "admin_audit", handle: a.auditPage}},
	}
	if a.o.DashboardLink != nil {
		paths["/admin/v1/instances/{instance_id}/dashboard"] = methods{"GET": {operation: "admin_dashboard", handle: a.dashboardLink}}
	}
	for path, m := range paths {
		a.router.Handle(path, m)
	}
	if a.o.Dashboard != nil {
		a.router.PathPrefix("/dashboard/").Handler(methods{"GET": {operation: "dashboard", raw: a.o.Dashboard, open: true}})
	}
}

// Limits of NewServer. What a body may take is Options.BodyTimeout; a call itself
// ends by the broker's own limits, within a minute.
const (
	headerTimeout  = 10 * time.Second
	answerTimeout  = 2 * time.Minute
	idleTimeout    = 2 * time.Minute
	maxHeaderBytes = 64 << 10
)

// NewServer is an http.Server for the handler, with limits against clients that
// are slow or send without end. Address and TLS are the caller's.
func NewServer(h http.Handler) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: headerTimeout,
		WriteTimeout:      answerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
	}
}
