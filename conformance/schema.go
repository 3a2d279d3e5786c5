package conformance

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

const schemaSection = "Input Parameters Schema Object"

var schemaRules = []Rule{
	must("schema.object", schemaSection, "schemas and what is in them are objects"),
	must("schema.dialect", schemaSection, "a schema says its version with $schema"),
	must("schema.size", schemaSection, "a schema is not larger than 64 kB"),
	must("schema.references", schemaSection, "a schema has no external references"),
	should("schema.valid", schemaSection, "a schema is a valid JSON schema"),
}

const maxSchema = 64 << 10

func (s *suite) checkSchemas(x *exchange, at string, schemas obj) {
	for group, operations := range map[string][]string{"service_instance": {"create", "update"}, "service_binding": {"create"}} {
		g, has := schemas[group]
		if !has {
			continue
		}
		where := at + ".schemas." + group
		of, ok := g.(obj)
		s.expect("schema.object", ok, x, where+" as an object", s.show(g))
		for _, operation := range operations {
			v, has := of[operation]
			if !has {
				continue
			}
			op, ok := v.(obj)
			s.expect("schema.object", ok, x, where+"."+operation+" as an object", s.show(v))
			if schema, has := op["parameters"]; has {
				s.checkSchema(x, where+"."+operation+".parameters", schema)
			}
		}
	}
}

func (s *suite) checkSchema(x *exchange, at string, v any) {
	schema, ok := v.(obj)
	if !s.expect("schema.object", ok, x, at+" as an object", s.show(v)) {
		return
	}
	dialect, _ := schema["$schema"].(string)
	s.expect("schema.dialect", dialect != "", x, at+" with $schema", s.show(schema["$schema"]))
	size := jsonSize(schema)
	s.expect("schema.size", size <= maxSchema, x, fmt.Sprintf("%s with at most %d bytes", at, maxSchema), fmt.Sprintf("%d bytes", size))
	external := externalReference(schema, ownIDs(schema, nil))
	s.expect("schema.references", external == "", x, at+" without external references", "$ref "+external)
	if external == "" && dialect != "" && size <= maxSchema {
		_, err := compile(schema)
		s.expect("schema.valid", err == nil, x, at+" as a valid schema", fmt.Sprint(err))
	}
}

// jsonSize is the size without spaces.
func jsonSize(v any) int {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return 0
	}
	return b.Len() - 1 // a newline
}

// data are keywords whose values are no schemas.
var data = []string{"enum", "const", "default", "examples"}

// walk calls f for every object in a schema.
func walk(v any, f func(obj)) {
	switch v := v.(type) {
	case obj:
		f(v)
		for k, inner := range v {
			if !slices.Contains(data, k) {
				walk(inner, f)
			}
		}
	case []any:
		for _, inner := range v {
			walk(inner, f)
		}
	}
}

// ownIDs are the names that a schema gives itself and its parts.
func ownIDs(schema obj, to []string) []string {
	walk(schema, func(o obj) {
		for _, k := range []string{"$id", "id"} {
			if id, ok := o[k].(string); ok {
				id, _, _ = strings.Cut(id, "#")
				to = append(to, id)
			}
		}
	})
	return to
}

// externalReference returns a $ref that leads outside, "" if none does.
func externalReference(schema obj, own []string) (found string) {
	walk(schema, func(o obj) {
		for _, k := range []string{"$ref", "$dynamicRef", "$recursiveRef"} {
			ref, _ := o[k].(string)
			target, _, _ := strings.Cut(ref, "#")
			if target != "" && !slices.Contains(own, target) {
				found = ref
			}
		}
	})
	return found
}

// noLoader keeps the compiler from reading files.
type noLoader struct{}

// Load refuses.
func (noLoader) Load(string) (any, error) { return nil, errors.New("external schemas are not read") }

func compile(schema obj) (*jsonschema.Schema, error) {
	const name = "urn:schema"
	c := jsonschema.NewCompiler()
	c.UseLoader(noLoader{})
	if err := c.AddResource(name, schema); err != nil {
		return nil, err
	}
	return c.Compile(name)
}

// vary returns parameters that the schema allows and that differ from those
// given in one property. It returns nil when it finds none.
func vary(schema, given obj) obj {
	if schema == nil || jsonSize(schema) > maxSchema || externalReference(schema, ownIDs(schema, nil)) != "" {
		return nil
	}
	compiled, err := compile(schema)
	if err != nil {
		return nil
	}
	properties, _ := schema["properties"].(obj)
	for _, name := range slices.Sorted(maps.Keys(properties)) {
		property, _ := properties[name].(obj)
		for _, value := range candidates(property) {
			varied := maps.Clone(given)
			if varied == nil {
				varied = obj{}
			}
			varied[name] = value
			if plain(given[name]) != plain(value) && compiled.Validate(parse([]byte(plain(varied)))) == nil {
				return varied
			}
		}
	}
	return nil
}

func plain(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		return "null"
	}
	return string(text)
}

// candidates are values that a property may have.
func candidates(property obj) []any {
	out, _ := property["enum"].([]any)
	out = slices.Clone(out)
	switch property["type"] {
	case "boolean":
		out = append(out, true, false)
	case "integer", "number":
		out = append(out, 1, 2)
		for _, bound := range []string{"minimum", "maximum"} {
			if v, has := property[bound]; has {
				out = append(out, v)
			}
		}
	case "string":
		out = append(out, "conformance", "c1")
	}
	return out
}
