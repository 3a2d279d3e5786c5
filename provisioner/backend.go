package provisioner

import (
	"context"
	"errors"
	"time"

	"github.com/remuda/remuda/store"
)

// Sentinels of back ends, to be tested with errors.Is.
var (
	// ErrNoGroup: the back end has no group of that id.
	ErrNoGroup = errors.New("no such group")
	// ErrUnclean: after a reset the group is not like a new one. It must be closed.
	ErrUnclean = errors.New("group is not clean after its reset")
	// ErrUnavailable: the back end cannot work now (no root, no runtime, no API server).
	ErrUnavailable = errors.New("back end unavailable")
)

// Unfit says in a sentence for the tenant why a group cannot be changed.
type Unfit struct {
	Message string
	Final   bool // nothing that the tenant does will change that
}

func (u *Unfit) Error() string { return u.Message }

// Group is what the pool orders from a back end.
type Group struct {
	ID         string // [a-z0-9]{1,32}
	Generation int
	Definition Definition
	// Endpoints is empty for a new generation: the back end chooses. Repair gets
	// the ones that the tenant knows and must bring the group back at them.
	Endpoints []store.Endpoint
}

// Observation is what a back end sees of a group.
type Observation struct {
	ID         string
	Generation int
	Endpoints  []store.Endpoint
	Members    []MemberObservation // the leader first
}

// Healthy says whether all members are there and well.
func (o Observation) Healthy() bool {
	for _, m := range o.Members {
		if !m.Healthy {
			return false
		}
	}
	return len(o.Members) > 0
}

// MemberObservation is what a back end sees of a member.
type MemberObservation struct {
	ID        string // the container's id
	Role      string
	PID       int       // of its PID 1 as the host sees it; 0 when it is not running
	StartedAt time.Time // of that process
	Healthy   bool
	Reason    string // why it is not
}

// Backend is where groups live. Every method but List is safe to repeat after
// a crash or an error, and works on one group: different groups may be worked
// on concurrently, one group only by one call at a time (List, Program, Publish and
// Cutoff excepted).
//
// Nothing of a group is reachable for anybody before Publish, and everything
// after a Cutoff is unreachable again until the next Publish.
type Backend interface {
	// Create makes the group and returns when every member serves. What is
	// half there after an error is removed by Close.
	Create(ctx context.Context, g Group) (Observation, error)
	// Reset wipes the group and starts the generation g.Generation in the same
	// containers. It returns when every member serves and looks as it did when
	// the group was created, else ErrUnclean or another error: then the group
	// must be closed.
	Reset(ctx context.Context, g Group) (Observation, error)
	// Repair brings members that are dead or unwell back with their data, at
	// g.Endpoints, and publishes again. Healthy members are not touched.
	Repair(ctx context.Context, g Group) (Observation, error)
	// Close removes the group and all that belongs to it. Nil when it is not there.
	Close(ctx context.Context, id string) error
	// List observes all groups of this back end.
	List(ctx context.Context) ([]Observation, error)

	Tenancy
}

// Tenancy is what a back end does for the tenant of a claimed group.
type Tenancy interface {
	// Publish opens the group's endpoints. Repeating it is cheap.
	Publish(ctx context.Context, g Group) error
	// Cutoff ends every connection of the tenant and closes the endpoints. When
	// it returns nil nothing of the tenant gets in or out any more, even if
	// members had to be killed for it. next is the generation that Reset brings
	// the group to afterwards, with which a back end may begin at once; 0 leaves
	// the group as it is.
	Cutoff(ctx context.Context, id string, next int) error
	// Change brings the group to g.Definition, which has other sizes or comes from
	// another version of the recipe, with its data, at g.Endpoints, and publishes it.
	// Its servers are restarted. *Unfit says that what the tenant has does not fit, or
	// that the group cannot become like that; then nothing was changed. After any
	// other error the group is, or Repair makes it, as it was. Once done, repeating
	// it is cheap.
	Change(ctx context.Context, g Group) (Observation, error)
	// Program runs one of the recipe's programs in the leader, with
	// catalog.HookValues; which is "provision", "bind" or "unbind". It returns what
	// the program's Output names.
	Program(ctx context.Context, g Group, which string, values map[string]any) (map[string]string, error)
}
