package oci

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/remuda/remuda/provisioner/image"
)

func broker(t *testing.T, binary string) *Image {
	t.Helper()
	certificates := filepath.Join(t.TempDir(), "bundle")
	if err := os.WriteFile(certificates, []byte("authorities"), 0o600); err != nil {
		t.Fatal(err)
	}
	img, err := Broker(t.Context(), BrokerOptions{Binary: binary, Certificates: certificates, Version: "3f0daad-dirty"})
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Image(img); err != nil {
		t.Fatal(err)
	}
	return img
}

func TestBroker(t *testing.T) {
	img := broker(t, program(t, "1"))
	if again := broker(t, program(t, "1")); digest(t, img) != digest(t, again) {
		t.Error("the same binary gives two images")
	}
	c, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if c.Config.User != "65532" || len(c.Config.Entrypoint) != 1 || c.Config.Entrypoint[0] != "/usr/local/bin/remuda" || !c.Created.Equal(time.Unix(0, 0)) {
		t.Errorf("configuration is %+v", c)
	}
	if b, _ := readBinary(program(t, "1")); img.Tag != b.digest[:12] {
		t.Errorf("tag of a working copy is %s", img.Tag)
	}
	l := entries(t, img)
	for name, mode := range map[string]int64{"etc/passwd": 0o644, "etc/ssl/certs/ca-certificates.crt": 0o644, "tmp/": 0o1777} {
		if h := l[0][name]; h == nil || h.Mode != mode || h.Uid != 0 {
			t.Errorf("%s is %+v", name, h)
		}
	}
	if h := l[0]["var/lib/remuda/"]; h == nil || h.Mode != 0o700 || h.Uid != BrokerUser {
		t.Errorf("state folder is %+v", h)
	}
	if h := l[1]["usr/local/bin/remuda"]; h == nil || h.Mode != 0o755 || h.Uid != 0 {
		t.Errorf("binary is %+v", h)
	}
	if other := broker(t, program(t, "2")); layerDigests(t, img)[0] != layerDigests(t, other)[0] {
		t.Error("another binary changes the base")
	}
}

func TestBrokerNeedsCertificates(t *testing.T) {
	_, err := Broker(t.Context(), BrokerOptions{Binary: program(t, "1"), Certificates: filepath.Join(t.TempDir(), "none")})
	if !errors.Is(err, image.ErrPrerequisite) {
		t.Error(err)
	}
}

func TestBinaryMustBeStatic(t *testing.T) {
	text := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(text, []byte("#!/bin/sh\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/bin/sh", text} { // Debian's sh has shared libraries
		if _, err := readBinary(path); !errors.Is(err, ErrBinary) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// What a version of this package makes of the same input must not change
// silently: registries and nodes would fetch everything again. Whoever changes
// it on purpose, or updates the compressor, changes the digest here.
func TestFormat(t *testing.T) {
	img := broker(t, program(t, "1"))
	const want = "sha256:d7881f03b64239fb23ba2b131393b406b45f473046bc67595e5b3dac52e24fe1"
	if got := layerDigests(t, img)[0]; got != want {
		t.Errorf("the layer is %s now", got)
	}
}
