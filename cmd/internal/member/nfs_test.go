package member

import (
	"strings"
	"testing"

	"github.com/remuda/remuda/nfs"
)

func TestParseOrder(t *testing.T) {
	const token = "secret-token-0123456789"
	for name, test := range map[string]struct {
		use, text string
		want      nfs.Order // none if it is refused
	}{
		"bind":            {"bind", "joe " + token + " RW 2000 3000\n", nfs.Order{Login: "joe", Token: token, Write: true, UID: 2000, GID: 3000}},
		"bind to read":    {"bind", "joe " + token + " RO 1 65533", nfs.Order{Login: "joe", Token: token, UID: 1, GID: 65533}},
		"unbind":          {"unbind", "joe -\n", nfs.Order{Login: "joe"}},
		"nothing":         {"bind", "", nfs.Order{}},
		"other access":    {"bind", "joe " + token + " NONE 2000 2000", nfs.Order{}},
		"negative":        {"bind", "joe " + token + " RW -1 2000", nfs.Order{}},
		"large":           {"bind", "joe " + token + " RW 2000 70000", nfs.Order{}},
		"more":            {"bind", "joe " + token + " RW 2000 2000 x", nfs.Order{}},
		"unbind of token": {"unbind", "joe " + token, nfs.Order{}},
	} {
		got, err := parseOrder(test.use, test.text)
		if got != test.want || (err == nil) != (test.want != nfs.Order{}) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
		if err != nil && strings.Contains(err.Error(), token) {
			t.Errorf("%s: the error tells the token", name)
		}
	}
}
