package image

import (
	"io"

	"github.com/remuda/remuda/catalog"
)

// OptionsFor says what image serves all the recipes: their packages, programs,
// users and writable paths together.
func OptionsFor(dir string, recipes []catalog.Recipe, progress io.Writer) Options {
	o := Options{Dir: dir, Progress: progress}
	user := func(name string) {
		if name != "" {
			o.Users = append(o.Users, name)
		}
	}
	program := func(p *catalog.Program) {
		if p != nil {
			user(p.User)
		}
	}
	for _, r := range recipes {
		o.Packages = append(o.Packages, r.Packages...)
		o.GoPrograms = append(o.GoPrograms, r.GoPrograms...)
		program(r.Provision)
		program(r.Bind)
		program(r.Unbind)
		for _, role := range r.Roles {
			user(role.User)
			program(role.Template)
			program(role.Prepare)
			program(role.Ready)
			for _, p := range role.Paths {
				o.Directories = append(o.Directories, p.Path)
				user(p.User)
			}
			for _, p := range role.Processes {
				user(p.User)
			}
		}
	}
	return o
}
