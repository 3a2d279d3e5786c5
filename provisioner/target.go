package provisioner

import (
	"math"
	"time"
)

const (
	// safety is the z of the target: with Poisson arrivals about 99 of 100
	// refill times bring no more requests than there are warm groups.
	safety = 2.33
	// memory is the time constant with which past arrivals are forgotten.
	memory = time.Minute
	// assumedRefill is used before a refill was measured.
	assumedRefill = time.Second
)

// target is how many groups should be warm: λT + z·√(λT), the arrivals during
// one refill time and a margin for their spread (base stock under Poisson
// demand), within floor and ceiling. Floor 0 means always cold: nothing is made
// before somebody asks.
func target(l Limits, perSecond float64, refill time.Duration) int {
	if l.Floor <= 0 {
		return 0
	}
	mean := perSecond * refill.Seconds()
	n := int(math.Round(mean + safety*math.Sqrt(mean)))
	return min(max(n, l.Floor), max(l.Ceiling, 0))
}

// rate estimates arrivals per second; old ones fade with time constant memory.
type rate struct {
	value float64
	at    time.Time
}

func (r *rate) add(now time.Time) {
	r.value = r.perSecond(now) + 1/memory.Seconds()
	r.at = now
}

func (r *rate) perSecond(now time.Time) float64 {
	return r.value * math.Exp(-max(now.Sub(r.at), 0).Seconds()/memory.Seconds())
}

// mean is an exponentially weighted mean of durations.
type mean struct {
	value time.Duration
}

func (m *mean) add(d time.Duration) {
	if m.value == 0 {
		m.value = d
		return
	}
	m.value += (d - m.value) / 5
}

func (m *mean) get() time.Duration {
	if m.value == 0 {
		return assumedRefill
	}
	return m.value
}

// backoff is how long to wait after so many failures in a row: 1 s, 2 s … 1 min.
func backoff(failures int) time.Duration {
	if failures <= 0 {
		return 0
	}
	return min(time.Second<<min(failures-1, 6), time.Minute)
}
