package broker_test

import (
	"context"
	"encoding/json"
	"errors"
	"testing"

	"github.com/remuda/remuda/broker"
	"github.com/remuda/remuda/broker/brokertest"
	"github.com/remuda/remuda/store"
)

func TestMain(m *testing.M) { brokertest.Main(m) }

var ctx = context.Background()

func provisionRequest(id string) broker.ProvisionRequest {
	return broker.ProvisionRequest{
		InstanceID: id, ServiceID: brokertest.ServiceID, PlanID: brokertest.SmallID,
		OrganizationGUID: "org", SpaceGUID: "space", Context: json.RawMessage(`{"platform":"test"}`),
	}
}

func bindRequest(instance, id string) broker.BindRequest {
	return broker.BindRequest{
		InstanceID: instance, BindingID: id, ServiceID: brokertest.ServiceID, PlanID: brokertest.SmallID,
	}
}

func deprovisionRequest(id string) broker.DeprovisionRequest {
	return broker.DeprovisionRequest{InstanceID: id, ServiceID: brokertest.ServiceID, PlanID: brokertest.SmallID}
}

func unbindRequest(instance, id string) broker.UnbindRequest {
	return broker.UnbindRequest{InstanceID: instance, BindingID: id, ServiceID: brokertest.ServiceID, PlanID: brokertest.SmallID}
}

func unbind(ctx context.Context, f *brokertest.Fixture, r broker.UnbindRequest) error {
	_, err := f.Broker.Unbind(ctx, r)
	return err
}

func pollRequest(instance, binding, operation string) broker.PollRequest {
	return broker.PollRequest{
		FetchRequest: broker.FetchRequest{InstanceID: instance, BindingID: binding}, Operation: operation,
	}
}

// wantCode checks how a call failed; "" means that it did not.
func wantCode(t *testing.T, err error, code broker.Code) {
	t.Helper()
	var e *broker.Error
	switch {
	case err == nil && code == "":
	case err == nil:
		t.Fatalf("no error, want %q", code)
	case !errors.As(err, &e):
		t.Fatalf("error is a %T: %v", err, err)
	case e.Code != code:
		t.Fatalf("code %q (%v), want %q", e.Code, err, code)
	case e.Message == "":
		t.Fatalf("no words for the user in %v", err)
	}
}

func provision(t *testing.T, f *brokertest.Fixture, id string) {
	t.Helper()
	result, err := f.Broker.Provision(ctx, provisionRequest(id))
	wantCode(t, err, "")
	if !result.Created || result.Operation != "" {
		t.Fatalf("got %+v, want a new instance", result)
	}
}

type credentials struct{ Username, Password string }

func bind(t *testing.T, f *brokertest.Fixture, instance, id string) credentials {
	t.Helper()
	result, err := f.Broker.Bind(ctx, bindRequest(instance, id))
	wantCode(t, err, "")
	if !result.Created {
		t.Fatalf("binding %q is not new", id)
	}
	return decodeCredentials(t, result)
}

func decodeCredentials(t *testing.T, r broker.BindResult) credentials {
	t.Helper()
	var c credentials
	if err := json.Unmarshal(r.Credentials, &c); err != nil {
		t.Fatal(err)
	}
	return c
}

func getInstance(t *testing.T, f *brokertest.Fixture, id string) (inst store.Instance, found bool) {
	t.Helper()
	f.View(t, func(tx store.Tx) (err error) {
		inst, err = tx.Instances().Get(id)
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		found = true
		return err
	})
	return inst, found
}

func getBinding(t *testing.T, f *brokertest.Fixture, id string) (r store.Binding, found bool) {
	t.Helper()
	f.View(t, func(tx store.Tx) (err error) {
		r, err = tx.Bindings().Get(id)
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		found = true
		return err
	})
	return r, found
}

func groupStates(t *testing.T, f *brokertest.Fixture) map[store.GroupState]int {
	t.Helper()
	var counts map[store.GroupState]int
	f.View(t, func(tx store.Tx) (err error) {
		counts, err = tx.Groups().Count(brokertest.Small)
		return err
	})
	return counts
}

// eventuallyWarm waits until n groups are warm.
func eventuallyWarm(t *testing.T, f *brokertest.Fixture, n int) {
	t.Helper()
	brokertest.Eventually(t, "groups are warm", func() bool { return groupStates(t, f)[store.GroupWarm] == n })
}
