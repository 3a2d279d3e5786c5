package osbapi_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"

	"github.com/remuda/remuda/provisioner"
	"github.com/remuda/remuda/provisioner/backendtest"
)

// order is a call of a back end, and its answer.
type order struct {
	Group        provisioner.Group
	ID, Which    string
	Next         int
	Values       map[string]any
	Output       map[string]string
	Observations []provisioner.Observation
	Error        string
}

// farBackend is the back end as brokers see it.
type farBackend struct{ url string }

func (f farBackend) call(ctx context.Context, method string, o order) (order, error) {
	body, err := json.Marshal(o)
	if err != nil {
		return o, err
	}
	r, err := http.NewRequestWithContext(ctx, "POST", f.url+"/"+method, strings.NewReader(string(body)))
	if err != nil {
		return o, err
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return o, err
	}
	defer answer.Body.Close()
	var back order
	if err := json.NewDecoder(answer.Body).Decode(&back); err != nil {
		return o, err
	}
	if back.Error != "" {
		return back, errors.New(back.Error)
	}
	return back, nil
}

func (f farBackend) one(ctx context.Context, method string, g provisioner.Group) (provisioner.Observation, error) {
	o, err := f.call(ctx, method, order{Group: g})
	if err != nil {
		return provisioner.Observation{}, err
	}
	return o.Observations[0], nil
}

func (f farBackend) Create(ctx context.Context, g provisioner.Group) (provisioner.Observation, error) {
	return f.one(ctx, "create", g)
}
func (f farBackend) Reset(ctx context.Context, g provisioner.Group) (provisioner.Observation, error) {
	return f.one(ctx, "reset", g)
}
func (f farBackend) Repair(ctx context.Context, g provisioner.Group) (provisioner.Observation, error) {
	return f.one(ctx, "repair", g)
}
func (f farBackend) Change(ctx context.Context, g provisioner.Group) (provisioner.Observation, error) {
	return f.one(ctx, "change", g)
}
func (f farBackend) Close(ctx context.Context, id string) error {
	_, err := f.call(ctx, "close", order{ID: id})
	return err
}
func (f farBackend) Cutoff(ctx context.Context, id string, next int) error {
	_, err := f.call(ctx, "cutoff", order{ID: id, Next: next})
	return err
}
func (f farBackend) Publish(ctx context.Context, g provisioner.Group) error {
	_, err := f.call(ctx, "publish", order{Group: g})
	return err
}
func (f farBackend) List(ctx context.Context) ([]provisioner.Observation, error) {
	o, err := f.call(ctx, "list", order{})
	return o.Observations, err
}
func (f farBackend) Program(ctx context.Context, g provisioner.Group, which string, values map[string]any) (map[string]string, error) {
	o, err := f.call(ctx, "program", order{Group: g, Which: which, Values: values})
	return o.Output, err
}

// serveBackend is the other end.
func serveBackend(m *backendtest.Memory) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var o order
		err := json.NewDecoder(r.Body).Decode(&o)
		one := func(call func(context.Context, provisioner.Group) (provisioner.Observation, error)) {
			var seen provisioner.Observation
			seen, err = call(r.Context(), o.Group)
			o.Observations = []provisioner.Observation{seen}
		}
		if err == nil {
			switch strings.TrimPrefix(r.URL.Path, "/") {
			case "create":
				one(m.Create)
			case "reset":
				one(m.Reset)
			case "repair":
				one(m.Repair)
			case "change":
				one(m.Change)
			case "close":
				err = m.Close(r.Context(), o.ID)
			case "cutoff":
				err = m.Cutoff(r.Context(), o.ID, o.Next)
			case "publish":
				err = m.Publish(r.Context(), o.Group)
			case "list":
				o.Observations, err = m.List(r.Context())
			case "program":
				o.Output, err = m.Program(r.Context(), o.Group, o.Which, o.Values)
			}
		}
		if err != nil {
			o.Error = err.Error()
		}
		_ = json.NewEncoder(w).Encode(o)
	})
}
