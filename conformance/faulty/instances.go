package faulty

import (
	"time"
)

type instance struct {
	service, plan, org, space, parameters string
	made                                  bool
	op                                    *operation
}

func (i *instance) same(j *instance) bool {
	return i.service == j.service && i.plan == j.plan && i.org == j.org && i.space == j.space && i.parameters == j.parameters
}

// provision is PUT of an instance.
func (b *Broker) provision(c *call) answer {
	a, ok := b.read(c, "provision-")
	if ok {
		a, ok = b.checkProvision(c)
	}
	if !ok {
		if b.is("refusal-effect") && a.status == 400 {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.instances[c.instance] = &instance{service: FullID, plan: SmallID, made: true}
		}
		return a
	}
	want := &instance{service: c.str("service_id"), plan: c.str("plan_id"), org: c.str("organization_guid"),
		space: c.str("space_guid"), parameters: plain(c.body["parameters"])}
	if b.is("provision-race") {
		b.mu.Lock()
		_, known := b.instances[c.instance]
		b.mu.Unlock()
		time.Sleep(20 * time.Millisecond)
		if !known {
			b.mu.Lock()
			delete(b.instances, c.instance)
			b.mu.Unlock()
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if old := b.instances[c.instance]; old != nil {
		return b.provisionAgain(old, want)
	}
	return b.provisionNew(c, want)
}

// checkProvision looks at the body.
func (b *Broker) checkProvision(c *call) (answer, bool) {
	for _, f := range []string{"service_id", "plan_id", "organization_guid", "space_guid"} {
		v, has := c.body[f]
		s, isText := v.(string)
		switch {
		case !has && b.is("provision-"+f+"-optional"):
			if f == "service_id" {
				c.body[f] = FullID
			}
			if f == "plan_id" {
				c.body[f] = SmallID
			}
		case has && isText && s == "" && b.is("guid-empty-accepted"):
		case !isText || s == "":
			return refuse(400, "", f+" must be a non-empty string"), false
		}
	}
	for _, f := range []string{"parameters", "context", "maintenance_info"} {
		if v, has := c.body[f]; has && !b.is("types-ignored") {
			if _, ok := v.(obj); !ok {
				return refuse(400, "", f+" must be an object"), false
			}
		}
	}
	service, plan := c.str("service_id"), c.str("plan_id")
	status := 400
	if b.is("unknown-plan-404") {
		status = 404
	}
	switch {
	case !isService(service) && !b.is("unknown-service-accepted"), !isPlan(plan) && !b.is("unknown-plan-accepted"):
		return refuse(status, "", "the catalog does not have that"), false
	case isService(service) && isPlan(plan) && !offers(service, plan) && !b.is("other-plan-accepted"):
		return refuse(400, "", "the plan is of another offering"), false
	}
	return b.checkMaintenance(c, "provision")
}

func (b *Broker) checkMaintenance(c *call, kind string) (answer, bool) {
	info, _ := c.body["maintenance_info"].(obj)
	if v, has := info["version"]; !has || v == maintenance || b.is(kind+"-maintenance-ignored") {
		return answer{}, true
	}
	if b.is(kind + "-maintenance-409") {
		return refuse(409, "", "the version changed"), false
	}
	return refuse(422, "MaintenanceInfoConflict", "the version changed"), false
}

func (b *Broker) provisionAgain(old, want *instance) answer {
	body := b.instanceBody(false)
	conflict := !old.same(want)
	for field, differs := range map[string]bool{
		"service": old.service != want.service, "plan": old.plan != want.plan && old.service == want.service,
		"organization": old.org != want.org, "space": old.space != want.space, "parameters": old.parameters != want.parameters,
	} {
		if differs && b.is("conflict-"+field+"-accepted") {
			conflict = false
		}
	}
	switch {
	case old.op.running() && conflict && b.is("conflict-running-accepted"):
		return b.accepted(old.op, body)
	case conflict && b.is("conflict-422"):
		return refuse(422, "", "it is there, but different")
	case conflict:
		return refuse(409, "", "it is there, but different")
	case old.op.running() && b.is("repeat-running-other-operation"):
		return b.accepted(b.begin("provision", func() {}), body)
	case old.op.running() && b.is("repeat-running-200"):
		return answer{status: 200, body: body}
	case old.op.running():
		return b.accepted(old.op, body)
	case b.is("repeat-201"):
		return answer{status: 201, body: body}
	case b.is("repeat-409"):
		return refuse(409, "", "it is there")
	}
	return answer{status: 200, body: body}
}

func (b *Broker) provisionNew(c *call, i *instance) answer {
	body := b.instanceBody(true)
	if !b.o.Async {
		i.made = true
		b.instances[c.instance] = i
		delete(b.done, c.URL.Path)
		status := 201
		if b.is("provision-200") {
			status = 200
		}
		if b.is("provision-array") {
			return answer{status: 201, body: []any{}}
		}
		return answer{status: status, body: body}
	}
	if a, ok := b.mayBegin(c, "provision"); !ok {
		return a
	}
	i.op = b.begin("provision", func() { i.made = true })
	b.instances[c.instance] = i
	return b.accepted(i.op, body)
}

// mayBegin says whether the platform asked for an asynchronous answer.
func (b *Broker) mayBegin(c *call, kind string) (answer, bool) {
	switch {
	case c.accepts, b.is(kind + "-async-unasked"):
		return answer{}, true
	case b.is(kind + "-async-code"):
		return refuse(422, "AsyncOnly", "ask for it"), false
	}
	return refuse(422, "AsyncRequired", "ask for it"), false
}

func (b *Broker) instanceBody(first bool) obj {
	body := obj{"dashboard_url": "https://dashboard.example.com/1", "metadata": obj{"labels": obj{}, "attributes": obj{}}}
	switch {
	case b.is("dashboard-late") && first:
		delete(body, "dashboard_url")
	case b.is("dashboard-changes") && !first:
		body["dashboard_url"] = "https://dashboard.example.com/2"
	case b.is("dashboard-number"):
		body["dashboard_url"] = 7
	case b.is("metadata-labels-array"):
		body["metadata"] = obj{"labels": []any{}}
	}
	return body
}

// fetch is GET of an instance.
func (b *Broker) fetch(c *call) answer {
	b.mu.Lock()
	defer b.mu.Unlock()
	i := b.instances[c.instance]
	switch {
	case b.is("fetch-crash") && i != nil && i.made:
		return refuse(500, "", "crash")
	case i == nil && b.is("fetch-absent-410"):
		return refuse(410, "", "there is no such instance")
	case i == nil && b.is("fetch-deleted-200") && b.done[c.URL.Path] != nil:
		return answer{status: 200, body: obj{}}
	case i == nil || !i.made && !b.is("fetch-running-200"):
		return refuse(404, "", "there is no such instance")
	case i.op.running() && i.made && b.is("fetch-updating-409"):
		return refuse(409, "", "it is being updated")
	case i.op.running() && i.made:
		return refuse(422, "ConcurrencyError", "it is being updated")
	case b.is("fetch-hints-refused") && c.URL.Query().Get("plan_id") != "":
		return refuse(400, "", "no hints, please")
	}
	body := b.instanceBody(false)
	body["service_id"], body["plan_id"], body["parameters"] = i.service, i.plan, obj{}
	body["maintenance_info"] = obj{"version": maintenance}
	if b.is("fetch-other-plan") {
		body["plan_id"] = "another"
	}
	return answer{status: 200, body: body}
}

// update is PATCH of an instance.
func (b *Broker) update(c *call) answer {
	if a, ok := b.read(c, "update-"); !ok {
		return a
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	i := b.instances[c.instance]
	if i == nil {
		if b.is("update-absent-accepted") {
			return answer{status: 200, body: obj{}}
		}
		return refuse(404, "", "there is no such instance")
	}
	plan, hasPlan := c.body["plan_id"].(string)
	if !hasPlan {
		plan = i.plan
		if b.is("update-plan-reset") {
			plan = LargeID
		}
	}
	if a, ok := b.checkUpdate(c, i, plan); !ok {
		if b.is("update-refused-effect") {
			i.plan = LargeID
		}
		return a
	}
	apply := func() {
		if !b.is("update-plan-ignored") {
			i.plan = plan
		}
	}
	if !b.o.Async {
		apply()
		if b.is("update-array") {
			return answer{status: 200, body: []any{}}
		}
		return answer{status: 200, body: b.instanceBody(false)}
	}
	if i.op.running() {
		if b.is("update-repeat-running-200") {
			return answer{status: 200, body: obj{}}
		}
		return b.accepted(i.op, obj{})
	}
	if a, ok := b.mayBegin(c, "update"); !ok {
		return a
	}
	i.op = b.begin("update", apply)
	return b.accepted(i.op, obj{})
}

func (b *Broker) checkUpdate(c *call, i *instance, plan string) (answer, bool) {
	switch service := c.str("service_id"); {
	case service == "" && !b.is("update-service-optional"):
		return refuse(400, "", "service_id is missing"), false
	case service != "" && service != i.service:
		return refuse(400, "", "the service cannot change"), false
	}
	_, onlyContext := c.body["context"]
	switch {
	case !isPlan(plan) && !b.is("update-unknown-plan"), isPlan(plan) && !offers(i.service, plan) && !b.is("update-other-plan"):
		return refuse(400, "", "the offering has no such plan"), false
	case onlyContext && b.is("update-context-refused"):
		return refuse(422, "", "no context, please"), false
	case c.body["parameters"] != nil && b.is("update-parameters-refused"):
		return refuse(422, "", "no parameters, please"), false
	case c.body["maintenance_info"] != nil && b.is("update-maintenance-refused"):
		return refuse(422, "MaintenanceInfoConflict", "no maintenance, please"), false
	case plan != i.plan && b.is("update-plan-crash"):
		return refuse(500, "", "crash"), false
	}
	return b.checkMaintenance(c, "update")
}
