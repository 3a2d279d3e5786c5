package catalog

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// maxRecipeBytes bounds a recipe file.
const maxRecipeBytes = 1 << 20

// Parse reads one recipe. name is the file's name, for messages. The error is
// of type Faults and has all that is wrong with the file itself; what recipes
// have to have different from each other is checked by Load.
func Parse(name string, text []byte) (Recipe, error) {
	r, _, faults := parseFile(name, text)
	return r, faults.err()
}

// parseFile also returns the document, for line numbers.
func parseFile(name string, text []byte) (Recipe, *yaml.Node, Faults) {
	whole := func(message string) (Recipe, *yaml.Node, Faults) {
		return Recipe{}, nil, Faults{{File: name, Message: message}}
	}
	switch {
	case len(text) > maxRecipeBytes:
		return whole(fmt.Sprintf("the file is larger than %d bytes", maxRecipeBytes))
	case !utf8.Valid(text):
		return whole("the file is not UTF-8 text")
	}
	var root yaml.Node
	if err := yaml.Unmarshal(text, &root); err != nil {
		return Recipe{}, nil, YAMLFaults(name, err)
	}
	if root.Kind == 0 || len(root.Content) == 0 {
		return whole("the file is empty")
	}
	if root.Content[0].Kind != yaml.MappingNode {
		return Recipe{}, nil, Faults{{File: name, Line: max(root.Content[0].Line, 1), Message: "a recipe is a map that begins with name: and version:"}}
	}

	var r Recipe
	var faults Faults
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	decoder.KnownFields(true)
	if err := decoder.Decode(&r); err != nil {
		faults = YAMLFaults(name, err)
		if !errors.As(err, new(*yaml.TypeError)) {
			return Recipe{}, nil, faults
		}
	}
	if err := decoder.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		faults = append(faults, Fault{File: name, Message: "the file has more than one YAML document"})
	}
	c := checker{file: name, root: &root, recipe: &r}
	if !slices.ContainsFunc(faults, func(f Fault) bool { return strings.Contains(f.Message, "already defined") }) {
		c.check() // the decoder skips the whole map in which a key is there twice
	}
	unread := faults
	for _, f := range c.faults { // what could not be read is not also missing
		if !slices.ContainsFunc(unread, func(g Fault) bool { return g.Line == f.Line }) {
			faults = append(faults, f)
		}
	}
	return r, &root, faults
}
