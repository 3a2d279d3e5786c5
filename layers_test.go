package remuda

import (
	"os/exec"
	"strings"
	"testing"
)

// Imports go one way: catalog ← store ← provisioner ← broker ← osbapi ← cmd. A
// package may import what stands before it in the list and its own parents,
// never a sibling. The agent's client and the image are below the back ends.
var allowed = map[string][]string{
	"catalog":                       {},
	"drain":                         {},
	"nfs":                           {},
	"store":                         {"catalog"},
	"store/internal/sqlstore":       {"store", "catalog"},
	"store/sqlite":                  {"store", "catalog", "store/internal/sqlstore"},
	"store/postgres/postgrestest":   {},
	"store/postgres":                {"store", "catalog", "store/internal/sqlstore"},
	"provisioner":                   {"catalog", "store"},
	"provisioner/internal/cgroupfs": {},
	"internal/ownthread":            {},
	"provisioner/agent":             {"catalog", "store", "provisioner", "provisioner/internal/cgroupfs", "internal/ownthread"},
	"provisioner/image":             {"catalog", "store", "provisioner"},
	"provisioner/orders":            {"catalog", "store", "provisioner", "provisioner/agent"},
	"provisioner/image/oci":         {"catalog", "store", "provisioner", "provisioner/image"},
	"provisioner/local":             {"catalog", "store", "provisioner", "provisioner/agent", "provisioner/orders", "provisioner/image", "provisioner/internal/cgroupfs", "internal/ownthread"},
	"provisioner/backendtest":       {"catalog", "store", "provisioner", "provisioner/image"},
	"store/storetest":               {"store", "catalog"},
	"broker":                        {"catalog", "store", "provisioner"},
	"conformance":                   {}, // of brokers in general
	"conformance/faulty":            {},
	"broker/osbapi":                 {"catalog", "store", "provisioner", "broker"},
	"broker/dashboard":              {"catalog", "store", "provisioner", "broker"},
}

func TestLayers(t *testing.T) {
	out, err := exec.Command("go", "list", "-f", `{{.ImportPath}} {{join .Imports " "}}`, "./...").CombinedOutput()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, out)
	}
	const module = "github.com/remuda/remuda/"
	seen := map[string]bool{}
	for line := range strings.Lines(string(out)) {
		words := strings.Fields(line)
		pkg := strings.TrimPrefix(words[0], module)
		seen[pkg] = true
		may, limited := allowed[pkg]
		if !limited {
			continue // cmd and tools see everything
		}
		for _, imported := range words[1:] {
			short, ours := strings.CutPrefix(imported, module)
			if !ours {
				if pkg == "broker" && imported == "net/http" {
					t.Error("broker imports net/http, but use cases know no HTTP")
				}
				continue
			}
			ok := false
			for _, m := range may {
				ok = ok || short == m
			}
			if !ok {
				t.Errorf("%s imports %s, but may import only %s", pkg, short, strings.Join(may, ", "))
			}
		}
	}
	for pkg := range allowed {
		if !seen[pkg] {
			t.Errorf("package %s of the layer table does not exist", pkg)
		}
	}
}
