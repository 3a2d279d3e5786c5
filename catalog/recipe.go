package catalog

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
)

// Recipe says how one kind of middleware lives in a container group: what it
// offers, what is in its image, its members' roles, processes, writable paths
// and programs, its ports, and the shape of its credentials. A recipe is one
// YAML file; nothing of a kind of middleware is written in Go.
//
// Text marked "template" below is Go text/template; what each may use is said
// beside it. An unknown value is an error when the recipe is loaded, and so is a
// parameter that its schema does not restrict to harmless values: parameters
// are what strangers write.
type Recipe struct {
	Name     string   `yaml:"name" json:"name"`       // the offering's name too: [a-z][a-z0-9-]{0,31}
	Version  string   `yaml:"version" json:"version"` // semantic version
	Offering Offering `yaml:"offering" json:"-"`      // catalog matters; not part of a definition
	// Packages are Debian packages the image must have. "a|b" takes the first
	// that the host's package archive knows.
	Packages []string `yaml:"packages" json:"packages"`
	// GoPrograms are built from source into the image's /usr/local/bin, which takes Go
	// on the host, once.
	GoPrograms []GoProgram `yaml:"go_programs,omitempty" json:"go_programs,omitempty"`
	// Environment is given to every program of every member.
	Environment map[string]string `yaml:"environment,omitempty" json:"environment,omitempty"`
	Roles       []Role            `yaml:"roles" json:"roles"`
	Leader      string            `yaml:"leader,omitempty" json:"leader,omitempty"` // a role; default the first
	Endpoints   []Endpoint        `yaml:"endpoints" json:"endpoints"`
	// Provision runs in the leader when an instance takes the group and gave
	// parameters. Bind and Unbind run in the leader for each binding; each must
	// do no harm when run twice. Templates see HookValues.
	Provision *Program `yaml:"provision,omitempty" json:"provision,omitempty"`
	Bind      *Program `yaml:"bind,omitempty" json:"bind,omitempty"`
	Unbind    *Program `yaml:"unbind,omitempty" json:"unbind,omitempty"`
	// Credentials is the binding's credentials object: each value is a template
	// that sees CredentialValues. A value that is only digits after rendering
	// is given as a JSON number when the key is "port" or ends in "_port".
	Credentials map[string]string `yaml:"credentials" json:"credentials"`
	// What a binding of the other kinds has besides credentials. Each is a template
	// that sees CredentialValues, and is left out when it renders to nothing. The
	// offering must list the permission in Requires: syslog_drain for SyslogDrainURL,
	// route_forwarding for RouteServiceURL, volume_mount for VolumeMounts.
	SyslogDrainURL  string        `yaml:"syslog_drain_url,omitempty" json:"syslog_drain_url,omitempty"`
	RouteServiceURL string        `yaml:"route_service_url,omitempty" json:"route_service_url,omitempty"`
	VolumeMounts    []VolumeMount `yaml:"volume_mounts,omitempty" json:"volume_mounts,omitempty"`
}

// GoProgram is a program for the image that is a package of a Go module.
type GoProgram struct {
	Module  string `yaml:"module" json:"module"`
	Version string `yaml:"version" json:"version"`                     // like v1.2.3
	Package string `yaml:"package,omitempty" json:"package,omitempty"` // within the module, like ./cmd/server; default its root
	Name    string `yaml:"name" json:"name"`                           // of the file in /usr/local/bin
	Sum     string `yaml:"sum" json:"sum"`                             // the module's hash as in go.sum: h1:…
}

// VolumeMount is OSB's "Volume Mount Object" for a shared device. All values are
// templates that see CredentialValues; of MountConfig those that render to nothing
// are left out.
type VolumeMount struct {
	Driver       string            `yaml:"driver" json:"driver"`
	ContainerDir string            `yaml:"container_dir" json:"container_dir"`
	Mode         string            `yaml:"mode" json:"mode"` // renders to r or rw
	VolumeID     string            `yaml:"volume_id" json:"volume_id"`
	MountConfig  map[string]string `yaml:"mount_config,omitempty" json:"mount_config,omitempty"`
}

// Role is one kind of member.
type Role struct {
	Name string `yaml:"name" json:"name"` // [a-z][a-z0-9-]{0,15}
	// User is a name in the image's passwd: who runs programs that name nobody else.
	// An egress has none.
	User string `yaml:"user" json:"user"`
	// EgressPort makes the role the group's only way out. Its member is the agent
	// alone, without programs and users, but in the host's network. It listens at that
	// port of all 127.0.0.0/8 inside of the leader while the group is published. A
	// connection to 127.a.b.c there is one to port a·10000+b·100+c of the host that its
	// first bytes name: the Host header of HTTP, or the server name of TLS. See
	// agent.Egress for where it cannot lead. At most one role, and never the leader's.
	EgressPort int `yaml:"egress_port,omitempty" json:"egress_port,omitempty"`
	// Capabilities beyond the agent's own (SETUID, SETGID, KILL): SYS_CHROOT. None that
	// gives more rights to files than their owners have.
	Capabilities []string `yaml:"capabilities,omitempty" json:"capabilities,omitempty"`
	// Paths are the only writable places, besides /tmp (disk), /run and
	// /dev/shm (memory), which every member has. All are fresh in every generation.
	Paths []Path `yaml:"paths,omitempty" json:"paths,omitempty"`
	// Template runs once per image in a member without network, with the disk
	// paths empty; what it leaves there is what every generation starts with. It
	// serves all sizes, so its Env and Stdin have no values to use.
	Template *Program `yaml:"template,omitempty" json:"template,omitempty"`
	// Files are written by the agent at every start, world-readable, below
	// /run; templates that see StartValues. No secrets here.
	Files map[string]string `yaml:"files,omitempty" json:"files,omitempty"`
	// Prepare runs at every start before the processes. Its environment has
	// MEMBER_SECRET, which the agent makes anew at every start and gives to
	// programs only, never to processes. Its templates see StartValues.
	Prepare   *Program  `yaml:"prepare,omitempty" json:"prepare,omitempty"`
	Processes []Process `yaml:"processes" json:"processes"`
	// Ready exits 0 when the member serves. It runs until it does at start,
	// and now and then afterwards. Its templates see StartValues.
	Ready *Program `yaml:"ready,omitempty" json:"ready,omitempty"`
	// Ports that must accept a TCP connection on 127.0.0.1 before Ready is
	// asked. For the leader the endpoints' ports are added.
	Ports []int `yaml:"ports,omitempty" json:"ports,omitempty"`
}

// Path is a writable directory of a member.
type Path struct {
	Path string `yaml:"path" json:"path"`                     // absolute
	User string `yaml:"user,omitempty" json:"user,omitempty"` // owner; default the role's user
	Mode string `yaml:"mode,omitempty" json:"mode,omitempty"` // octal; default "0700"
	// Memory makes it a tmpfs that is empty at every start; otherwise it is on
	// the member's disk and lives as long as the instance.
	Memory bool `yaml:"memory,omitempty" json:"memory,omitempty"`
}

// Process is a server that the agent keeps running.
type Process struct {
	Name    string   `yaml:"name" json:"name"`
	User    string   `yaml:"user,omitempty" json:"user,omitempty"` // default the role's user; "root" needs a reason in a comment
	Command []string `yaml:"command" json:"command"`               // templates that see StartValues; stays in the foreground
	// Stop is the signal for a kind end when the broker restarts a server
	// with its data; default TERM. A reset always uses KILL.
	Stop string `yaml:"stop,omitempty" json:"stop,omitempty"`
}

// Program is something that runs and ends.
type Program struct {
	User    string   `yaml:"user,omitempty" json:"user,omitempty"` // default the role's user
	Command []string `yaml:"command" json:"command"`               // not a template: no secret can get into argv
	// Env and Stdin are templates.
	Env   map[string]string `yaml:"env,omitempty" json:"env,omitempty"`
	Stdin string            `yaml:"stdin,omitempty" json:"stdin,omitempty"`
	// Output names what Bind gives back: its standard output is then one JSON object
	// with these members, which are texts, and Credentials may use them as
	// {{.output.name}}. Only for Bind.
	Output []string `yaml:"output,omitempty" json:"output,omitempty"`
	// TimeoutSeconds bounds a run; default 30.
	TimeoutSeconds int `yaml:"timeout_seconds,omitempty" json:"timeout_seconds,omitempty"`
}

// Endpoint is a port of the leader that tenants reach. The agent copies bytes
// between the published address and Port on the member's 127.0.0.1.
type Endpoint struct {
	Name string `yaml:"name" json:"name"` // [a-z][a-z0-9_]{0,15}
	Port int    `yaml:"port,omitempty" json:"port,omitempty"`
	// Count (at most 64) publishes that many ports in a row, one to one: inside and outside
	// have the same numbers, chosen by the back end, and Port is not given
	// (passive FTP).
	Count int `yaml:"count,omitempty" json:"count,omitempty"`
}

// StartValues are what templates of Files and Process.Command may use, for
// example {{.memory_mib}}:
//
//	member      this member's name in the group, "<role>-<n>", n from 0
//	memory_mib  memory limit in MiB
//	cpu         CPU limit in cores, rounded up
//	disk_mib    size of the disk in MiB
//	host        advertised host of the group as an IP address
//	hostname    advertised host of the group as credentials show it: a name, or the address
//	ports       map: endpoint name → first published port
//	last_ports  map: endpoint name → last published port
//	peers       map: role → member names, whose addresses are in /etc/hosts
//	environment map: the definition's environment
var StartValues = []string{"member", "memory_mib", "cpu", "disk_mib", "host", "hostname", "ports", "last_ports", "peers", "environment"}

// HookValues are what templates of Provision, Bind and Unbind may use:
//
//	instance    instance id
//	binding     binding id ("" for Provision)
//	username    the binding's login, [a-z][a-z0-9]{15}
//	password    its password, [A-Za-z0-9]{32}; Unbind gets a new one that nobody learns
//	number      a number from 1 to 50000 that is unique among the bindings of the instance
//	parameters  the validated parameters of this call, an object; missing keys are errors: use {{with index .parameters "key"}}
//	route       the route of a route binding, an object: host (a DNS name in small letters or
//	            an IPv4 address), port (0 when not given), path ("" or "/…", of unreserved
//	            characters and slashes); all empty for others
//	host, ports as above
var HookValues = []string{"instance", "binding", "username", "password", "number", "parameters", "route", "host", "ports"}

// CredentialValues are what templates of Credentials may use: those of
// HookValues, with host as the advertised host name, and output, the object that
// Bind gave back.
var CredentialValues = append(slices.Clone(HookValues), "output")

// Offering is what the catalog shows of a recipe. Field names follow OSB.
type Offering struct {
	ID          string         `yaml:"id" json:"id"`
	Description string         `yaml:"description" json:"description"`
	Tags        []string       `yaml:"tags,omitempty" json:"tags,omitempty"`
	Requires    []string       `yaml:"requires,omitempty" json:"requires,omitempty"`
	Metadata    map[string]any `yaml:"metadata,omitempty" json:"metadata,omitempty"`
	Plans       []Plan         `yaml:"plans" json:"plans"`
	// RequiresApp refuses bindings without an app_guid.
	RequiresApp bool `yaml:"requires_app,omitempty" json:"requires_app,omitempty"`
	// ProvisionSchema and BindSchema are JSON schemas (2020-12 or draft-07,
	// "$schema" required) for the parameters; none means that only an empty
	// object is accepted.
	ProvisionSchema map[string]any `yaml:"provision_schema,omitempty" json:"provision_schema,omitempty"`
	BindSchema      map[string]any `yaml:"bind_schema,omitempty" json:"bind_schema,omitempty"`
}

// Plan is a service plan: sizes for each role.
type Plan struct {
	ID          string         `yaml:"id" json:"id"`
	Name        string         `yaml:"name" json:"name"`
	Description string         `yaml:"description" json:"description"`
	Free        *bool          `yaml:"free,omitempty" json:"free,omitempty"` // default true, as in OSB
	Metadata    map[string]any `yaml:"metadata,omitempty" json:"metadata,omitempty"`
	// MaximumPollingDuration is how many seconds a platform should poll, and after
	// which the broker gives up and cleans up; 0 leaves it to the broker's own limit.
	MaximumPollingDuration int `yaml:"maximum_polling_duration,omitempty" json:"maximum_polling_duration,omitempty"`
	// BindingLifetimeSeconds is how long a binding is valid, and the most that the bind
	// parameter lifetime_seconds can ask for; 0 is without end.
	BindingLifetimeSeconds int             `yaml:"binding_lifetime_seconds,omitempty" json:"binding_lifetime_seconds,omitempty"`
	Members                map[string]Size `yaml:"members" json:"members"` // by role; every role must be there
	// Environment is added to the recipe's.
	Environment map[string]string `yaml:"environment,omitempty" json:"environment,omitempty"`
}

// Size is how many members of a role there are and what each may use.
type Size struct {
	Count  int     `yaml:"count,omitempty" json:"count"` // default 1
	CPU    float64 `yaml:"cpu" json:"cpu"`               // cores
	Memory Bytes   `yaml:"memory" json:"memory"`         // "256MiB"
	Disk   Bytes   `yaml:"disk" json:"disk"`             // "1GiB", at least 32 MiB
}

// Program returns the recipe's program for an instance or a binding, which is
// "provision", "bind" or "unbind"; nil where the recipe has none.
func (r Recipe) Program(which string) (*Program, error) {
	switch which {
	case "provision":
		return r.Provision, nil
	case "bind":
		return r.Bind, nil
	case "unbind":
		return r.Unbind, nil
	}
	return nil, fmt.Errorf("no recipe has a program %q", which)
}

// CanonicalJSON is the form of a recipe that goes into a definition: what
// changes how members live, without what only the catalog shows.
func (r Recipe) CanonicalJSON() (json.RawMessage, error) { return json.Marshal(r) }

// ReadOutput reads what the program printed, by the names in Output; nil when it
// has none.
func (p Program) ReadOutput(stdout string) (map[string]string, error) {
	if len(p.Output) == 0 {
		return nil, nil
	}
	var all map[string]string
	if err := json.Unmarshal([]byte(stdout), &all); err != nil {
		return nil, errors.New("its output is not a JSON object of texts")
	}
	out := make(map[string]string, len(p.Output))
	for _, name := range p.Output {
		text, ok := all[name]
		if !ok {
			return nil, fmt.Errorf("its output has no %q", name)
		}
		out[name] = text
	}
	return out, nil
}
