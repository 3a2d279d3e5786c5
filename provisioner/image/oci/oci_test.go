package oci

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	encoding "encoding/binary"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"golang.org/x/sys/unix"

	"github.com/remuda/remuda/provisioner/image"
)

const testHash = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

var (
	built  = time.Date(2026, 5, 4, 3, 2, 1, 0, time.UTC) // the newest package
	before = built.Add(-1000 * time.Hour)
)

// program writes a file that looks like a static program for this host.
func program(t *testing.T, more string) string {
	t.Helper()
	var b bytes.Buffer
	h := elf.Header64{Type: uint16(elf.ET_EXEC), Machine: uint16(machines[runtime.GOARCH]), Version: 1, Ehsize: 64, Phentsize: 56, Shentsize: 64}
	copy(h.Ident[:], []byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)})
	if err := encoding.Write(&b, encoding.LittleEndian, h); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "remuda")
	if err := os.WriteFile(path, append(b.Bytes(), more...), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

// imageFolder makes an image folder with a small root file system, whose files
// are made in the order given and, where that leaves the choice, at that time.
func imageFolder(t *testing.T, backwards bool, made time.Time) string {
	t.Helper()
	dir := t.TempDir()
	root := image.Root(dir, testHash)
	type file struct {
		name string
		make func(path string) error
		at   time.Time
	}
	write := func(text string, mode os.FileMode) func(string) error {
		return func(path string) error {
			return errors.Join(os.WriteFile(path, []byte(text), 0o600), os.Chmod(path, mode))
		}
	}
	files := []file{
		{"bin/tool", write("#!/bin/sh\n", 0o755), before},
		{"bin/link", func(path string) error { return os.Symlink("tool", path) }, before},
		{"etc/passwd", write("root:x:0:0::/root:/bin/sh\n", 0o644), made},
		{"etc/shadow", write("root:*:::::::\n", 0o640), made},
		{"etc/ä", write("not ASCII", 0o644), made},
		{"etc/" + strings.Repeat("long", 40), write("long", 0o644), before},
		{"run/pipe", func(path string) error { return unix.Mkfifo(path, 0o600) }, made},
		{"var/lib/dpkg/info/a.md5sums", write("x", 0o644), built},
		{"var/lib/dpkg/info/b.md5sums", write("x", 0o644), before},
	}
	if backwards {
		slices.Reverse(files)
	}
	var err error
	for _, f := range files {
		path := filepath.Join(root, f.name)
		err = errors.Join(err, os.MkdirAll(filepath.Dir(path), 0o755), f.make(path))
		at := unix.NsecToTimeval(f.at.UnixNano())
		err = errors.Join(err, unix.Lutimes(path, []unix.Timeval{at, at}))
	}
	// The first name in the archive has the content, whatever was first on the disk.
	names := []string{"bin/other", "bin/again"}
	if backwards {
		slices.Reverse(names)
	}
	err = errors.Join(err, write("two names", 0o755)(filepath.Join(root, names[0])), os.Link(filepath.Join(root, names[0]), filepath.Join(root, names[1])))
	err = errors.Join(err, os.MkdirAll(filepath.Join(root, "tmp"), 0o755), os.Chmod(filepath.Join(root, "tmp"), 0o777|os.ModeSticky))
	if os.Geteuid() == 0 {
		err = errors.Join(err, os.Chown(filepath.Join(root, "etc/shadow"), 0, 42), unix.Mknod(filepath.Join(root, "run/null"), unix.S_IFCHR|0o666, 0x103))
		_ = unix.Setxattr(filepath.Join(root, "bin/tool"), capabilityXattr, []byte("\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func members(t *testing.T, o MembersOptions) *Image {
	t.Helper()
	o.Hash, o.Version = testHash, "v1.2.3"
	img, err := Members(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Image(img); err != nil {
		t.Fatal(err)
	}
	return img
}

func digest(t *testing.T, img v1.Image) string {
	t.Helper()
	d, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return d.String()
}

func layerDigests(t *testing.T, img v1.Image) []string {
	t.Helper()
	m, err := img.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, l := range m.Layers {
		out = append(out, l.Digest.String())
	}
	return out
}

func TestSameInputsSameDigest(t *testing.T) {
	agent := program(t, "1")
	first := members(t, MembersOptions{Dir: imageFolder(t, false, time.Now()), Binary: agent})
	other := imageFolder(t, true, time.Now().Add(time.Hour))
	old := unix.Umask(0o077)
	second := members(t, MembersOptions{Dir: other, Binary: program(t, "1")})
	unix.Umask(old)
	if a, b := digest(t, first), digest(t, second); a != b {
		t.Errorf("the same tree, made in another order at another time, gives %s and %s", a, b)
	}
	if first.Tag != "0123456789ab-v1.2.3" {
		t.Errorf("tag is %s", first.Tag)
	}
	upgraded := members(t, MembersOptions{Dir: imageFolder(t, false, time.Now()), Binary: program(t, "2")})
	a, b := layerDigests(t, first), layerDigests(t, upgraded)
	if a[0] != b[0] || a[1] == b[1] {
		t.Errorf("another agent changes layers %v to %v", a, b)
	}
}

func TestPackedOnce(t *testing.T) {
	dir, agent := imageFolder(t, false, time.Now()), program(t, "1")
	if _, err := Members(t.Context(), MembersOptions{Dir: dir, Hash: testHash, Binary: agent, Packed: true}); !errors.Is(err, ErrNotPacked) {
		t.Errorf("not packed: %v", err)
	}
	var said bytes.Buffer
	first := members(t, MembersOptions{Dir: dir, Binary: agent, Progress: &said})
	second := members(t, MembersOptions{Dir: dir, Binary: agent, Progress: &said, Packed: true})
	if digest(t, first) != digest(t, second) || strings.Count(said.String(), "packing") != 1 {
		t.Errorf("it said %q", said.String())
	}
	kept, _ := filepath.Glob(filepath.Join(dir, testHash, "layer-*.tar.gz"))
	if len(kept) != 1 {
		t.Fatalf("kept are %v", kept)
	}
	b, err := os.ReadFile(kept[0])
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	if err := os.WriteFile(kept[0], b, 0o600); err != nil {
		t.Fatal(err)
	}
	target := filepath.Join(t.TempDir(), "x.tar")
	if err := second.WriteTar(t.Context(), target, second.Name()); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("a damaged layer is written: %v", err)
	}
	if err := os.Truncate(kept[0], 10); err != nil {
		t.Fatal(err)
	}
	if _, err := Members(t.Context(), MembersOptions{Dir: dir, Hash: testHash, Binary: agent}); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("a short layer is taken: %v", err)
	}
}

func TestTimes(t *testing.T) {
	dir, agent := imageFolder(t, false, time.Now()), program(t, "1")
	created := func(img v1.Image) time.Time {
		c, err := img.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		return c.Created.Time
	}
	plain := members(t, MembersOptions{Dir: dir, Binary: agent})
	if got := created(plain); !got.Equal(built) {
		t.Errorf("created %s, the newest package is of %s", got, built)
	}
	later, earlier := built.Add(time.Hour), before.Add(time.Hour)
	img := members(t, MembersOptions{Dir: dir, Binary: agent, Epoch: &later})
	if !created(img).Equal(later) || layerDigests(t, img)[0] != layerDigests(t, plain)[0] {
		t.Errorf("created %s, layers %v, before %v", created(img), layerDigests(t, img), layerDigests(t, plain))
	}
	img = members(t, MembersOptions{Dir: dir, Binary: agent, Epoch: &earlier})
	for _, l := range entries(t, img) {
		for name, h := range l {
			if h.ModTime.After(earlier) {
				t.Errorf("%s is of %s, but nothing may be newer than %s", name, h.ModTime, earlier)
			}
		}
	}
}

// entries are the headers of each layer by their names.
func entries(t *testing.T, img v1.Image) []map[string]*tar.Header {
	t.Helper()
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	var out []map[string]*tar.Header
	for _, l := range layers {
		r, err := l.Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		all := map[string]*tar.Header{}
		last := ""
		for archive := tar.NewReader(r); ; {
			h, err := archive.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if path := strings.TrimSuffix(h.Name, "/"); strings.ReplaceAll(path, "/", "\x00") <= last {
				t.Errorf("%s is not in its order", h.Name)
			} else {
				last = strings.ReplaceAll(path, "/", "\x00")
			}
			if h.Uname != "" || h.Gname != "" || h.ModTime.Nanosecond() != 0 || !h.AccessTime.IsZero() {
				t.Errorf("%s says too much: %+v", h.Name, h)
			}
			all[h.Name] = h
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		out = append(out, all)
	}
	return out
}

func TestLayerIsTheTree(t *testing.T) {
	dir := imageFolder(t, false, time.Now())
	root := image.Root(dir, testHash)
	got := entries(t, members(t, MembersOptions{Dir: dir, Binary: program(t, "1")}))[0]
	want := map[string]bool{}
	err := filepath.WalkDir(root, func(path string, e os.DirEntry, err error) error {
		if err != nil || path == root || e.Type()&os.ModeDevice != 0 {
			return err
		}
		name, _ := filepath.Rel(root, path)
		if e.IsDir() {
			name += "/"
		}
		want[name] = true
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		h := got[name]
		if h == nil {
			t.Errorf("%s is missing", name)
			return nil
		}
		if h.Mode != int64(st.Mode&0o7777) || h.Uid != int(st.Uid) || h.Gid != int(st.Gid) || h.ModTime.After(built) {
			t.Errorf("%s: %+v is not %+v", name, h, st)
		}
		if h.ModTime.After(built) || st.Mtim.Sec < built.Unix() && h.ModTime.Unix() != st.Mtim.Sec {
			t.Errorf("%s is of %s", name, h.ModTime)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != len(want) {
		t.Errorf("the layer has %v, the tree %v", slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want)))
	}
	if h := got["bin/link"]; h.Typeflag != tar.TypeSymlink || h.Linkname != "tool" {
		t.Errorf("symbolic link is %+v", h)
	}
	if h := got["bin/other"]; h.Typeflag != tar.TypeLink || h.Linkname != "bin/again" || h.Size != 0 {
		t.Errorf("second name is %+v", h)
	}
	if h := got["run/pipe"]; h.Typeflag != tar.TypeFifo {
		t.Errorf("pipe is %+v", h)
	}
	for name, h := range got {
		if pax := len(h.PAXRecords) > 0; pax && name != "etc/ä" && !strings.HasPrefix(name, "etc/long") && h.PAXRecords[xattrRecord+capabilityXattr] == "" {
			t.Errorf("%s has needless records %v", name, h.PAXRecords)
		}
	}
	if value, _ := readXattr(func(b []byte) (int, error) {
		return unix.Lgetxattr(filepath.Join(root, "bin/tool"), capabilityXattr, b)
	}); len(value) > 0 {
		if got["bin/tool"].PAXRecords[xattrRecord+capabilityXattr] != string(value) {
			t.Errorf("the capability is lost: %v", got["bin/tool"].PAXRecords)
		}
	}
}

func TestRefused(t *testing.T) {
	for name, add := range map[string]func(path string) error{
		".wh.etc": func(path string) error { return os.WriteFile(path, nil, 0o600) },
		"socket": func(path string) error {
			fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
			if err != nil {
				return err
			}
			t.Chdir(filepath.Dir(path)) // the whole path is too long
			return errors.Join(unix.Bind(fd, &unix.SockaddrUnix{Name: filepath.Base(path)}), unix.Close(fd))
		},
	} {
		dir := imageFolder(t, false, time.Now())
		if err := add(filepath.Join(image.Root(dir, testHash), name)); err != nil {
			t.Fatal(err)
		}
		if _, err := Members(t.Context(), MembersOptions{Dir: dir, Hash: testHash, Binary: program(t, "1")}); !errors.Is(err, ErrEntry) {
			t.Errorf("%s: %v", name, err)
		}
		if left, _ := filepath.Glob(filepath.Join(dir, testHash, "layer-*")); len(left) > 0 {
			t.Errorf("%s: left is %v", name, left)
		}
	}
}

func TestConfig(t *testing.T) {
	img := members(t, MembersOptions{Dir: imageFolder(t, false, time.Now()), Binary: program(t, "1")})
	c, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	b, err := readBinary(program(t, "1"))
	if err != nil {
		t.Fatal(err)
	}
	want := v1.Config{
		Entrypoint: []string{"/remuda/agent", "agent"}, User: "0", WorkingDir: "/",
		Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
		Labels: map[string]string{
			LabelImage: testHash, LabelBinary: b.digest, "org.opencontainers.image.title": "remuda members", "org.opencontainers.image.version": "v1.2.3",
		},
	}
	if !reflect.DeepEqual(c.Config, want) {
		t.Errorf("configuration is %+v", c.Config)
	}
	if c.OS != "linux" || c.Architecture != runtime.GOARCH || len(c.History) != 2 || c.Author != "" {
		t.Errorf("image is %+v", c)
	}
	if m, _ := img.MediaType(); m != types.OCIManifestSchema1 {
		t.Errorf("manifest is %s", m)
	}
	top := entries(t, img)[1]
	for name, mode := range map[string]int64{
		"remuda/": 0o755, "remuda/agent": 0o755, "remuda/run/": 0o755, "remuda/disk/": 0o755, "remuda/memory/": 0o755, "remuda/names/": 0o755, "remuda/private/": 0o700, "remuda/private/termination": 0o600,
	} {
		if h := top[name]; h == nil || h.Mode != mode || h.Uid != 0 || h.Gid != 0 {
			t.Errorf("%s is %+v", name, h)
		}
	}
	if len(top) != 8 {
		t.Errorf("the agent's layer has %d entries", len(top))
	}
}
