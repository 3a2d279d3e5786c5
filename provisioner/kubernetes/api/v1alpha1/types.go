// Package v1alpha1 is the custom resource ContainerGroup as the API server keeps it.
//
// The spec says what the group is (recipe, members, environment) and what is wanted of it
// (generation, lent, published, attempt); the status says how far it is. The status holds nothing that
// cannot be found out again.
//
// +kubebuilder:object:generate=true
// +groupName=remuda.dev
package v1alpha1

import (
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// ContainerGroup is a group of pods that serve one tenant after the other, and are
// wiped in between.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=cg,categories=remuda,scope=Namespaced
// +kubebuilder:printcolumn:name="Recipe",type=string,JSONPath=`.spec.recipe.name`
// +kubebuilder:printcolumn:name="Plan",type=string,JSONPath=`.spec.plan`
// +kubebuilder:printcolumn:name="Phase",type=string,JSONPath=`.status.phase`
// +kubebuilder:printcolumn:name="Generation",type=integer,JSONPath=`.status.generation`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.ready`
// +kubebuilder:printcolumn:name="Leader",type=string,JSONPath=`.status.leader`,priority=1
// +kubebuilder:printcolumn:name="Address",type=string,JSONPath=`.status.address`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.reason`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:validation:XValidation:rule="self.metadata.name.matches('^[a-z0-9]{1,32}$')",message="the name must be 1 to 32 small letters and digits"
type ContainerGroup struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   ContainerGroupSpec   `json:"spec"`
	Status ContainerGroupStatus `json:"status,omitempty"`
}

// ContainerGroupList is a list of them.
//
// +kubebuilder:object:root=true
type ContainerGroupList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []ContainerGroup `json:"items"`
}

// ContainerGroupSpec is what the group is and what is wanted of it.
//
// +kubebuilder:validation:XValidation:rule="!has(self.lent) || self.lent <= self.generation",message="lent names a generation that has not begun yet"
// +kubebuilder:validation:XValidation:rule="!has(self.published) || !self.published || (has(self.lent) && self.lent == self.generation)",message="only a group that is lent in this generation can be published"
// +kubebuilder:validation:XValidation:rule="self.generation >= oldSelf.generation",message="a generation never comes back"
// +kubebuilder:validation:XValidation:rule="self.recipe.name == oldSelf.recipe.name",message="a group cannot become another kind of middleware"
// +kubebuilder:validation:XValidation:rule="self.members.map(m, m.role) == oldSelf.members.map(m, m.role)",message="the members of a group cannot be other ones; only their sizes can change"
// +kubebuilder:validation:XValidation:rule="self.cpuLimit == oldSelf.cpuLimit",message="cpuLimit cannot change: a running pod keeps its CPU limit, or has none"
type ContainerGroupSpec struct {
	Recipe Recipe `json:"recipe"`
	// Plan is for people.
	// +optional
	// +kubebuilder:validation:MaxLength=64
	Plan string `json:"plan,omitempty"`
	// Image is the container image of all members, as 'remuda image build' makes it.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=512
	Image string `json:"image"`
	// Members by role.
	// +listType=map
	// +listMapKey=role
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=8
	Members []MemberSpec `json:"members"`
	// CPULimit says what a member's cpu is: the most that it gets (Plan), or its share where others want
	// the processor too (None).
	// +optional
	// +kubebuilder:default=Plan
	CPULimit CPULimit `json:"cpuLimit,omitempty"`
	// Environment is given to every program of every member.
	// +optional
	// +kubebuilder:validation:MaxProperties=64
	Environment map[string]string `json:"environment,omitempty"`
	// Generation counts tenancies. A greater one wipes the group, and it begins anew.
	// +kubebuilder:default=1
	// +kubebuilder:validation:Minimum=1
	Generation int64 `json:"generation"`
	// Lent is the generation in which the group was given to a tenant, 0 for none. While
	// it equals Generation, members that fail are brought back with their data.
	// +optional
	// +kubebuilder:validation:Minimum=0
	Lent int64 `json:"lent,omitempty"`
	// Published opens the endpoints.
	// +optional
	Published bool `json:"published,omitempty"`
	// Attempt asks for another look at a group that failed or has to be repaired.
	// +optional
	// +kubebuilder:validation:Minimum=0
	Attempt int64 `json:"attempt,omitempty"`
}

// Recipe names how the middleware lives in its members.
type Recipe struct {
	// +kubebuilder:validation:Pattern=`^[a-z][a-z0-9-]{0,31}$`
	// +kubebuilder:validation:MaxLength=32
	Name string `json:"name"`
	// Version of the recipe; with Content left out, one that the controller knows.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	Version string `json:"version"`
	// Content is the whole recipe as JSON, so that a group outlives the file that it was made from. It
	// is a text because the API server keeps book of every field of an object, at every write.
	// +optional
	// +kubebuilder:validation:MaxLength=262144
	Content string `json:"content,omitempty"`
}

// MemberSpec is how many members of a role there are and what each may use.
//
// +kubebuilder:validation:XValidation:rule="quantity(string(self.cpu)).compareTo(quantity('10m')) >= 0",message="cpu must be at least 10m"
// +kubebuilder:validation:XValidation:rule="quantity(string(self.memory)).compareTo(quantity('16Mi')) >= 0",message="memory must be at least 16Mi"
// +kubebuilder:validation:XValidation:rule="quantity(string(self.disk)).compareTo(quantity('32Mi')) >= 0",message="disk must be at least 32Mi"
// +kubebuilder:validation:XValidation:rule="self.count == oldSelf.count",message="the number of members cannot change"
type MemberSpec struct {
	// +kubebuilder:validation:Pattern=`^[a-z][a-z0-9-]{0,15}$`
	// +kubebuilder:validation:MaxLength=16
	Role string `json:"role"`
	// +kubebuilder:default=1
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=32
	Count int32 `json:"count"`
	// CPU in cores or thousandths of them, such as 500m.
	CPU resource.Quantity `json:"cpu"`
	// Memory in bytes, such as 256Mi.
	Memory resource.Quantity `json:"memory"`
	// Disk in bytes, such as 1Gi.
	Disk resource.Quantity `json:"disk"`
	// Ephemeral data end with the pod: no claim for a volume is made for them.
	// +optional
	Ephemeral bool `json:"ephemeral,omitempty"`
}

// CPULimit is the rule by which the pods of members get a CPU limit; "" is CPULimitPlan.
//
// +kubebuilder:validation:Enum=Plan;None
type CPULimit string

const (
	CPULimitPlan CPULimit = "Plan" // of the member's cpu
	CPULimitNone CPULimit = "None"
)

// Phase is where a group is in its life.
//
// +kubebuilder:validation:Enum=Creating;Warm;Claimed;Returned;Resetting;Changing;Failed;Closing
type Phase string

const (
	PhaseCreating  Phase = "Creating"  // its first generation begins
	PhaseWarm      Phase = "Warm"      // clean, serving, waiting for a tenant
	PhaseClaimed   Phase = "Claimed"   // a tenant's
	PhaseReturned  Phase = "Returned"  // was a tenant's; nobody gets in, and it waits for its next generation
	PhaseResetting Phase = "Resetting" // being wiped and started
	PhaseChanging  Phase = "Changing"  // its sizes are being changed
	PhaseFailed    Phase = "Failed"    // it must be deleted; see the conditions
	PhaseClosing   Phase = "Closing"   // being deleted
)

// Types of conditions.
const (
	// Ready: every member serves the wanted generation.
	Ready = "Ready"
	// Clean: after its last reset the group looked as it did when it was new.
	Clean = "Clean"
	// Fits: the group has the sizes that the spec asks for.
	Fits = "Fits"
)

// Reasons of conditions.
const (
	ReasonServing         = "Serving"
	ReasonWaiting         = "Waiting" // for pods, volumes, servers
	ReasonImage           = "ImageMissing"
	ReasonUnschedulable   = "Unschedulable"
	ReasonVolume          = "VolumeMissing"
	ReasonRecipe          = "RecipeInvalid"
	ReasonStart           = "StartFailed"
	ReasonUnclean         = "Unclean"
	ReasonMember          = "MemberUnwell"
	ReasonData            = "DataLost"
	ReasonReset           = "Reset"
	ReasonApplied         = "Applied"
	ReasonUnfit           = "Unfit"      // something that the tenant can change
	ReasonUnfitFinally    = "Impossible" // and what nobody can
	ReasonRefusedByServer = "Refused"    // by the API server: quota, policy
)

// ContainerGroupStatus is how far the group is.
type ContainerGroupStatus struct {
	// ObservedGeneration is the metadata.generation that this status is about.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// +optional
	Phase Phase `json:"phase,omitempty"`
	// Generation that all members serve.
	// +optional
	Generation int64 `json:"generation,omitempty"`
	// Published says that the endpoints are open.
	// +optional
	Published bool `json:"published,omitempty"`
	// Ready members of all, like 1/1.
	// +optional
	Ready string `json:"ready,omitempty"`
	// Leader is the pod that tenants reach.
	// +optional
	Leader string `json:"leader,omitempty"`
	// Address of the leader's service.
	// +optional
	Address string `json:"address,omitempty"`
	// +optional
	Endpoints []Endpoint `json:"endpoints,omitempty"`
	// +optional
	// +listType=map
	// +listMapKey=name
	Members []MemberStatus `json:"members,omitempty"`
	// Reason of a phase that nobody wants, in a sentence.
	// +optional
	Reason string `json:"reason,omitempty"`
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// Endpoint is where one port of the leader is published.
type Endpoint struct {
	Name string `json:"name"`
	Host string `json:"host"`
	Port int32  `json:"port"`
	// Count of ports in a row; 0 means 1.
	// +optional
	Count int32 `json:"count,omitempty"`
}

// MemberStatus is how one member is.
type MemberStatus struct {
	Name string `json:"name"`
	Role string `json:"role"`
	Pod  string `json:"pod"`
	// +optional
	PodUID string `json:"podUID,omitempty"`
	// +optional
	ContainerID string `json:"containerID,omitempty"`
	// Address of the pod.
	// +optional
	Address string `json:"address,omitempty"`
	// +optional
	Node string `json:"node,omitempty"`
	// StartedAt is when its container began: a reset does not change it.
	// +optional
	StartedAt *metav1.Time `json:"startedAt,omitempty"`
	Ready     bool         `json:"ready"`
	// +optional
	Reason string `json:"reason,omitempty"`
	// What it has, which is what the spec asks for once the condition Fits is true.
	// +optional
	Memory resource.Quantity `json:"memory,omitempty"`
	// +optional
	Disk resource.Quantity `json:"disk,omitempty"`
	// +optional
	CPU resource.Quantity `json:"cpu,omitempty"`
	// Load of it, now and then.
	// +optional
	Load *Load `json:"load,omitempty"`
}

// Load is what a member uses.
type Load struct {
	// +optional
	CPU resource.Quantity `json:"cpu,omitempty"`
	// +optional
	Memory resource.Quantity `json:"memory,omitempty"`
	// +optional
	Disk resource.Quantity `json:"disk,omitempty"`
}

// GroupVersion of this package.
var GroupVersion = schema.GroupVersion{Group: "remuda.dev", Version: "v1alpha1"}

// AddToScheme makes the types known.
func AddToScheme(s *runtime.Scheme) error {
	s.AddKnownTypes(GroupVersion, &ContainerGroup{}, &ContainerGroupList{})
	metav1.AddToGroupVersion(s, GroupVersion)
	return nil
}
