package oci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sys/unix"
)

// ErrNoLayout: a folder with something else in it is not written to.
var ErrNoLayout = errors.New("not an OCI image layout")

// WriteLayout writes the image into an OCI image layout, under that name: a new
// folder, or one that holds other images already. They stay.
func (i *Image) WriteLayout(ctx context.Context, dir, name string) error {
	path, err := filepath.Abs(dir)
	if err == nil {
		err = i.writeLayout(ctx, path, name)
	}
	if err != nil {
		return fmt.Errorf("write layout %s: %w", dir, err)
	}
	return nil
}

func (i *Image) writeLayout(ctx context.Context, dir, name string) (err error) {
	index, err := readIndex(dir)
	if err != nil {
		return err
	}
	if index != nil {
		return i.addTo(ctx, dir, name, *index)
	}
	work, err := os.MkdirTemp(filepath.Dir(dir), "."+filepath.Base(dir)+".new-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.RemoveAll(work)
		}
	}()
	if err := os.Chmod(work, 0o755); err != nil {
		return err
	}
	if err := i.addTo(ctx, work, name, v1.IndexManifest{}); err != nil {
		return err
	}
	return unix.Rename(work, dir) // over an empty folder too, unlike os.Rename
}

// readIndex returns what a layout holds, and nil where there is none yet.
func readIndex(dir string) (*v1.IndexManifest, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) || err == nil && len(entries) == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(filepath.Join(dir, "oci-layout")); err != nil {
		return nil, fmt.Errorf("%w, and not empty", ErrNoLayout)
	}
	b, err := os.ReadFile(filepath.Join(dir, "index.json"))
	if err != nil {
		return nil, err
	}
	index := &v1.IndexManifest{}
	if err := json.Unmarshal(b, index); err != nil {
		return nil, fmt.Errorf("%w: index.json: %w", ErrNoLayout, err)
	}
	return index, nil
}

// addTo adds the blobs, and then the image to the index. After an error the
// layout is as it was.
func (i *Image) addTo(ctx context.Context, dir, name string, index v1.IndexManifest) (err error) {
	blobs, err := i.blobs()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(dir, "blobs/sha256"), 0o755); err != nil {
		return err
	}
	var added []string
	defer func() {
		if err != nil {
			for _, file := range added {
				_ = os.Remove(file)
			}
		}
	}()
	for _, b := range blobs {
		file := filepath.Join(dir, b.path())
		if _, err := os.Lstat(file); err == nil {
			continue // named by its content
		}
		if err := replaceFile(file, func(w io.Writer) error { return b.copyTo(ctx, w) }); err != nil {
			return err
		}
		added = append(added, file)
	}
	descriptor, err := i.descriptor(name)
	if err != nil {
		return err
	}
	index.SchemaVersion, index.MediaType = 2, types.OCIImageIndex
	index.Manifests = slices.DeleteFunc(index.Manifests, func(d v1.Descriptor) bool { return d.Annotations[annotationRef] == name })
	index.Manifests = append(index.Manifests, descriptor)
	text, err := json.Marshal(index)
	if err != nil {
		return err
	}
	for _, f := range []struct {
		name string
		text []byte
	}{{"oci-layout", []byte(layoutVersion)}, {"index.json", text}} {
		if err := replaceFile(filepath.Join(dir, f.name), func(w io.Writer) error { _, err := w.Write(f.text); return err }); err != nil {
			return err
		}
	}
	return nil
}
