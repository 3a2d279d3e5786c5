package controller

import (
	"context"
	"errors"
	"net/http"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/remuda/remuda/provisioner/agent"
	"github.com/remuda/remuda/provisioner/kubernetes/api/v1alpha1"
)

// healPause is how long a member that could not be brought back is left alone.
const healPause = 5 * time.Second

// keepLent keeps a tenant's group serving, with its data, and its doors as they should be.
func (w *work) keepLent(ctx context.Context) (time.Duration, error) {
	if f := w.memory.failed; f != nil && f.reason == v1alpha1.ReasonData {
		w.trouble, w.phase = f, v1alpha1.PhaseFailed
		return lookAgain, nil
	}
	again := lookAgain
	if err := w.ensureService(ctx); err != nil {
		return 0, err
	}
	w.tend = true
	if !w.cg.Spec.Published {
		w.closeDoors(ctx)
		return again, nil
	}
	if w.memory.record.Applied != w.def.Fingerprint() {
		return w.change(ctx)
	}
	for _, m := range w.members {
		if m.well(w.cg.Spec.Generation) {
			continue
		}
		if m.state == nil {
			again = soon
			w.note(v1alpha1.ReasonMember, m.pod.Name+": "+m.reason)
			if w.memory.misses[m.pod.Name] >= maxMisses {
				w.log.Warn("agent does not answer, its pod is made anew", "pod", m.pod.Name)
				delete(w.memory.misses, m.pod.Name)
				return again, client.IgnoreNotFound(w.r.client.Delete(ctx, m.pod, client.GracePeriodSeconds(0)))
			}
			continue
		}
		if time.Now().Before(w.memory.healAfter) {
			again = healPause
			w.note(v1alpha1.ReasonMember, m.pod.Name+": "+m.reason)
			continue
		}
		w.log.Info("bringing a member back", "pod", m.pod.Name, "reason", m.reason)
		if err := w.heal(ctx, m); err != nil {
			w.memory.healAfter = time.Now().Add(healPause)
			again = healPause
			m.reason = err.Error()
			w.note(v1alpha1.ReasonStart, m.pod.Name+": "+m.reason)
		}
	}
	if w.trouble == nil {
		if err := w.tellHosts(ctx); err != nil {
			return soon, err
		}
	}
	return again, w.openDoors(ctx)
}

// heal starts a member's servers again with its data.
func (w *work) heal(ctx context.Context, m *member) error {
	if err := w.restart(ctx, m); err != nil {
		return err
	}
	s, err := m.client.State(ctx)
	if err != nil {
		return err
	}
	m.state, m.reason = &s, ""
	m.well(w.cg.Spec.Generation)
	return nil
}

// restart starts a member's servers, also one whose last start failed, or whose container is another
// one than it was.
func (w *work) restart(ctx context.Context, m *member) error {
	if _, err := m.client.Wipe(ctx, agent.WipeRequest{Kindly: true}); err != nil {
		return err
	}
	h, err := w.hosts()
	if err != nil {
		return err
	}
	if err := setHosts(ctx, m, h); err != nil {
		return err
	}
	return w.startMember(ctx, m)
}

// openDoors lets the tenant in.
func (w *work) openDoors(ctx context.Context) error {
	if len(w.def.Recipe.Endpoints) == 0 {
		w.open = true
		return nil
	}
	leader := w.members[0]
	if leader.client == nil || leader.state == nil || !leader.well(w.cg.Spec.Generation) {
		return nil
	}
	way, err := w.openEgress(ctx)
	if doorsAre(leader.state, true) {
		w.open = true
		return err
	}
	if !way || err != nil {
		return err
	}
	if err := leader.client.OpenDoors(ctx, agent.OpenRequest{Order: w.cg.Generation}); err != nil {
		if isOverruled(err) {
			return nil // by a newer spec, which the next look will see
		}
		return err
	}
	w.open = true
	return nil
}

// isOverruled says whether the agent knows of a newer order than this one.
func isOverruled(err error) bool {
	e, ok := errors.AsType[*agent.Error](err)
	return ok && e.Status == http.StatusConflict
}

func doorsAre(s *agent.State, open bool) bool {
	for _, d := range s.Doors {
		if d.Open != open {
			return false
		}
	}
	return len(s.Doors) > 0
}

// closeDoors cuts everybody off, in the end by deleting the pod.
func (w *work) closeDoors(ctx context.Context) {
	w.closeDoorsOf(ctx, w.members[0])
	if m := w.egress(); m != nil {
		w.closeDoorsOf(ctx, m)
	}
}

func (w *work) closeDoorsOf(ctx context.Context, m *member) {
	if m.pod == nil || m.client == nil || m.state != nil && (doorsAre(m.state, false) || len(m.state.Doors) == 0) {
		return
	}
	bounded, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	_, err := m.client.CloseDoors(bounded, agent.CloseRequest{Order: w.cg.Generation})
	if err == nil || isOverruled(err) {
		return
	}
	w.log.Warn("agent does not close its doors, its pod is deleted", "pod", m.pod.Name, "error", err)
	if err := client.IgnoreNotFound(w.r.client.Delete(ctx, m.pod, client.GracePeriodSeconds(0))); err != nil {
		w.open = true // as far as is known
		w.log.Error("cannot delete the pod", "pod", m.pod.Name, "error", err)
	}
}
