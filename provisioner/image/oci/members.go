package oci

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/remuda/remuda/provisioner/image"
)

// treeVersion changes when this package writes another archive of the same tree.
const treeVersion = "1"

// ErrNotPacked: the root file system was not packed yet.
var ErrNotPacked = errors.New("the root file system is not packed")

// MembersOptions say what the image of members is made from.
type MembersOptions struct {
	Dir      string     // the image folder; the compressed root file system is kept in it
	Hash     string     // which root file system; it must be there
	Binary   string     // remuda, static: the agent
	Version  string     // of the binary
	Epoch    *time.Time // SOURCE_DATE_EPOCH; nil takes the time of the newest package
	Packed   bool       // ErrNotPacked rather than packing
	Progress io.Writer  // lines about long steps; nil for none
}

// Members makes the image of members, with the agent as /remuda/agent. The first
// time packs the root file system, which takes the rights to read all of it.
func Members(ctx context.Context, o MembersOptions) (*Image, error) {
	agent, err := readBinary(o.Binary)
	if err != nil {
		return nil, err
	}
	newest, err := newestPackage(image.Root(o.Dir, o.Hash))
	if err != nil {
		return nil, err
	}
	created := fixedTime(o.Epoch, newest)
	latest := newest // a later SOURCE_DATE_EPOCH must not change the big layer
	if created.Before(latest) {
		latest = created
	}
	base, err := rootLayer(ctx, o, latest)
	if err != nil {
		return nil, err
	}
	top, err := inMemory(func(w io.Writer) error { return writeEntries(w, agentEntries(agent), created) })
	if err != nil {
		return nil, fmt.Errorf("pack the agent: %w", err)
	}
	img, err := recipe{
		layers: []*layer{base, top}, histories: []string{"root file system", "agent"}, created: created,
		entrypoint: []string{"/remuda/agent", "agent"}, user: "0", env: []string{searchPath},
		labels: labels("remuda members", o.Version, agent, map[string]string{LabelImage: o.Hash}),
	}.image()
	if err != nil {
		return nil, err
	}
	return &Image{Image: img, Repository: MembersRepository, Tag: o.Hash[:12] + "-" + versionTag(o.Version, agent)}, nil
}

// agentEntries are what a member has besides the root file system: the agent,
// and what is mounted over. The file is for the message with which a container ends.
func agentEntries(agent binary) []entry {
	return []entry{
		{name: "remuda/", mode: 0o755},
		{name: "remuda/agent", mode: 0o755, file: agent.path},
		{name: "remuda/disk/", mode: 0o755},
		{name: "remuda/memory/", mode: 0o755},
		{name: "remuda/names/", mode: 0o755},
		{name: "remuda/private/", mode: 0o700},
		{name: "remuda/private/termination", mode: 0o600},
		{name: "remuda/run/", mode: 0o755},
	}
}

// newestPackage is when the newest installed package was made. dpkg keeps the
// time in the files that came with the package.
func newestPackage(root string) (time.Time, error) {
	files, err := filepath.Glob(filepath.Join(root, "var/lib/dpkg/info/*.md5sums"))
	if err != nil {
		return time.Time{}, err
	}
	newest := time.Unix(0, 0)
	for _, file := range files {
		info, err := os.Lstat(file)
		if err != nil {
			return time.Time{}, fmt.Errorf("look at packages: %w", err)
		}
		if info.ModTime().After(newest) {
			newest = info.ModTime()
		}
	}
	return newest, nil
}

// packed is what is kept beside the compressed root file system.
type packed struct {
	Digest v1.Hash `json:"digest"`
	DiffID v1.Hash `json:"diff_id"`
	Size   int64   `json:"size"`
}

// rootLayer returns the layer of the root file system, which is packed once.
func rootLayer(ctx context.Context, o MembersOptions, latest time.Time) (*layer, error) {
	file := filepath.Join(o.Dir, o.Hash, fmt.Sprintf("layer-%s-%d.tar.gz", treeVersion, latest.Unix()))
	description := file + ".json"
	if _, err := os.Lstat(file); err != nil && o.Packed {
		return nil, ErrNotPacked
	}
	pack := func(target string) error {
		made, err := packTree(ctx, target, image.Root(o.Dir, o.Hash), latest)
		if err != nil {
			return err
		}
		b, err := json.Marshal(packed{made.digest, made.diffID, made.size})
		if err != nil {
			return err
		}
		// The archive appears after it, so that there is no archive without.
		return errors.Join(os.WriteFile(description, append(b, '\n'), 0o644), os.Chmod(description, 0o644))
	}
	err := image.MakeOnce(ctx, file, "the root file system", o.Progress, pack)
	if errors.Is(err, fs.ErrPermission) {
		return nil, fmt.Errorf("%w: packing the root file system needs root, the first time: %w", image.ErrPrerequisite, err)
	}
	if err != nil {
		return nil, err
	}
	b, err := os.ReadFile(description)
	if err != nil {
		return nil, fmt.Errorf("read layer: %w", err)
	}
	var p packed
	if err := json.Unmarshal(b, &p); err != nil {
		return nil, fmt.Errorf("read layer %s: %w", description, err)
	}
	info, err := os.Stat(file)
	if err != nil {
		return nil, fmt.Errorf("read layer: %w", err)
	}
	if info.Size() != p.Size {
		return nil, fmt.Errorf("layer %s is damaged; remove it", file)
	}
	return &layer{digest: p.Digest, diffID: p.DiffID, size: p.Size, open: inFile(file)}, nil
}

func packTree(ctx context.Context, target, root string, latest time.Time) (made *layer, err error) {
	f, err := os.OpenFile(target, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w := bufio.NewWriterSize(f, 1<<20)
	made, err = compressed(w, func(w io.Writer) error { return writeTree(ctx, w, root, latest) })
	if err != nil {
		return nil, err
	}
	return made, errors.Join(w.Flush(), f.Chmod(0o644), f.Sync()) // whatever the umask is
}
