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
	for _, r := range recipes {
		why := Cannot(r)
		if r.Name == "volume" {
			if !strings.Contains(why, "needs DAC_READ_SEARCH, which Pod Security baseline does not allow") {
				t.Errorf("%s: %q", r.Name, why)
			}
		} else if why != "" {
			t.Errorf("%s: %q", r.Name, why)
		}
	}
}
