package conformance

import (
	"context"
	"net/url"
	"slices"
)

const updateSection = "Updating a Service Instance"

var updateRules = slices.Concat([]Rule{
	must("update.malformed", updateSection, "an update whose body is not JSON is refused with 400"),
	must("update.no-object", updateSection, "an update whose body is no JSON object is refused with 400"),
	must("update.service-id", updateSection, "an update without service_id is refused with 400"),
	must("update.unknown-plan", updateSection, "an update to a plan_id outside the catalog is refused with a 4xx"),
	must("update.other-plan", updateSection, "an update to the plan of another offering is refused with a 4xx"),
	must("update.absent-instance", updateSection, "an update of an instance that never was is refused with a 4xx"),
	must("update.no-effect", updateSection, "a refused update has changed nothing"),
	must("update.plan", updateSection, "an update to another plan is answered with 200 or 202, and the instance has that plan then"),
	must("update.plan-kept", updateSection, "an update without plan_id leaves the plan as it is"),
	must("update.parameters", updateSection, "an update of parameters is answered with 200 or 202"),
	must("update.body", updateSection, "the answer is a JSON object"),
	must("update.dashboard-url", updateSection, "dashboard_url is a string or null"),
	must("update.operation", updateSection, "operation is a string of at most 10000 characters"),
	must("update.async-required", "Asynchronous Operations", "without accepts_incomplete=true an update is done at once, or refused with 422 AsyncRequired"),
	must("update.repeat-running", updateSection, "the same update, while the first goes on, is answered with 202 and the same operation"),
}, since(14,
	must("update.fetch-running", fetchSection, "an instance that is being updated is fetched with 200, or refused with 422 ConcurrencyError"),
), since(15,
	must("update.context", updateSection, "an update of the context alone is answered with 200 or 202"),
	must("update.maintenance", "Maintenance Info Object", "an update with the plan's maintenance_info is answered with 200 or 202"),
	must("update.maintenance-conflict", "Maintenance Info Object", "an update with another maintenance_info.version is refused with 422 MaintenanceInfoConflict"),
), since(16,
	must("update.metadata", "Service Instance Metadata", "metadata, its labels and attributes are objects"),
))

// updatesOffered says whether the catalog offers an update of any kind.
func (s *suite) updatesOffered() bool {
	return s.plan.updateable || s.plan.update != nil || s.minor >= 15 && (s.offering.contextUpdates || s.plan.maintenance != "")
}

// checkUpdates updates the second instance, and deletes it.
func (s *suite) checkUpdates(ctx context.Context) {
	i := s.second
	if !s.updatesOffered() {
		s.skipArea("update", "the plan has no plan_updateable and no schema of updates, the offering no allow_context_updates")
		return
	}
	if i == nil {
		s.skipArea("update", "no second instance could be made")
		return
	}
	s.checkUpdateInput(ctx, i)
	if s.offering.contextUpdates && s.minor >= 15 {
		s.update(ctx, "update.context", i, obj{"service_id": i.service, "context": obj{"platform": "conformance", "instance_name": "renamed"}}, true)
		s.planKept(ctx, i)
	} else {
		s.skip("update.context", "the offering has no allow_context_updates")
	}
	if v := vary(s.plan.update, nil); v != nil {
		s.update(ctx, "update.parameters", i, obj{"service_id": i.service, "parameters": v}, true)
		s.planKept(ctx, i)
	} else {
		s.skip("update.parameters", "no parameters could be made from the plan's schema of updates")
	}
	if s.plan.maintenance != "" && s.minor >= 15 {
		s.update(ctx, "update.maintenance", i, obj{"service_id": i.service, "maintenance_info": obj{"version": s.plan.maintenance}}, false)
	} else {
		s.skip("update.maintenance", noMaintenance)
	}
	s.checkPlanChange(ctx, i)
	s.checkDeprovision(ctx, i, false)
}

// planKept checks the plan after an update without plan_id.
func (s *suite) planKept(ctx context.Context, i *instance) {
	if !s.offering.instancesRetrievable || s.minor < 14 {
		s.skip("update.plan-kept", notRetrievable)
		return
	}
	x := s.call(ctx, request{method: "GET", path: i.path()})
	v, has := x.object()["plan_id"]
	s.expect("update.plan-kept", x.in(200) && (!has || v == i.plan), x, "200 and plan_id "+i.plan)
}

func (s *suite) checkUpdateInput(ctx context.Context, i *instance) {
	good := obj{"service_id": i.service, "plan_id": i.plan}
	list := []bad{
		{rule: "malformed", raw: `{"service_id":`, status: 400},
		{rule: "no-object", raw: "[" + plain(good) + "]", status: 400},
		{rule: "service-id", body: without(good, "service_id"), status: 400},
		{rule: "unknown-plan", body: with(good, "plan_id", newID())},
	}
	if _, p := s.foreign(); p != nil {
		list = append(list, bad{rule: "other-plan", body: with(good, "plan_id", p.id)})
	} else {
		s.skip("update.other-plan", "the catalog has only one offering")
	}
	if s.plan.maintenance != "" && s.minor >= 15 {
		list = append(list, bad{rule: "maintenance-conflict", status: 422, code: "MaintenanceInfoConflict",
			body: with(without(good, "plan_id"), "maintenance_info", obj{"version": otherVersion(s.plan.maintenance)})})
	} else {
		s.skip("update.maintenance-conflict", noMaintenance)
	}
	for _, b := range list {
		s.callBad(ctx, "update.", request{method: "PATCH", path: i.path(), query: accepts()}, b)
		s.unchanged(ctx, "update.no-effect", i)
	}
	x := s.call(ctx, request{method: "PATCH", path: s.sample().path(), query: accepts(), body: good})
	s.expectRefused("update.absent-instance", x)
}

// update sends one update with all checks, and says whether it was done. When
// eager, it first asks for an answer at once.
func (s *suite) update(ctx context.Context, id string, i *instance, body obj, eager bool) bool {
	r := request{method: "PATCH", path: i.path(), body: body}
	if !eager {
		r.query = accepts()
	}
	x := s.call(ctx, r)
	if eager {
		s.expect("update.async-required", x.in(200) || x.code("AsyncRequired"), x, "200, or 422 with the error AsyncRequired")
		if x.code("AsyncRequired") {
			r.query = accepts()
			x = s.call(ctx, r)
		}
	}
	if !s.expectStatus(id, x, 200, 202) {
		return false
	}
	s.checkInstanceAnswer("update", x)
	if x.in(200) {
		s.skip("update.repeat-running", alwaysSync)
		s.skip("update.fetch-running", alwaysSync)
		return true
	}
	p := polled{area: "poll", path: i.path(), hints: url.Values{"service_id": {i.service}, "plan_id": {i.plan}}, first: x}
	s.checkRepeatRunning(ctx, "update.repeat-running", r, p)
	if s.offering.instancesRetrievable && s.minor >= 14 {
		get := s.call(ctx, request{method: "GET", path: i.path()})
		s.expect("update.fetch-running", get.in(200) || get.code("ConcurrencyError"), get, "200, or 422 with the error ConcurrencyError")
	}
	return s.wait(ctx, p)
}

// target is the plan to change to.
func (s *suite) target(i *instance) *plan {
	if s.o.UpdatePlan == "" {
		return s.otherPlan(i.plan)
	}
	for k := range s.offering.plans {
		if p := &s.offering.plans[k]; p.id == s.o.UpdatePlan || p.name == s.o.UpdatePlan {
			return p
		}
	}
	return nil
}

func (s *suite) checkPlanChange(ctx context.Context, i *instance) {
	const id = "update.plan"
	to := s.target(i)
	switch {
	case !s.plan.updateable:
		s.skip(id, "the plan has no plan_updateable")
		return
	case to == nil && s.o.UpdatePlan != "":
		s.skip(id, "the offering has no such plan to change to")
		s.incomplete = "the offering has no such plan to change to"
		return
	case to == nil:
		s.skip(id, onePlan)
		return
	}
	r := request{method: "PATCH", path: i.path(), query: accepts()}
	body := obj{"service_id": i.service, "plan_id": to.id, "previous_values": obj{"plan_id": i.plan}}
	if s.o.UpdatePlan == "" {
		// Not every change need be possible (OSB, "Updating a Service Instance").
		r.body = body
		if x := s.call(ctx, r); x.in(422) && !x.code("AsyncRequired") {
			s.skip(id, "the broker refused the change with 422; name a possible one")
			s.unchanged(ctx, "update.no-effect", i)
			return
		} else if x.in(200, 202) {
			s.finishPlanChange(ctx, i, to, x, r)
			return
		}
	}
	if s.update(ctx, id, i, body, true) {
		s.changed(ctx, i, to)
	}
}

func (s *suite) finishPlanChange(ctx context.Context, i *instance, to *plan, x *exchange, r request) {
	s.expect("update.plan", true, x, "")
	s.checkInstanceAnswer("update", x)
	if x.in(202) {
		p := polled{area: "poll", path: i.path(), hints: i.hints(), first: x}
		s.checkRepeatRunning(ctx, "update.repeat-running", r, p)
		if !s.wait(ctx, p) {
			return
		}
	}
	s.changed(ctx, i, to)
}

// changed checks the plan after a change.
func (s *suite) changed(ctx context.Context, i *instance, to *plan) {
	i.plan = to.id
	if s.offering.instancesRetrievable && s.minor >= 14 {
		x := s.call(ctx, request{method: "GET", path: i.path()})
		v, has := x.object()["plan_id"]
		s.expect("update.plan", x.in(200) && (!has || v == to.id), x, "200 and plan_id "+to.id)
	}
}
