package conformance

import "slices"

// Level is how strongly the specification puts a rule.
type Level string

// Levels of rules.
const (
	Must   Level = "MUST"
	Should Level = "SHOULD"
)

// Rule is one sentence of the specification that can be checked.
type Rule struct {
	ID       string `json:"id"`       // stable, "area.what"
	Section  string `json:"section"`  // heading of the specification
	Sentence string `json:"sentence"` // what must or should be so
	Level    Level  `json:"level"`
	Since    int    `json:"since"` // minor version that introduced it
}

// First and last minor versions of the specification that are known.
const (
	oldest = 13
	newest = 17
)

func must(id, section, sentence string) Rule {
	return Rule{ID: id, Section: section, Sentence: sentence, Level: Must, Since: oldest}
}

func should(id, section, sentence string) Rule {
	return Rule{ID: id, Section: section, Sentence: sentence, Level: Should, Since: oldest}
}

// since says which minor version introduced some rules.
func since(minor int, rules ...Rule) []Rule {
	for i := range rules {
		rules[i].Since = minor
	}
	return rules
}

// introduced are minor versions of rules whose area is older (from the release
// notes of the specification).
var introduced = map[string]int{
	"general.content-type":      14,
	"provision.unknown-fields":  14,
	"bind.unknown-fields":       14,
	"provision-input.no-effect": 14,
	"bind-input.no-effect":      14,
	"update.no-effect":          14,
	"unbind.no-effect":          14,
	"deprovision.no-effect":     14,

	"bind.accepted-no-credentials": 14, // bindings can be asynchronous
	"bind.async-required":          14,
	"bind.repeat-running":          14,
	"unbind.async-required":        14,
	"unbind.repeat-running":        14,

	"provision.operation":       15,
	"update.operation":          15,
	"deprovision.operation":     15,
	"bind.operation":            15,
	"unbind.operation":          15,
	"deprovision.during-create": 15,
}

// Rules returns all rules in the order of reports.
func Rules() []Rule {
	rules := slices.Concat(
		catalogRules, schemaRules, authRules(), headerRules,
		provisionInputRules, absentRules, provisionRules, pollRules("poll"), fetchRules,
		bindInputRules, bindRules, bindAnswerRules, pollRules("poll-binding"), fetchBindingRules, rotateRules,
		updateRules, unbindRules, deprovisionRules, concurrentRules, generalRules,
	)
	for i, r := range rules {
		rules[i].Since = max(r.Since, introduced[r.ID])
	}
	return rules
}
