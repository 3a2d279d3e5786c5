// Package oci makes OCI images for clusters, without any container runtime: that
// of members, which is the root file system of package image with the agent
// inside, and that of the broker itself, which is its one binary.
//
// An image is decided by its inputs alone: the same root file system and the
// same binary give the same digest on any host and at any time. Entries are in
// the order of their names and belong to numbers, files newer than the newest
// package get its time, and the compressor is pinned by go.mod, not by the Go
// release. Of two layers the big one depends on the root file system only, so
// registries and nodes keep it when the binary changes.
//
// What an image is written to appears complete or not at all. All functions may
// be called concurrently, also by several processes.
package oci

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"runtime"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Labels of images.
const (
	LabelImage  = "dev.remuda.image"  // provisioner.Definition.Image: the hash of the root file system
	LabelBinary = "dev.remuda.binary" // SHA-256, in hex, of the binary in the image
)

// Names without a tag that images get by default.
const (
	MembersRepository = "localhost/remuda-members"
	BrokerRepository  = "localhost/remuda"
)

// ErrBinary: the binary cannot run alone in an image.
var ErrBinary = errors.New("the binary does not fit into an image")

// searchPath is what the local back end gives to members.
const searchPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Image is an image that can be written.
type Image struct {
	v1.Image
	Repository string // the default name without the tag
	Tag        string // the default tag: says what is inside, so it never means something else
}

// Name is the image's default name.
func (i *Image) Name() string { return i.Repository + ":" + i.Tag }

// Bytes is the size of all layers together, compressed.
func (i *Image) Bytes() (int64, error) {
	manifest, err := i.Manifest()
	if err != nil {
		return 0, err
	}
	var sum int64
	for _, l := range manifest.Layers {
		sum += l.Size
	}
	return sum, nil
}

// Platform is the only one that images are made for: that of this host.
func Platform() string { return "linux/" + runtime.GOARCH }

// recipe is what makes an image.
type recipe struct {
	layers     []*layer
	histories  []string // what made each layer
	created    time.Time
	entrypoint []string
	user       string
	env        []string
	labels     map[string]string
}

func (r recipe) image() (v1.Image, error) {
	img := mutate.MediaType(mutate.ConfigMediaType(empty.Image, types.OCIConfigJSON), types.OCIManifestSchema1)
	img, err := mutate.ConfigFile(img, &v1.ConfigFile{
		Architecture: runtime.GOARCH, OS: "linux", Created: v1.Time{Time: r.created},
		RootFS: v1.RootFS{Type: "layers"},
		Config: v1.Config{User: r.user, Env: r.env, Entrypoint: r.entrypoint, WorkingDir: "/", Labels: r.labels},
	})
	if err != nil {
		return nil, fmt.Errorf("make image: %w", err)
	}
	for i, l := range r.layers {
		history := v1.History{Created: v1.Time{Time: r.created}, CreatedBy: "remuda image build", Comment: r.histories[i]}
		if img, err = mutate.Append(img, mutate.Addendum{Layer: l, History: history}); err != nil {
			return nil, fmt.Errorf("make image: %w", err)
		}
	}
	return img, nil
}

// labels are those that both images have, and more.
func labels(title, version string, b binary, more map[string]string) map[string]string {
	out := map[string]string{"org.opencontainers.image.title": title, LabelBinary: b.digest}
	if version != "" {
		out["org.opencontainers.image.version"] = version
	}
	maps.Copy(out, more)
	return out
}

var (
	notInTags = regexp.MustCompile(`[^A-Za-z0-9_.-]+`)
	release   = regexp.MustCompile(`^v?[0-9]+\.[0-9]`)
)

// versionTag is the version where it says exactly what the binary is, else the
// beginning of the binary's hash: a working copy has no version of its own.
func versionTag(version string, b binary) string {
	if !release.MatchString(version) || strings.HasSuffix(version, "-dirty") {
		return b.digest[:12]
	}
	tag := notInTags.ReplaceAllString(version, "_")
	return tag[:min(len(tag), 64)]
}

// fixedTime is what SOURCE_DATE_EPOCH, seconds since 1970, says, else the time given.
func fixedTime(epoch *time.Time, otherwise time.Time) time.Time {
	return cmp.Or(epoch, &otherwise).UTC().Truncate(time.Second)
}
