package oci

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// ErrEntry: a tree has something that an image cannot have.
var ErrEntry = errors.New("not possible in an image")

// xattrs that belong to a file rather than to this host.
const (
	capabilityXattr = "security.capability"
	userXattrs      = "user."
	xattrRecord     = "SCHILY.xattr." // how tar spells them (PAX)
)

// writeTree writes a folder's content as a tar archive. Entries are ordered by
// their names and say nothing of this host: numbers for owners, whole seconds,
// and latest for files that are newer. Device nodes are left out.
func writeTree(ctx context.Context, w io.Writer, root string, latest time.Time) error {
	t := treeWriter{tar: tar.NewWriter(w), root: root, latest: latest, names: map[inode]string{}}
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil || path == root {
			return err
		}
		if err := t.add(path); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return t.tar.Close()
}

type inode struct{ dev, ino uint64 }

type treeWriter struct {
	tar    *tar.Writer
	root   string
	latest time.Time
	names  map[inode]string // the first name of files that have several
}

func (t *treeWriter) add(path string) error {
	rel, err := filepath.Rel(t.root, path)
	if err != nil {
		return err
	}
	if strings.HasPrefix(filepath.Base(rel), ".wh.") {
		return fmt.Errorf("%w: the name would delete another file", ErrEntry)
	}
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return err
	}
	h := &tar.Header{
		Name: rel, Mode: int64(st.Mode & 0o7777), Uid: int(st.Uid), Gid: int(st.Gid),
		ModTime: time.Unix(min(int64(st.Mtim.Sec), t.latest.Unix()), 0),
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		h.Typeflag, h.Name = tar.TypeDir, rel+"/"
	case unix.S_IFLNK:
		h.Typeflag = tar.TypeSymlink
		if h.Linkname, err = os.Readlink(path); err != nil {
			return err
		}
	case unix.S_IFREG:
		return t.addFile(path, h, &st)
	case unix.S_IFIFO:
		h.Typeflag = tar.TypeFifo
	case unix.S_IFCHR, unix.S_IFBLK:
		return nil
	default:
		return fmt.Errorf("%w: a socket", ErrEntry)
	}
	if h.PAXRecords, err = xattrs(path); err != nil {
		return err
	}
	return t.tar.WriteHeader(h)
}

func (t *treeWriter) addFile(path string, h *tar.Header, st *unix.Stat_t) error {
	if st.Nlink > 1 {
		id := inode{uint64(st.Dev), st.Ino}
		if first, ok := t.names[id]; ok {
			h.Typeflag, h.Linkname = tar.TypeLink, first
			return t.tar.WriteHeader(h)
		}
		t.names[id] = h.Name
	}
	h.Typeflag, h.Size = tar.TypeReg, st.Size
	var err error
	if h.PAXRecords, err = xattrs(path); err != nil {
		return err
	}
	if err := t.tar.WriteHeader(h); err != nil {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	_, err = io.Copy(t.tar, f)
	return err
}

// xattrs returns what is kept of a file's extended attributes, as PAX records.
func xattrs(path string) (map[string]string, error) {
	list, err := readXattr(func(b []byte) (int, error) { return unix.Llistxattr(path, b) })
	if err != nil {
		return nil, fmt.Errorf("list extended attributes: %w", err)
	}
	var out map[string]string
	for name := range bytes.SplitSeq(list, []byte{0}) {
		name := string(name)
		if name != capabilityXattr && !strings.HasPrefix(name, userXattrs) {
			continue
		}
		value, err := readXattr(func(b []byte) (int, error) { return unix.Lgetxattr(path, name, b) })
		if err != nil {
			return nil, fmt.Errorf("read extended attribute %s: %w", name, err)
		}
		if out == nil {
			out = map[string]string{}
		}
		out[xattrRecord+name] = string(value)
	}
	return out, nil
}

// readXattr calls read with a buffer that is large enough; nothing where the
// file system has no such attributes.
func readXattr(read func([]byte) (int, error)) ([]byte, error) {
	buffer := make([]byte, 256)
	for {
		n, err := read(buffer)
		switch {
		case errors.Is(err, unix.ENOTSUP), errors.Is(err, unix.ENODATA):
			return nil, nil
		case errors.Is(err, unix.ERANGE) && len(buffer) < 1<<17: // more than XATTR_SIZE_MAX
			buffer = make([]byte, 4*len(buffer))
			continue
		case err != nil:
			return nil, err
		}
		return buffer[:n], nil
	}
}

// entry is one of a small archive that is made from nothing.
type entry struct {
	name string // "dir/" or "dir/file"
	mode int64
	uid  int
	text string // of a file
	file string // a file on this host, instead of text
}

// writeEntries writes a tar archive of entries that belong to root, or to uid.
func writeEntries(w io.Writer, entries []entry, at time.Time) error {
	t := tar.NewWriter(w)
	for _, e := range entries {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: e.name, Mode: e.mode, Uid: e.uid, Gid: e.uid, ModTime: at}
		var content io.Reader = strings.NewReader(e.text)
		h.Size = int64(len(e.text))
		switch {
		case strings.HasSuffix(e.name, "/"):
			h.Typeflag = tar.TypeDir
		case e.file != "":
			f, err := os.Open(e.file)
			if err != nil {
				return err
			}
			defer func() { _ = f.Close() }()
			info, err := f.Stat()
			if err != nil {
				return err
			}
			h.Size, content = info.Size(), f
		}
		if err := t.WriteHeader(h); err != nil {
			return err
		}
		if _, err := io.Copy(t, content); err != nil {
			return fmt.Errorf("%s: %w", e.name, err)
		}
	}
	return t.Close()
}
