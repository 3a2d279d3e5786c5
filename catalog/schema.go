package catalog

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"
	"golang.org/x/text/language"
	"golang.org/x/text/message"
)

// maxSchemaBytes is what the Open Service Broker API allows a schema.
const maxSchemaBytes = 64 << 10

// noLoader refuses everything from outside the schema.
type noLoader struct{}

func (noLoader) Load(url string) (any, error) {
	return nil, fmt.Errorf("references to outside of the schema are not allowed")
}

// compileSchema makes a schema ready for use. The second result says what is
// wrong in words for the author of the recipe.
func compileSchema(schema map[string]any) (*jsonschema.Schema, error) {
	raw, err := json.Marshal(schema)
	if err != nil {
		return nil, errors.New("the schema cannot be written as JSON: keys have to be texts, numbers finite")
	}
	if len(raw) > maxSchemaBytes {
		return nil, fmt.Errorf("the schema has %d bytes; at most %d are allowed", len(raw), maxSchemaBytes)
	}
	dialect, _ := schema["$schema"].(string)
	switch strings.TrimSuffix(dialect, "#") {
	case "https://json-schema.org/draft/2020-12/schema", "http://json-schema.org/draft-07/schema":
	case "":
		return nil, errors.New(`the schema needs "$schema"`)
	default:
		return nil, fmt.Errorf(`"$schema" is %q; known are https://json-schema.org/draft/2020-12/schema and http://json-schema.org/draft-07/schema`, dialect)
	}
	if ref := externalReference(schema); ref != "" {
		return nil, fmt.Errorf("the reference %q leaves the schema; only those that begin with # are allowed", ref)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
	if err != nil {
		return nil, fmt.Errorf("the schema is not JSON: %w", err)
	}
	c := jsonschema.NewCompiler()
	c.UseLoader(noLoader{})
	if err := c.AddResource("parameters.json", doc); err != nil {
		return nil, fmt.Errorf("the schema is wrong: %s", oneLine(err))
	}
	compiled, err := c.Compile("parameters.json")
	if err != nil {
		return nil, fmt.Errorf("the schema is wrong: %s", oneLine(err))
	}
	return compiled, nil
}

func oneLine(err error) string { return strings.Join(strings.Fields(err.Error()), " ") }

// externalReference finds a $ref or $dynamicRef that does not begin with #.
func externalReference(v any) string {
	switch v := v.(type) {
	case map[string]any:
		for key, value := range v {
			if ref, ok := value.(string); ok && (key == "$ref" || key == "$dynamicRef") && !strings.HasPrefix(ref, "#") {
				return ref
			}
			if ref := externalReference(value); ref != "" {
				return ref
			}
		}
	case []any:
		for _, value := range v {
			if ref := externalReference(value); ref != "" {
				return ref
			}
		}
	}
	return ""
}

func (c *checker) schema(schema map[string]any, at place) {
	if schema == nil {
		return
	}
	if _, err := compileSchema(schema); err != nil {
		c.fault(at, "%v", err)
		return
	}
	c.want(schema["type"] == "object", at, "parameters are an object: the schema needs type: object")
}

// ParameterError says in a sentence for the user what is wrong with parameters.
type ParameterError struct{ Message string }

func (e *ParameterError) Error() string { return e.Message }

// ParameterValidator checks the parameters of a call. It may be used concurrently.
type ParameterValidator struct{ schema *jsonschema.Schema }

// NewParameterValidator makes one from a schema of an offering. Without a
// schema only an empty object is accepted.
func NewParameterValidator(schema map[string]any) (*ParameterValidator, error) {
	if schema == nil {
		return &ParameterValidator{}, nil
	}
	compiled, err := compileSchema(schema)
	if err != nil {
		return nil, err
	}
	return &ParameterValidator{schema: compiled}, nil
}

// Validate decodes and checks parameters; nothing and null count as an empty
// object. Numbers come as json.Number. An error is a *ParameterError.
func (v *ParameterValidator) Validate(raw json.RawMessage) (map[string]any, error) {
	if trimmed := bytes.TrimSpace(raw); len(trimmed) == 0 || string(trimmed) == "null" {
		raw = json.RawMessage("{}")
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
	if err != nil {
		return nil, &ParameterError{"parameters are not valid JSON"}
	}
	parameters, ok := doc.(map[string]any)
	if !ok {
		return nil, &ParameterError{"parameters have to be an object"}
	}
	if v.schema == nil {
		if len(parameters) > 0 {
			return nil, &ParameterError{"no parameters are accepted here"}
		}
		return parameters, nil
	}
	if err := v.schema.Validate(doc); err != nil {
		var invalid *jsonschema.ValidationError
		if !errors.As(err, &invalid) {
			return nil, &ParameterError{"parameters do not fit the schema"}
		}
		return nil, &ParameterError{strings.Join(sentences(invalid), "; ")}
	}
	return parameters, nil
}

// maxSentences bounds the answer to hostile parameters.
const maxSentences = 5

// sentences names each property that is wrong, and how.
func sentences(e *jsonschema.ValidationError) []string {
	var out []string
	var walk func(e *jsonschema.ValidationError)
	walk = func(e *jsonschema.ValidationError) {
		if len(out) == maxSentences {
			return
		}
		if len(e.Causes) > 0 {
			for _, cause := range e.Causes {
				walk(cause)
			}
			return
		}
		where := "parameters"
		if len(e.InstanceLocation) > 0 {
			where = fmt.Sprintf("parameter %s", shorten(strings.Join(e.InstanceLocation, ".")))
		}
		out = append(out, where+": "+sentence(e.ErrorKind))
	}
	walk(e)
	return out
}

var english = message.NewPrinter(language.English)

// sentence says what is wrong with one value. What the user wrote is repeated
// only in short.
func sentence(k jsonschema.ErrorKind) string {
	switch k := k.(type) {
	case *kind.AdditionalProperties:
		names := make([]string, 0, len(k.Properties))
		for _, p := range k.Properties {
			names = append(names, shorten(p))
		}
		return "unknown " + shortenTo(strings.Join(names, ", "), 200)
	case *kind.Enum:
		allowed, _ := json.Marshal(k.Want)
		return "must be one of " + strings.Trim(string(allowed), "[]")
	case *kind.Pattern:
		return "must fit the pattern " + k.Want
	default:
		return shortenTo(k.LocalizedString(english), 200)
	}
}

func shorten(s string) string { return shortenTo(fmt.Sprintf("%q", s), 60) }

func shortenTo(s string, n int) string {
	if runes := []rune(s); len(runes) > n {
		return string(runes[:n]) + "…"
	}
	return s
}
