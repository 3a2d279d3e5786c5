package broker

import (
	"context"

	"github.com/remuda/remuda/catalog"
)

// Groups is what the use cases need of the warm pool; provisioner.Pool is it.
// All methods may be called concurrently.
//
// Who moves a group when: the use case claims a warm group, or releases a
// claimed one, inside its own store transaction; the pool does all other steps.
// When a group becomes warm while an instance of its definition waits
// (store.Instances.Waiting), the pool's transaction makes the group claimed and
// sets the instance's GroupID (its state stays creating), and the pool then
// calls the function given to OnAssigned with the instance's id.
type Groups interface {
	// Fingerprint of the definition that new instances of the plan are made
	// from, and the ceiling of its pool. ok is false for an unknown plan.
	Fingerprint(offering, plan string) (fingerprint string, ceiling int, ok bool)
	// Demand tells the pool that an instance was asked for: a hit was served by
	// a warm group, a miss waits. It refills behind.
	Demand(fingerprint string, hit bool)
	// Publish opens the claimed group's endpoints. Repeating it is cheap.
	Publish(ctx context.Context, groupID string) error
	// Program runs "provision", "bind" or "unbind" of the group's own recipe
	// with catalog.HookValues; the pool adds host and ports. It returns what the
	// program gives back. Nothing happens where the recipe has no such program.
	Program(ctx context.Context, groupID, which string, values map[string]any) (map[string]string, error)
	// Access renders what a binding gets with catalog.CredentialValues; the pool
	// adds host and ports.
	Access(ctx context.Context, groupID string, values map[string]any) (catalog.Access, error)
	// Prospect is the definition, as a fingerprint, that a claimed group would have
	// with a plan; with upgrade by the current version of its recipe.
	Prospect(ctx context.Context, groupID, offering, plan string, upgrade bool) (fingerprint string, err error)
	// Change brings a claimed group to a definition that Prospect gave, with its
	// data. It may be repeated. *provisioner.Unfit says why it cannot be.
	Change(ctx context.Context, groupID, fingerprint string) error
	// Release cuts the tenant off, and returns when nothing of it gets in any
	// more; the reset goes on behind. The group is already in state resetting,
	// with the next generation, by the caller's transaction.
	Release(ctx context.Context, groupID string) error
	// OnAssigned sets the function to call when a waiting instance got a group.
	OnAssigned(func(instanceID string))
	// Trouble says in one sentence for an operator why no group of the
	// definition could be made lately; "" when all is well.
	Trouble(fingerprint string) string
}
