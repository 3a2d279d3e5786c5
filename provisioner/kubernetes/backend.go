// Package kubernetes keeps container groups as pods: it is the back end as the broker sees
// it, which writes and watches ContainerGroup resources and speaks to agents in pods. The pods
// are made by the controller (provisioner/kubernetes/controller), which may run elsewhere.
//
// It needs rights to ContainerGroups, and to read one secret, nothing else.
package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/remuda/remuda/provisioner"
	"github.com/remuda/remuda/provisioner/agent"
	"github.com/remuda/remuda/provisioner/kubernetes/api/v1alpha1"
	"github.com/remuda/remuda/store"
)

// Options of the back end.
type Options struct {
	Config    *rest.Config
	Namespace string // of the groups
	System    string // namespace of the controller's secrets
	Broker    string // whose groups these are, a label value: [a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?
	// Ephemeral names offerings and plans ("http" or "http/small") whose data may end with a pod.
	Ephemeral []string
	CPULimit  v1alpha1.CPULimit // of new groups; the others keep theirs
	Logger    *slog.Logger
}

// Backend implements provisioner.Backend. Run must be called for it to work.
type Backend struct {
	o      Options
	client client.Client
	cache  cache.Cache
	agents *Agents
	server *reachable

	identityMu sync.Mutex
	identity   agent.Identity
	identityAt time.Time

	mu       sync.Mutex
	watchers map[string]map[chan struct{}]struct{} // by name of the group
	opened   map[string]int64                      // the spec for which doors were opened from here, by name of the group
}

var (
	_ provisioner.Backend   = (*Backend)(nil)
	_ provisioner.Inspector = (*Backend)(nil)
)

// NewScheme knows all types that back end and controller use.
func NewScheme() (*runtime.Scheme, error) {
	s := runtime.NewScheme()
	return s, errors.Join(clientgoscheme.AddToScheme(s), v1alpha1.AddToScheme(s))
}

// mapper knows the resources that the back end uses, so that a server that does not answer
// just now is not asked for them.
func mapper() meta.RESTMapper {
	m := meta.NewDefaultRESTMapper(nil)
	// The list first: the resource is that of its items.
	m.AddSpecific(v1alpha1.GroupVersion.WithKind("ContainerGroupList"), v1alpha1.GroupVersion.WithResource("containergroups"),
		v1alpha1.GroupVersion.WithResource("containergroup"), meta.RESTScopeNamespace)
	m.Add(v1alpha1.GroupVersion.WithKind("ContainerGroup"), meta.RESTScopeNamespace)
	m.Add(corev1.SchemeGroupVersion.WithKind("Secret"), meta.RESTScopeNamespace)
	return m
}

// New makes the back end; nothing is asked of the API server before Run.
func New(o Options) (*Backend, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	UseLogger(o.Logger)
	scheme, err := NewScheme()
	if err != nil {
		return nil, err
	}
	b := &Backend{o: o, watchers: map[string]map[chan struct{}]struct{}{}, opened: map[string]int64{}, server: &reachable{away: make(chan struct{}, 1)}}
	o.Config = rest.CopyConfig(o.Config)
	o.Config.Wrap(func(next http.RoundTripper) http.RoundTripper { b.server.next = next; return b.server })
	b.agents = NewAgents(b.orders)
	mapper := mapper()
	if b.client, err = client.New(o.Config, client.Options{Scheme: scheme, Mapper: mapper}); err != nil {
		return nil, fmt.Errorf("%w: %w", provisioner.ErrUnavailable, err)
	}
	b.cache, err = cache.New(o.Config, cache.Options{
		Scheme: scheme, Mapper: mapper,
		DefaultNamespaces: map[string]cache.Config{o.Namespace: {}},
		ByObject: map[client.Object]cache.ByObject{
			&v1alpha1.ContainerGroup{}: {Label: labels.SelectorFromSet(labels.Set{LabelBroker: o.Broker})},
		},
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", provisioner.ErrUnavailable, err)
	}
	return b, nil
}

// Run watches until ctx ends.
func (b *Backend) Run(ctx context.Context) error {
	informer, err := b.cache.GetInformer(ctx, &v1alpha1.ContainerGroup{}, cache.BlockUntilSynced(false))
	if err != nil {
		return err
	}
	tell := func(obj any) {
		if gone, ok := obj.(toolscache.DeletedFinalStateUnknown); ok {
			obj = gone.Obj
		}
		if g, ok := obj.(*v1alpha1.ContainerGroup); ok {
			b.notify(g.Name)
		}
	}
	_, err = informer.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
		AddFunc: tell, UpdateFunc: func(_, obj any) { tell(obj) },
		DeleteFunc: func(obj any) {
			tell(obj)
			if g, ok := obj.(*v1alpha1.ContainerGroup); ok {
				b.forget(g.Name)
			}
		},
	})
	if err != nil {
		return err
	}
	go b.probe(ctx)
	go func() { _, _ = b.orders() }() // while the server answers
	return b.cache.Start(ctx)
}

// Check says whether the API server answers.
func (b *Backend) Check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	if !b.cache.WaitForCacheSync(ctx) {
		return fmt.Errorf("%w: the container groups cannot be read from the API server", provisioner.ErrUnavailable)
	}
	var list v1alpha1.ContainerGroupList
	if err := b.client.List(ctx, &list, client.InNamespace(b.o.Namespace), client.Limit(1)); err != nil {
		return unavailable("ask the API server", err)
	}
	return nil
}

// unavailable makes errors of the API server into those of the contract.
func unavailable(what string, err error) error {
	var status apierrors.APIStatus
	switch {
	case err == nil:
		return nil
	case apierrors.IsNotFound(err):
		return fmt.Errorf("%s: %w", what, provisioner.ErrNoGroup)
	case errors.Is(err, context.Canceled):
		return fmt.Errorf("%s: %w", what, err)
	case !errors.As(err, &status), apierrors.IsServerTimeout(err), apierrors.IsTooManyRequests(err),
		apierrors.IsServiceUnavailable(err), apierrors.IsTimeout(err), apierrors.IsInternalError(err), apierrors.IsUnauthorized(err):
		return fmt.Errorf("%s: %w: %w", what, provisioner.ErrUnavailable, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// orders is the identity that agents obey, read anew now and then and whenever it is old.
func (b *Backend) orders() (agent.Identity, error) {
	b.identityMu.Lock()
	defer b.identityMu.Unlock()
	if time.Since(b.identityAt) < time.Minute {
		return b.identity, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	var s corev1.Secret
	err := b.client.Get(ctx, client.ObjectKey{Namespace: b.o.System, Name: OrdersSecret}, &s)
	if err != nil && b.identity.Key != "" {
		b.o.Logger.Warn("cannot read the identity for agents anew", "error", err)
		return b.identity, nil
	}
	if err != nil {
		return b.identity, unavailable(fmt.Sprintf("read secret %s/%s", b.o.System, OrdersSecret), err)
	}
	b.identity, b.identityAt = IdentityOf(&s), time.Now()
	return b.identity, nil
}

// Keys of an identity in a secret.
const (
	KeyCertificate = "tls.crt"
	KeyKey         = "tls.key"
	KeyAuthorities = "ca.crt"
)

// IdentityOf reads it from a secret.
func IdentityOf(s *corev1.Secret) agent.Identity {
	return agent.Identity{Certificate: string(s.Data[KeyCertificate]), Key: string(s.Data[KeyKey]), Authorities: string(s.Data[KeyAuthorities])}
}

func (b *Backend) forget(name string) {
	b.agents.Forget(name)
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.opened, name)
}

// notify wakes everybody who waits for the group.
func (b *Backend) notify(name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for ch := range b.watchers[name] {
		select {
		case ch <- struct{}{}:
		default:
		}
	}
}

// await returns the group when done says so, looking again whenever it changed.
func (b *Backend) await(ctx context.Context, name string, done func(*v1alpha1.ContainerGroup) (bool, error)) (*v1alpha1.ContainerGroup, error) {
	ch := make(chan struct{}, 1)
	b.mu.Lock()
	if b.watchers[name] == nil {
		b.watchers[name] = map[chan struct{}]struct{}{}
	}
	b.watchers[name][ch] = struct{}{}
	b.mu.Unlock()
	defer func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.watchers[name], ch)
		if len(b.watchers[name]) == 0 {
			delete(b.watchers, name)
		}
	}()
	for {
		g, err := b.get(ctx, name)
		if err != nil && !errors.Is(err, provisioner.ErrNoGroup) {
			return nil, err
		}
		if ok, err := done(g); ok || err != nil {
			return g, err
		}
		select {
		case <-ctx.Done():
			if g != nil && g.Status.Reason != "" {
				return g, fmt.Errorf("group %q: %s: %w", name, g.Status.Reason, ctx.Err())
			}
			return g, fmt.Errorf("wait for group %q: %w", name, ctx.Err())
		case <-ch:
		}
	}
}

// get reads the group as the watch has brought it; nil and ErrNoGroup when it is not there.
func (b *Backend) get(ctx context.Context, name string) (*v1alpha1.ContainerGroup, error) {
	if !b.cache.WaitForCacheSync(ctx) {
		return nil, fmt.Errorf("group %q: %w: the container groups cannot be read", name, provisioner.ErrUnavailable)
	}
	var g v1alpha1.ContainerGroup
	if err := b.cache.Get(ctx, client.ObjectKey{Namespace: b.o.Namespace, Name: name}, &g); err != nil {
		return nil, unavailable(fmt.Sprintf("group %q", name), err)
	}
	return &g, nil
}

// List implements provisioner.Backend.
func (b *Backend) List(ctx context.Context) ([]provisioner.Observation, error) {
	if !b.cache.WaitForCacheSync(ctx) {
		return nil, fmt.Errorf("list groups: %w", provisioner.ErrUnavailable)
	}
	var list v1alpha1.ContainerGroupList
	if err := b.cache.List(ctx, &list, client.InNamespace(b.o.Namespace)); err != nil {
		return nil, unavailable("list groups", err)
	}
	out := []provisioner.Observation{}
	for i := range list.Items {
		if list.Items[i].DeletionTimestamp.IsZero() {
			out = append(out, observation(&list.Items[i]))
		}
	}
	return out, ctx.Err()
}

// observation is what the status says.
func observation(g *v1alpha1.ContainerGroup) provisioner.Observation {
	o := provisioner.Observation{ID: g.Name, Generation: int(g.Status.Generation)}
	for _, e := range g.Status.Endpoints {
		o.Endpoints = append(o.Endpoints, store.Endpoint{Name: e.Name, Host: e.Host, Port: int(e.Port), Count: int(e.Count)})
	}
	for _, m := range g.Status.Members {
		mo := provisioner.MemberObservation{ID: m.Pod, Role: m.Role, Healthy: m.Ready, Reason: m.Reason}
		if m.StartedAt != nil {
			mo.StartedAt = m.StartedAt.Time
		}
		if g.Status.Phase == v1alpha1.PhaseFailed && mo.Healthy {
			mo.Healthy, mo.Reason = false, g.Status.Reason
		}
		o.Members = append(o.Members, mo)
	}
	return o
}
