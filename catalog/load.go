package catalog

import (
	"embed"
	"fmt"
	"io/fs"
	"path"
	"sort"

	"go.yaml.in/yaml/v3"
)

//go:embed recipes/*.yaml
var builtin embed.FS

// BuiltinFiles is the folder of the built-in recipes, for Load.
func BuiltinFiles() fs.FS {
	sub, err := fs.Sub(builtin, "recipes")
	if err != nil {
		panic(err) // the folder is embedded
	}
	return sub
}

// Builtin loads the built-in recipes, sorted by name.
func Builtin() ([]Recipe, error) { return Load(BuiltinFiles()) }

// Load reads every *.yaml and *.yml file directly in the folders, for example
//
//	catalog.Load(catalog.BuiltinFiles(), os.DirFS("/etc/remuda/recipes"))
//
// and returns the recipes sorted by name. Names and ids must be different in
// all of them. All faults come back at once, as Faults; any other error is from
// reading the folders.
func Load(folders ...fs.FS) ([]Recipe, error) {
	var recipes []Recipe
	var faults Faults
	seen := uniqueness{names: map[string]string{}, ids: map[string]string{}}
	for _, folder := range folders {
		files, err := recipeFiles(folder)
		if err != nil {
			return nil, err
		}
		for _, file := range files {
			text, err := fs.ReadFile(folder, file)
			if err != nil {
				return nil, fmt.Errorf("read recipe %s: %w", file, err)
			}
			r, root, found := parseFile(file, text)
			faults = append(faults, found...)
			if root != nil {
				faults = append(faults, seen.add(file, root, r)...)
			}
			recipes = append(recipes, r)
		}
	}
	if err := faults.err(); err != nil {
		return nil, err
	}
	sort.Slice(recipes, func(i, j int) bool { return recipes[i].Name < recipes[j].Name })
	return recipes, nil
}

func recipeFiles(folder fs.FS) ([]string, error) {
	entries, err := fs.ReadDir(folder, ".")
	if err != nil {
		return nil, fmt.Errorf("read recipe folder: %w", err)
	}
	var files []string
	for _, e := range entries {
		if ext := path.Ext(e.Name()); !e.IsDir() && (ext == ".yaml" || ext == ".yml") {
			files = append(files, e.Name())
		}
	}
	return files, nil
}

// uniqueness knows in which file a name or an id was seen first.
type uniqueness struct{ names, ids map[string]string }

func (u uniqueness) add(file string, root *yaml.Node, r Recipe) Faults {
	var faults Faults
	once := func(seen map[string]string, what, value string, at place) {
		if value == "" {
			return
		}
		if first, ok := seen[value]; ok {
			faults = append(faults, Fault{file, line(root, at), fmt.Sprintf("%s %q is already used in %s", what, value, first)})
			return
		}
		seen[value] = file
	}
	once(u.names, "the name", r.Name, place{"name"})
	once(u.ids, "the id", r.Offering.ID, place{"offering", "id"})
	for i, p := range r.Offering.Plans {
		once(u.ids, "the id", p.ID, place{"offering", "plans", i, "id"})
	}
	return faults
}
