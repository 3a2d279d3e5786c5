package kubernetes

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/remuda/remuda/provisioner"
)

// probePause is how often a server that does not answer is asked whether it does again.
const probePause = 500 * time.Millisecond

// reachable notes by what requests come to whether the API server answers. Watches are requests
// too, so that it is noticed when nobody asks anything; while all is well nothing is asked for this.
type reachable struct {
	next http.RoundTripper

	mu   sync.Mutex
	why  error         // nil while it answers
	away chan struct{} // told when it stops answering
}

// RoundTrip implements http.RoundTripper.
func (r *reachable) RoundTrip(req *http.Request) (*http.Response, error) {
	res, err := r.next.RoundTrip(req)
	switch {
	case err != nil && req.Context().Err() != nil: // nobody waits for it any more
	case err != nil:
		r.note(err)
	case res.StatusCode == http.StatusServiceUnavailable || res.StatusCode == http.StatusBadGateway || res.StatusCode == http.StatusGatewayTimeout:
		r.note(fmt.Errorf("it answers %s", res.Status))
	default:
		r.note(nil)
	}
	return res, err
}

func (r *reachable) note(why error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.why = why
	if why != nil {
		select {
		case r.away <- struct{}{}:
		default:
		}
	}
}

// Available says without asking why the API server cannot be reached just now, or nil.
func (b *Backend) Available() error {
	b.server.mu.Lock()
	defer b.server.mu.Unlock()
	if b.server.why != nil {
		return fmt.Errorf("%w: the API server does not answer: %w", provisioner.ErrUnavailable, b.server.why)
	}
	return nil
}

// probe asks a server that does not answer until it does, until ctx ends.
func (b *Backend) probe(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-b.server.away:
		}
		for b.Available() != nil {
			select {
			case <-ctx.Done():
				return
			case <-time.After(probePause):
			}
			_ = b.Check(ctx)
		}
	}
}
