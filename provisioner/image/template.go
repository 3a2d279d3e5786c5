package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/remuda/remuda/catalog"
)

// Template is a pristine disk of one size: a sparse ext4 image that is never
// mounted or changed, only cloned.
type Template struct {
	Key  string
	Size catalog.Bytes
	Path string
}

// TemplateOptions say what disks are needed.
type TemplateOptions struct {
	Dir   string          // the image folder
	Key   string          // what the content depends on, as a hash or a name: [A-Za-z0-9._-]{1,128}
	Sizes []catalog.Bytes // one disk for each
	// Fill makes the content in an empty directory (root's, 0755), as the disk's
	// root shall look like. Owners and modes are kept. It is called once, and not
	// at all when every disk is there.
	Fill     func(ctx context.Context, dir string) error
	Progress io.Writer
}

// diskVersion changes when this package makes another disk from the same content.
const diskVersion = ".2"

var templateKey = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$`)

// EnsureTemplates returns the templates in the order of the sizes, and makes
// those that are not there.
func EnsureTemplates(ctx context.Context, o TemplateOptions) ([]Template, error) {
	if !templateKey.MatchString(o.Key) {
		return nil, fmt.Errorf("template key %q does not fit %s", o.Key, templateKey)
	}
	dir := filepath.Join(o.Dir, "templates")
	all := make([]Template, len(o.Sizes))
	for i, size := range o.Sizes {
		name := o.Key + "-" + strconv.FormatInt(int64(size), 10) + diskVersion + ".ext4"
		all[i] = Template{Key: o.Key, Size: size, Path: filepath.Join(dir, name)}
	}
	if len(missing(all)) == 0 {
		return all, nil
	}
	if os.Geteuid() != 0 {
		return nil, fmt.Errorf("%w: making a template needs root", ErrPrerequisite)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make template folder: %w", err)
	}
	say := progress(o.Progress)
	unlock, err := lock(ctx, filepath.Join(dir, ".lock-"+o.Key), func() { say("another broker is making the template %s; waiting for it", o.Key) })
	if err != nil {
		return nil, fmt.Errorf("wait for template %s: %w", o.Key, err)
	}
	defer unlock()
	todo := missing(all)
	if len(todo) == 0 {
		return all, nil
	}
	if err := makeTemplates(ctx, dir, o, todo); err != nil {
		return nil, fmt.Errorf("make template %s: %w", o.Key, err)
	}
	return all, nil
}

func missing(all []Template) []Template {
	var out []Template
	for _, t := range all {
		if !exists(t.Path) {
			out = append(out, t)
		}
	}
	return out
}

func makeTemplates(ctx context.Context, dir string, o TemplateOptions, todo []Template) error {
	work := filepath.Join(dir, halfDone+o.Key) // only the holder of the lock is here
	if err := removeTree(work); err != nil {
		return err
	}
	content := filepath.Join(work, "content")
	if err := os.MkdirAll(content, 0o755); err != nil {
		return err
	}
	defer func() { _ = removeTree(work) }()
	if err := o.Fill(ctx, content); err != nil {
		return err
	}
	for _, t := range todo {
		file := filepath.Join(work, "disk")
		if err := makeDisk(ctx, file, content, t.Size); err != nil {
			return err
		}
		if err := os.Rename(file, t.Path); err != nil {
			return err
		}
	}
	return nil
}

// makeDisk makes a sparse ext4 image with the content of a directory. The inode
// tables are initialised now, which costs nothing in a sparse file, so that the
// kernel does not write them, and so fill every clone, behind its first mount.
func makeDisk(ctx context.Context, file, content string, size catalog.Bytes) error {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Truncate(int64(size)), f.Close()); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-m", "0", "-J", "size=4", "-O", "^resize_inode,metadata_csum_seed",
		"-E", "root_owner=0:0,lazy_itable_init=0,lazy_journal_init=1,discard", "-d", content, file)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		if errors.Is(err, exec.ErrNotFound) {
			return fmt.Errorf("%w: mke2fs is missing; install it with: apt-get install e2fsprogs", ErrPrerequisite)
		}
		return fmt.Errorf("mke2fs of %s: %w: %s", size, err, bytes.TrimSpace(out.Bytes()))
	}
	if f, err = os.OpenFile(file, os.O_RDWR, 0); err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// Clone copies a template (or any sparse file) to target, which must not exist:
// by reference where the file system can, else only the blocks that have data.
// Nothing is left of it after an error.
func Clone(template, target string) (err error) {
	from, err := os.Open(template)
	if err != nil {
		return fmt.Errorf("clone: %w", err)
	}
	defer func() { _ = from.Close() }()
	to, err := os.OpenFile(target, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("clone: %w", err)
	}
	defer func() {
		if closed := to.Close(); err == nil {
			err = closed
		}
		if err != nil {
			_ = os.Remove(target)
			err = fmt.Errorf("clone to %s: %w", target, err)
		}
	}()
	if unix.IoctlFileClone(int(to.Fd()), int(from.Fd())) == nil {
		return nil
	}
	return copySparse(from, to)
}

func copySparse(from, to *os.File) error {
	info, err := from.Stat()
	if err != nil {
		return err
	}
	if err := to.Truncate(info.Size()); err != nil {
		return err
	}
	in, out := int(from.Fd()), int(to.Fd())
	for at := int64(0); at < info.Size(); {
		begin, err := unix.Seek(in, at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil // only a hole is left
		}
		if err != nil {
			return err
		}
		if at, err = unix.Seek(in, begin, unix.SEEK_HOLE); err != nil {
			return err
		}
		if err := copyRange(in, out, begin, at); err != nil {
			return err
		}
	}
	return nil
}

// copyRange copies in the kernel where it can, else through memory.
func copyRange(in, out int, at, end int64) error {
	for at < end {
		r, w := at, at
		n, err := unix.CopyFileRange(in, &r, out, &w, int(end-at), 0)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EXDEV), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EINVAL):
			return copyBuffered(in, out, at, end)
		case err != nil:
			return err
		case n == 0:
			return io.ErrUnexpectedEOF
		}
		at += int64(n)
	}
	return nil
}

func copyBuffered(in, out int, at, end int64) error {
	buffer := make([]byte, 1<<20)
	for at < end {
		n, err := unix.Pread(in, buffer[:min(int64(len(buffer)), end-at)], at)
		if err != nil {
			return err
		}
		if n == 0 {
			return io.ErrUnexpectedEOF
		}
		for done := 0; done < n; {
			m, err := unix.Pwrite(out, buffer[done:n], at+int64(done))
			if err != nil {
				return err
			}
			done += m
		}
		at += int64(n)
	}
	return nil
}

// Discard deletes a disk. Its blocks are freed at once, even where something
// still holds the file open, so that nobody can read it any more. Nil when it
// is not there.
func Discard(path string) error {
	err := os.Truncate(path, 0)
	if err == nil {
		err = os.Remove(path)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("discard disk: %w", err)
	}
	return nil
}
