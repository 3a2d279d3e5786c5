// Package backendtest is the conformance suite of back ends, and what tests
// with real containers share.
//
// RunLife, RunCanaries, RunMembers and RunRoot judge a back end by its
// contract alone: tenants' code runs inside of members, the suite talks to
// published addresses, and looks at what the back end observes. They know
// nothing of how a back end makes its members.
//
// A tenant's code is a shell that a copy of a recipe starts beside its servers
// (see withShell) and publishes like them: it stands for a server that was taken
// over. Every canary is looked for before the reset too, by the same finder: a
// finder that cannot find proves nothing.
package backendtest

import (
	"testing"

	"github.com/remuda/remuda/catalog"
	"github.com/remuda/remuda/provisioner"
)

// Target is a back end under test, with what the suite cannot learn from its
// contract.
type Target struct {
	Backend provisioner.Backend
	Image   string // for definitions
	// Kill ends PID 1 of a member by force.
	Kill func(t testing.TB, m provisioner.MemberObservation)
	// Outside says where, of all that the back end keeps of a group outside of
	// its members' processes (disks, logs), the text is. Nil: it cannot be looked at.
	Outside func(t testing.TB, group, text string) []string
	// Lacks says of what the back end cannot do here, by the names below, why. Checks of
	// that are skipped with the reason.
	Lacks map[string]string
	// Cannot says why the back end has no members of a recipe, or "". Nil: it says so of none.
	Cannot func(catalog.Recipe) string
}

// What a back end may lack.
const (
	Walls       = "walls"        // members reach nothing but their group
	NoExec      = "noexec"       // data cannot be executed
	SealedRoot  = "sealed root"  // also root in a member writes only to its places
	DiskShrinks = "disk shrinks" // a disk can become smaller
	OtherUser   = "other user"   // servers have other users than the agent
)

// cannot says why the back end has no members of the recipe, or "".
func (target Target) cannot(r catalog.Recipe) string {
	if target.Cannot != nil {
		return target.Cannot(r)
	}
	return ""
}

// need skips the check when the back end lacks what it is about.
func (target Target) need(t *testing.T, what string) {
	t.Helper()
	if why := target.Lacks[what]; why != "" {
		t.Skip(why)
	}
}

// Factory makes a fresh back end; what it needs is released by t.Cleanup.
type Factory func(t *testing.T) Target

// Run is the whole suite, for back ends with real members.
func Run(t *testing.T, f Factory) {
	t.Run("Life", func(t *testing.T) {
		RunLife(t, func(t *testing.T) Subject {
			target := f(t)
			r := parseTrio(t)
			return Subject{Backend: target.Backend, Definition: provisioner.NewDefinition(r, r.Offering.Plans[0], target.Image)}
		})
	})
	t.Run("Canaries", func(t *testing.T) { RunCanaries(t, f) })
	t.Run("Members", func(t *testing.T) { RunMembers(t, f) })
	t.Run("Change", func(t *testing.T) { RunChange(t, f) })
	t.Run("Root", func(t *testing.T) { RunRoot(t, f) })
}
