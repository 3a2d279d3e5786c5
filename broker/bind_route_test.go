package broker_test

import (
	"testing"

	"github.com/remuda/remuda/broker"
	"github.com/remuda/remuda/broker/brokertest"
)

// A binding of an offering for routes needs one; without it nothing happens.
func TestBindNeedsRoute(t *testing.T) {
	f := brokertest.New(t, func(o *broker.Options) {
		recipes := brokertest.Catalog()
		recipes[0].RouteServiceURL = "http://{{.host}}/"
		o.Catalog = recipes
	})
	f.Pool.Warm(t, 1)
	provision(t, f, "a")
	_, err := f.Broker.Bind(ctx, bindRequest("a", "b"))
	wantCode(t, err, broker.Invalid)
	if row, there := getBinding(t, f, "b"); there || len(f.Pool.Runs()) != 0 {
		t.Errorf("the refused binding left %+v, %+v", row, f.Pool.Runs())
	}
	r := bindRequest("a", "b")
	r.Route = "app.example.com"
	_, err = f.Broker.Bind(ctx, r)
	wantCode(t, err, "")
}
