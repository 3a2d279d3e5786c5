package osbapi

import (
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type health struct {
	Status string `json:"status"`
}

// healthz says that the process answers.
func (a *API) healthz(*call) (answer, error) {
	return answer{status: http.StatusOK, body: health{"ok"}}, nil
}

// readyz says whether the broker can serve. Why not is in the log only.
func (a *API) readyz(c *call) (answer, error) {
	if a.o.Ready != nil {
		if err := a.o.Ready(); err != nil {
			a.log.WarnContext(c.Context(), "not ready", "request_id", c.id, "error", err)
			return answer{status: http.StatusServiceUnavailable, body: health{"unavailable"}, retry: time.Second}, nil
		}
	}
	return answer{status: http.StatusOK, body: health{"ok"}}, nil
}

func newLatency() *prometheus.HistogramVec {
	return prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "remuda_http_request_duration_seconds",
		Help:    "Time from the request's header to the last byte of the answer, by operation and HTTP status.",
		Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60},
	}, []string{"operation", "status"})
}

// observe counts a call. Requests that reached no endpoint share one name.
func (a *API) observe(operation string, status int, took time.Duration) {
	if operation == "" {
		operation = "none"
	}
	a.latency.WithLabelValues(operation, strconv.Itoa(status)).Observe(took.Seconds())
}
