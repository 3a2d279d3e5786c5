package catalog

import (
	"fmt"
	"regexp/syntax"
	"slices"
	"strings"
	"text/template/parse"
)

// scope is what the templates of one place may use.
type scope struct {
	what   string
	values []string
	// known names the second step where it is known beforehand: ports → endpoint
	// names. A value that is not in the map has any second step.
	known map[string][]string
	// schema is that of parameters.
	schema map[string]any
}

func (c *checker) endpointNames() []string {
	var names []string
	for _, e := range c.recipe.Endpoints {
		names = append(names, e.Name)
	}
	return names
}

func (c *checker) startScope() scope {
	var roles []string
	for _, r := range c.recipe.Roles {
		roles = append(roles, r.Name)
	}
	return scope{what: "a start", values: StartValues, known: map[string][]string{
		"ports": c.endpointNames(), "last_ports": c.endpointNames(), "peers": roles, "environment": c.environmentNames(),
	}}
}

// environmentNames are the variables that every plan has.
func (c *checker) environmentNames() []string {
	count := map[string]int{}
	for _, p := range c.recipe.Offering.Plans {
		for name := range p.Environment {
			count[name]++
		}
	}
	var names []string
	for name := range c.recipe.Environment {
		names = append(names, name)
		delete(count, name)
	}
	for name, n := range count {
		if n == len(c.recipe.Offering.Plans) {
			names = append(names, name)
		}
	}
	return names
}

func (c *checker) hookScope(hook string) scope {
	s := scope{what: hook, values: HookValues, known: map[string][]string{
		"ports": c.endpointNames(), "route": {"host", "port", "path"},
	}, schema: c.recipe.Offering.BindSchema}
	if hook == "provision" {
		s.schema = c.recipe.Offering.ProvisionSchema
	}
	return s
}

func (c *checker) credentialScope() scope {
	s := c.hookScope("bind")
	s.what, s.values = "credentials", CredentialValues
	if c.recipe.Bind != nil {
		s.known["output"] = c.recipe.Bind.Output
	}
	return s
}

// template checks one template's syntax and everything it uses.
func (c *checker) template(text string, at place, s scope) {
	if !strings.Contains(text, "{{") {
		return
	}
	t, err := parseTemplate(text)
	if err != nil {
		c.fault(at, "the template is wrong: %s", strings.TrimPrefix(err.Error(), "template: :"))
		return
	}
	if len(t.Templates()) > 1 {
		c.fault(at, "a template cannot define others")
		return
	}
	w := walker{scope: s, report: func(format string, args ...any) { c.fault(at, format, args...) }}
	if t.Tree != nil {
		w.list(t.Root, true)
	}
}

// walker goes through a template's tree. outer says that the dot is still the
// outermost value; within range and with it is something else, and only $ is.
type walker struct {
	scope  scope
	report func(format string, args ...any)
}

func (w walker) list(l *parse.ListNode, outer bool) {
	if l == nil {
		return
	}
	for _, n := range l.Nodes {
		w.node(n, outer)
	}
}

func (w walker) node(n parse.Node, outer bool) {
	switch n := n.(type) {
	case *parse.ListNode:
		w.list(n, outer)
	case *parse.ActionNode:
		w.pipe(n.Pipe, outer)
	case *parse.IfNode:
		w.branch(&n.BranchNode, outer, outer)
	case *parse.WithNode:
		w.branch(&n.BranchNode, outer, false)
	case *parse.RangeNode:
		w.branch(&n.BranchNode, outer, false)
	case *parse.TemplateNode:
		w.report("a template cannot use others")
	}
}

func (w walker) branch(b *parse.BranchNode, outer, inner bool) {
	w.pipe(b.Pipe, outer)
	w.list(b.List, inner)
	w.list(b.ElseList, outer)
}

func (w walker) pipe(p *parse.PipeNode, outer bool) {
	if p == nil {
		return
	}
	for _, cmd := range p.Cmds {
		w.command(cmd, outer)
	}
}

func (w walker) command(cmd *parse.CommandNode, outer bool) {
	args := cmd.Args
	if name, ok := args[0].(*parse.IdentifierNode); ok && len(args) >= 3 && name.Ident == "index" {
		if steps := w.steps(args[1], outer); steps != nil {
			if key, ok := args[2].(*parse.StringNode); ok {
				w.use(append(steps, key.Text), true)
				args = args[3:]
			}
		}
	}
	for _, arg := range args {
		switch arg := arg.(type) {
		case *parse.PipeNode:
			w.pipe(arg, outer)
		case *parse.ChainNode:
			w.node(&parse.ActionNode{Pipe: &parse.PipeNode{Cmds: []*parse.CommandNode{{Args: []parse.Node{arg.Node}}}}}, outer)
		case *parse.DotNode:
			if outer {
				w.report("a template cannot use all values at once with a lone dot")
			}
		default:
			if steps := w.steps(arg, outer); steps != nil {
				w.use(steps, false)
			}
		}
	}
}

// steps gives the names from the outermost value on, nil for anything else.
func (w walker) steps(n parse.Node, outer bool) []string {
	switch n := n.(type) {
	case *parse.FieldNode:
		if outer {
			return slices.Clone(n.Ident)
		}
	case *parse.VariableNode:
		if n.Ident[0] == "$" {
			if len(n.Ident) == 1 {
				w.report("a template cannot use all values at once with a lone $")
				return nil
			}
			return slices.Clone(n.Ident[1:])
		}
	}
	return nil
}

// use checks one value that a template names; optional says that it was taken
// with index, which gives nothing where the key is missing.
func (w walker) use(steps []string, optional bool) {
	name := steps[0]
	if !slices.Contains(w.scope.values, name) {
		if len(w.scope.values) == 0 {
			w.report("%s has no values; .%s cannot be used", w.scope.what, name)
			return
		}
		w.report("%s has no value .%s; there are %s", w.scope.what, name, strings.Join(w.scope.values, ", "))
		return
	}
	if len(steps) < 2 {
		if name == "parameters" {
			w.report("parameters have to be used one by one, so that their schema can be looked at")
		}
		return
	}
	if name == "parameters" {
		if problem := parameterProblem(w.scope.schema, steps[1], optional); problem != "" {
			w.report("%s", problem)
		}
		return
	}
	known, ok := w.scope.known[name]
	switch {
	case !ok:
		w.report(".%s is one value and has no .%s", name, steps[1])
	case !slices.Contains(known, steps[1]):
		w.report("there is no .%s.%s; known are %s", name, steps[1], strings.Join(known, ", "))
	}
}

// parameterProblem says what is wrong with using a parameter in a template.
// Tenants choose parameters, so only those can be used that their schema
// restricts to harmless values: numbers, booleans, an enum, a const, or a
// pattern for the whole text; or arrays of such values, or objects that have only
// such values under known names.
func parameterProblem(schema map[string]any, key string, optional bool) string {
	properties, _ := schema["properties"].(map[string]any)
	property, ok := properties[key].(map[string]any)
	if !ok {
		return fmt.Sprintf("the parameter %q is not a property of the schema", key)
	}
	required, _ := schema["required"].([]any)
	if !optional && !slices.Contains(required, any(key)) {
		return fmt.Sprintf("the parameter %q can be missing; write {{with index .parameters %q}}…{{end}}", key, key)
	}
	if restricted(property) {
		return ""
	}
	return fmt.Sprintf("the parameter %q lets any text through; give its schema a type integer, number or boolean, an enum, a const, or a pattern that begins with ^ and ends with $ (arrays: the same for items; objects: for each property, and additionalProperties: false)", key)
}

// restricted looks at one property, and into arrays and objects.
func restricted(property map[string]any) bool {
	switch property["type"] {
	case "integer", "number", "boolean":
		return true
	case "array":
		items, ok := property["items"].(map[string]any)
		_, others := property["prefixItems"] // which the items do not speak of
		return ok && !others && restricted(items)
	case "object":
		return restrictedObject(property)
	}
	if _, ok := property["const"]; ok {
		return true
	}
	if values, ok := property["enum"].([]any); ok && len(values) > 0 {
		return true
	}
	pattern, _ := property["pattern"].(string)
	return property["type"] == "string" && wholeText(pattern)
}

// restrictedObject wants known keys only, each of them restricted.
func restrictedObject(object map[string]any) bool {
	properties, ok := object["properties"].(map[string]any)
	if _, others := object["patternProperties"]; !ok || others || object["additionalProperties"] != false {
		return false
	}
	for _, property := range properties {
		inner, ok := property.(map[string]any)
		if !ok || !restricted(inner) {
			return false
		}
	}
	return true
}

// wholeText says whether a pattern is about all of a text: nothing can stand
// before or behind it, whichever of its alternatives fits.
func wholeText(pattern string) bool {
	if !strings.HasPrefix(pattern, "^") || !strings.HasSuffix(pattern, "$") {
		return false
	}
	r, err := syntax.Parse(pattern, syntax.Perl)
	if err != nil || r.Op != syntax.OpConcat {
		return false
	}
	return r.Sub[0].Op == syntax.OpBeginText && r.Sub[len(r.Sub)-1].Op == syntax.OpEndText
}
