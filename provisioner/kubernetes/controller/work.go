package controller

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/remuda/remuda/provisioner"
	"github.com/remuda/remuda/provisioner/agent"
	"github.com/remuda/remuda/provisioner/kubernetes"
	"github.com/remuda/remuda/provisioner/kubernetes/api/v1alpha1"
	"github.com/remuda/remuda/provisioner/orders"
)

const (
	lookAgain = 10 * time.Second // between two looks at the agents of a group
	soon      = 500 * time.Millisecond
	askBound  = 3 * time.Second
	maxMisses = 3 // an agent that does not answer so often has ended
)

// work is one go at one group.
type work struct {
	r      *Reconciler
	cg     *v1alpha1.ContainerGroup
	memory *memory
	log    *slog.Logger

	def     provisioner.Definition
	list    []provisioner.Member
	members []*member
	service *corev1.Service // of this generation

	trouble *trouble // why it is not Ready, for the status
	phase   v1alpha1.Phase
	open    bool
	tend    bool              // to the services of other generations, once the status is written
	again   time.Duration     // when to look again at pods that are not there yet
	fits    *metav1.Condition // whether it has the sizes of the spec, when that was looked at
}

// member is one pod as it is now.
type member struct {
	provisioner.Member
	pod    *corev1.Pod // nil: there is none
	client *agent.Client
	state  *agent.State // nil: its agent was not asked or does not answer
	reason string       // why it is not well
}

func hasFinalizer(cg *v1alpha1.ContainerGroup) bool {
	return controllerutil.ContainsFinalizer(cg, kubernetes.Finalizer)
}

func isOwner(cg *v1alpha1.ContainerGroup, o metav1.Object) bool { return metav1.IsControlledBy(o, cg) }

// note says for the status why the group is not ready.
func (w *work) note(reason, message string) {
	w.trouble = &trouble{number: w.cg.Generation, reason: reason, message: message}
}

// fail gives the group up until its spec changes. One that is lent is never given up.
func (w *work) fail(reason, message string, unclean bool) {
	w.note(reason, message)
	w.trouble.unclean = unclean
	w.memory.failed = w.trouble
	w.phase = v1alpha1.PhaseFailed
	w.log.Warn("group failed", "reason", reason, "message", message)
}

func (w *work) lent() bool { return kubernetes.IsLent(w.cg.Spec) }

// converge does what it can do now, and says when to look again.
func (w *work) converge(ctx context.Context) (time.Duration, error) {
	var err error
	if w.def, err = kubernetes.DefinitionOf(w.cg.Spec, w.r.o.Recipes); err != nil {
		w.fail(v1alpha1.ReasonRecipe, err.Error(), false)
		return 0, nil
	}
	w.list = w.def.MemberList()
	for _, m := range w.list {
		w.members = append(w.members, &member{Member: m})
	}
	if w.egress() != nil {
		w.r.mu.Lock()
		w.r.ways[client.ObjectKeyFromObject(w.cg)] = true
		w.r.mu.Unlock()
	}
	switch {
	case w.lent():
		w.phase = v1alpha1.PhaseReturned
		if w.cg.Spec.Published {
			w.phase = v1alpha1.PhaseClaimed
		}
	case w.memory.proven == w.cg.Spec.Generation:
		w.phase = v1alpha1.PhaseWarm
	case w.cg.Status.Generation > 0:
		w.phase = v1alpha1.PhaseResetting
	default:
		w.phase = v1alpha1.PhaseCreating
	}
	renewed, err := w.ensureSecret(ctx)
	if err != nil {
		return 0, err
	}
	if why := w.memory.record.Level.Cannot(w.def.Recipe); why != "" {
		w.fail(v1alpha1.ReasonRecipe, why, false)
		return 0, nil
	}
	if err := w.ensurePolicies(ctx); err != nil {
		return 0, err
	}
	if err := w.findService(ctx); err != nil {
		return 0, err
	}
	if !w.lent() { // a tenant's pods come first
		if err := w.ensureService(ctx); err != nil {
			return 0, err
		}
	}
	ready, err := w.ensurePods(ctx)
	if err != nil {
		return 0, err
	}
	w.askAgents(ctx)
	if renewed || w.memory.untold {
		w.tellIdentity(ctx)
	}
	if f := w.memory.failed; f != nil && f.number == w.cg.Generation && !w.lent() {
		w.trouble, w.phase = f, v1alpha1.PhaseFailed
		w.closeDoors(ctx)
		return 0, nil
	}
	if !ready {
		if w.phase == v1alpha1.PhaseFailed || !w.cg.Spec.Published {
			w.closeDoors(ctx)
		}
		return cmp.Or(w.again, lookAgain), nil
	}
	if w.lent() {
		return w.keepLent(ctx)
	}
	return w.keepWarm(ctx)
}

// keepWarm brings a group without a tenant to its generation, clean.
func (w *work) keepWarm(ctx context.Context) (time.Duration, error) {
	number := w.cg.Spec.Generation
	if w.memory.proven == number {
		for _, m := range w.members {
			if !m.well(number) {
				if m.state == nil && w.memory.misses[m.pod.Name] < maxMisses {
					return soon, nil
				}
				w.fail(v1alpha1.ReasonMember, fmt.Sprintf("%s: %s", m.pod.Name, m.reason), false)
				return 0, nil
			}
		}
		w.closeDoors(ctx)
		if m := w.egress(); m != nil {
			if err := w.tellEgress(ctx, m.state.Egress); err != nil {
				return soon, err
			}
		}
		w.tend = true
		return lookAgain, nil
	}
	if err := w.begin(ctx); err != nil {
		if _, is := errors.AsType[serverError](err); is || ctx.Err() != nil {
			return 0, err
		}
		unclean := isUnclean(err)
		reason := v1alpha1.ReasonStart
		if unclean {
			reason = v1alpha1.ReasonUnclean
		}
		w.askAgents(ctx)
		w.fail(reason, err.Error(), unclean)
		return 0, nil
	}
	w.memory.proven, w.memory.failed = number, nil
	w.phase = v1alpha1.PhaseWarm
	w.tend = true
	return lookAgain, nil
}

// well says whether the member serves the generation.
func (m *member) well(generation int64) bool {
	if m.state == nil {
		return false
	}
	switch s := m.state; {
	case s.Phase == agent.Idle:
		m.reason = "its servers have not been started"
	case int64(s.Generation) != generation:
		m.reason = fmt.Sprintf("it serves generation %d and not %d", s.Generation, generation)
	case s.Phase != agent.Running || !s.Healthy:
		m.reason = strings.TrimSpace(string(s.Phase) + " " + s.Reason)
	default:
		return true
	}
	return false
}

// each runs f on all members at the same time, and gives the first error.
func (w *work) each(f func(*member) error) error {
	_, err := ofEach(w, func(m *member) (struct{}, error) { return struct{}{}, f(m) })
	return err
}

// ofEach is each with what f returns of every member, by its name.
func ofEach[T any](w *work, f func(*member) (T, error)) (map[string]T, error) {
	results, errs := make([]T, len(w.members)), make([]error, len(w.members))
	var wg sync.WaitGroup
	for i, m := range w.members {
		wg.Go(func() { results[i], errs[i] = f(m) })
	}
	wg.Wait()
	all := map[string]T{}
	for i, m := range w.members {
		if errs[i] != nil {
			return nil, fmt.Errorf("%s: %w", m.Name, errs[i])
		}
		all[m.Name] = results[i]
	}
	return all, nil
}

// askAgents asks every agent in a running pod how it is.
func (w *work) askAgents(ctx context.Context) {
	_ = w.each(func(m *member) error {
		if m.client == nil {
			return nil
		}
		bounded, cancel := context.WithTimeout(ctx, askBound)
		defer cancel()
		s, err := m.client.State(bounded)
		if err != nil {
			m.state, m.reason = nil, "its agent does not answer: "+err.Error()
			return nil
		}
		m.state = &s
		m.well(w.cg.Spec.Generation)
		return nil
	})
	for _, m := range w.members {
		switch {
		case m.client == nil:
		case m.state == nil:
			w.memory.misses[m.pod.Name]++
		default:
			delete(w.memory.misses, m.pod.Name)
		}
	}
}

// order writes orders for a member.
func (w *work) orders(m *member) orders.Member {
	host := ""
	if w.service != nil {
		host = w.service.Spec.ClusterIP
	}
	o := orders.Member{Member: m.Member, Definition: w.def, Siblings: w.list, HostIP: host, Hostname: host}
	if w.r.o.DNS && w.service != nil {
		o.Hostname = w.hostname()
	}
	return o
}

// hostname is what credentials name.
func (w *work) hostname() string {
	if w.r.o.DNS {
		return w.service.Name + "." + w.service.Namespace + ".svc"
	}
	return w.service.Spec.ClusterIP
}

// endpoints are where the group is published in this generation.
func (w *work) endpoints() []v1alpha1.Endpoint {
	if w.service == nil || w.service.Spec.ClusterIP == "" {
		return nil
	}
	list := portsOf(w.def.Recipe.Endpoints)
	for i := range list {
		list[i].Host = w.hostname()
	}
	return list
}

// hosts are the addresses of the members.
func (w *work) hosts() (agent.HostsRequest, error) {
	h := agent.HostsRequest{Names: map[string]netip.Addr{}}
	for _, m := range w.members {
		if orders.IsEgress(m.Member) {
			continue
		}
		a, err := netip.ParseAddr(m.pod.Status.PodIP)
		if err != nil {
			return h, fmt.Errorf("address of %s: %w", m.pod.Name, err)
		}
		h.Names[m.Name] = a
	}
	return h, nil
}

func describe(h agent.HostsRequest) string {
	var all []string
	for name, a := range h.Names {
		all = append(all, name+"="+a.String())
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}
