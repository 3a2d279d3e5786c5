package image_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/remuda/remuda/catalog"
	"github.com/remuda/remuda/provisioner/image"
)

// TestEqualTrees makes the image once more: from the same packages comes the
// same tree. Times may differ where they are newer than the newest package.
func TestEqualTrees(t *testing.T) {
	there := realImage(t)
	recipes, err := catalog.Builtin()
	if err != nil {
		t.Fatal(err)
	}
	again := func() string {
		img, err := image.Ensure(context.Background(), image.OptionsFor(t.TempDir(), recipes, io.Discard))
		if err != nil {
			t.Fatal(err)
		}
		return img.Path
	}
	status := func(root string) []byte {
		b, err := os.ReadFile(filepath.Join(root, "var/lib/dpkg/status"))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	one, two := there.Path, again()
	if !bytes.Equal(status(one), status(two)) {
		t.Log("the archive has other packages since the image was made; making a third")
		one = again()
	}
	a, b := describe(t, one), describe(t, two)
	for path := range b {
		if _, ok := a[path]; !ok {
			a[path] = "is not there"
		}
	}
	for _, path := range slices.Sorted(maps.Keys(a)) {
		if a[path] != b[path] {
			t.Errorf("%s\n  %s\n  %s", path, a[path], b[path])
		}
	}
}

// describe says of every file of a tree what an image has of it.
func describe(t *testing.T, root string) map[string]string {
	t.Helper()
	var newest int64
	infos, err := filepath.Glob(filepath.Join(root, "var/lib/dpkg/info/*.md5sums"))
	if err != nil || len(infos) == 0 {
		t.Fatalf("no packages: %v", err)
	}
	for _, path := range infos {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		newest = max(newest, info.ModTime().Unix())
	}
	all := map[string]string{}
	err = filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		var content string
		switch {
		case e.Type().IsRegular():
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			content = fmt.Sprintf("%d names, %x", st.Nlink, sha256.Sum256(b))
		case e.Type()&fs.ModeSymlink != 0:
			if content, err = os.Readlink(path); err != nil {
				return err
			}
		}
		all[path[len(root):]] = fmt.Sprintf("%o %d:%d at %d: %s", st.Mode, st.Uid, st.Gid, min(st.Mtim.Sec, newest), content)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}
