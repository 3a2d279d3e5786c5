package catalog

import "testing"

func TestRestricted(t *testing.T) {
	type m = map[string]any
	word := m{"type": "string", "pattern": "^[a-z]{1,8}$"}
	text := m{"type": "string"}
	for name, test := range map[string]struct {
		schema m
		want   bool
	}{
		"number":                {m{"type": "integer"}, true},
		"word":                  {word, true},
		"text":                  {text, false},
		"beginning only":        {m{"type": "string", "pattern": "^a"}, false},
		"alternatives":          {m{"type": "string", "pattern": "^(a|b)$"}, true},
		"one of two begins":     {m{"type": "string", "pattern": "^a|b$"}, false},
		"one of two ends":       {m{"type": "string", "pattern": "^(a$|b)c|^d$"}, false},
		"escaped end":           {m{"type": "string", "pattern": `^a\$`}, false},
		"of any line":           {m{"type": "string", "pattern": "(?m)^a$"}, false},
		"any line from inside":  {m{"type": "string", "pattern": "^(?m)a$"}, false},
		"pattern for any type":  {m{"pattern": "^a$"}, false},
		"words":                 {m{"type": "array", "items": word}, true},
		"words of words":        {m{"type": "array", "items": m{"type": "array", "items": word}}, true},
		"texts":                 {m{"type": "array", "items": text}, false},
		"anything":              {m{"type": "array"}, false},
		"a list of items":       {m{"type": "array", "items": []any{word}}, false},
		"items after others":    {m{"type": "array", "prefixItems": []any{text}, "items": word}, false},
		"object":                {m{"type": "object", "additionalProperties": false, "properties": m{"a": word, "b": m{"type": "boolean"}}}, true},
		"object with a text":    {m{"type": "object", "additionalProperties": false, "properties": m{"a": word, "b": text}}, false},
		"open object":           {m{"type": "object", "properties": m{"a": word}}, false},
		"object with patterns":  {m{"type": "object", "additionalProperties": false, "patternProperties": m{".": word}, "properties": m{"a": word}}, false},
		"object of nothing":     {m{"type": "object", "additionalProperties": false}, false},
		"array of such objects": {m{"type": "array", "items": m{"type": "object", "additionalProperties": false, "properties": m{"a": word}}}, true},
	} {
		if got := restricted(test.schema); got != test.want {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
}
