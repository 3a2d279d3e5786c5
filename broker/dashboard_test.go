package broker_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/remuda/remuda/broker"
	"github.com/remuda/remuda/broker/brokertest"
	"github.com/remuda/remuda/store"
)

func TestDetails(t *testing.T) {
	f := brokertest.New(t, nil)
	f.Pool.Warm(t, 1)
	_, err := f.Broker.Details(ctx, "a")
	wantCode(t, err, broker.NotFound)
	r := provisionRequest("a")
	r.Parameters = json.RawMessage(`{"size":3}`)
	_, err = f.Broker.Provision(ctx, r)
	wantCode(t, err, "")
	bound := bindRequest("a", "b")
	bound.AppGUID = "app"
	result, err := f.Broker.Bind(ctx, bound)
	wantCode(t, err, "")
	d, err := f.Broker.Details(ctx, "a")
	wantCode(t, err, "")
	if d.Offering != "box" || d.Plan != "small" || d.Instance.State != store.InstanceReady || len(d.Endpoints) != 2 ||
		len(d.Bindings) != 1 || d.Bindings[0].AppGUID != "app" || d.Bindings[0].State != store.BindingReady || d.More != 0 || d.Failure != "" {
		t.Errorf("%+v", d)
	}
	text := fmt.Sprintf("%+v", d)
	if c := decodeCredentials(t, result); strings.Contains(text, c.Password) || d.Instance.Sealed != nil || d.Instance.Context != nil {
		t.Error("secrets in the details")
	}
}

func TestDetailsAreBounded(t *testing.T) {
	f := brokertest.New(t, nil)
	birth := time.Now().Add(-time.Minute)
	err := f.Store.Update(ctx, func(tx store.Tx) error {
		for n := range 150 {
			if err := tx.Bindings().Put(store.Binding{ID: fmt.Sprintf("b%03d", n), InstanceID: "a", State: store.BindingReady, CreatedAt: birth.Add(time.Duration(n))}); err != nil {
				return err
			}
		}
		for n := range 50 {
			r := store.AuditRecord{Time: birth.Add(time.Duration(n)), Operation: "bind", InstanceID: "a", BindingID: fmt.Sprint(n), Result: "created"}
			if n == 40 { // the end of an instance that had the id before
				r.Operation, r.Result = "deprovision", "deleted"
			}
			if _, err := tx.Audit().Append(r); err != nil {
				return err
			}
		}
		if err := tx.Operations().Put(store.Operation{ID: "o", Kind: store.OpProvision, State: store.OpFailed, InstanceID: "a", Description: "why", StartedAt: birth}); err != nil {
			return err
		}
		return tx.Instances().Put(store.Instance{ID: "a", State: store.InstanceFailed, CreatedAt: birth})
	})
	if err != nil {
		t.Fatal(err)
	}
	d, err := f.Broker.Details(ctx, "a")
	wantCode(t, err, "")
	if len(d.Bindings) != 100 || d.More != 50 || d.Bindings[0].ID != "b050" || d.Bindings[99].ID != "b149" {
		t.Errorf("%d bindings and %d more", len(d.Bindings), d.More)
	}
	if len(d.History) != 9 || d.History[0].BindingID != "49" || d.History[8].BindingID != "41" {
		t.Errorf("history %+v", d.History)
	}
	if d.Failure != "why" {
		t.Errorf("failure %q", d.Failure)
	}
}
