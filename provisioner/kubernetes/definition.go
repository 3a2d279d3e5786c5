package kubernetes

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/remuda/remuda/catalog"
	"github.com/remuda/remuda/provisioner"
	"github.com/remuda/remuda/provisioner/kubernetes/api/v1alpha1"
)

// SpecOf writes a definition into a spec. Its generation, and what is wanted, are not set.
// Ephemeral says of which roles data may end with their pods.
func SpecOf(d provisioner.Definition, ephemeral func(role string) bool) (v1alpha1.ContainerGroupSpec, error) {
	content, err := d.Recipe.CanonicalJSON()
	if err != nil {
		return v1alpha1.ContainerGroupSpec{}, err
	}
	s := v1alpha1.ContainerGroupSpec{
		Recipe: v1alpha1.Recipe{Name: d.Recipe.Name, Version: d.Recipe.Version, Content: string(content)},
		Plan:   d.Plan, Image: d.Image, Environment: maps.Clone(d.Environment),
	}
	for _, role := range d.Recipe.Roles {
		size := d.Members[role.Name]
		s.Members = append(s.Members, v1alpha1.MemberSpec{
			Role: role.Name, Count: int32(max(size.Count, 1)),
			CPU:       *resource.NewMilliQuantity(int64(size.CPU*1000+0.5), resource.DecimalSI),
			Memory:    *resource.NewQuantity(int64(size.Memory), resource.BinarySI),
			Disk:      *resource.NewQuantity(int64(size.Disk), resource.BinarySI),
			Ephemeral: ephemeral(role.Name),
		})
	}
	return s, nil
}

// DefinitionOf reads it back. Without content the recipe is looked up in known.
func DefinitionOf(s v1alpha1.ContainerGroupSpec, known []catalog.Recipe) (provisioner.Definition, error) {
	d := provisioner.Definition{Offering: s.Recipe.Name, Plan: s.Plan, Image: s.Image, Environment: maps.Clone(s.Environment)}
	if d.Environment == nil {
		d.Environment = map[string]string{}
	}
	recipe, err := recipeOf(s.Recipe, known)
	if err != nil {
		return d, err
	}
	recipe.Offering = catalog.Offering{}
	d.Recipe = recipe
	d.Members = map[string]catalog.Size{}
	for _, m := range s.Members {
		d.Members[m.Role] = catalog.Size{Count: int(m.Count), CPU: float64(m.CPU.MilliValue()) / 1000,
			Memory: catalog.Bytes(m.Memory.Value()), Disk: catalog.Bytes(m.Disk.Value())}
	}
	for _, role := range recipe.Roles {
		if _, ok := d.Members[role.Name]; !ok {
			return d, fmt.Errorf("recipe %q has a role %q, of which the group has no members", recipe.Name, role.Name)
		}
	}
	if len(d.Members) != len(recipe.Roles) {
		return d, fmt.Errorf("the group has members of roles that recipe %q does not have", recipe.Name)
	}
	return d, nil
}

func recipeOf(r v1alpha1.Recipe, known []catalog.Recipe) (catalog.Recipe, error) {
	if r.Content == "" {
		for _, k := range known {
			if k.Name == r.Name && k.Version == r.Version {
				return k, nil
			}
		}
		return catalog.Recipe{}, fmt.Errorf("no recipe %q of version %q is known here, and the group does not bring its content", r.Name, r.Version)
	}
	var recipe catalog.Recipe
	if err := json.Unmarshal([]byte(r.Content), &recipe); err != nil {
		return recipe, fmt.Errorf("content of recipe %q: %w", r.Name, err)
	}
	if recipe.Name != r.Name || recipe.Version != r.Version {
		return recipe, fmt.Errorf("the content is of recipe %q, version %q, not of %q, %q", recipe.Name, recipe.Version, r.Name, r.Version)
	}
	if len(recipe.Roles) == 0 {
		return recipe, fmt.Errorf("recipe %q has no roles", r.Name)
	}
	return recipe, nil
}

// egressRole is the role of the group's way out, "" for none.
func egressRole(cg *v1alpha1.ContainerGroup) (string, error) {
	r, err := recipeOf(cg.Spec.Recipe, nil)
	i := slices.IndexFunc(r.Roles, func(r catalog.Role) bool { return r.EgressPort != 0 })
	if err != nil || i < 0 {
		return "", err
	}
	return r.Roles[i].Name, nil
}
