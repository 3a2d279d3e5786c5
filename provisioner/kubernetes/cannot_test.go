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
	recipes = append(recipes, catalog.Recipe{Name: "rooted", Roles: []catalog.Role{{Name: "server", User: "root"}}})
	for level, reasons := range map[Level]map[string]string{
		"":       {"volume": "needs DAC_READ_SEARCH, which Pod Security baseline does not allow"},
		Baseline: {"volume": "needs DAC_READ_SEARCH, which Pod Security baseline does not allow"},
		Restricted: {
			"volume": "needs DAC_OVERRIDE, which Pod Security restricted does not allow",
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
