// Package catalog knows what middleware there is: recipes, which say how a kind
// of middleware lives in a container group, and the offerings and plans that a
// platform sees of them.
//
// A recipe is one YAML file. Parse reads one; Load reads whole folders, the
// built-in ones (Builtin) and the operator's, and checks them against each
// other. Reading is strict, and all faults of all files come back at once as
// Faults, each with file and line.
//
// Nothing here does work: the package has data, checks, and the rendering of
// templates. All functions may be called concurrently, and recipes are not to
// be changed after loading.
package catalog
