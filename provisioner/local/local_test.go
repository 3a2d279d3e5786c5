package local

import (
	"log/slog"
	"os"
	"testing"

	"github.com/remuda/remuda/catalog"
	"github.com/remuda/remuda/provisioner"
	"github.com/remuda/remuda/provisioner/backendtest"
)

func TestMain(m *testing.M) {
	code := backendtest.Main(m)
	os.Exit(code)
}

func recipe(t testing.TB, name string) catalog.Recipe {
	t.Helper()
	recipes, err := catalog.Builtin()
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range recipes {
		if r.Name == name {
			return r
		}
	}
	t.Fatalf("no recipe %q", name)
	return catalog.Recipe{}
}

func newBackend(t testing.TB) *Backend {
	t.Helper()
	backendtest.NeedRoot(t)
	b, err := New(Options{
		StateDir: t.TempDir(), ImageDir: backendtest.ImageDir(), Agent: backendtest.Agent(t),
		Publish: Publish{Host: "127.0.0.1", FirstPort: 20000, LastPort: 20999},
		Logger:  slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestOneGroup(t *testing.T) {
	b := newBackend(t)
	recipes, _ := catalog.Builtin()
	img := backendtest.Image(t, recipes...)
	for _, r := range recipes {
		t.Run(r.Name, func(t *testing.T) {
			d := provisioner.NewDefinition(r, r.Offering.Plans[0], img)
			g := provisioner.Group{ID: "g" + r.Name, Generation: 1, Definition: d}
			defer b.Close(t.Context(), g.ID)
			for range 2 { // the first makes the template
				if _, err := b.Create(t.Context(), g); err != nil {
					t.Fatal(err)
				}
			}
			o, err := b.Create(t.Context(), g)
			t.Logf("%+v %v", o, err)
			for n := 2; n < 5; n++ {
				g.Generation = n
				o, err := b.Reset(t.Context(), g)
				t.Logf("%+v %v", o, err)
				if err != nil {
					t.FailNow()
				}
			}
		})
	}
}
