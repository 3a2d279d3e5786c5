package nfs

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// The file with exports is whole whatever became of the write that was going on.
func TestSlots(t *testing.T) {
	dir := t.TempDir()
	s, k, err := openSlots(dir)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "exports")
	for last := uint32(1); last <= 6; last++ {
		before, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		k.Last = last
		if err := s.write(k); err != nil {
			t.Fatal(err)
		}
		after, _ := os.ReadFile(path)
		if len(after) != 2*slotSize || len(before) != len(after) {
			t.Fatalf("the file has %d bytes", len(after))
		}
		s.close()
		first := 0
		for after[first] == before[first] {
			first++
		}
		for _, n := range []int{1, 31, 40, 60, 1 << 20} { // so many bytes have reached the disk
			torn := bytes.Clone(before)
			end := min(first+n, len(after))
			copy(torn[first:end], after[first:end])
			if err := os.WriteFile(path, torn, 0o600); err != nil {
				t.Fatal(err)
			}
			s2, k2, err := openSlots(dir)
			if err != nil {
				t.Fatalf("after %d bytes: %v", n, err)
			}
			if k2.Last != last && k2.Last != last-1 || k2.Last != last && n > 1000 || !bytes.Equal(k2.Key, k.Key) {
				t.Errorf("after %d bytes the number is %d, not %d", n, k2.Last, last)
			}
			s2.close()
		}
		if err := os.WriteFile(path, after, 0o600); err != nil {
			t.Fatal(err)
		}
		if s, k, err = openSlots(dir); err != nil || k.Last != last {
			t.Fatalf("%d, %v", k.Last, err)
		}
	}
	k.Exports = make([]*export, 20000)
	for i := range k.Exports {
		k.Exports[i] = &export{Login: "x"}
	}
	if err := s.write(k); err == nil {
		t.Error("it keeps more than there is room for")
	}
	s.close()
	if err := os.WriteFile(path, make([]byte, 2*slotSize), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := openSlots(dir); err == nil {
		t.Error("a file of zeros is one with exports")
	}
}

// What others have put into the folder is shown if it can be, and never followed.
func TestForeignObjects(t *testing.T) {
	f := newFixture(t, nil)
	p := f.dial(token)
	p.make(p.root, "original", "text", 0o640)
	f.stop()
	data := f.o.Data
	secret := filepath.Join(filepath.Dir(data), "secret")
	for _, err := range []error{
		os.WriteFile(secret, []byte("secret"), 0o644),
		os.WriteFile(filepath.Join(data, "brought"), []byte("brought"), 0o644),
		os.Mkdir(filepath.Join(data, "folder"), 0o755),
		os.Symlink(secret, filepath.Join(data, "link")),
		os.Symlink("..", filepath.Join(data, "up")),
		unix.Mkfifo(filepath.Join(data, "fifo"), 0o622),
		os.Link(filepath.Join(data, "brought"), filepath.Join(data, "folder", "again")),
		os.WriteFile(filepath.Join(data, "half"), nil, 0o600), os.Chmod(filepath.Join(data, "half"), 0o600|os.ModeSticky),
		os.Mkdir(filepath.Join(data, "half folder"), 0o700), os.Chmod(filepath.Join(data, "half folder"), 0o700|os.ModeSticky),
		// a copy with all attributes
		os.WriteFile(filepath.Join(data, "copy"), []byte("text"), 0o600), copyAttribute(filepath.Join(data, "original"), filepath.Join(data, "copy")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	f.start()
	for range 2 {
		p = f.dial(token)
		for name, want := range map[string]kind{"original": kindFile, "brought": kindFile, "folder": kindFolder, "link": kindLink, "up": kindLink, "fifo": kindFifo, "copy": kindFile} {
			if got := p.number(p.lookup(p.root, name), attrType); got != uint64(want) {
				t.Errorf("%s is a %d", name, got)
			}
		}
		if n := len(p.list(t, p.root, 8192, nil)); n != 7 {
			t.Errorf("there are %d names", n)
		}
		if r := p.last(at(p.lookup(p.root, "link")), arg(opReadlink)); string(r.opaque(4096)) != secret {
			t.Errorf("the link is another one: %d", r.status)
		}
		if string(p.lookup(p.root, "brought")) != string(p.lookup(p.root, "folder/again")) {
			t.Error("a hard link is another object")
		}
		if string(p.lookup(p.root, "copy")) == string(p.lookup(p.root, "original")) {
			t.Error("a copy is the same object")
		}
		if m := p.number(p.lookup(p.root, "brought"), attrMode); m != 0o644 {
			t.Errorf("mode %o", m)
		}
		if _, st := p.read(p.lookup(p.root, "link"), anonymous); st != errInval {
			t.Errorf("read a link: %d", st)
		}
		f.restart()
	}
	// A folder that becomes a link while the server runs leads nowhere.
	p = f.dial(token)
	inside := p.make(p.lookup(p.root, "folder"), "inside", "x", 0o666)
	f.restart()
	if err := os.Rename(filepath.Join(data, "folder"), filepath.Join(data, "elsewhere")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(data, "elsewhere"), filepath.Join(data, "folder")); err != nil {
		t.Fatal(err)
	}
	if text, st := f.dial(token).read(inside, anonymous); st == ok {
		t.Errorf("through a link: %q", text)
	}
}

func copyAttribute(from, to string) error {
	var b [100]byte
	n, err := unix.Getxattr(from, attribute, b[:])
	if err != nil {
		return err
	}
	return unix.Setxattr(to, attribute, b[:n], 0)
}

// Both ways to open say the same.
func TestOpen(t *testing.T) {
	dir := t.TempDir()
	outside := filepath.Join(dir, "outside")
	data := filepath.Join(dir, "data")
	deep := strings.Repeat("/"+strings.Repeat("d", 200), 15)
	for _, err := range []error{
		os.WriteFile(outside, nil, 0o600), os.MkdirAll(data+"/a/b", 0o700), os.WriteFile(data+"/a/b/f", nil, 0o600), os.MkdirAll(data+deep, 0o700),
		os.Symlink(outside, data+"/out"), os.Symlink("a", data+"/in"), os.Symlink("..", data+"/a/up"),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	root, err := unix.Open(data, openFolder|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(root)
	for _, old := range []bool{false, true} {
		d := &disk{root: root}
		d.old.Store(old)
		for path, want := range map[string]bool{
			"": true, "a": true, "a/b/f": true, deep[1:]: true, "out": false, "in/b": false, "a/up/a": false, "a/../a": old == false, "../outside": false, "none": false, "/etc": false, "a/b/f/x": false,
		} {
			fd, err := d.open(path, unix.O_RDONLY|unix.O_NONBLOCK)
			if err == nil {
				unix.Close(fd)
			}
			if (err == nil) != want {
				t.Errorf("old %v, %q: %v", old, path, err)
			}
		}
	}
}

func TestServeErrors(t *testing.T) {
	dir := shortDir(t)
	good := Options{Address: "127.0.0.1:0", Data: dir + "/data", State: dir + "/state", Control: dir + "/control"}
	for name, change := range map[string]func(*Options){
		"no attributes":        func(o *Options) { o.Data = "/proc/self" },
		"data is a file":       func(o *Options) { o.Data = "/etc/passwd" },
		"address":              func(o *Options) { o.Address = "nowhere" },
		"too many connections": func(o *Options) { o.Connections = 1 << 30 },
		"little memory":        func(o *Options) { o.Memory = 1 },
	} {
		o := good
		change(&o)
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if err := Serve(ctx, o); err == nil {
			t.Errorf("%s: it serves", name)
		} else {
			t.Log(err)
		}
	}
	f := newFixture(t, nil)
	o := f.o
	o.Address, o.Control = "127.0.0.1:0", dir+"/other"
	if err := Serve(context.Background(), o); err == nil || !strings.Contains(err.Error(), "another server") {
		t.Errorf("two servers of one folder: %v", err)
	}
}

func TestListing(t *testing.T) {
	c := newContents()
	for i := range 1000 {
		c.add([]byte("key"), fmt.Sprint(i), &node{})
	}
	for i := range 900 {
		c.remove(fmt.Sprint(i))
	}
	if !c.settled() {
		c.settle()
	}
	if n := len(c.sorted); n > 300 {
		t.Errorf("%d entries are kept", n)
	}
	for range 100 { // what comes and goes leaves nothing
		for i := range 100 {
			c.add([]byte("key"), fmt.Sprint("x", i), &node{})
		}
		for i := range 100 {
			c.remove(fmt.Sprint("x", i))
		}
	}
	if n := len(c.added) + len(c.sorted); n > 500 {
		t.Errorf("%d entries are kept", n)
	}
	c.settle()
	var last uint64
	count := 0
	for _, e := range c.after(0) {
		if e.cookie <= last {
			t.Errorf("%d after %d", e.cookie, last)
		}
		if last = e.cookie; !e.gone {
			count++
		}
	}
	if count != 100 || len(c.after(last)) != 0 {
		t.Errorf("%d entries", count)
	}
}
