// Package image makes what containers on this host live on: the read-only root
// file system, one for all recipes, from the host's own package archive, and
// the pristine disks that every generation of a group starts with.
//
// Both are plain files in the image folder, named by a hash of what they are
// made from, and shared by all brokers of the host: whoever needs one first
// makes it while the others wait at a lock, and it appears complete, by a
// rename, or not at all. Nothing has to be released. All functions may be called
// concurrently, also by several processes.
package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/remuda/remuda/catalog"
)

// builderVersion changes when this package makes another tree from the same input.
const builderVersion = "3"

// neededBytes is what a build takes at its peak, packages and tree together.
const neededBytes = 1600 << 20

// ErrPrerequisite: this host cannot make an image: no root, a program missing,
// too little room, another kind of system. The message says what to do.
var ErrPrerequisite = errors.New("image cannot be made here")

// BasePackages are in every image, besides those that recipes ask for:
//   - bash and coreutils are essential anyway; procps (pkill) and openssl are
//     for hooks;
//   - memcached is nobody's built-in offering. It is there so that the worked
//     example of an own recipe starts without building the image again.
var BasePackages = []string{"memcached", "openssl", "procps"}

// BaseUsers are in every image, so that an own recipe that runs as one of them
// needs no other image: system users, and those of BasePackages.
var BaseUsers = []string{"daemon", "memcache", "nobody", "root", "www-data"}

// BaseDirectories are empty mount points in every image, besides the writable
// paths of recipes, so that an own recipe that keeps its data in one of them
// needs no other image.
var BaseDirectories = []string{"/data", "/srv"}

// Options say what the root file system must have.
type Options struct {
	Dir         string   // the image folder; made when it is not there
	Packages    []string // Debian packages besides BasePackages; "a|b" takes the first the archive knows
	Users       []string // users that must exist; those that no package makes become system users
	Directories []string // mount points besides BaseDirectories; emptied
	GoPrograms  []catalog.GoProgram
	Progress    io.Writer // lines about long steps; nil for none
}

// Image is a root file system that is ready.
type Image struct {
	Hash string // SHA-256, in hex, of everything it is made from
	Path string // the root folder; never to be written to
}

// Root is the root folder of the image with that hash in the image folder dir.
func Root(dir, hash string) string { return filepath.Join(dir, hash, "rootfs") }

// ingredients are what the hash is made of.
type ingredients struct {
	Builder     string   `json:"builder"`
	System      string   `json:"system"` // like "debian 12 bookworm amd64"
	Packages    []string `json:"packages"`
	Users       []string `json:"users"`
	Directories []string `json:"directories"`
	// Left out when there are none, so that adding the field made no other images.
	GoPrograms []catalog.GoProgram `json:"go_programs,omitempty"`
}

func (i ingredients) hash() string {
	b, err := json.Marshal(i)
	if err != nil {
		panic(err) // only texts inside
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// Find says which image the options ask for, and whether it is there.
func Find(o Options) (img Image, made bool, err error) {
	img, _, _, err = o.resolve()
	return img, err == nil && exists(filepath.Dir(img.Path)), err
}

// resolve says what the image is made from, which is what names it.
func (o Options) resolve() (Image, ingredients, system, error) {
	system, err := readSystem("/etc/os-release")
	if err != nil {
		return Image{}, ingredients{}, system, err
	}
	i := ingredients{
		Builder:     builderVersion,
		System:      strings.Join([]string{system.ID, system.Version, system.Codename, runtime.GOARCH}, " "),
		Packages:    sorted(BasePackages, o.Packages),
		Users:       sorted(BaseUsers, o.Users),
		Directories: sorted(BaseDirectories, o.Directories),
	}
	if i.GoPrograms, err = sortedPrograms(o.GoPrograms); err != nil {
		return Image{}, i, system, err
	}
	for _, dir := range i.Directories {
		if !strings.HasPrefix(dir, "/") || filepath.Clean(dir) != dir || dir == "/" {
			return Image{}, i, system, fmt.Errorf("mount point %q is not an absolute, clean path", dir)
		}
	}
	hash := i.hash()
	return Image{Hash: hash, Path: Root(o.Dir, hash)}, i, system, nil
}

// Ensure returns the image for the options, and makes it first when it is not
// there, which takes about a minute, root, mmdebstrap and the package archive.
// From the same versions of packages (and of the Go compiler, where there are Go
// programs) it makes the same tree, apart from the times of files.
func Ensure(ctx context.Context, o Options) (Image, error) {
	img, i, system, err := o.resolve()
	if err != nil {
		return Image{}, err
	}
	home := filepath.Dir(img.Path)
	if exists(home) {
		return img, nil
	}
	if os.Geteuid() != 0 {
		return Image{}, fmt.Errorf("%w: making the root file system needs root", ErrPrerequisite)
	}
	if err := os.MkdirAll(o.Dir, 0o755); err != nil {
		return Image{}, fmt.Errorf("make image folder: %w", err)
	}
	say := progress(o.Progress)
	unlock, err := lock(ctx, filepath.Join(o.Dir, ".lock-image"), func() {
		say("another broker is making the root file system; waiting for it")
	})
	if err != nil {
		return Image{}, fmt.Errorf("wait for the image folder: %w", err)
	}
	defer unlock()
	if exists(home) {
		return img, nil
	}
	b := builder{dir: o.Dir, home: home, system: system, ingredients: i, say: say}
	return img, b.build(ctx)
}

// builder makes one image under the lock.
type builder struct {
	dir, home   string
	system      system
	ingredients ingredients
	say         func(format string, args ...any)
}

const halfDone = ".building-"

// build makes the tree beside its place and renames it there at the end.
func (b builder) build(ctx context.Context) error {
	if err := removeHalfDone(b.dir); err != nil {
		return err
	}
	if err := enoughRoom(b.dir, neededBytes); err != nil {
		return err
	}
	compiler := ""
	if len(b.ingredients.GoPrograms) > 0 { // said before the long steps
		var err error
		if compiler, err = findGo(b.ingredients.GoPrograms[0].Name); err != nil {
			return err
		}
	}
	packages, err := resolvePackages(ctx, b.ingredients.Packages)
	if err != nil {
		return err
	}
	work, err := os.MkdirTemp(b.dir, halfDone)
	if err != nil {
		return fmt.Errorf("make work folder: %w", err)
	}
	defer func() { _ = removeTree(work) }() // what is left is removed by the next build
	if err := os.Chmod(work, 0o755); err != nil {
		return fmt.Errorf("make work folder: %w", err)
	}
	root := filepath.Join(work, "rootfs")
	begin := time.Now()
	b.say("making the root file system of %s from %d packages and what they need; this takes about a minute, once", b.system.Pretty, len(packages))
	if err := b.debootstrap(ctx, work, root, packages); err != nil {
		return err
	}
	b.say("finishing the root file system")
	if err := customise(root, b.ingredients); err != nil {
		return fmt.Errorf("finish root file system: %w", err)
	}
	for _, p := range b.ingredients.GoPrograms {
		if err := b.goProgram(ctx, compiler, work, filepath.Join(root, "usr/local/bin"), p); err != nil {
			return fmt.Errorf("build %s: %w", p.Name, err)
		}
	}
	if err := writeJSON(filepath.Join(work, "made-from.json"), b.ingredients); err != nil {
		return err
	}
	unix.Sync()
	if err := os.Rename(work, b.home); err != nil {
		return fmt.Errorf("put root file system in place: %w", err)
	}
	b.say("the root file system is ready after %d s", int(time.Since(begin).Seconds()))
	return nil
}

// removeHalfDone clears away what builds left that were killed. The caller has the lock.
func removeHalfDone(dir string) error {
	left, err := filepath.Glob(filepath.Join(dir, halfDone+"*"))
	if err != nil {
		return err
	}
	for _, tree := range left {
		if err := removeTree(tree); err != nil {
			return fmt.Errorf("remove half-made image: %w", err)
		}
	}
	return nil
}

// removeTree removes a folder in which something may still be mounted: that is
// unmounted first, so that nothing outside is deleted through it.
func removeTree(tree string) error {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	prefix := tree + "/"
	for _, line := range slices.Backward(strings.Split(string(mounts), "\n")) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], prefix) {
			if err := unix.Unmount(f[4], unix.MNT_DETACH); err != nil {
				return fmt.Errorf("unmount %s: %w", f[4], err)
			}
		}
	}
	return os.RemoveAll(tree)
}

// enoughRoom says early and clearly what would otherwise fail late and obscurely.
func enoughRoom(dir string, need uint64) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return fmt.Errorf("look at the room in %s: %w", dir, err)
	}
	if free := fs.Bavail * uint64(fs.Bsize); free < need {
		return fmt.Errorf("%w: %s has %d MiB free; %d MiB are needed", ErrPrerequisite, dir, free>>20, need>>20)
	}
	return nil
}

// lock waits for an exclusive lock; waiting is called once when another process has it.
func lock(ctx context.Context, path string, waiting func()) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	for first := true; ; first = false {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { _ = f.Close() }, nil // closing unlocks
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			_ = f.Close()
			return nil, err
		}
		if first {
			waiting()
		}
		select {
		case <-ctx.Done():
			_ = f.Close()
			return nil, ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func progress(w io.Writer) func(string, ...any) {
	return func(format string, args ...any) {
		if w != nil {
			fmt.Fprintf(w, format+"\n", args...)
		}
	}
}

func sorted(lists ...[]string) []string {
	all := slices.Concat(lists...)
	slices.Sort(all)
	all = slices.Compact(all)
	if all == nil {
		all = []string{}
	}
	return all
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func writeJSON(path string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(b, '\n'), 0o644)
}
