// Package store keeps what the broker must not forget: instances, bindings,
// operations, container groups and their definitions, and who changed what.
//
// Everything is read and written inside a transaction given to a closure.
// Update closures run one after the other, as if alone (serializable), and may
// be run more than once before one run is kept: they must have no effect but
// through their Tx. Until its first use of its Tx a closure may run beside others,
// and must not wait for them. When Update returns nil, the change is on disk. When
// it returns an error, nothing has changed. All methods of Store may be called
// concurrently; a Tx belongs to its closure alone.
//
// A state change is a compare-and-swap: read the record in the closure, check
// that it is what you think, put the new one.
package store

import (
	"context"
	"encoding/json"
	"errors"
	"time"
)

// Sentinels, to be tested with errors.Is.
var (
	ErrNotFound = errors.New("not found")
	// ErrUnavailable says that the store cannot be reached now; try again later.
	ErrUnavailable = errors.New("store unavailable")
)

// Store is the contract that storetest checks.
type Store interface {
	// Update runs fn in a read-write transaction and commits it durably.
	// An error of fn is returned as it is and undoes fn's writes.
	Update(ctx context.Context, fn func(Tx) error) error
	// View runs fn on a consistent snapshot; writes through it fail.
	View(ctx context.Context, fn func(Tx) error) error
	// Close ends the store. Later calls return ErrUnavailable.
	Close() error
}

// Tx gives access to the tables.
type Tx interface {
	Definitions() Table[Definition]
	Groups() Groups
	Instances() Instances
	Bindings() Bindings
	Operations() Operations
	Audit() Audit
}

// Table is what every table can do. Get and Delete return ErrNotFound for an
// absent id; Put inserts or replaces.
type Table[T any] interface {
	Get(id string) (T, error)
	Put(T) error
	Delete(id string) error
	// List returns every record in the order of ids. For small tables only.
	List() ([]T, error)
}

// Groups are the container groups that exist or are about to.
type Groups interface {
	Table[Group]
	// ClaimWarm moves the warm group of the definition that has been warm
	// longest to Claimed for the instance, and returns it. ErrNotFound when
	// none is warm.
	ClaimWarm(fingerprint, instanceID string, now time.Time) (Group, error)
	// Of returns the groups of one definition, oldest first.
	Of(fingerprint string) ([]Group, error)
	// Count returns how many groups of the definition are in each state.
	Count(fingerprint string) (map[GroupState]int, error)
}

// Instances are service instances, also those that wait for a group.
type Instances interface {
	Table[Instance]
	// Waiting returns up to limit instances in state InstanceCreating without a
	// group, for the definition, oldest first.
	Waiting(fingerprint string, limit int) ([]Instance, error)
	// CountWaiting counts them.
	CountWaiting(fingerprint string) (int, error)
	// InState returns the instances in that state, oldest first.
	InState(InstanceState) ([]Instance, error)
	// Page returns up to limit instances with an id greater than after, in the
	// order of ids.
	Page(after string, limit int) ([]Instance, error)
	// CountIn counts the instances in the scope, in whatever state. What it costs
	// does not depend on how many there are, but for an organization on how many
	// spaces it has.
	CountIn(InstanceScope) (int, error)
}

// InstanceScope says which instances are counted; an empty field is any. A plan
// needs its service, and a space its organization.
type InstanceScope struct {
	OrgGUID   string
	SpaceGUID string
	ServiceID string
	PlanID    string
}

// Bindings belong to an instance. Their ids are unique in the whole store.
type Bindings interface {
	Table[Binding]
	Of(instanceID string) ([]Binding, error)
	InState(BindingState) ([]Binding, error)
	// Expiring returns up to limit ready bindings that expire before t, the
	// earliest first.
	Expiring(t time.Time, limit int) ([]Binding, error)
}

// Operations are remembered after they end, so that a late poll is answered.
type Operations interface {
	Table[Operation]
	// Latest returns the newest operation of the instance (bindingID "") or of
	// the binding. ErrNotFound when there is none.
	Latest(instanceID, bindingID string) (Operation, error)
	// Running returns the operations in progress, oldest first.
	Running() ([]Operation, error)
	// DeleteFinishedBefore forgets operations that ended before t, and says how many.
	DeleteFinishedBefore(t time.Time) (int, error)
}

// Definition is a group definition as it was when groups were made from it. It
// outlives the recipe file, so that claimed groups can still be served.
type Definition struct {
	Fingerprint string          `json:"fingerprint"` // SHA-256, hex; the id
	Offering    string          `json:"offering"`    // name
	Plan        string          `json:"plan"`        // name
	Body        json.RawMessage `json:"body"`        // canonical JSON of provisioner.Definition
	CreatedAt   time.Time       `json:"created_at"`
}

// GroupState is where a group is in its life:
// creating → warm → claimed → resetting → warm, and from anywhere → closing → gone.
type GroupState string

const (
	GroupCreating  GroupState = "creating"
	GroupWarm      GroupState = "warm"
	GroupClaimed   GroupState = "claimed"
	GroupResetting GroupState = "resetting"
	GroupClosing   GroupState = "closing"
)

// Group is one container group.
type Group struct {
	ID          string     `json:"id"`
	Fingerprint string     `json:"fingerprint"`
	State       GroupState `json:"state"`
	Generation  int        `json:"generation"` // 1 at first; every reset begins the next
	InstanceID  string     `json:"instance_id,omitempty"`
	Endpoints   []Endpoint `json:"endpoints,omitempty"` // of this generation, first is the main one
	Reason      string     `json:"reason,omitempty"`    // why it is closing
	CreatedAt   time.Time  `json:"created_at"`
	Since       time.Time  `json:"since"`                // when it entered State
	ReturnedAt  time.Time  `json:"returned_at,omitzero"` // last time a tenant gave it back
}

// Endpoint is where one port of the leader is published.
type Endpoint struct {
	Name  string `json:"name"`            // as the recipe calls it
	Host  string `json:"host"`            // advertised host name or address
	Port  int    `json:"port"`            // first port
	Count int    `json:"count,omitempty"` // how many ports in a row, 0 means 1
}

// InstanceState is where an instance is in its life.
type InstanceState string

const (
	InstanceCreating InstanceState = "creating" // waits for a group
	InstanceReady    InstanceState = "ready"
	InstanceUpdating InstanceState = "updating"
	InstanceFailed   InstanceState = "failed" // its create failed; only DELETE helps
)

// Instance is a service instance.
type Instance struct {
	ID          string        `json:"id"`
	ServiceID   string        `json:"service_id"`
	PlanID      string        `json:"plan_id"`
	Fingerprint string        `json:"fingerprint"` // of the definition that serves it
	State       InstanceState `json:"state"`
	GroupID     string        `json:"group_id,omitempty"`
	// Prepared says that the recipe's provision hook has run with the
	// instance's parameters, if it has any; until then every bind first makes it so.
	Prepared     bool            `json:"prepared,omitempty"`
	OrgGUID      string          `json:"org_guid,omitempty"`
	SpaceGUID    string          `json:"space_guid,omitempty"`
	Context      json.RawMessage `json:"context,omitempty"`
	Sealed       []byte          `json:"sealed,omitempty"`      // sealed parameters (JSON)
	Digest       string          `json:"digest,omitempty"`      // of the attributes but the parameters that an identical PUT must repeat
	Maintenance  string          `json:"maintenance,omitempty"` // version of the recipe that serves it
	DashboardURL string          `json:"dashboard_url,omitempty"`
	CreatedAt    time.Time       `json:"created_at"`
	// Next is what an update makes of it, while it is updating.
	Next *InstanceUpdate `json:"next,omitempty"`
}

// InstanceUpdate is what an instance is to become. It is stored before its group
// is touched.
type InstanceUpdate struct {
	PlanID      string          `json:"plan_id"`
	Fingerprint string          `json:"fingerprint"`
	Context     json.RawMessage `json:"context,omitempty"`
	Sealed      []byte          `json:"sealed,omitempty"`
	Digest      string          `json:"digest"`
	Maintenance string          `json:"maintenance,omitempty"`
	Configure   bool            `json:"configure,omitempty"` // its parameters change
	Request     string          `json:"request"`             // digest of the request, to know it again
}

// BindingState is where a binding is in its life.
type BindingState string

const (
	BindingCreating BindingState = "creating" // credentials chosen, hook not known to have run
	BindingReady    BindingState = "ready"
	BindingDeleting BindingState = "deleting" // unbind hook not known to have run
	BindingExpired  BindingState = "expired"  // its login was taken away; it waits for its deletion
)

// Binding is a service binding. Its login is chosen and sealed before the
// recipe's hook runs, so that a crash in between can be finished or undone.
type Binding struct {
	ID         string          `json:"id"`
	InstanceID string          `json:"instance_id"`
	ServiceID  string          `json:"service_id"`
	PlanID     string          `json:"plan_id"`
	State      BindingState    `json:"state"`
	AppGUID    string          `json:"app_guid,omitempty"`
	Context    json.RawMessage `json:"context,omitempty"`
	Username   string          `json:"username,omitempty"`
	Sealed     []byte          `json:"sealed,omitempty"` // sealed JSON: password, parameters, credentials
	Digest     string          `json:"digest,omitempty"`
	CreatedAt  time.Time       `json:"created_at"`
	// ExpiresAt is when the login is taken away; zero for never.
	ExpiresAt   time.Time `json:"expires_at,omitzero"`
	RenewBefore time.Time `json:"renew_before,omitzero"`
	Predecessor string    `json:"predecessor,omitempty"` // the binding that it replaces
}

// OperationKind says what an operation does.
type OperationKind string

const (
	OpProvision   OperationKind = "provision"
	OpUpdate      OperationKind = "update"
	OpDeprovision OperationKind = "deprovision"
	OpBind        OperationKind = "bind"
	OpUnbind      OperationKind = "unbind"
)

// OperationState is the state that OSB's last_operation shows.
type OperationState string

const (
	OpInProgress OperationState = "in progress"
	OpSucceeded  OperationState = "succeeded"
	OpFailed     OperationState = "failed"
)

// Operation is asynchronous work on an instance or a binding, or the memory
// that synchronous work was done.
type Operation struct {
	ID          string         `json:"id"`
	Kind        OperationKind  `json:"kind"`
	State       OperationState `json:"state"`
	InstanceID  string         `json:"instance_id"`
	BindingID   string         `json:"binding_id,omitempty"`
	ServiceID   string         `json:"service_id"`
	PlanID      string         `json:"plan_id"`
	NextPlanID  string         `json:"next_plan_id,omitempty"` // of an update
	Description string         `json:"description,omitempty"`  // for the user
	// Final says of a failed update that the same request would fail again.
	Final bool `json:"final,omitempty"`
	// Async says that the platform polls for its end, which is then audited.
	Async      bool      `json:"async,omitempty"`
	StartedAt  time.Time `json:"started_at"`
	FinishedAt time.Time `json:"finished_at,omitzero"`
}
