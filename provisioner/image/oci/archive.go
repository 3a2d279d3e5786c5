package oci

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Annotations by which containerd and others name what they import.
const (
	annotationRef  = "org.opencontainers.image.ref.name"
	annotationName = "io.containerd.image.name"
)

const layoutVersion = `{"imageLayoutVersion":"1.0.0"}`

// blob is one file of an image layout, named by its digest.
type blob struct {
	digest v1.Hash
	size   int64
	open   func() (io.ReadCloser, error)
}

func (b blob) path() string { return "blobs/" + b.digest.Algorithm + "/" + b.digest.Hex }

// copyTo writes the blob and makes sure that it is what its name says.
func (b blob) copyTo(ctx context.Context, w io.Writer) error {
	r, err := b.open()
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }()
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(w, sum), stoppable{ctx, r})
	if err == nil && (n != b.size || hash(sum.Sum(nil)) != b.digest) {
		err = errors.New("its content is damaged; remove the image from the image folder")
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", b.digest, err)
	}
	return nil
}

// stoppable is a reader that ends with the context.
type stoppable struct {
	ctx context.Context
	io.Reader
}

// Read implements io.Reader.
func (s stoppable) Read(p []byte) (int, error) {
	if err := s.ctx.Err(); err != nil {
		return 0, err
	}
	return s.Reader.Read(p)
}

func inBytes(digest v1.Hash, b []byte) blob {
	return blob{digest, int64(len(b)), func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }}
}

// blobs are manifest, configuration and layers, in this order.
func (i *Image) blobs() ([]blob, error) {
	manifest, err := i.RawManifest()
	if err != nil {
		return nil, err
	}
	config, err := i.RawConfigFile()
	if err != nil {
		return nil, err
	}
	manifestDigest, err := i.Digest()
	if err != nil {
		return nil, err
	}
	configDigest, err := i.ConfigName()
	if err != nil {
		return nil, err
	}
	out := []blob{inBytes(manifestDigest, manifest), inBytes(configDigest, config)}
	layers, err := i.Layers()
	if err != nil {
		return nil, err
	}
	for _, l := range layers {
		digest, err := l.Digest()
		if err != nil {
			return nil, err
		}
		size, err := l.Size()
		if err != nil {
			return nil, err
		}
		out = append(out, blob{digest, size, l.Compressed})
	}
	return out, nil
}

// descriptor points from an index to the image.
func (i *Image) descriptor(name string) (v1.Descriptor, error) {
	d, err := partial.Descriptor(i.Image)
	if err != nil {
		return v1.Descriptor{}, err
	}
	d.Platform = &v1.Platform{OS: "linux", Architecture: runtime.GOARCH}
	d.Annotations = map[string]string{annotationName: name, annotationRef: name}
	return *d, nil
}

// WriteTar writes one file that is an OCI image layout and the archive of
// 'docker save' at once, so that every tool takes it and those that know
// layouts keep the digest.
func (i *Image) WriteTar(ctx context.Context, file, name string) error {
	err := replaceFile(file, func(w io.Writer) error {
		buffered := bufio.NewWriterSize(w, 1<<20)
		if err := i.writeArchive(ctx, buffered, name); err != nil {
			return err
		}
		return buffered.Flush()
	})
	if err != nil {
		return fmt.Errorf("write archive: %w", err)
	}
	return nil
}

func (i *Image) writeArchive(ctx context.Context, w io.Writer, name string) error {
	blobs, err := i.blobs()
	if err != nil {
		return err
	}
	descriptor, err := i.descriptor(name)
	if err != nil {
		return err
	}
	index, err := json.Marshal(v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: []v1.Descriptor{descriptor}})
	if err != nil {
		return err
	}
	docker := struct {
		Config   string
		RepoTags []string
		Layers   []string
	}{Config: blobs[1].path(), RepoTags: []string{name}}
	for _, b := range blobs[2:] {
		docker.Layers = append(docker.Layers, b.path())
	}
	manifest, err := json.Marshal([]any{docker})
	if err != nil {
		return err
	}
	t := tar.NewWriter(w)
	add := func(name string, size int64, write func() error) error {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: size}
		if err := t.WriteHeader(h); err != nil {
			return err
		}
		return write()
	}
	for _, dir := range []string{"blobs/", "blobs/sha256/"} {
		if err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755}); err != nil {
			return err
		}
	}
	for _, b := range blobs {
		if err := add(b.path(), b.size, func() error { return b.copyTo(ctx, t) }); err != nil {
			return err
		}
	}
	for _, f := range []struct {
		name string
		text []byte
	}{{"index.json", index}, {"manifest.json", manifest}, {"oci-layout", []byte(layoutVersion)}} {
		if err := add(f.name, int64(len(f.text)), func() error { _, err := t.Write(f.text); return err }); err != nil {
			return err
		}
	}
	return t.Close()
}

// replaceFile writes a file beside its place and renames it there.
func replaceFile(file string, write func(io.Writer) error) (err error) {
	f, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+".new-")
	if err != nil {
		return err
	}
	defer func() {
		_ = f.Close()
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	if err := write(f); err != nil {
		return err
	}
	if err := errors.Join(f.Chmod(0o644), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), file)
}
