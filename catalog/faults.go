package catalog

import (
	"errors"
	"fmt"
	"sort"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Fault is one thing that is wrong in a file.
type Fault struct {
	File    string
	Line    int // from 1; 0 when it concerns the whole file
	Message string
}

func (f Fault) Error() string {
	if f.Line == 0 {
		return fmt.Sprintf("%s: %s", f.File, f.Message)
	}
	return fmt.Sprintf("%s:%d: %s", f.File, f.Line, f.Message)
}

// Faults are all that is wrong, by file and line. It is what Parse and Load
// return when the reading itself worked.
type Faults []Fault

func (f Faults) Error() string {
	lines := make([]string, len(f))
	for i, one := range f {
		lines[i] = one.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap makes every fault visible to errors.As.
func (f Faults) Unwrap() []error {
	errs := make([]error, len(f))
	for i := range f {
		errs[i] = f[i]
	}
	return errs
}

// err gives nil for no faults.
func (f Faults) err() error {
	if len(f) == 0 {
		return nil
	}
	sort.SliceStable(f, func(i, j int) bool {
		if f[i].File != f[j].File {
			return f[i].File < f[j].File
		}
		return f[i].Line < f[j].Line
	})
	return f
}

// place is a spot in a YAML document: keys and indexes from the root.
type place []any

func (p place) at(more ...any) place { return append(append(place{}, p...), more...) }

// line finds the line of a place. Where the document has no such value, the
// nearest one around it is meant.
func line(root *yaml.Node, p place) int {
	at, _ := locate(root, p)
	return at
}

// LineOf is the line of the value that a path of keys and indexes leads to, 0
// when the document has no such value.
func LineOf(root *yaml.Node, path ...any) int {
	if at, found := locate(root, path); found {
		return at
	}
	return 0
}

func locate(root *yaml.Node, p place) (at int, found bool) {
	n := root
	if n.Kind == yaml.DocumentNode && len(n.Content) > 0 {
		n = n.Content[0]
	}
	at = max(n.Line, 1)
	for _, step := range p {
		for n.Kind == yaml.AliasNode && n.Alias != nil {
			n = n.Alias
		}
		var next *yaml.Node
		switch step := step.(type) {
		case string:
			for i := 0; n.Kind == yaml.MappingNode && i+1 < len(n.Content); i += 2 {
				if n.Content[i].Value == step {
					at, next = n.Content[i].Line, n.Content[i+1]
				}
			}
		case int:
			if n.Kind == yaml.SequenceNode && step < len(n.Content) {
				next = n.Content[step]
				at = next.Line
			}
		}
		if next == nil {
			return at, false
		}
		n = next
	}
	return at, true
}

// YAMLFaults turns what the decoder says of a file into ours; none for nil.
func YAMLFaults(file string, err error) Faults {
	var types *yaml.TypeError
	if err == nil {
		return nil
	}
	if !errors.As(err, &types) {
		return Faults{yamlFault(file, err.Error())}
	}
	var faults Faults
	for _, sentence := range types.Errors {
		faults = append(faults, yamlFault(file, sentence))
	}
	return faults
}

// yamlFault turns one sentence of the decoder into ours.
func yamlFault(file, text string) Fault {
	f := Fault{File: file, Message: text}
	if rest, ok := strings.CutPrefix(strings.TrimPrefix(text, "yaml: "), "line "); ok {
		if num, message, ok := strings.Cut(rest, ": "); ok {
			if n, err := strconv.Atoi(num); err == nil {
				f.Line, f.Message = n, message
			}
		}
	}
	if i := strings.Index(f.Message, " not found in type "); i >= 0 {
		f.Message = "unknown key " + strconv.Quote(strings.TrimPrefix(f.Message[:i], "field "))
	}
	if i := strings.Index(f.Message, " into "); i >= 0 && strings.HasPrefix(f.Message, "cannot unmarshal") {
		f.Message = strings.NewReplacer("cannot unmarshal ", "", "!!seq", "a list", "!!map", "a map", "!!str", "the text").Replace(f.Message[:i]) +
			" does not fit here; expected is " + kindName(f.Message[i+len(" into "):])
	}
	return f
}

// kindName says in words what a Go type stands for in a recipe file.
func kindName(goType string) string {
	switch {
	case goType == "string":
		return "a text"
	case goType == "bool":
		return "true or false"
	case goType == "int":
		return "a whole number"
	case goType == "float64":
		return "a number"
	case strings.HasPrefix(goType, "[]"):
		return "a list"
	default:
		return "a map"
	}
}
