package faulty

import (
	"maps"
	"time"
)

// deletionFaults are prefixed with deprovision- or unbind-.
func (b *Broker) checkDeletion(c *call, kind, service, plan string) (answer, bool) {
	q := c.URL.Query()
	for _, f := range []struct{ name, want string }{{"service_id", service}, {"plan_id", plan}} {
		got := q.Get(f.name)
		switch {
		case got == "" && b.is(kind+"-"+f.name+"-optional"):
		case got == "":
			return refuse(400, "", f.name+" is missing"), false
		case got != f.want && b.is(kind+"-wrong-410"):
			return refuse(410, "", "there is no such thing"), false
		case got != f.want && !b.is(kind+"-wrong-"+f.name):
			return refuse(400, "", f.name+" is not that of the thing"), false
		}
	}
	return answer{}, true
}

// absent is the answer about what is not there.
func (b *Broker) absent(c *call, kind string) answer {
	q := c.URL.Query()
	deleted := b.done[c.URL.Path] != nil
	switch {
	case q.Get("service_id") == "" || q.Get("plan_id") == "":
		return refuse(400, "", "service_id or plan_id is missing")
	case b.is(kind + "-absent-404"):
		return refuse(404, "", "there is no such thing")
	case b.is(kind + "-absent-crash"):
		return refuse(500, "", "crash")
	case deleted && b.is(kind+"-repeat-200"):
		return answer{status: 200, body: obj{}}
	case deleted && b.is(kind+"-repeat-404"):
		return refuse(404, "", "there is no such thing")
	}
	return refuse(410, "", "there is no such thing")
}

// delete answers a deletion that may begin.
func (b *Broker) delete(c *call, kind string, op **operation, remove func()) answer {
	if b.is(kind + "-remains") {
		remove = func() {}
	}
	path := c.URL.Path
	if !b.o.Async || kind == "unbind" && c.minor < 14 {
		remove()
		b.done[path] = &operation{kind: kind, state: "succeeded"}
		if b.is(kind + "-array") {
			return answer{status: 200, body: []any{}}
		}
		if b.is(kind + "-204") {
			return answer{status: 204}
		}
		return answer{status: 200, body: obj{}}
	}
	if current := *op; current.running() && current.kind == kind {
		switch {
		case b.is(kind + "-repeat-running-410"):
			return refuse(410, "", "there is no such thing")
		case b.is(kind + "-repeat-running-other"):
			return b.accepted(b.begin(kind, func() {}), obj{})
		}
		return b.accepted(current, obj{})
	}
	if a, ok := b.mayBegin(c, kind); !ok {
		return a
	}
	if current := *op; current.running() {
		if b.is("during-create-refused") {
			return refuse(409, "", "it is being made")
		}
		if b.is("during-create-goes-on") {
			return b.accepted(current, obj{})
		}
		current.left = 0
	}
	next := b.begin(kind, nil)
	next.finish = func() {
		if next.state == "succeeded" {
			remove()
		}
	}
	*op = next
	b.done[path] = next
	return b.accepted(next, obj{})
}

// raced lets others in for a moment, and says whether the thing went meanwhile.
func (b *Broker) raced(there func() bool) bool {
	known := there()
	b.mu.Unlock()
	time.Sleep(20 * time.Millisecond)
	b.mu.Lock()
	return known && !there()
}

// deprovision is DELETE of an instance.
func (b *Broker) deprovision(c *call) answer {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.is("deprovision-race") && b.raced(func() bool { return b.instances[c.instance] != nil }) {
		return refuse(500, "", "crash")
	}
	i := b.instances[c.instance]
	if i == nil {
		return b.absent(c, "deprovision")
	}
	if a, ok := b.checkDeletion(c, "deprovision", i.service, i.plan); !ok {
		if b.is("deprovision-refused-effect") {
			b.done[c.URL.Path] = &operation{kind: "deprovision", state: "succeeded"}
			delete(b.instances, c.instance)
		}
		return a
	}
	return b.delete(c, "deprovision", &i.op, func() { delete(b.instances, c.instance) })
}

// unbind is DELETE of a binding.
func (b *Broker) unbind(c *call) answer {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.is("unbind-race") && b.raced(func() bool { return b.bindings[c.binding] != nil }) {
		return refuse(500, "", "crash")
	}
	x := b.bindings[c.binding]
	if x == nil || x.of != c.instance && !b.is("unbind-other-instance") {
		return b.absent(c, "unbind")
	}
	if a, ok := b.checkDeletion(c, "unbind", x.service, x.plan); !ok {
		if b.is("unbind-refused-effect") {
			delete(b.bindings, c.binding)
		}
		return a
	}
	return b.delete(c, "unbind", &x.op, func() {
		delete(b.bindings, c.binding)
		if b.is("rotation-fragile") {
			maps.DeleteFunc(b.bindings, func(_ string, other *binding) bool { return other.rotated })
		}
	})
}
