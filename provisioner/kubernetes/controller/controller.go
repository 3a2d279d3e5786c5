// Package controller makes the pods of ContainerGroups, and keeps them as their specs say: it
// creates, wipes, repairs, resizes, publishes and removes groups. One controller works at a
// time (leader election); it may run without a broker.
//
// It writes pods, services, volume claims, network policies and secrets in the namespace of
// the groups, the status of ContainerGroups, and its own secrets and lease in its own namespace.
package controller

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/remuda/remuda/catalog"
	"github.com/remuda/remuda/provisioner/kubernetes"
	"github.com/remuda/remuda/provisioner/kubernetes/api/v1alpha1"
)

// Options of the controller.
type Options struct {
	Config    *rest.Config
	Namespace string // of the groups
	System    string // of the controller's secrets and lease
	Recipes   []catalog.Recipe
	// StorageClass of the disks; "" is the cluster's default. With "none" no claims are made, and
	// all data end with their pods.
	StorageClass string
	// DNS names the services in endpoints by "<service>.<namespace>.svc" instead of their addresses.
	DNS         bool
	PodSecurity kubernetes.Level // of new groups; the others keep theirs
	PullPolicy  corev1.PullPolicy
	PullSecrets []string
	// Who may reach agents besides: the pods with these labels in System.
	Callers map[string]string
	// EgressDeny are networks that no way out of a group leads to, besides all addresses of groups,
	// the API server, and the ports of Kubernetes and of agents.
	EgressDeny []netip.Prefix
	EgressDNS  corev1.DNSPolicy // how ways out look names up: ClusterFirst (default) or Default
	Workers    int              // groups worked on at the same time; default 8
	// CertificateLife is how long certificates of agents are valid, default 30 days, and
	// AuthorityLife their authority's, default a year. Both are renewed when two thirds are over.
	CertificateLife, AuthorityLife time.Duration
	Elect                          bool   // take part in a leader election
	Health                         string // address of /healthz and /readyz; "" for none
	Metrics                        string // address of /metrics; "" for none
	Logger                         *slog.Logger
}

// Reconciler brings groups to where their specs say.
type Reconciler struct {
	o      Options
	client client.Client // reads of secrets are not cached
	agents *kubernetes.Agents
	keys   *keyring

	addresses addresses

	mu     sync.Mutex
	ways   map[types.NamespacedName]bool // groups with a way out
	groups map[types.UID]*memory
}

// memory is what is known of a group besides what the API server keeps; all of it can be
// found out again.
type memory struct {
	secret    *corev1.Secret
	record    record
	proven    int64 // generation that was compared with the baseline
	ahead     int64 // generation whose service was made before its time
	failed    *trouble
	misses    map[string]int // by pod: how often its agent did not answer
	hosts     string         // what names the agents were told last
	loadedAt  time.Time
	untold    bool              // an agent may not know its newest certificate
	growUntil time.Time         // a volume is being made larger that no pod may use yet
	loads     map[string]sample // by member
	healAfter time.Time
	returned  time.Time // when that was first seen, until the status says so
	refusals  refusals
	written   written
}

// written is the last status that was written: the watch may bring it only after the next look.
type written struct {
	over   string // resourceVersion of the group that it was written over
	status v1alpha1.ContainerGroupStatus
}

// trouble is why a group cannot be as its spec says.
type trouble struct {
	number          int64 // of the spec
	reason, message string
	unclean         bool
}

// Run works until ctx ends.
func Run(ctx context.Context, o Options) error {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Workers <= 0 {
		o.Workers = 8
	}
	if o.EgressDNS == "" {
		o.EgressDNS = corev1.DNSClusterFirst
	}
	if o.CertificateLife <= 0 {
		o.CertificateLife = 30 * 24 * time.Hour
	}
	if o.AuthorityLife <= 0 {
		o.AuthorityLife = 365 * 24 * time.Hour
	}
	logger := kubernetes.UseLogger(o.Logger)
	scheme, err := kubernetes.NewScheme()
	if err != nil {
		return err
	}
	off := func(address string) string {
		if address == "" {
			return "0"
		}
		return address
	}
	skipName := true // several controllers in one process, in tests
	m, err := ctrl.NewManager(o.Config, ctrl.Options{
		Scheme: scheme, Logger: logger,
		Cache:                         cache.Options{DefaultNamespaces: map[string]cache.Config{o.Namespace: {}}},
		Client:                        client.Options{Cache: &client.CacheOptions{DisableFor: []client.Object{&corev1.Secret{}}}},
		LeaderElection:                o.Elect,
		LeaderElectionID:              "remuda-controller",
		LeaderElectionNamespace:       o.System,
		LeaderElectionReleaseOnCancel: true,
		Metrics:                       server.Options{BindAddress: off(o.Metrics)},
		HealthProbeBindAddress:        off(o.Health),
		Controller:                    config.Controller{SkipNameValidation: &skipName},
	})
	if err != nil {
		return fmt.Errorf("make the controller: %w", err)
	}
	r := &Reconciler{o: o, client: m.GetClient(), groups: map[types.UID]*memory{}, ways: map[types.NamespacedName]bool{}}
	r.keys = newKeyring(r.client, o)
	r.agents = kubernetes.NewAgents(r.keys.orders)
	if err := m.Add(r.keys); err != nil {
		return err
	}
	for name, add := range map[string]func(string, healthz.Checker) error{"healthz": m.AddHealthzCheck, "readyz": m.AddReadyzCheck} {
		if err := add(name, healthz.Ping); err != nil {
			return err
		}
	}
	err = ctrl.NewControllerManagedBy(m).For(&v1alpha1.ContainerGroup{}).Named("containergroup").
		Owns(&corev1.Pod{}).Owns(&corev1.Service{}).Owns(&corev1.PersistentVolumeClaim{}).Owns(&networkingv1.NetworkPolicy{}).
		Watches(&corev1.Pod{}, r.newAddress()).Watches(&corev1.Service{}, r.newAddress()).
		WithOptions(controller.Options{MaxConcurrentReconciles: o.Workers}).Complete(r)
	if err != nil {
		return fmt.Errorf("make the controller: %w", err)
	}
	return m.Start(ctx)
}

// Reconcile brings one group to where its spec says, as far as it gets now.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	var cg v1alpha1.ContainerGroup
	if err := r.client.Get(ctx, req.NamespacedName, &cg); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if !cg.DeletionTimestamp.IsZero() {
		return r.close(ctx, &cg)
	}
	if !hasFinalizer(&cg) { // made by hand
		before := cg.DeepCopy()
		cg.Finalizers = append(cg.Finalizers, kubernetes.Finalizer)
		if err := r.client.Patch(ctx, &cg, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})); err != nil {
			return ctrl.Result{}, err
		}
	}
	memory := r.remember(cg.UID)
	if cg.ResourceVersion == memory.written.over {
		memory.written.status.DeepCopyInto(&cg.Status)
	}
	w := &work{r: r, cg: &cg, memory: memory, log: r.o.Logger.With("group", cg.Name)}
	after, err := w.converge(ctx)
	if err != nil && !apierrors.IsConflict(err) && !apierrors.IsAlreadyExists(err) {
		w.note(v1alpha1.ReasonWaiting, err.Error())
		if refused(err) {
			w.note(v1alpha1.ReasonRefusedByServer, err.Error())
		}
		if !refused(err) || w.memory.refusals.news(time.Now()) {
			w.log.Warn("group is not as it should be yet", "error", err)
		}
	}
	if later := w.passing(time.Now()); err == nil && later > 0 {
		return ctrl.Result{RequeueAfter: later}, nil
	}
	if serr := w.writeStatus(ctx); serr != nil && err == nil {
		err = serr
	}
	if err == nil && w.tend {
		err = w.tendServices(ctx)
	}
	if apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) { // the cache is behind
		return ctrl.Result{RequeueAfter: 50 * time.Millisecond}, nil
	}
	if ctx.Err() != nil { // the controller ends
		return ctrl.Result{}, nil
	}
	if refused(err) { // not for the queue, which would log it every time
		return ctrl.Result{RequeueAfter: w.memory.refusals.pause()}, nil
	}
	w.memory.refusals = refusals{}
	if err != nil {
		return ctrl.Result{}, err
	}
	if after > 0 { // certificates are looked at with all else
		after = min(after, r.o.CertificateLife/8)
	}
	return ctrl.Result{RequeueAfter: after}, nil
}

// refused says whether the API server does not let something be made: quota, policy, rights.
func refused(err error) bool {
	return apierrors.IsForbidden(err) || apierrors.IsInvalid(err)
}

// refusals are how often in a row the API server did not let something be made.
type refusals struct {
	count  int
	logged time.Time
}

const (
	refusalPause = 100 * time.Millisecond // after the first; twice as long after each
	refusalLog   = time.Minute            // between two lines in the log
)

// news says whether a refusal is to be logged.
func (r *refusals) news(now time.Time) bool {
	if now.Sub(r.logged) < refusalLog {
		return false
	}
	r.logged = now
	return true
}

// pause is how long to wait before the next try.
func (r *refusals) pause() time.Duration {
	r.count++
	return min(refusalPause<<min(r.count-1, 16), time.Minute)
}

func (r *Reconciler) remember(uid types.UID) *memory {
	r.mu.Lock()
	defer r.mu.Unlock()
	m := r.groups[uid]
	if m == nil {
		m = &memory{misses: map[string]int{}}
		r.groups[uid] = m
	}
	return m
}

func (r *Reconciler) forget(cg *v1alpha1.ContainerGroup) {
	r.mu.Lock()
	delete(r.groups, cg.UID)
	delete(r.ways, client.ObjectKeyFromObject(cg))
	r.mu.Unlock()
	r.agents.Forget(cg.Name)
}
