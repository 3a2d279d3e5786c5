package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/layout"

	"github.com/remuda/remuda/catalog"
	"github.com/remuda/remuda/provisioner/image"
	"github.com/remuda/remuda/provisioner/image/oci"
)

// staticProgram builds the smallest program that an image takes.
func staticProgram(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "main.go"), []byte("package main\n\nfunc main() {}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("go", "build", "-o", filepath.Join(dir, "remuda"), filepath.Join(dir, "main.go"))
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return filepath.Join(dir, "remuda")
}

func command(t *testing.T, want int, args ...string) (stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	if code := run(t.Context(), args, &out, &errs); code != want {
		t.Errorf("%v ended with %d: %s", args, code, errs.String())
	}
	return out.String(), errs.String()
}

// Without root: the root file system is there already.
func TestImageBuild(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("REMUDA_IMAGE_DIR", dir)
	t.Setenv("SOURCE_DATE_EPOCH", "")
	binary := staticProgram(t)
	recipes, err := catalog.Load(catalog.BuiltinFiles())
	if err != nil {
		t.Fatal(err)
	}
	c := DefaultConfig()
	c.ImageDir = dir
	img, made, err := image.Find(imageOptions(c, recipes, nil))
	if err != nil || made {
		t.Skipf("no image here: %v", err)
	}
	show := func() (v imageView) {
		t.Helper()
		out, _ := command(t, 0, "image", "show", "-o", "json")
		if err := json.Unmarshal([]byte(out), &v); err != nil {
			t.Fatal(err)
		}
		return v
	}
	if v := show(); v.Image != img.Hash || v.Made {
		t.Errorf("before: %+v", v)
	}
	if err := os.MkdirAll(filepath.Join(img.Path, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	if v := show(); !v.Made || v.Folder != img.Path {
		t.Errorf("after: %+v", v)
	}
	folder := filepath.Join(dir, "layout")
	out, said := command(t, 0, "image", "build", "--binary", binary, "--layout", folder, "--tar", folder+".tar", "--name", "localhost/x")
	digest := strings.TrimSpace(out)
	if !strings.HasPrefix(digest, "sha256:") || strings.Count(out, "\n") != 1 || !strings.Contains(said, "packing the root file system") {
		t.Errorf("it printed %q and said %q", out, said)
	}
	if out, said := command(t, 0, "image", "build", "--binary", binary); strings.TrimSpace(out) != digest || strings.Contains(said, "packing") {
		t.Errorf("the second time it printed %q and said %q", out, said)
	}
	index, err := layout.ImageIndexFromPath(folder)
	if err != nil {
		t.Fatal(err)
	}
	m, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	if d := m.Manifests[0]; d.Digest.String() != digest || !strings.HasPrefix(d.Annotations["io.containerd.image.name"], "localhost/x:"+img.Hash[:12]+"-") {
		t.Errorf("index has %+v", d)
	}
	built, err := index.Image(m.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	if config, err := built.ConfigFile(); err != nil || config.Config.Labels[oci.LabelImage] != img.Hash {
		t.Errorf("the label is not what definitions name: %+v, %v", config, err)
	}
	if _, err := os.Stat(folder + ".tar"); err != nil {
		t.Error(err)
	}
}

func TestImageBroker(t *testing.T) {
	if _, err := os.Stat("/etc/ssl/certs/ca-certificates.crt"); err != nil {
		t.Skip("ca-certificates is not installed")
	}
	binary := staticProgram(t)
	t.Setenv("SOURCE_DATE_EPOCH", "1767225600")
	first, said := command(t, 0, "image", "build", "--broker", "--binary", binary)
	second, _ := command(t, 0, "image", "build", "--broker", "--binary", binary)
	if first != second || !strings.HasPrefix(first, "sha256:") || !strings.HasPrefix(said, "localhost/remuda:") {
		t.Errorf("%q, %q, %q", first, second, said)
	}
}

func TestImageUsage(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", "")
	for _, args := range [][]string{
		{"--platform", "plan9/mips"}, {"--name", "remuda"}, {"--push", "team/remuda"}, {"--name", "localhost/A"}, {"--tarr", "x"},
	} {
		command(t, 2, append([]string{"image", "build"}, args...)...)
	}
	command(t, 2, "image", "show", "-o", "xml")
	if _, said := command(t, 1, "image", "build", "--broker", "--binary", "/bin/sh"); !strings.Contains(said, "CGO_ENABLED=0") {
		t.Errorf("it said %q", said)
	}
	if out, _ := command(t, 0, "image"); !strings.Contains(out, "build") || !strings.Contains(out, "show") {
		t.Errorf("help is %q", out)
	}
	t.Setenv("SOURCE_DATE_EPOCH", "yesterday")
	command(t, 2, "image", "build", "--broker")
}
