package broker

import (
	"context"
	"sync"
)

// job is background work on one instance or binding. Jobs are values, so that
// the same work is queued only once.
type job struct {
	kind jobKind
	id   string
}

type jobKind int

const (
	settleInstance jobKind = iota
	settleBinding
)

// queue is an unbounded first-in, first-out queue that holds each job once.
// It loses nothing that the store does not know: Recover fills it again.
type queue struct {
	mu     sync.Mutex
	jobs   []job
	queued map[job]bool
	wake   chan struct{} // holds a token while there may be jobs
}

func newQueue() *queue {
	return &queue{queued: map[job]bool{}, wake: make(chan struct{}, 1)}
}

func (q *queue) add(j job) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.queued[j] {
		return
	}
	q.queued[j] = true
	q.jobs = append(q.jobs, j)
	q.signal()
}

// next blocks until there is a job or ctx ends.
func (q *queue) next(ctx context.Context) (job, error) {
	for {
		select {
		case <-ctx.Done():
			return job{}, ctx.Err()
		case <-q.wake:
		}
		q.mu.Lock()
		if len(q.jobs) == 0 {
			q.mu.Unlock()
			continue
		}
		j := q.jobs[0]
		q.jobs = q.jobs[1:]
		delete(q.queued, j)
		if len(q.jobs) > 0 {
			q.signal()
		} else {
			q.jobs = nil
		}
		q.mu.Unlock()
		return j, nil
	}
}

func (q *queue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}
