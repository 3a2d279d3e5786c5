package kubernetes

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/remuda/remuda/catalog"
	"github.com/remuda/remuda/provisioner"
	"github.com/remuda/remuda/provisioner/kubernetes/api/v1alpha1"
)

// A definition comes back from its spec the same, also after the API server has had it as JSON:
// its fingerprint is the pool's key.
func TestDefinitionRoundTrip(t *testing.T) {
	all, err := catalog.Builtin()
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range all {
		for _, p := range r.Offering.Plans {
			d := provisioner.NewDefinition(r, p, "registry.example.com/members:1")
			for role, size := range d.Members { // 0 and 1 are the same
				size.Count = max(size.Count, 1)
				d.Members[role] = size
			}
			spec, err := SpecOf(d, func(string) bool { return false })
			if err != nil {
				t.Fatal(err)
			}
			text, err := json.Marshal(spec)
			if err != nil {
				t.Fatal(err)
			}
			var read v1alpha1.ContainerGroupSpec
			if err := json.Unmarshal(text, &read); err != nil {
				t.Fatal(err)
			}
			back, err := DefinitionOf(read, nil)
			if err != nil {
				t.Fatal(err)
			}
			if back.Fingerprint() != d.Fingerprint() {
				t.Errorf("%s/%s comes back as another definition", r.Name, p.Name)
			}
		}
	}
}

func TestDefinitionFaults(t *testing.T) {
	all, _ := catalog.Builtin()
	var r catalog.Recipe
	for _, r = range all {
		if r.Name == "redis" {
			break
		}
	}
	good, err := SpecOf(provisioner.NewDefinition(r, r.Offering.Plans[0], "i"), func(string) bool { return false })
	if err != nil {
		t.Fatal(err)
	}
	for what, change := range map[string]func(*v1alpha1.ContainerGroupSpec){
		"not known here":   func(s *v1alpha1.ContainerGroupSpec) { s.Recipe.Content = ""; s.Recipe.Version = "0.0.1" },
		"content of recip": func(s *v1alpha1.ContainerGroupSpec) { s.Recipe.Content = `"x"` },
		"not of \"other\"": func(s *v1alpha1.ContainerGroupSpec) { s.Recipe.Name = "other" },
		"no members":       func(s *v1alpha1.ContainerGroupSpec) { s.Members = nil },
		"does not have":    func(s *v1alpha1.ContainerGroupSpec) { s.Members = append(s.Members, v1alpha1.MemberSpec{Role: "x"}) },
	} {
		s := good.DeepCopy()
		change(s)
		_, err := DefinitionOf(*s, all)
		if what == "not known here" {
			what = "is known here"
		}
		if err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", what, err)
		}
	}
}
