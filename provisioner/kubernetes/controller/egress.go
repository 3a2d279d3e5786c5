package controller

import (
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/remuda/remuda/provisioner/agent"
	"github.com/remuda/remuda/provisioner/kubernetes"
	"github.com/remuda/remuda/provisioner/orders"
)

// The way out of a group, where its recipe has one, is a pod with an agent alone, without any
// right. The leader's pod is let out to its own group only; its agent hands over what the servers
// send to loopback (agent.Way). The egress' pod is let out to everywhere but the other groups, and its agent
// checks every address.

// machinery are ports of Kubernetes and of ours. No application is reached at them, wherever it is.
var machinery = []agent.Ports{
	{First: 2379, Last: 2381},   // etcd
	{First: 6443, Last: 6443},   // API server
	{First: 10248, Last: 10259}, // kubelet, proxy, scheduler, controllers
	{First: agent.Port, Last: agent.WayPort},
}

// egress is the group's way out, or nil.
func (w *work) egress() *member {
	for _, m := range w.members {
		if orders.IsEgress(m.Member) {
			return m
		}
	}
	return nil
}

// egressRules say where the group's way out does not lead: to its own pod, the API server, all
// pods and services of groups, and what the operator names.
func (w *work) egressRules(ctx context.Context) (agent.Egress, error) {
	rules := agent.Egress{Own: []agent.OwnPorts{{First: 1, Last: 65535}}, Closed: machinery}
	rules.Own = append(rules.Own, apiServers(w.r.o.Config.Host)...)
	groups, err := w.r.addresses.all(ctx, w.r.client, w.r.o.Namespace)
	rules.Deny = slices.Concat(w.r.o.EgressDeny, groups)
	return rules, err
}

// apiServers are the addresses of the API server that the controller knows.
func apiServers(host string) (out []agent.OwnPorts) {
	add := func(host, port string) {
		a, err := netip.ParseAddr(host)
		n, _ := strconv.Atoi(port)
		if err == nil && n > 0 {
			out = append(out, agent.OwnPorts{Address: a.Unmap(), First: n, Last: n})
		}
	}
	add(os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT"))
	if u, err := url.Parse(host); err == nil && u.Host != "" {
		port := u.Port()
		if port == "" {
			port = "443"
		}
		add(u.Hostname(), port)
	}
	return out
}

// newAddress lets groups with a way out look again soon when a pod or a service has got its address,
// which is long before anybody gets in there. Many that come at once are looked at once.
func (r *Reconciler) newAddress() handler.EventHandler {
	look := func(q workqueue.TypedRateLimitingInterface[reconcile.Request]) {
		r.mu.Lock()
		defer r.mu.Unlock()
		for name := range r.ways {
			q.AddAfter(reconcile.Request{NamespacedName: name}, addressesAge)
		}
	}
	return handler.Funcs{
		CreateFunc: func(_ context.Context, e event.CreateEvent, q workqueue.TypedRateLimitingInterface[reconcile.Request]) {
			if len(addressesOf(e.Object)) > 0 {
				look(q)
			}
		},
		UpdateFunc: func(_ context.Context, e event.UpdateEvent, q workqueue.TypedRateLimitingInterface[reconcile.Request]) {
			if !slices.Equal(addressesOf(e.ObjectOld), addressesOf(e.ObjectNew)) {
				look(q)
			}
		},
	}
}

func addressesOf(o client.Object) (out []string) {
	switch o := o.(type) {
	case *corev1.Pod:
		for _, ip := range o.Status.PodIPs {
			out = append(out, ip.IP)
		}
	case *corev1.Service:
		out = o.Spec.ClusterIPs
	}
	return out
}

// addresses are those of all groups, looked up now and then.
type addresses struct {
	mu    sync.Mutex
	at    time.Time
	known []netip.Prefix
}

// addressesAge is how old they may be.
const addressesAge = 500 * time.Millisecond

func (a *addresses) all(ctx context.Context, c client.Client, namespace string) ([]netip.Prefix, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if time.Since(a.at) < addressesAge {
		return a.known, nil
	}
	of := []client.ListOption{client.InNamespace(namespace), client.HasLabels{kubernetes.LabelGroup}, client.UnsafeDisableDeepCopy}
	var pods corev1.PodList
	var services corev1.ServiceList
	if err := c.List(ctx, &pods, of...); err != nil {
		return nil, err
	}
	if err := c.List(ctx, &services, of...); err != nil {
		return nil, err
	}
	var texts []string
	for i := range pods.Items {
		texts = append(texts, addressesOf(&pods.Items[i])...)
	}
	for i := range services.Items {
		texts = append(texts, addressesOf(&services.Items[i])...)
	}
	a.known, a.at = prefixes(texts), time.Now()
	return a.known, nil
}

// prefixes of the texts that are addresses, in order, each once.
func prefixes(texts []string) []netip.Prefix {
	var out []netip.Prefix
	for _, text := range texts {
		if a, err := netip.ParseAddr(text); err == nil {
			out = append(out, netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen()))
		}
	}
	slices.SortFunc(out, func(a, b netip.Prefix) int { return a.Addr().Compare(b.Addr()) })
	return slices.Compact(out)
}

// wayName begins the name of every way between these pods in this generation.
func (w *work) wayName(egress *member) string {
	return fmt.Sprintf("%d %s %s ", w.cg.Spec.Generation, w.members[0].pod.Status.PodIP, egress.pod.Status.PodIP)
}

// joined says whether leader and egress are told of the same way, and it is of these pods and this generation.
func (w *work) joined(egress *member) bool {
	a, b := wayOf(w.members[0].state), wayOf(egress.state)
	return a != nil && b != nil && a.Origin == b.Origin && strings.HasPrefix(a.Origin, w.wayName(egress))
}

// wayOf is the agent's door of a way, or nil.
func wayOf(s *agent.State) *agent.DoorState {
	if s != nil {
		for i := range s.Doors {
			if s.Doors[i].Target == 0 {
				return &s.Doors[i]
			}
		}
	}
	return nil
}

// join tells leader and egress of a new way, with a secret that only they know. Nobody has to
// remember it: when one of the two is another one, both are told again.
func (w *work) join(ctx context.Context) error {
	m := w.egress()
	if m == nil {
		return nil
	}
	leader, err := netip.ParseAddr(w.members[0].pod.Status.PodIP)
	if err != nil {
		return fmt.Errorf("address of %s: %w", w.members[0].pod.Name, err)
	}
	egress, err := netip.ParseAddrPort(net.JoinHostPort(m.pod.Status.PodIP, strconv.Itoa(agent.WayPort)))
	if err != nil {
		return fmt.Errorf("address of %s: %w", m.pod.Name, err)
	}
	way := agent.Way{Name: w.wayName(m) + rand.Text(), Secret: make([]byte, 32), Leader: leader, Egress: egress, Port: m.Role.EgressPort}
	_, _ = rand.Read(way.Secret) // never fails
	for _, end := range []*member{m, w.members[0]} {
		if err := end.client.SetWay(ctx, way); err != nil {
			return fmt.Errorf("tell %s of the way out: %w", end.pod.Name, err)
		}
	}
	return w.tellEgress(ctx, nil)
}

// tellEgress tells the way out where it does not lead, unless that is what it was told.
func (w *work) tellEgress(ctx context.Context, told *agent.Egress) error {
	m := w.egress()
	if m == nil {
		return nil
	}
	rules, err := w.egressRules(ctx)
	if err != nil || told != nil && reflect.DeepEqual(*told, rules) {
		return err
	}
	if err := m.client.SetEgress(ctx, rules); err != nil {
		return fmt.Errorf("tell %s where it does not lead: %w", m.pod.Name, err)
	}
	return nil
}

// openEgress opens the way out before the leader's doors, and mends it where one of its ends is
// another one than it was. It says whether there is a way now; groups without one need none.
func (w *work) openEgress(ctx context.Context) (bool, error) {
	m := w.egress()
	if m == nil {
		return true, nil
	}
	if m.client == nil || m.state == nil || !m.well(w.cg.Spec.Generation) {
		return false, nil
	}
	if !w.joined(m) {
		if err := w.join(ctx); err != nil {
			return false, err
		}
		w.askAgents(ctx)
		if m.state == nil || w.members[0].state == nil {
			return false, nil
		}
	}
	if err := w.tellEgress(ctx, m.state.Egress); err != nil {
		return false, err
	}
	if doorsAre(m.state, true) {
		return true, nil
	}
	if err := m.client.OpenDoors(ctx, agent.OpenRequest{Order: w.cg.Generation}); err != nil {
		if isOverruled(err) {
			return false, nil
		}
		return false, fmt.Errorf("open the way out: %w", err)
	}
	return true, nil
}
