package provisioner

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"

	"github.com/remuda/remuda/catalog"
)

// Definition is everything that decides what a container group is: recipe with
// version, members with sizes, environment, image. Groups of equal definitions
// are interchangeable, so the fingerprint is the pool's key.
type Definition struct {
	Offering    string                  `json:"offering"` // names, for people
	Plan        string                  `json:"plan"`
	Recipe      catalog.Recipe          `json:"recipe"`
	Members     map[string]catalog.Size `json:"members"` // by role
	Environment map[string]string       `json:"environment,omitempty"`
	Image       string                  `json:"image"` // hash of what the root file system is made from
}

// NewDefinition combines a recipe's plan with the image that serves it.
func NewDefinition(r catalog.Recipe, p catalog.Plan, image string) Definition {
	env := map[string]string{}
	for k, v := range r.Environment {
		env[k] = v
	}
	for k, v := range p.Environment {
		env[k] = v
	}
	r.Offering = catalog.Offering{} // catalog texts must not make a new definition
	return Definition{Offering: r.Name, Plan: p.Name, Recipe: r, Members: p.Members, Environment: env, Image: image}
}

// Fingerprint is the SHA-256, in hex, of the canonical JSON (struct fields in
// order, map keys sorted, as encoding/json does).
func (d Definition) Fingerprint() string {
	b, err := json.Marshal(d)
	if err != nil {
		panic(fmt.Sprintf("definition cannot be marshalled: %v", err)) // only plain data inside
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// Member is one container to be.
type Member struct {
	Name   string // "<role>-<n>", n from 0
	Role   catalog.Role
	Size   catalog.Size
	Leader bool
}

// MemberList returns the members in a stable order, the leader first: roles as
// in the recipe, and the first member of the leading role leads.
func (d Definition) MemberList() []Member {
	lead := d.Recipe.Leader
	if lead == "" && len(d.Recipe.Roles) > 0 {
		lead = d.Recipe.Roles[0].Name
	}
	var first, rest []Member
	for _, role := range d.Recipe.Roles {
		size := d.Members[role.Name]
		for n := range max(size.Count, 1) {
			m := Member{Name: fmt.Sprintf("%s-%d", role.Name, n), Role: role, Size: size}
			if role.Name == lead && n == 0 {
				m.Leader = true
				first = append(first, m)
				continue
			}
			rest = append(rest, m)
		}
	}
	return append(first, rest...)
}
