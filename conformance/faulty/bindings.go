package faulty

import (
	"crypto/rand"
	"maps"
	"time"
)

type binding struct {
	of, service, plan, attributes string
	answer                        obj
	made                          bool
	rotated                       bool // has a predecessor
	op                            *operation
}

// bind is PUT of a binding.
func (b *Broker) bind(c *call) answer {
	if a, ok := b.read(c, "bind-"); !ok {
		if b.is("bind-refusal-effect") {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.bindings[c.binding] = &binding{of: c.instance, service: FullID, plan: SmallID, made: true, answer: obj{}}
		}
		return a
	}
	if b.is("bind-race") {
		time.Sleep(20 * time.Millisecond)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	i := b.instances[c.instance]
	if i == nil || !i.made {
		if !b.is("bind-absent-accepted") {
			return refuse(404, "", "there is no such instance")
		}
		i = &instance{service: FullID, plan: SmallID}
	}
	want := &binding{of: c.instance, service: i.service, plan: i.plan,
		attributes: plain([]any{c.body["bind_resource"], c.body["app_guid"], c.body["parameters"], c.body["predecessor_binding_id"]})}
	if predecessor := c.str("predecessor_binding_id"); predecessor != "" {
		if a, ok := b.checkRotation(c, predecessor); !ok {
			return a
		}
		want.rotated = true
	} else if a, ok := b.checkBind(c, i); !ok {
		return a
	}
	if old := b.bindings[c.binding]; old != nil && !b.is("bind-race") {
		return b.bindAgain(old, want)
	}
	return b.bindNew(c, want)
}

func (b *Broker) checkRotation(c *call, predecessor string) (answer, bool) {
	old := b.bindings[predecessor]
	switch {
	case b.is("rotation-refused"):
		return refuse(400, "", "service_id is missing"), false
	case old == nil && !b.is("rotation-absent-accepted"), old != nil && old.of != c.instance && !b.is("rotation-other-accepted"):
		if b.bindings[c.binding] != nil { // done already
			return answer{}, true
		}
		return refuse(400, "", "there is no such binding"), false
	case b.is("rotation-replaces"):
		delete(b.bindings, predecessor)
	}
	return answer{}, true
}

func (b *Broker) checkBind(c *call, i *instance) (answer, bool) {
	for _, f := range []struct{ name, want string }{{"service_id", i.service}, {"plan_id", i.plan}} {
		v, has := c.body[f.name]
		s, isText := v.(string)
		known := isService(s) || isPlan(s)
		switch {
		case !has && b.is("bind-"+f.name+"-optional"):
		case !isText || s == "":
			return refuse(400, "", f.name+" is missing"), false
		case s != f.want && known && b.is("bind-other-plan"), s != f.want && !known && b.is("bind-unknown-"+f.name):
		case s != f.want:
			return refuse(400, "", f.name+" is not the instance's"), false
		}
	}
	for _, f := range []string{"parameters", "bind_resource", "context"} {
		v, has := c.body[f]
		o, ok := v.(obj)
		if has && !ok && !b.is("bind-types-ignored") {
			return refuse(400, "", f+" must be an object"), false
		}
		if app, has := o["app_guid"]; has && app == "" {
			if b.is("bind-empty-app-crash") {
				return refuse(500, "", "crash"), false
			}
			return refuse(400, "", "app_guid must not be empty"), false
		}
	}
	if c.body["bind_resource"] == nil && b.is("bind-app-code") {
		return refuse(422, "AppMissing", "it needs an application"), false
	}
	return answer{}, true
}

func (b *Broker) bindAgain(old, want *binding) answer {
	switch {
	case old.of != want.of:
		return refuse(409, "", "it is of another instance")
	case old.attributes != want.attributes && b.is("bind-conflict-422"):
		return refuse(422, "", "it is there, but different")
	case old.attributes != want.attributes && !b.is("bind-conflict-accepted"):
		return refuse(409, "", "it is there, but different")
	case old.op.running() && b.is("bind-repeat-running-200"):
		return answer{status: 200, body: old.answer}
	case old.op.running():
		return b.accepted(old.op, obj{})
	case b.is("bind-repeat-201"), old.rotated && b.is("rotation-repeat-201"):
		return answer{status: 201, body: old.answer}
	case b.is("bind-repeat-409"):
		return refuse(409, "", "it is there")
	case b.is("bind-repeat-other-credentials"):
		return answer{status: 200, body: b.newAnswer(old.service)}
	}
	return answer{status: 200, body: old.answer}
}

func (b *Broker) bindNew(c *call, x *binding) answer {
	x.answer = b.newAnswer(x.service)
	if !b.o.Async || c.minor < 14 {
		x.made = true
		b.bindings[c.binding] = x
		switch {
		case b.is("bind-200"):
			return answer{status: 200, body: x.answer}
		case b.is("bind-array"):
			return answer{status: 201, body: []any{x.answer}}
		}
		return answer{status: 201, body: x.answer}
	}
	if a, ok := b.mayBegin(c, "bind"); !ok {
		return a
	}
	x.op = b.begin("bind", func() { x.made = true })
	b.bindings[c.binding] = x
	body := obj{}
	if b.is("bind-accepted-credentials") {
		body["credentials"] = x.answer["credentials"]
	}
	return b.accepted(x.op, body)
}

// newAnswer makes what a binding says.
func (b *Broker) newAnswer(service string) obj {
	if service == RoutesID {
		return obj{"route_service_url": "https://proxy.example.com"}
	}
	password := rand.Text()
	if b.is("bind-shared-credentials") {
		password = "the-same-for-all"
	}
	mount := obj{"driver": "cephdriver", "container_dir": "/data", "mode": "rw", "device_type": "shared", "device": obj{"volume_id": "v1", "mount_config": obj{"key": "value"}}}
	endpoint := obj{"host": "db.example.com", "ports": []any{"3306", "9000-9010"}, "protocol": "tcp"}
	metadata := obj{"expires_at": "2030-12-31T23:59:59.0Z", "renew_before": "2030-12-30T23:59:59.0Z"}
	out := obj{
		"credentials": obj{"username": "u", "password": password}, "syslog_drain_url": "syslog://logs.example.com:514",
		"volume_mounts": []any{mount}, "endpoints": []any{endpoint}, "metadata": metadata,
	}
	switch b.o.Fault {
	case "bind-nothing":
		clear(out)
	case "credentials-text":
		out["credentials"] = "u:p"
	case "syslog-object":
		out["syslog_drain_url"] = obj{}
	case "route-unasked":
		out["route_service_url"] = "https://proxy.example.com"
	case "volume-device-missing":
		delete(mount, "device")
	case "volume-mode":
		mount["mode"] = "rx"
	case "volume-type":
		mount["device_type"] = "local"
	case "volume-driver-missing":
		delete(mount, "driver")
	case "ports-numbers":
		endpoint["ports"] = []any{3306}
	case "ports-range":
		endpoint["ports"] = []any{"9010-9000"}
	case "endpoint-host-missing":
		delete(endpoint, "host")
	case "endpoint-protocol":
		endpoint["protocol"] = "http"
	case "expires-malformed":
		metadata["expires_at"] = "2030-12-31 23:59"
	case "renew-malformed":
		metadata["renew_before"] = 1900000000
	case "renew-late":
		metadata["renew_before"] = "2031-01-01T00:00:00.0Z"
	}
	return out
}

// fetchBinding is GET of a binding.
func (b *Broker) fetchBinding(c *call) answer {
	b.mu.Lock()
	defer b.mu.Unlock()
	x := b.bindings[c.binding]
	switch {
	case x == nil && b.is("fetch-binding-absent-410"):
		return refuse(410, "", "there is no such binding")
	case x == nil && b.is("fetch-binding-deleted-200") && b.done[c.URL.Path] != nil:
		return answer{status: 200, body: obj{}}
	case x == nil, x.of != c.instance && !b.is("fetch-binding-other-instance"), !x.made && !b.is("fetch-binding-running-200"):
		return refuse(404, "", "there is no such binding")
	case b.is("fetch-binding-crash"):
		return refuse(500, "", "crash")
	case b.is("fetch-binding-hints-refused") && c.URL.Query().Get("plan_id") != "":
		return refuse(400, "", "no hints, please")
	}
	body := maps.Clone(x.answer)
	body["parameters"] = obj{}
	if b.is("fetch-binding-other-credentials") {
		body["credentials"] = obj{"password": "another"}
	}
	return answer{status: 200, body: body}
}
