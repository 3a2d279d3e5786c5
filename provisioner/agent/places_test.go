package agent

import (
	"bytes"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestPlacesAreChecked(t *testing.T) {
	good := Place{Path: "/data", Folder: "p0", User: "root", Mode: 0o700}
	for name, change := range map[string]func(*Place){
		"relative path": func(p *Place) { p.Path = "data" }, "unclean path": func(p *Place) { p.Path = "/a/../b" },
		"root": func(p *Place) { p.Path = "/" }, "the agent's": func(p *Place) { p.Path = DiskVolume },
		"folder outside": func(p *Place) { p.Folder = "../x" }, "folder above": func(p *Place) { p.Folder = ".." },
		"the kept disk": func(p *Place) { p.Folder = pristineName }, "spares": func(p *Place) { p.Folder = spareName(1) }, "the next disk": func(p *Place) { p.Folder = nextPrefix + "p0" },
		"no folder": func(p *Place) { p.Folder = "" },
		"mode":      func(p *Place) { p.Mode = 0o100700 }, "user": func(p *Place) { p.User = "nobody-has-this-name" },
	} {
		p := good
		change(&p)
		if _, err := newPlaces([]Place{p}, false); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	other := good
	other.Path = "/other"
	if _, err := newPlaces([]Place{good, other}, false); err == nil {
		t.Error("two places in one folder")
	}
	inner := Place{Path: "/data/a/b", Folder: "p1", User: "root", Memory: true}
	p, err := newPlaces([]Place{good, inner}, false)
	must(t, err)
	if k := p.at("/data").keep; len(k) != 1 || len(k["a"]) != 1 || k["a"]["b"] == nil {
		t.Errorf("kept in a place: %v", k)
	}
}

func TestLayoutSaysWhatIsWrong(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root to act as other users")
	}
	dir := t.TempDir()
	p := &places{disk: dir}
	p.list = []*place{{Place: Place{Path: dir + "/p0", Folder: "p0", Mode: 0o2750}, uid: 65534, gid: 1}}
	must(t, asOwner(p.layout))
	must(t, asOwner(p.layout))
	var st unix.Stat_t
	must(t, unix.Lstat(dir+"/p0", &st))
	if st.Mode != unix.S_IFDIR|0o2750 || st.Uid != 65534 || st.Gid != 1 {
		t.Errorf("laid out: %o %d:%d", st.Mode, st.Uid, st.Gid)
	}
	for _, c := range []struct {
		change func() error
		want   string
	}{
		{func() error { return os.Chown(dir+"/p0", 1, 1) }, "p0: it belongs to user 1, not to 65534"},
		{func() error { return errors.Join(os.Remove(dir+"/p0"), os.Symlink("/tmp", dir+"/p0")) }, "p0: it is no directory"},
		{func() error { return os.Chown(dir, 1, 1) }, "its root must belong to root"},
	} {
		must(t, c.change())
		if err := asOwner(p.layout); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v, want %s", err, c.want)
		}
	}
}

func TestHostsText(t *testing.T) {
	addr := netip.MustParseAddr("10.0.0.1")
	for _, name := range []string{"", "a b", "a\n", "localhost", "-a", "a.", strings.Repeat("a", 64), "a_b", "ä"} {
		if _, err := hostsText(map[string]netip.Addr{name: addr}); err == nil {
			t.Errorf("%q is taken", name)
		}
	}
	if _, err := hostsText(map[string]netip.Addr{"a": {}}); err == nil {
		t.Error("no address is taken")
	}
}

func TestUsage(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		must(t, os.MkdirAll(filepath.Dir(dir+"/"+name), 0o755))
		must(t, os.WriteFile(dir+"/"+name, []byte(text), 0o644))
	}
	check := func(memory, cpu int64) {
		t.Helper()
		m, err1 := memoryUsed(dir)
		c, err2 := processorTime(dir)
		if err := errors.Join(err1, err2); err != nil || m != memory || c != cpu {
			t.Errorf("memory %d, processor %d, %v", m, c, err)
		}
	}
	write("memory/memory.usage_in_bytes", "5000\n")
	write("memory/memory.stat", "cache 1\ntotal_inactive_file 2000\n")
	write("cpuacct/cpuacct.usage", "77\n")
	check(3000, 77)
	write("cgroup.controllers", "cpu memory\n")
	write("memory.current", "9000\n")
	write("memory.stat", "anon 1\ninactive_file 10000\n")
	write("cpu.stat", "usage_usec 12\nuser_usec 3\n")
	check(0, 12000)
	const mounts = "1 2 8:1 /var/lib/pods/x /remuda/disk rw - ext4 /dev/a rw\n3 2 8:2 / /mnt rw - ext4 /dev/b rw\n"
	if wholeFileSystem([]byte(mounts), DiskVolume) || !wholeFileSystem([]byte(mounts), "/mnt") || wholeFileSystem([]byte(mounts), "/x") {
		t.Error("whose file system it is")
	}
	if got := writableMounts([]byte("1 2 8:1 /x /a\\040b rw,nosuid - ext4 /dev/a rw\n1 2 8:1 / /ro ro - ext4 a rw\n1 2 8:1 / /proc/x rw - a b c\n")); len(got) != 1 || got[0] != "/a b" {
		t.Errorf("mounts %q", got)
	}
}

// An agent whose score is the highest already can start servers all the same.
func TestPodWithTheHighestScore(t *testing.T) {
	m := servePod(t, pod{Score: 1000})
	m.begin(t)
	if said := m.run(t, shell("cat /proc/self/oom_score_adj")); said != "1000\n" {
		t.Errorf("a program has %s", said)
	}
}

func FuzzPristine(f *testing.F) {
	var whole bytes.Buffer
	p := newPacker(&whole)
	meta := entry{uid: 1, gid: 2, mode: 0o2755, sec: -5, nsec: 6}
	for _, e := range []entry{{kind: entryPlace, name: "p0"}, {kind: entryDir, name: "d"}, {kind: entrySymlink, name: "l", target: "/x"},
		{kind: entryHard, name: "h", target: "d/f"}, {kind: entryFifo, name: "p"}, {kind: entryFile, name: "f", size: 30}} {
		e.uid, e.gid, e.mode, e.sec, e.nsec = meta.uid, meta.gid, meta.mode, meta.sec, meta.nsec
		must(f, p.entry(e))
	}
	must(f, p.extent(extentHole, 5, nil))
	must(f, p.extent(extentRoom, 5, nil))
	must(f, p.extent(extentData, 10, func(b []byte) error { copy(b, "0123456789"); return nil }))
	must(f, p.extent(extentZeros, 10, nil))
	must(f, p.extent(extentEnd, 0, nil))
	must(f, p.entry(entry{kind: entryLeave}))
	must(f, p.entry(entry{kind: entryFinish}))
	f.Add(whole.Bytes())
	f.Add(whole.Bytes()[:whole.Len()-2])
	f.Add([]byte(pristineMagic + "E"))
	f.Add([]byte(pristineMagic + "P\x02..E"))
	f.Add([]byte(pristineMagic + "P\x01ah\x01b\x06../../"))
	f.Fuzz(func(t *testing.T, data []byte) { unpackBytes(t, data) })
}

// unpackBytes reads the stream and checks that nothing in it leads out of a place.
func unpackBytes(t *testing.T, data []byte) {
	u, err := newUnpacker(bytes.NewReader(data))
	depth, place := 0, false
	for err == nil {
		var e entry
		if e, err = u.next(); err != nil {
			break
		}
		switch e.kind {
		case entryFinish:
			if sum := u.digest(); len(sum) != 64 || depth != 0 {
				t.Errorf("digest %s at depth %d", sum, depth)
			}
			return
		case entryPlace:
			place = true
		case entryLeave:
			depth--
		case entryDir:
			depth++
		case entryFile:
			empty := func(at, n int64) error {
				if at < 0 || n < 0 || at+n > e.size {
					t.Errorf("nothing for %d bytes at %d of %d bytes", n, at, e.size)
				}
				return nil
			}
			err = u.extents(func(at int64, b []byte) error {
				if at < 0 || at+int64(len(b)) > e.size {
					t.Errorf("data at %d of %d bytes", at, e.size)
				}
				return nil
			}, empty, empty)
		}
		if depth < 0 || (e.kind != entryLeave && (!goodName(e.name) || !place)) {
			t.Errorf("entry %+v at depth %d", e, depth)
		}
		if e.kind == entryHard && (strings.HasPrefix(e.target, "/") || strings.Contains("/"+e.target+"/", "/../")) {
			t.Errorf("a link to %q", e.target)
		}
	}
}
