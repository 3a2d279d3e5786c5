package image

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/remuda/remuda/catalog"
)

func blocks(t testing.TB, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Sys().(*syscall.Stat_t).Blocks * 512
}

func fillSome(_ context.Context, dir string) error {
	data := filepath.Join(dir, "var/lib/x")
	if err := os.MkdirAll(data, 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(data, "a"), bytes.Repeat([]byte("a"), 1<<20), 0o640); err != nil {
		return err
	}
	return os.Chown(data, 1234, 2345)
}

func TestEnsureTemplates(t *testing.T) {
	needRoot(t)
	if _, err := exec.LookPath("debugfs"); err != nil {
		t.Skip("debugfs is not installed")
	}
	dir := t.TempDir()
	var filled atomic.Int32
	o := TemplateOptions{Dir: dir, Key: "k1", Sizes: []catalog.Bytes{32 * catalog.MiB, catalog.GiB}, Fill: func(ctx context.Context, d string) error {
		filled.Add(1)
		return fillSome(ctx, d)
	}}
	var wait sync.WaitGroup
	for range 4 {
		wait.Go(func() {
			if _, err := EnsureTemplates(t.Context(), o); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	if filled.Load() != 1 {
		t.Errorf("filled %d times", filled.Load())
	}
	all, err := EnsureTemplates(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	for _, tmpl := range all {
		info, err := os.Stat(tmpl.Path)
		if err != nil || info.Size() != int64(tmpl.Size) {
			t.Errorf("%s: %v", tmpl.Path, err)
		}
		used := blocks(t, tmpl.Path)
		t.Logf("%s disk: %d KiB used", tmpl.Size, used>>10)
		if used > 4<<20 {
			t.Errorf("the template of %s is not sparse: %d", tmpl.Size, used)
		}
		out, err := exec.Command("debugfs", "-R", "stat /var/lib/x", tmpl.Path).Output()
		if err != nil || !bytes.Contains(out, []byte("User:  1234   Group:  2345")) || !bytes.Contains(out, []byte("Mode:  0700")) {
			t.Errorf("owner is lost: %s, %v", out, err)
		}
	}
	failing := errors.New("no")
	_, err = EnsureTemplates(t.Context(), TemplateOptions{Dir: dir, Key: "k2", Sizes: o.Sizes, Fill: func(context.Context, string) error { return failing }})
	if !errors.Is(err, failing) {
		t.Errorf("error is %v", err)
	}
	_, err = EnsureTemplates(t.Context(), TemplateOptions{Dir: dir, Key: "k3", Sizes: []catalog.Bytes{catalog.MiB}, Fill: fillSome})
	if err == nil {
		t.Error("a content that is larger than the disk fits")
	}
	left, _ := filepath.Glob(filepath.Join(dir, "templates", "k[23]*"))
	if len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
	if _, err := EnsureTemplates(t.Context(), TemplateOptions{Dir: dir, Key: "../x"}); err == nil {
		t.Error("a key leads out of the folder")
	}
}

func TestCloneAndDiscard(t *testing.T) {
	dir := t.TempDir()
	from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
	f, err := os.Create(from)
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []int64{0, 5 << 20, 64<<20 - 10} {
		if _, err := f.WriteAt([]byte("some data!"), at); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(f.Truncate(100<<20), f.Close()); err != nil {
		t.Fatal(err)
	}
	if err := Clone(from, to); err != nil {
		t.Fatal(err)
	}
	a, _ := os.ReadFile(from)
	b, _ := os.ReadFile(to)
	if !bytes.Equal(a, b) || blocks(t, to) > 1<<20 {
		t.Errorf("the clone differs or has %d bytes", blocks(t, to))
	}
	if err := Clone(from, to); !errors.Is(err, os.ErrExist) {
		t.Errorf("overwrites: %v", err)
	}
	if err := Clone(filepath.Join(dir, "none"), filepath.Join(dir, "x")); !errors.Is(err, os.ErrNotExist) || exists(filepath.Join(dir, "x")) {
		t.Errorf("error is %v", err)
	}
	held, err := os.Open(to)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = held.Close() }()
	for range 2 {
		if err := Discard(to); err != nil {
			t.Error(err)
		}
	}
	if rest, err := io.ReadAll(held); err != nil || len(rest) > 0 || exists(to) {
		t.Errorf("%d bytes can still be read, %v", len(rest), err)
	}
}

func TestCopyBuffered(t *testing.T) {
	dir := t.TempDir()
	content := bytes.Repeat([]byte("0123456789abcdef"), 200_000)
	from := filepath.Join(dir, "from")
	if err := os.WriteFile(from, content, 0o600); err != nil {
		t.Fatal(err)
	}
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = in.Close() }()
	out, err := os.Create(filepath.Join(dir, "to"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = out.Close() }()
	if err := copyBuffered(int(in.Fd()), int(out.Fd()), 0, int64(len(content))); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(out.Name()); !bytes.Equal(got, content) {
		t.Error("the copy differs")
	}
}

// BenchmarkClone clones a disk of 1 GiB with 30 MiB of data.
func BenchmarkClone(b *testing.B) {
	needRoot(b)
	dir := b.TempDir()
	all, err := EnsureTemplates(b.Context(), TemplateOptions{Dir: dir, Key: "b", Sizes: []catalog.Bytes{catalog.GiB}, Fill: func(_ context.Context, d string) error {
		return os.WriteFile(filepath.Join(d, "data"), bytes.Repeat([]byte("x"), 30<<20), 0o600)
	}})
	if err != nil {
		b.Fatal(err)
	}
	target := filepath.Join(dir, "clone")
	for b.Loop() {
		if err := Clone(all[0].Path, target); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := Discard(target); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}
