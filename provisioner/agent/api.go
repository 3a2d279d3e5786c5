// Package agent is PID 1 of every member, and the client that back ends speak
// to it with.
//
// The agent does nothing on its own: it waits for Start, keeps the processes of
// one generation running, runs programs, and opens or closes the doors, the
// only way in for tenants. Wipe ends everything but the agent itself.
//
// The wire is HTTP/1.1 and JSON below /v1/. On one host it is a unix socket in
// a directory only root may enter; the agent serves only peers that are outside
// its own PID namespace (SO_PEERCRED shows pid 0), so that no process of the
// member can give it orders. In a pod it is TCP with mutual TLS (Identity), and the agent
// itself keeps the file systems of the member (Place).
package agent

import (
	"net/netip"
	"time"
)

// Version of the protocol.
const Version = "v1"

// Phase is what the agent is doing.
type Phase string

const (
	Idle     Phase = "idle"     // nothing runs: new or wiped
	Starting Phase = "starting" // Start is under way
	Running  Phase = "running"  // processes are up and were ready once
	Failed   Phase = "failed"   // Start or Wipe failed; nothing is kept running
)

// StartRequest begins a generation (POST /v1/start). Everything is rendered
// already. The answer comes when the member serves or has failed.
type StartRequest struct {
	Generation     int               `json:"generation"`
	User           string            `json:"user"` // for programs and processes that name nobody
	Environment    map[string]string `json:"environment,omitempty"`
	Files          map[string]string `json:"files,omitempty"` // path below /run → content
	Prepare        *Program          `json:"prepare,omitempty"`
	Processes      []Process         `json:"processes,omitempty"`
	Ready          *Program          `json:"ready,omitempty"`
	Ports          []int             `json:"ports,omitempty"` // must accept on 127.0.0.1 before Ready is asked
	TimeoutSeconds int               `json:"timeout_seconds"` // for the whole start
}

// Place is a writable place of a member whose file systems the agent keeps, because
// no back end can change mounts there. It is a folder (or file) of a volume that is
// mounted at Path by whoever starts the container, and also seen below VolumeRoot, into
// which nobody but the agent can look. Wipe empties it and gives it owner, mode and
// extended attributes back.
type Place struct {
	Path   string `json:"path"`             // where servers see it
	Memory bool   `json:"memory,omitempty"` // in the memory volume: emptied by every Wipe; else on the disk volume
	Folder string `json:"folder"`           // its name in its volume
	User   string `json:"user"`             // who owns it
	Mode   uint32 `json:"mode"`             // permission bits with 01000, 02000 and 04000
	File   bool   `json:"file,omitempty"`   // an empty file, the agent's
}

// Where an agent that keeps Places sees its volumes, and its own private folder, mode 0700.
const (
	DiskVolume   = "/remuda/disk"
	MemoryVolume = "/remuda/memory"
	PrivateDir   = "/remuda/private"
	NamesVolume  = "/remuda/names" // passwd of agents of one user
)

// Environment of an agent in a pod. It reads them at its start and gives them to nobody.
const (
	EnvPlaces      = "REMUDA_PLACES"      // []Place as JSON
	EnvCertificate = "REMUDA_CERTIFICATE" // Identity, each in PEM
	EnvKey         = "REMUDA_KEY"
	EnvAuthorities = "REMUDA_AUTHORITIES"
)

// Port is where an agent in a pod listens.
const Port = 7464

// Identity is what an agent shows to its peers, and by whom theirs must be signed
// (POST /v1/identity replaces it, for new connections). A peer must show a client
// certificate of one of the Authorities with the DNS name OrdersName.
type Identity struct {
	Certificate string `json:"certificate"` // PEM, with the name that AgentName gives
	Key         string `json:"key"`         // PEM, PKCS #8
	Authorities string `json:"authorities"` // PEM, one or more
}

// OrdersName is in the certificates of those who may give orders.
const OrdersName = "orders.remuda"

// AgentName is in the certificate of the agents of a group.
func AgentName(group string) string { return group + ".agents.remuda" }

// Pristine names what a disk looks like when a generation begins (POST
// /v1/pristine/keep answers it, from the disk places as they are now but /tmp; POST
// /v1/pristine/fill takes it and fills the empty disk places). It is kept in a file that only the agent can
// read, and that is used only if it has the digest.
type Pristine struct {
	Digest string `json:"digest"` // SHA-256, hex
	Size   int64  `json:"size"`   // bytes
}

// DoorsRequest makes the agent bind doors itself, closed, in place of all it has (POST
// /v1/doors/bind).
type DoorsRequest struct {
	Address netip.Addr `json:"address"` // of the pod
	Doors   []Door     `json:"doors"`
}

// Way joins a leader to the egress of its group, in pods (POST /v1/way, the same to both). The
// leader listens at Port of every address 127.a.b.c, and of no other; what connects there is handed
// to the agent at Egress, with the port that the address stands for. That agent takes connections of the
// Leader only, and only of one that knows the Secret, as it shows that it knows it too.
type Way struct {
	Name   string         `json:"name"`   // the Origin of both doors, for whoever asks
	Secret []byte         `json:"secret"` // 32 random bytes; never shown
	Leader netip.Addr     `json:"leader"` // pods, by their own addresses
	Egress netip.AddrPort `json:"egress"`
	Port   int            `json:"port"`
}

// WayPort is where an egress in a pod listens for its leader.
const WayPort = 7465

// HostsRequest says what addresses the members of the group have (POST /v1/hosts),
// for an agent that has a Place at /etc/hosts.
type HostsRequest struct {
	Names map[string]netip.Addr `json:"names"`
}

// Process is a server to keep running.
type Process struct {
	Name    string   `json:"name"`
	User    string   `json:"user,omitempty"`
	Command []string `json:"command"`
	Stop    string   `json:"stop,omitempty"`
}

// Program runs and ends (POST /v1/run takes one, answers Result). Its
// environment is the generation's, Env, and MEMBER_SECRET.
type Program struct {
	User           string            `json:"user,omitempty"`
	Command        []string          `json:"command"`
	Env            map[string]string `json:"env,omitempty"`
	Stdin          string            `json:"stdin,omitempty"`
	TimeoutSeconds int               `json:"timeout_seconds,omitempty"` // default 30
}

// Result of a program. Output is bounded to 64 KiB each (the tail is kept).
type Result struct {
	ExitCode int    `json:"exit_code"` // -1 when it was killed or timed out
	Stdout   string `json:"stdout,omitempty"`
	Stderr   string `json:"stderr,omitempty"`
}

// State is the answer to GET /v1/state.
type State struct {
	Version    string         `json:"version"`
	Generation int            `json:"generation"`
	Phase      Phase          `json:"phase"`
	Healthy    bool           `json:"healthy"`
	Reason     string         `json:"reason,omitempty"`
	Processes  []ProcessState `json:"processes,omitempty"`
	Doors      []DoorState    `json:"doors,omitempty"`
	Egress     *Egress        `json:"egress,omitempty"` // as it was told
	Usage      *Usage         `json:"usage,omitempty"`  // of an agent with Places
}

// Usage is what a member uses, -1 each for what is not known.
type Usage struct {
	Memory    int64 `json:"memory"`     // bytes that the kernel cannot simply drop
	CPU       int64 `json:"cpu"`        // ns of processor time since its container began
	DiskUsed  int64 `json:"disk_used"`  // bytes; not known where the disk volume
	DiskTotal int64 `json:"disk_total"` // is a folder of the node's disk
}

// ProcessState is how a kept process is doing.
type ProcessState struct {
	Name      string    `json:"name"`
	PID       int       `json:"pid"` // inside the member
	Restarts  int       `json:"restarts"`
	StartedAt time.Time `json:"started_at,omitzero"`
}

// DoorState is one listening socket the agent was given.
type DoorState struct {
	Name        string `json:"name"`
	Port        int    `json:"port"`   // published
	Target      int    `json:"target"` // on the member's 127.0.0.1; 0 of a way
	Origin      string `json:"origin,omitempty"`
	Open        bool   `json:"open"`
	Connections int    `json:"connections"`
}

// OpenRequest opens the doors (POST /v1/doors/open).
type OpenRequest struct {
	// Poll lets DoorThread wait actively for a moment before it sleeps. Only
	// where its processor time is not the member's: a member at its CPU limit
	// would wait for its own door.
	Poll bool `json:"poll,omitempty"`
	// Order numbers what several peers tell about the doors: an order to open that is
	// older than the last one to close is refused with 409. 0 is not numbered.
	Order int64 `json:"order,omitempty"`
}

// CloseRequest closes the doors (POST /v1/doors/close).
type CloseRequest struct {
	Order int64 `json:"order,omitempty"` // see OpenRequest
}

// Egress says where an egress does not lead (POST /v1/egress; it holds for all
// connections from then on, and must be there before the door is opened), besides to loopback, link-local,
// multicast, unspecified and reserved addresses, also when an IPv6 address only
// carries one of those. What is checked is the address that is then connected to,
// whatever name it had.
type Egress struct {
	Deny   []netip.Prefix `json:"deny,omitempty"`
	Own    []OwnPorts     `json:"own,omitempty"`
	Closed []Ports        `json:"closed,omitempty"` // at every address there is
}

// Ports is a row of them.
type Ports struct {
	First int `json:"first"`
	Last  int `json:"last"` // inclusive
}

// OwnPorts are ports that the broker or its instances are reached at.
type OwnPorts struct {
	Address netip.Addr `json:"address,omitzero"` // none: at every address of this host
	First   int        `json:"first"`
	Last    int        `json:"last"` // inclusive
}

// CloseResult is the answer to POST /v1/doors/close.
type CloseResult struct {
	Connections int   `json:"connections"`     // that were ended
	WasOpen     bool  `json:"was_open"`        // any of the doors, until now
	Wiped       int64 `json:"wiped,omitempty"` // Order of the newest wipe
}

// Door is sent beside each file descriptor: a TCP socket that is bound to an
// explicit port (the kernel drops one it chose itself; see BindDoor), becomes a
// listener when the door is opened, and is a bound socket again that refuses
// connections when it is closed. Descriptors travel over a second unix socket
// ("door.sock", SOCK_SEQPACKET) as SCM_RIGHTS, one JSON array of Door a message,
// in the order of the descriptors, at most 253; the answer is {"error": "…"} or
// {}. New doors replace all old ones and are closed.
type Door struct {
	Name   string `json:"name"`
	Port   int    `json:"port"`
	Target int    `json:"target"` // 0 for an egress, which learns it from each connection
	// Origin says of which leader's network an egress' socket is, or of which Way a door is. The agent
	// only shows it.
	Origin string `json:"origin,omitempty"`
}

// Baseline is what a member looks like from inside (GET /v1/baseline): the same
// after every reset as when it was new. All lists are sorted and without
// repetition.
type Baseline struct {
	Processes []string `json:"processes"` // "uid comm" of everything but the agent and programs that run just now
	Listeners []string `json:"listeners"` // tcp, udp and unix sockets in the network namespace: "tcp 127.0.0.1:3306", "unix @name"
	IPC       []string `json:"ipc"`       // SysV objects and POSIX message queues, by kind and owner: "shm 105"
	Mounts    []string `json:"mounts"`    // "target fstype options"
	// Files are what a process of root could change in a container although its root
	// is read-only: "path sha256" of what the runtime has mounted, names in /dev. Only for
	// an agent with Places.
	Files []string `json:"files,omitempty"`
}

// WipeRequest ends everything but the agent (POST /v1/wipe).
type WipeRequest struct {
	// Kindly lets servers end by their stop signals first, as long as
	// Options.StopTimeout, because their data are kept: of an agent's Places only those in
	// memory are emptied.
	Kindly bool `json:"kindly,omitempty"`
	// Order, if it is numbered, closes the doors as in CloseRequest: a wipe is refused with 409
	// that is older than the last order to open.
	Order int64 `json:"order,omitempty"`
}

// WipeResult is the answer to POST /v1/wipe: what was there and is gone.
type WipeResult struct {
	Killed      int      `json:"killed"`
	Connections int      `json:"connections"`
	IPC         []string `json:"ipc,omitempty"`
	Removed     int      `json:"removed,omitempty"` // files and directories in Places
}
