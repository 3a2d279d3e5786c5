package controller

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/remuda/remuda/provisioner/agent"
	"github.com/remuda/remuda/provisioner/kubernetes"
)

// keyring keeps the authority of the agents: in a secret, renewed in time. A new authority
// signs nothing before everybody has had the time to learn of it.
type keyring struct {
	client client.Client
	o      Options

	mu          sync.Mutex
	authorities []*kubernetes.Authority // the oldest first
	identity    agent.Identity          // for orders
	ready       chan struct{}
	once        sync.Once
}

func newKeyring(c client.Client, o Options) *keyring {
	return &keyring{client: c, o: o, ready: make(chan struct{})}
}

// learnTime is how long a new authority is known before it signs.
func (k *keyring) learnTime() time.Duration { return min(k.o.AuthorityLife/10, 24*time.Hour) }

// NeedLeaderElection makes only the working controller keep the keys.
func (k *keyring) NeedLeaderElection() bool { return true }

// Start keeps the keys until ctx ends.
func (k *keyring) Start(ctx context.Context) error {
	pause := max(min(k.o.CertificateLife/20, time.Hour), 50*time.Millisecond)
	for {
		wait := pause
		if err := k.renew(ctx); err != nil {
			k.o.Logger.Error("keep the agents' authority", "error", err)
			wait = min(pause, 2*time.Second)
		} else {
			k.once.Do(func() { close(k.ready) })
			wait = min(wait, k.untilChange())
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

// untilChange is how long nothing will be due for certain.
func (k *keyring) untilChange() time.Duration {
	k.mu.Lock()
	defer k.mu.Unlock()
	least := time.Hour
	for _, a := range k.authorities {
		least = min(least, time.Until(a.Certificate.NotAfter)/6)
	}
	return max(least, 50*time.Millisecond)
}

// await returns when there are keys.
func (k *keyring) await(ctx context.Context) error {
	select {
	case <-k.ready:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func authorityKey(i int, what string) string { return fmt.Sprintf("%d.%s", i, what) }

// renew reads the authorities, and makes and drops what is due.
func (k *keyring) renew(ctx context.Context) error {
	var secret corev1.Secret
	name := client.ObjectKey{Namespace: k.o.System, Name: kubernetes.AuthoritySecret}
	err := k.client.Get(ctx, name, &secret)
	missing := apierrors.IsNotFound(err)
	if err != nil && !missing {
		return err
	}
	var all []*kubernetes.Authority
	now := time.Now()
	changed := false
	for i := 0; secret.Data[authorityKey(i, "crt")] != nil; i++ {
		a, err := kubernetes.ParseAuthority(secret.Data[authorityKey(i, "crt")], secret.Data[authorityKey(i, "key")])
		if err != nil {
			return err
		}
		if now.After(a.Certificate.NotAfter) {
			changed = true
			continue
		}
		all = append(all, a)
	}
	if len(all) == 0 || kubernetes.Old(all[len(all)-1].Certificate, now) {
		a, err := kubernetes.NewAuthority(k.o.AuthorityLife)
		if err != nil {
			return err
		}
		all, changed = append(all, a), true
	}
	if changed {
		secret.Data = map[string][]byte{}
		for i, a := range all {
			if secret.Data[authorityKey(i, "crt")], secret.Data[authorityKey(i, "key")], err = a.PEM(); err != nil {
				return err
			}
		}
		if err := k.write(ctx, &secret, name, missing); err != nil {
			return err
		}
	}
	k.mu.Lock()
	k.authorities = all
	k.mu.Unlock()
	return k.renewOrders(ctx)
}

// renewOrders makes the identity of those who give orders anew when it is due.
func (k *keyring) renewOrders(ctx context.Context) error {
	bundle, signer, all := k.bundle()
	var secret corev1.Secret
	name := client.ObjectKey{Namespace: k.o.System, Name: kubernetes.OrdersSecret}
	err := k.client.Get(ctx, name, &secret)
	missing := apierrors.IsNotFound(err)
	if err != nil && !missing {
		return err
	}
	identity := kubernetes.IdentityOf(&secret)
	if kubernetes.Renewable(identity.Certificate, all, time.Now()) || identity.Authorities != string(bundle) {
		if identity, err = signer.Orders(k.o.CertificateLife, bundle); err != nil {
			return err
		}
		secret.Data = identityData(identity)
		if err := k.write(ctx, &secret, name, missing); err != nil {
			return err
		}
	}
	k.mu.Lock()
	k.identity = identity
	k.mu.Unlock()
	return nil
}

func (k *keyring) write(ctx context.Context, secret *corev1.Secret, name client.ObjectKey, create bool) error {
	if create {
		secret.ObjectMeta = metav1.ObjectMeta{Name: name.Name, Namespace: name.Namespace, Labels: map[string]string{"app.kubernetes.io/name": "remuda"}}
		return k.client.Create(ctx, secret)
	}
	return k.client.Update(ctx, secret)
}

func identityData(i agent.Identity) map[string][]byte {
	return map[string][]byte{kubernetes.KeyCertificate: []byte(i.Certificate), kubernetes.KeyKey: []byte(i.Key), kubernetes.KeyAuthorities: []byte(i.Authorities)}
}

// bundle is the certificates of all authorities, the one that signs, and all.
func (k *keyring) bundle() ([]byte, *kubernetes.Authority, []*kubernetes.Authority) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.authorities) == 0 {
		return nil, nil, nil
	}
	signer := k.authorities[0]
	for _, a := range k.authorities {
		if time.Since(kubernetes.Made(a.Certificate)) > k.learnTime() || time.Until(signer.Certificate.NotAfter) < k.learnTime() {
			signer = a
		}
	}
	return kubernetes.Bundle(k.authorities), signer, k.authorities
}

// orders is the controller's own identity.
func (k *keyring) orders() (agent.Identity, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.identity.Key == "" {
		return k.identity, errors.New("there is no authority of the agents yet")
	}
	return k.identity, nil
}

// agent makes an identity for the agents of a group, unless the one that is there will do.
func (k *keyring) agent(group string, now agent.Identity) (i agent.Identity, renewed bool, err error) {
	bundle, signer, all := k.bundle()
	if signer == nil {
		return i, false, errors.New("there is no authority of the agents yet")
	}
	if !kubernetes.Renewable(now.Certificate, all, time.Now()) && now.Authorities == string(bundle) {
		return now, false, nil
	}
	i, err = signer.Agent(group, k.o.CertificateLife, bundle)
	return i, true, err
}
