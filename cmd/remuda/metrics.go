package main

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/remuda/remuda/provisioner"
)

// poolMetrics implements provisioner.Metrics.
type poolMetrics struct {
	demand *prometheus.CounterVec
	work   *prometheus.HistogramVec
	hooks  *prometheus.HistogramVec
}

func newPoolMetrics(r *prometheus.Registry) *poolMetrics {
	buckets := []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120}
	m := &poolMetrics{
		demand: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "remuda_pool_demand_total",
			Help: "Instances that were asked for: served by a warm group (hit) or made to wait (miss).",
		}, []string{"offering", "plan", "result"}),
		work: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "remuda_pool_work_duration_seconds", Buckets: buckets,
			Help: "Time for a create (refill), reset, repair or close of a group.",
		}, []string{"work", "offering", "plan", "result"}),
		hooks: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "remuda_hook_duration_seconds", Buckets: buckets,
			Help: "Time for a recipe's program (provision, bind, unbind) in the leader.",
		}, []string{"hook", "result"}),
	}
	r.MustRegister(m.demand, m.work, m.hooks)
	return m
}

func (m *poolMetrics) Demand(offering, plan string, hit bool) {
	result := "miss"
	if hit {
		result = "hit"
	}
	m.demand.WithLabelValues(offering, plan, result).Inc()
}

func (m *poolMetrics) Worked(work, offering, plan string, took time.Duration, err error) {
	m.work.WithLabelValues(work, offering, plan, outcome(err)).Observe(took.Seconds())
}

func outcome(err error) string {
	if err != nil {
		return "error"
	}
	return "ok"
}

// timedGroups is the pool as the broker uses it, with the time of hooks measured.
type timedGroups struct {
	*provisioner.Pool
	metrics *poolMetrics
}

func (g timedGroups) Program(ctx context.Context, groupID, which string, values map[string]any) (map[string]string, error) {
	began := time.Now()
	output, err := g.Pool.Program(ctx, groupID, which, values)
	g.metrics.hooks.WithLabelValues(which, outcome(err)).Observe(time.Since(began).Seconds())
	return output, err
}

// levelCollector reads the pool's levels when metrics are asked for.
type levelCollector struct{ levels func() []provisioner.Level }

var levelDesc = prometheus.NewDesc("remuda_pool_groups",
	"Container groups by state, with floor, target and ceiling as states of their own.", []string{"offering", "plan", "state"}, nil)

// Describe implements prometheus.Collector.
func (levelCollector) Describe(ch chan<- *prometheus.Desc) { ch <- levelDesc }

// Collect implements prometheus.Collector.
func (c levelCollector) Collect(ch chan<- prometheus.Metric) {
	for _, l := range c.levels() {
		for state, n := range map[string]int{
			"warm": l.Warm, "claimed": l.Claimed, "creating": l.Creating, "resetting": l.Resetting, "closing": l.Closing,
			"waiting": l.Waiting, "floor": l.Floor, "target": l.Target, "ceiling": l.Ceiling,
		} {
			ch <- prometheus.MustNewConstMetric(levelDesc, prometheus.GaugeValue, float64(n), l.Offering, l.Plan, state)
		}
	}
}
