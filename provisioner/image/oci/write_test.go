package oci

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

func TestTarIsBothFormats(t *testing.T) {
	img := broker(t, program(t, "1"))
	file := filepath.Join(t.TempDir(), "image.tar")
	const ref = "localhost/x/y:1"
	for range 2 { // also over one that is there
		if err := img.WriteTar(t.Context(), file, ref); err != nil {
			t.Fatal(err)
		}
	}
	tag, err := name.NewTag(ref)
	if err != nil {
		t.Fatal(err)
	}
	docker, err := tarball.ImageFromPath(file, &tag)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Image(docker); err != nil {
		t.Error(err)
	}
	a, _ := docker.ConfigName()
	if b, _ := img.ConfigName(); a != b {
		t.Errorf("image id is %s, not %s", a, b)
	}
	dir := filepath.Join(t.TempDir(), "unpacked")
	unpack(t, file, dir)
	checkLayout(t, dir, map[string]string{ref: digest(t, img)})
	if left := list(t, filepath.Dir(file)); len(left) != 1 {
		t.Errorf("left is %v", left)
	}
}

func unpack(t *testing.T, file, dir string) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, h.Name)
		if h.Typeflag == tar.TypeDir {
			err = os.MkdirAll(path, 0o755)
		} else if text, readErr := io.ReadAll(r); readErr != nil {
			err = readErr
		} else {
			err = os.WriteFile(path, text, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func list(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// checkLayout reads the images of a layout: name → digest.
func checkLayout(t *testing.T, dir string, want map[string]string) {
	t.Helper()
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(index); err != nil {
		t.Error(err)
	}
	m, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, d := range m.Manifests {
		got[d.Annotations[annotationName]] = d.Digest.String()
	}
	a, _ := json.Marshal(got)
	if b, _ := json.Marshal(want); string(a) != string(b) {
		t.Errorf("layout has %s, not %s", a, b)
	}
}

func TestLayout(t *testing.T) {
	first, second := broker(t, program(t, "1")), broker(t, program(t, "2"))
	dir := filepath.Join(t.TempDir(), "layout")
	write := func(img *Image, name string) {
		t.Helper()
		if err := img.WriteLayout(t.Context(), dir+"/", name); err != nil {
			t.Fatal(err)
		}
	}
	write(first, "localhost/a:1")
	write(second, "localhost/b:1")
	checkLayout(t, dir, map[string]string{"localhost/a:1": digest(t, first), "localhost/b:1": digest(t, second)})
	write(second, "localhost/a:1")
	checkLayout(t, dir, map[string]string{"localhost/a:1": digest(t, second), "localhost/b:1": digest(t, second)})
	if left := list(t, filepath.Dir(dir)); len(left) != 1 {
		t.Errorf("left is %v", left)
	}
	other := t.TempDir()
	if err := first.WriteLayout(t.Context(), other, "localhost/a:1"); err != nil {
		t.Errorf("into an empty folder: %v", err)
	}
	other = t.TempDir()
	if err := os.WriteFile(filepath.Join(other, "mine"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := first.WriteLayout(t.Context(), other, "localhost/a:1"); !errors.Is(err, ErrNoLayout) {
		t.Errorf("into another folder: %v", err)
	}
}

// cut is an image whose last layer ends the context when it is half read.
func cut(t *testing.T) (*Image, context.Context) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	l, err := inMemory(func(w io.Writer) error { return writeEntries(w, []entry{{name: "x", text: "text"}}, built) })
	if err != nil {
		t.Fatal(err)
	}
	open := l.open
	l.open = func() (io.ReadCloser, error) {
		r, err := open()
		return cutReader{r, cancel}, err
	}
	img, err := recipe{layers: []*layer{l}, histories: []string{"x"}}.image()
	if err != nil {
		t.Fatal(err)
	}
	return &Image{Image: img, Repository: BrokerRepository, Tag: "x"}, ctx
}

type cutReader struct {
	io.ReadCloser
	cancel func()
}

func (c cutReader) Read(p []byte) (int, error) {
	c.cancel()
	return c.ReadCloser.Read(p[:1])
}

func TestInterruptedLeavesNothing(t *testing.T) {
	whole := broker(t, program(t, "1"))
	dir := t.TempDir()
	file, kept, fresh := filepath.Join(dir, "image.tar"), filepath.Join(dir, "kept"), filepath.Join(dir, "fresh")
	if err := errors.Join(os.WriteFile(file, []byte("old"), 0o600), whole.WriteLayout(t.Context(), kept, "localhost/a:1")); err != nil {
		t.Fatal(err)
	}
	blobs := list(t, filepath.Join(kept, "blobs/sha256"))
	for what, write := range map[string]func(*Image, context.Context) error{
		"tar":          func(i *Image, ctx context.Context) error { return i.WriteTar(ctx, file, "localhost/a:1") },
		"layout":       func(i *Image, ctx context.Context) error { return i.WriteLayout(ctx, fresh, "localhost/a:1") },
		"added layout": func(i *Image, ctx context.Context) error { return i.WriteLayout(ctx, kept, "localhost/b:1") },
	} {
		img, ctx := cut(t)
		if err := write(img, ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if text, _ := os.ReadFile(file); string(text) != "old" {
		t.Error("the old archive is gone")
	}
	checkLayout(t, kept, map[string]string{"localhost/a:1": digest(t, whole)})
	if left, now := list(t, dir), list(t, filepath.Join(kept, "blobs/sha256")); len(left) != 2 || len(now) != len(blobs) {
		t.Errorf("left are %v and %v", left, now)
	}
}

// recorder is a registry that remembers what was uploaded, and may want a login.
type recorder struct {
	http.Handler
	user, password string
	mu             sync.Mutex
	uploads        int
}

func (r *recorder) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if user, password, _ := req.BasicAuth(); r.user != "" && (user != r.user || password != r.password) {
		w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	if req.Method == http.MethodPost && strings.HasSuffix(req.URL.Path, "/blobs/uploads/") {
		r.mu.Lock()
		r.uploads++
		r.mu.Unlock()
	}
	r.Handler.ServeHTTP(w, req)
}

func (r *recorder) start(t *testing.T) string {
	t.Helper()
	r.Handler = registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	s := httptest.NewServer(r)
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

func TestPush(t *testing.T) {
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	r := &recorder{}
	host := r.start(t)
	first, second := broker(t, program(t, "1")), broker(t, program(t, "2"))
	pushed, err := first.Push(t.Context(), host+"/team/remuda", PushOptions{Insecure: true})
	if err != nil {
		t.Fatal(err)
	}
	if want := host + "/team/remuda:" + first.Tag; pushed != want {
		t.Errorf("pushed to %s, not %s", pushed, want)
	}
	ref, err := name.ParseReference(pushed)
	if err != nil {
		t.Fatal(err)
	}
	got, err := remote.Image(ref)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Image(got); err != nil || digest(t, got) != digest(t, first) {
		t.Errorf("got %s for %s: %v", digest(t, got), digest(t, first), err)
	}
	before := r.uploads
	if _, err := second.Push(t.Context(), host+"/team/remuda:next", PushOptions{Insecure: true}); err != nil {
		t.Fatal(err)
	}
	if n := r.uploads - before; n != 2 { // the new layer and the configuration
		t.Errorf("an upgrade sent %d blobs", n)
	}
}

func TestPushWithLogin(t *testing.T) {
	r := &recorder{user: "u", password: "p"}
	host := r.start(t)
	img := broker(t, program(t, "1"))
	dir := t.TempDir()
	t.Setenv("DOCKER_CONFIG", dir)
	if _, err := img.Push(t.Context(), host+"/x", PushOptions{Insecure: true}); err == nil {
		t.Error("pushed without a login")
	}
	config := `{"auths": {"` + host + `": {"username": "u", "password": "p"}}}`
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := img.Push(t.Context(), host+"/x", PushOptions{Insecure: true}); err != nil {
		t.Error(err)
	}
}

func TestNames(t *testing.T) {
	img := &Image{Repository: MembersRepository, Tag: "tag"}
	for text, want := range map[string]string{
		"localhost/a":                  "localhost/a:tag",
		"registry.example.com:5000/a":  "registry.example.com:5000/a:tag",
		"registry.example.com/a/b:1.0": "registry.example.com/a/b:1.0",
		"":                             "", "a": "", "a/b": "", "a:1": "", "localhost/A": "", "localhost/a:": "", "localhost/": "",
		"localhost/a@sha256:" + testHash: "",
	} {
		got, err := img.Named(text)
		if got != want || (err == nil) != (want != "") || err != nil && !errors.Is(err, ErrName) {
			t.Errorf("%q is %q, %v", text, got, err)
		}
	}
}
