package conformance

import (
	"fmt"
	"maps"
	"slices"
)

// kind is a type of JSON.
type kind struct {
	name string
	is   func(any) bool
}

var (
	isObject = kind{"an object", func(v any) bool { _, ok := v.(obj); return ok }}
	isArray  = kind{"an array", func(v any) bool { _, ok := v.([]any); return ok }}
	isBool   = kind{"a boolean", func(v any) bool { _, ok := v.(bool); return ok }}
	isText   = kind{"a non-empty string", func(v any) bool { s, _ := v.(string); return s != "" }}
	isURL    = kind{"a string or null", func(v any) bool { _, ok := v.(string); return ok || v == nil }}
	isTexts  = kind{"an array of strings", func(v any) bool {
		list, ok := v.([]any)
		return ok && !slices.ContainsFunc(list, func(v any) bool { _, ok := v.(string); return !ok })
	}}
)

// checkTypes looks at fields that may be absent.
func (s *suite) checkTypes(id string, x *exchange, at string, o obj, kinds map[string]kind) {
	for _, name := range slices.Sorted(maps.Keys(kinds)) {
		if v, has := o[name]; has {
			s.expect(id, kinds[name].is(v), x, fmt.Sprintf("%s.%s as %s", at, name, kinds[name].name), s.show(obj{name: v}))
		}
	}
}

// checkMetadata looks at the metadata of an instance (OSB, "Service Instance
// Metadata").
func (s *suite) checkMetadata(id string, x *exchange) {
	v, has := x.object()["metadata"]
	if !has || v == nil || s.minor < 16 {
		return
	}
	m, ok := v.(obj)
	if s.expect(id, ok, x, "metadata as an object") {
		s.checkTypes(id, x, "metadata", m, map[string]kind{"labels": isObject, "attributes": isObject})
	}
}

// maxOperation is the most characters of an operation.
const maxOperation = 10000

// checkOperation looks at the operation of a 202.
func (s *suite) checkOperation(id string, x *exchange) {
	v, has := x.object()["operation"]
	if !has || v == nil {
		return
	}
	text, ok := v.(string)
	s.expect(id, ok && len([]rune(text)) <= maxOperation, x, "operation as a string of at most 10000 characters",
		fmt.Sprintf("%T of %d characters", v, len([]rune(text))))
}
