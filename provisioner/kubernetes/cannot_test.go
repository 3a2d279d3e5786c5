package kubernetes

import (
	"strings"
	"testing"

	"github.com/remuda/remuda/catalog"
)

func TestCannot(t *testing.T) {
	recipes, err := catalog.Builtin()
	if err != nil {
		t.Fatal(err)
	}
	recipes = append(recipes, catalog.Recipe{Name: "rooted", Roles: []catalog.Role{{Name: "server", User: "root"}}},
		catalog.Recipe{Name: "reader", Roles: []catalog.Role{{Name: "server", User: "www-data", Capabilities: []string{"DAC_READ_SEARCH"}}}})
	for level, reasons := range map[Level]map[string]string{
		"":       {"reader": "needs DAC_READ_SEARCH, which Pod Security baseline does not allow"},
		Baseline: {"reader": "needs DAC_READ_SEARCH, which Pod Security baseline does not allow"},
		Restricted: {
			"reader": "needs DAC_READ_SEARCH, which Pod Security restricted does not allow",
			"ftp":    "needs SYS_CHROOT, which Pod Security restricted does not allow",
			"rooted": "runs as root, which Pod Security restricted does not allow",
		},
	} {
		for _, r := range recipes {
			why, want := level.Cannot(r), reasons[r.Name]
			if (want == "") != (why == "") || !strings.Contains(why, want) {
				t.Errorf("%s, %s: %q", level, r.Name, why)
			}
		}
	}
}
