package agent

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

func init() {
	helpers["template"] = helperTemplate
	helpers["mark"] = helperMark
}

// helperTemplate makes a disk with everything that can be kept.
func helperTemplate(args []string) error {
	dir := args[0]
	old := time.Unix(1234567890, 987654321)
	f, err := os.Create(dir + "/sparse")
	if err != nil {
		return err
	}
	_, err = f.WriteAt([]byte("in the middle"), 5<<20)
	_, err2 := f.WriteAt(make([]byte, 1<<20), 10<<20)
	err = errors.Join(err, err2, f.Truncate(96<<20), f.Close(),
		room(dir+"/room", 7<<20),
		os.WriteFile(dir+"/zeros", make([]byte, 3<<20+17), 0o640),
		os.WriteFile(dir+"/ends in zeros", append(bytes.Repeat([]byte("x"), 100_000), make([]byte, 200_000)...), 0o4755),
		os.WriteFile(dir+"/empty", nil, 0o444), os.MkdirAll(dir+"/a/b/c", 0o700), os.WriteFile(dir+"/a/b/f", bytes.Repeat([]byte("0123456789"), 70_000), 0o600),
		os.Link(dir+"/a/b/f", dir+"/a/g"), os.Link(dir+"/a/b/f", dir+"/z"), os.Symlink("/outside", dir+"/link"), os.Link(dir+"/link", dir+"/link2"),
		syscall.Mkfifo(dir+"/fifo", 0o622), os.Mkdir(dir+"/closed", 0o700), os.WriteFile(dir+"/closed/x", nil, 0o600), syscall.Chmod(dir+"/closed", 0o500),
		os.Mkdir(dir+"/set", 0o700), syscall.Chmod(dir+"/set", 0o2770), os.Mkdir(dir+"/set/in", 0o700), os.WriteFile(dir+"/odd\n\xff", []byte("x"), 0o600),
		syscall.Chmod(dir+"/fifo", 0o622))
	for i := range 300 {
		err = errors.Join(err, os.WriteFile(fmt.Sprintf("%s/a/%d", dir, i), bytes.Repeat([]byte{byte(i)}, i*100), 0o600))
	}
	for _, name := range []string{"a/g", "sparse", "a/b", "a", "fifo"} {
		err = errors.Join(err, os.Chtimes(dir+"/"+name, old, old))
	}
	return err
}

// room makes a file with blocks that were never written.
func room(path string, size int64) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(size), unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, size), f.Close())
}

func TestPodPristine(t *testing.T) {
	for name, p := range map[string]pod{"memory": {}, "disk": {Disk: true}} {
		t.Run(name, func(t *testing.T) {
			m := servePod(t, p)
			testPodPristine(t, m)
			m.misplaced(t)
		})
	}
}

func testPodPristine(t *testing.T, m member) {
	if err := m.FillPristine(t.Context(), Pristine{}); !errors.Is(err, ErrConflict) {
		t.Errorf("filled from nothing: %v", err)
	}
	m.begin(t)
	if _, err := m.KeepPristine(t.Context()); !errors.Is(err, ErrConflict) {
		t.Errorf("kept while it runs: %v", err)
	}
	m.run(t, Program{Command: []string{m.binary, "helper:template", "/data"}})
	m.run(t, Program{User: "root", Command: []string{m.binary, "helper:template", "/files"}})
	m.run(t, Program{User: "root", Command: []string{"/bin/sh", "-c", "mkdir -m 1777 /files/all; umask 022; echo x >/tmp/not-kept"}})
	m.run(t, shell("mkdir /files/all/mine; echo x >/files/all/f; ln /files/all/f /files/all/g; chmod 0 /files/all/f"))
	m.run(t, shell("echo x >/dev/shm/x"))
	before := m.tree(t, DiskVolume)
	_, err := m.Wipe(t.Context(), WipeRequest{Kindly: true})
	must(t, err)
	if after := m.tree(t, DiskVolume); after != before {
		t.Errorf("a kind wipe changes the disk:\n%s\n%s", before, after)
	}
	if after := m.tree(t, MemoryVolume); strings.Contains(after, "/shm/") || strings.Contains(after, "conf") {
		t.Errorf("a kind wipe leaves memory: %s", after)
	}
	kept, err := m.KeepPristine(t.Context())
	must(t, err)
	t.Logf("kept %+v", kept)
	if err := m.FillPristine(t.Context(), kept); !errors.Is(err, ErrConflict) {
		t.Errorf("filled what is full: %v", err)
	}
	_, err = m.Wipe(t.Context(), WipeRequest{})
	must(t, err)
	empty := m.tree(t, DiskVolume)
	must(t, m.FillPristine(t.Context(), kept))
	first := m.tree(t, DiskVolume)
	if got, want := content(first), content(before); got != want {
		t.Errorf("filled:\n%s\nwas\n%s", got, want)
	}
	for range 2 {
		m.begin(t)
		m.run(t, Program{Command: []string{m.binary, "helper:mark", "/data"}})
		_, err = m.Wipe(t.Context(), WipeRequest{})
		must(t, err)
		m.spare(t)
		must(t, m.FillPristine(t.Context(), kept))
		if got := m.tree(t, DiskVolume); got != first {
			t.Errorf("filled again:\n%s\nwas\n%s", got, first)
		}
	}
	m.damaged(t, kept, empty)
}

// A tenant marks all files that could be used again.
func helperMark(args []string) error {
	return filepath.WalkDir(args[0], func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return nil
		}
		defer f.Close()
		_, err = f.WriteString("a tenant's mark")
		switch len(path) % 5 {
		case 0:
			_ = unix.Fsetxattr(int(f.Fd()), "user.mark", []byte("x"), 0)
		case 1:
			_ = unix.Fsetxattr(int(f.Fd()), "system.posix_acl_access", accessList, 0)
		case 2:
			flags := uint32(0x80 | 0x40) // no times, no dump
			_ = ioctl(int(f.Fd()), setFlags, unsafe.Pointer(&flags))
		case 3:
			err = errors.Join(err, f.Chmod(0o7777))
		case 4:
			_ = unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, 1<<20, 1<<20)
		}
		return err
	})
}

// spare looks at the spares after a wipe: they hold nothing of a tenant's.
func (m member) spare(t *testing.T) {
	t.Helper()
	list, err := filepath.Glob(m.path(DiskVolume + "/" + sparePrefix + "*/*"))
	must(t, err)
	for _, path := range list {
		f, err := os.Open(path)
		must(t, err)
		names, _ := attributes(int(f.Fd()))
		flags, _ := inodeFlags(int(f.Fd()))
		st, err := f.Stat()
		must(t, err)
		if st.Size() != 0 || st.Mode() != 0o600 || st.Sys().(*syscall.Stat_t).Blocks != 0 || len(names) > 0 || flags&^ownFlags != 0 {
			t.Errorf("spare %s: %d bytes, %s, attributes %q, flags %#x", path, st.Size(), st.Mode(), names, flags)
		}
		_ = f.Close()
	}
	t.Logf("%d spares", len(list))
}

// damaged changes the kept disk in every way that counts.
func (m member) damaged(t *testing.T, kept Pristine, empty string) {
	_, err := m.Wipe(t.Context(), WipeRequest{})
	must(t, err)
	file := m.path(DiskVolume + "/" + pristineName)
	good, err := os.ReadFile(file)
	must(t, err)
	if st, err := os.Stat(file); err != nil || st.Mode() != 0o600 {
		t.Errorf("%v %v", st, err)
	}
	for _, at := range []int{0, len(good) / 3, len(good) / 2, len(good) - 1} {
		bad := bytes.Clone(good)
		bad[at] ^= 1
		must(t, os.WriteFile(file, bad, 0o600))
		if err := m.FillPristine(t.Context(), kept); err == nil {
			t.Errorf("filled from what is damaged at %d", at)
		}
		if got := m.tree(t, DiskVolume); got != empty {
			t.Errorf("left of what is damaged at %d: %s", at, got)
		}
	}
	must(t, os.WriteFile(file, good[:len(good)-1], 0o600))
	if err := m.FillPristine(t.Context(), kept); err == nil {
		t.Error("filled from what is cut off")
	}
	must(t, os.WriteFile(file, good, 0o600))
	must(t, m.FillPristine(t.Context(), kept))
}

// misplaced has in the root of a volume what nobody there could put there.
func (m member) misplaced(t *testing.T) {
	must(t, os.WriteFile(m.path(DiskVolume+"/strange"), nil, 0o600))
	if _, err := m.Wipe(t.Context(), WipeRequest{}); err == nil || !strings.Contains(err.Error(), "strange") {
		t.Errorf("wiped in spite of a strange file: %v", err)
	}
	must(t, os.Remove(m.path(DiskVolume+"/strange")))
	_, err := m.Wipe(t.Context(), WipeRequest{})
	must(t, err)
	must(t, os.Rename(m.path(DiskVolume+"/p0"), m.path(DiskVolume+"/p9")))
	must(t, os.Mkdir(m.path(DiskVolume+"/p0"), 0o700))
	must(t, os.Chown(m.path(DiskVolume+"/p0"), 65534, 65534))
	if _, err := m.Wipe(t.Context(), WipeRequest{}); err == nil || !strings.Contains(err.Error(), "is not what is mounted") {
		t.Errorf("wiped in spite of another folder: %v", err)
	}
	if s, err := m.State(t.Context()); err != nil || s.Phase != Failed {
		t.Errorf("%+v %v", s, err)
	}
	must(t, unix.Rmdir(m.path(DiskVolume+"/p0")))
	must(t, os.Rename(m.path(DiskVolume+"/p9"), m.path(DiskVolume+"/p0")))
}

// content of a tree is all but what is not kept: the places' own times, /tmp.
func content(tree string) string {
	var out []string
	for line := range strings.Lines(tree) {
		name, _, _ := strings.Cut(line, " ")
		if !strings.HasPrefix(line, `"/tmp`) && len(filepath.SplitList(name)) > 0 && strings.Count(name, "/") > 1 {
			out = append(out, line)
		}
	}
	return strings.Join(out, "")
}
