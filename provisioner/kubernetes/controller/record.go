package controller

import (
	"context"
	"encoding/json"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/remuda/remuda/catalog"
	"github.com/remuda/remuda/provisioner/agent"
	"github.com/remuda/remuda/provisioner/kubernetes"
)

// record is what the controller must remember of a group. It lies in the group's secret, so that
// who may edit groups cannot say what clean means.
type record struct {
	Level    kubernetes.Level          `json:"level,omitempty"` // of its pods, as it was set when the group was made
	Begun    bool                      `json:"begun"`           // its first generation once served
	Pristine map[string]agent.Pristine `json:"pristine,omitempty"`
	Baseline map[string]agent.Baseline `json:"baseline,omitempty"`
	// Applied is the fingerprint of the definition that the members have; "" while it is being changed.
	Applied string                  `json:"applied,omitempty"`
	Sizes   map[string]catalog.Size `json:"sizes,omitempty"` // that were applied last, by role
	Image   string                  `json:"image,omitempty"` // and the image
}

const recordKey = "record"

// reread is how often a secret is read again, in case somebody has deleted it.
const reread = 10 * time.Minute

// ensureSecret makes sure of the secret of the group's agents, whose certificate is valid, and
// reads what is remembered.
func (w *work) ensureSecret(ctx context.Context) (renewed bool, err error) {
	if err := w.r.keys.await(ctx); err != nil {
		return false, err
	}
	if w.memory.secret == nil || time.Since(w.memory.loadedAt) > reread {
		s := &corev1.Secret{}
		err := w.r.client.Get(ctx, client.ObjectKey{Namespace: w.cg.Namespace, Name: kubernetes.SecretName(w.cg.Name)}, s)
		switch {
		case apierrors.IsNotFound(err):
			s = nil
		case err != nil:
			return false, err
		case !isOwner(w.cg, s):
			return false, apierrors.NewAlreadyExists(corev1.Resource("secrets"), s.Name)
		}
		w.memory.loadedAt = time.Now()
		if s == nil && w.memory.secret != nil { // deleted by somebody
			s = &corev1.Secret{ObjectMeta: w.meta(kubernetes.SecretName(w.cg.Name), ""), Data: w.memory.secret.Data}
			if err := w.r.client.Create(ctx, s); err != nil {
				return false, err
			}
		}
		w.memory.secret = s
		if s != nil {
			if err := json.Unmarshal(s.Data[recordKey], &w.memory.record); err != nil {
				return false, err
			}
		}
	}
	var now agent.Identity
	if w.memory.secret != nil {
		now = kubernetes.IdentityOf(w.memory.secret)
	}
	next, renewed, err := w.r.keys.agent(w.cg.Name, now)
	if err != nil || !renewed {
		return false, err
	}
	return w.memory.secret != nil, w.writeSecret(ctx, next)
}

// remember writes the record down.
func (w *work) remember(ctx context.Context) error {
	return w.writeSecret(ctx, kubernetes.IdentityOf(w.memory.secret))
}

func (w *work) writeSecret(ctx context.Context, i agent.Identity) error {
	if w.memory.secret == nil {
		w.memory.record.Level = w.r.o.PodSecurity
	}
	text, err := json.Marshal(w.memory.record)
	if err != nil {
		return err
	}
	data := identityData(i)
	data[recordKey] = text
	if w.memory.secret == nil {
		s := &corev1.Secret{ObjectMeta: w.meta(kubernetes.SecretName(w.cg.Name), ""), Data: data}
		if err := w.r.client.Create(ctx, s); err != nil {
			return err
		}
		w.memory.secret = s
		return nil
	}
	s := w.memory.secret.DeepCopy()
	s.Data = data
	if err := w.r.client.Update(ctx, s); err != nil {
		w.memory.loadedAt = time.Time{} // it is another one than it was
		return err
	}
	w.memory.secret = s
	return nil
}
