package nfs

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The bits of a mode decide for owner, group and others, in that order.
func TestPermissions(t *testing.T) {
	f := newFixture(t, nil)
	f.change(Order{Login: "group", Token: "token-of-the-same-group", Write: true, UID: 4000, GID: 2000})
	owner, group, others := f.dial(token), f.dial("token-of-the-same-group"), f.dial(otherToken)
	for i, p := range []*peer{owner, group, others} {
		p.introduce(fmt.Sprint(i), 1)
	}
	owner.mkdir(owner.root, "d", 0o777)
	d := owner.lookup(owner.root, "d")
	owner.make(owner.root, "f", "text", 0o600)
	owner.make(d, "in", "", 0o666)
	for i, test := range []struct {
		mode                uint32
		p                   *peer
		read, write, search bool
	}{
		{0o700, owner, true, true, true}, {0o700, group, false, false, false}, {0o700, others, false, false, false},
		{0o070, owner, false, false, false}, {0o070, group, true, true, true}, {0o070, others, false, false, false},
		{0o007, owner, false, false, false}, {0o007, group, false, false, false}, {0o007, others, true, true, true},
		{0o444, owner, true, false, false}, {0o040, group, true, false, false}, {0o002, others, false, true, false},
		{0o750, group, true, false, true}, {0o705, others, true, false, true}, {0o711, others, false, false, true},
	} {
		for _, name := range []string{"d", "f"} {
			if st := owner.chmod(owner.lookup(owner.root, name), test.mode); st != ok {
				t.Fatal(st)
			}
		}
		check := func(what string, got status, want bool) {
			t.Helper()
			if got != ok && got != errAccess || (got == ok) != want {
				t.Errorf("mode %o, peer %d: %s: %d", test.mode, i%3, what, got)
			}
		}
		p := test.p
		d, file := p.lookup(p.root, "d"), p.lookup(p.root, "f")
		check("list", p.do(at(d), arg(opReaddir, uint64(0), uint64(0), 4096, 8192, 0)).status, test.read)
		_, st := p.find(d, "in")
		check("look up", st, test.search)
		name := fmt.Sprint("made", i)
		check("make", p.mkdir(d, name, 0o700), test.write && test.search)
		if test.write && test.search {
			check("rename", p.rename(d, name, d, "other"), true)
			check("remove", p.remove(d, "other"), true)
		}
		o := p.newOwner(fmt.Sprint("o", i))
		_, _, st = o.open(p.root, "f", shareRead, 0, -1)
		check("open to read", st, test.read || test.search) // programs are read to be run
		_, _, st = o.open(p.root, "f", shareWrite, 0, -1)
		check("open to write", st, test.write)
		if p != owner {
			_, st = p.read(file, anonymous)
			check("read", st, test.read || test.search)
			check("write", p.write(file, anonymous, 0, "text"), test.write)
		}
		r := p.last(at(file), arg(opAccess, 63))
		r.u32()
		if got := r.u32(); got&accessRead != 0 != test.read || got&accessModify != 0 != test.write || got&accessExecute != 0 != test.search {
			t.Errorf("mode %o, peer %d: ACCESS says %b", test.mode, i%3, got)
		}
	}
}

func TestOwners(t *testing.T) {
	f := newFixture(t, nil)
	p, q := f.dial(token), f.dial(otherToken)
	file := p.make(p.root, "f", "", 0o666)
	q.make(q.root, "g", "", 0o644)
	theirs, ours := p.lookup(p.root, "g"), q.lookup(q.root, "f") // as the other sees them: a handle is of an export
	set := func(p *peer, h []byte, attr int, value string) status {
		return p.do(at(h), arg(opSetattr, anonymous, attrs(1<<attr), arg(value))).status
	}
	times := func(p *peer, h []byte, own bool) status {
		value := arg(0)
		if own {
			value = arg(1, uint64(1e9), 5)
		}
		return p.do(at(h), arg(opSetattr, anonymous, attrs(1<<attrTimeModifySet), value)).status
	}
	for what, test := range map[string]struct{ got, want status }{
		"mode of another's":   {p.chmod(theirs, 0o777), errPerm},
		"own owner":           {set(p, file, attrOwner, "2000"), ok},
		"own group":           {set(p, file, attrOwnerGroup, "2000"), ok},
		"another owner":       {set(p, file, attrOwner, "0"), errPerm},
		"another group":       {set(p, file, attrOwnerGroup, "3000"), errPerm},
		"taking":              {set(p, theirs, attrOwner, "2000"), errPerm},
		"a name":              {set(p, file, attrOwner, "root"), errBadowner},
		"negative":            {set(p, file, attrOwner, "-1"), errBadowner},
		"times":               {times(p, file, true), ok},
		"now":                 {times(p, file, false), ok},
		"times of another's":  {times(q, ours, true), errPerm},
		"now of another's":    {times(q, ours, false), ok},
		"now, not writable":   {times(p, theirs, false), errAccess},
		"size of another's":   {p.do(at(theirs), arg(opSetattr, anonymous, attrs(1<<attrSize), arg(uint64(9)))).status, errAccess},
		"size":                {q.do(at(ours), arg(opSetattr, anonymous, attrs(1<<attrSize), arg(uint64(9)))).status, ok},
		"size of a folder":    {p.do(at(p.root), arg(opSetattr, anonymous, attrs(1<<attrSize), arg(uint64(9)))).status, errIsdir},
		"size of nothing":     {p.do(at(file), arg(opSetattr, anonymous, attrs(1<<attrSize), arg(^uint64(0)))).status, errFbig},
		"read-only attribute": {p.do(at(file), arg(opSetattr, anonymous, attrs(1<<attrType), arg(1))).status, errInval},
		"unknown attribute":   {p.do(at(file), arg(opSetattr, anonymous, attrs(1<<12), arg(1))).status, errAttrnotsupp},
		"too much":            {p.do(at(file), arg(opSetattr, anonymous, attrs(1<<attrMode), arg(1, 2))).status, errBadxdr},
	} {
		if test.got != test.want {
			t.Errorf("%s: %d, want %d", what, test.got, test.want)
		}
	}
	r := p.last(at(theirs), arg(opGetattr, attrs(1<<attrOwner|1<<attrOwnerGroup)))
	r.bitmap()
	d := decoder{b: r.opaque(100)}
	if uid, gid := string(d.opaque(9)), string(d.opaque(9)); uid != "3000" || gid != "3000" {
		t.Errorf("owner %q, group %q", uid, gid)
	}
	// Symbolic links have an owner too; writing takes away the bit that makes a
	// program its owner's.
	q.symlink(q.root, "l", "x")
	if st := p.chmod(p.lookup(p.root, "l"), 0o700); st != errPerm {
		t.Errorf("mode of another's link: %d", st)
	}
	p.chmod(file, 0o4777)
	q.write(ours, anonymous, 0, "x")
	if m := p.number(file, attrMode); m != 0o777 {
		t.Errorf("after a write its mode is %o", m)
	}
	// In a folder with the sticky bit only owners remove.
	p.mkdir(p.root, "tmp", 0o1777)
	tmp, tmpq := p.lookup(p.root, "tmp"), q.lookup(q.root, "tmp")
	q.mkdir(tmpq, "a", 0o777)
	q.mkdir(tmpq, "b", 0o777)
	p.mkdir(tmp, "c", 0o777)
	for what, test := range map[string]struct{ got, want status }{
		"another's":          {q.remove(tmpq, "c"), errAccess},
		"another's, renamed": {q.rename(tmpq, "c", tmpq, "d"), errAccess},
		"replaced":           {q.rename(tmpq, "b", tmpq, "c"), errAccess},
		"own":                {q.remove(tmpq, "a"), ok},
		"the folder's owner": {p.remove(tmp, "b"), ok},
	} {
		if test.got != test.want {
			t.Errorf("sticky, %s: %d, want %d", what, test.got, test.want)
		}
	}
	// The group of a folder with its bit is that of what is made in it.
	p.chmod(p.root, 0o777)
	p.mkdir(p.root, "shared", 0o2777)
	shared := q.lookup(q.root, "shared")
	q.mkdir(shared, "sub", 0o755)
	if m := q.number(q.lookup(shared, "sub"), attrMode); m != 0o2755 {
		t.Errorf("a folder in it has mode %o", m)
	}
}

func TestReadOnly(t *testing.T) {
	f := newFixture(t, nil)
	w := f.dial(token)
	w.make(w.root, "f", "text", 0o666)
	w.mkdir(w.root, "d", 0o777)
	f.change(Order{Login: "reader", Token: "token-of-a-reader-01234567", UID: 2000, GID: 2000})
	p := f.dial("token-of-a-reader-01234567")
	p.introduce("reader", 1)
	file := p.lookup(p.root, "f")
	o := p.newOwner("o")
	for what, op := range map[string][]byte{
		"create":   arg(opCreate, uint32(kindFolder), "x", 0, 0),
		"remove":   arg(opRemove, "f"),
		"setattr":  arg(opSetattr, anonymous, fattr(0)),
		"write":    arg(opWrite, anonymous, uint64(0), 0, "x"),
		"make":     o.openArgs("new", shareRead, 0, 0o644),
		"open":     p.newOwner("o2").openArgs("f", shareWrite, 0, -1),
		"truncate": append(append(arg(opOpen, 1, shareWrite, 0, p.id, "x", 1, createUnchecked, attrs(1<<attrSize), arg(uint64(0))), arg(claimNull)...), arg("f")...),
	} {
		h := p.root
		if what == "write" || what == "setattr" {
			h = file
		}
		if r := p.do(at(h), op); r.status != errRofs {
			t.Errorf("%s: %d", what, r.status)
		}
	}
	p.do(at(p.root), arg(opSavefh), arg(opRename, "f", "g")).is(t, errRofs)
	p.do(at(file), arg(opSavefh), at(p.root), arg(opLink, "g")).is(t, errRofs)
	truncate := append(append(arg(opOpen, 1, shareRead, 0, p.id, "y", 1, createUnchecked, attrs(1<<attrSize), arg(uint64(0))), arg(claimNull)...), arg("f")...)
	if st := p.do(at(p.root), truncate).status; st == ok {
		t.Error("a file is cut through an export that is read only")
	}
	id, file, st := p.newOwner("reader").open(p.root, "f", shareRead, 0, -1)
	if text, st2 := p.read(file, id); st != ok || text != "text" {
		t.Errorf("%q %d %d", text, st, st2)
	}
	r := p.last(at(p.root), arg(opAccess, 63))
	if r.u32(); r.u32() != accessRead|accessLookup {
		t.Error("ACCESS promises changes")
	}
}

func TestHandles(t *testing.T) {
	f, g := newFixture(t, nil), newFixture(t, nil)
	p := f.dial(token)
	file := p.make(p.root, "f", "text", 0o666)
	if len(file) != handleSize {
		t.Fatalf("a handle has %d bytes", len(file))
	}
	for i := range file {
		for _, bit := range []byte{1, 0x80} {
			h := append([]byte{}, file...)
			h[i] ^= bit
			if st := p.do(at(h)).status; st != errBadhandle && st != errStale {
				t.Errorf("with byte %d changed: %d", i, st)
			}
		}
	}
	q := f.dial(otherToken)
	h := append([]byte{}, file...)
	copy(h[4:8], q.root[4:8])
	p.do(at(h)).is(t, errBadhandle) // another export of the same files
	p.do(at(file[:31])).is(t, errBadhandle)
	p.do(arg(opPutfh, []byte{})).is(t, errBadhandle)
	g.dial(token).do(at(file)).is(t, errBadhandle) // another instance
	if binary.BigEndian.Uint32(p.root[4:]) == binary.BigEndian.Uint32(q.root[4:]) {
		t.Error("two exports have the same number")
	}
	f.restart()
	if text, st := f.dial(token).read(file, anonymous); text != "text" {
		t.Errorf("after a restart: %q %d", text, st)
	}
}

func TestChangeOfExports(t *testing.T) {
	f := newFixture(t, nil)
	p := f.dial(token)
	p.introduce("one", 1)
	file := p.make(p.root, "f", "text", 0o666)
	id, _, _ := p.newOwner("o").open(p.root, "f", shareBoth, shareBoth, -1)
	f.change(Order{Login: "first", Token: token, Write: true, UID: 2000, GID: 2000}) // the same again
	if text, st := p.read(file, id); text != "text" {
		t.Errorf("the same again: %q %d", text, st)
	}
	f.change(Order{Login: "first", Token: token, UID: 2000, GID: 2000})
	p.do(at(file)).is(t, errStale)
	q := f.dial(otherToken)
	if st := q.write(q.lookup(q.root, "f"), anonymous, 0, "next"); st != ok {
		t.Errorf("what the export had open is still in the way: %d", st)
	}
	p.root = p.lookup(nil, token)
	if st := p.mkdir(p.root, "x", 0o755); st != errRofs {
		t.Errorf("through the export that is read only: %d", st)
	}
	f.change(Order{Login: "first"})
	f.change(Order{Login: "first"})
	f.change(Order{Login: "nobody"})
	if _, st := p.find(nil, token); st != errNoent {
		t.Errorf("an export that is gone: %d", st)
	}
	f.restart()
	if _, st := f.connect().find(nil, token); st != errNoent {
		t.Errorf("after a restart: %d", st)
	}
	f.dial(otherToken)
	for what, o := range map[string]Order{
		"another's token": {Login: "third", Token: otherToken, UID: 1, GID: 1},
		"short token":     {Login: "third", Token: "short", UID: 1, GID: 1},
		"path":            {Login: "third", Token: "../../../../../../../../etc", UID: 1, GID: 1},
		"root":            {Login: "third", Token: token, UID: 0, GID: 1},
		"nobody":          {Login: "third", Token: token, UID: 1, GID: 65534},
		"no login":        {Token: token, UID: 1, GID: 1},
	} {
		err := Change(context.Background(), f.o.Control, o)
		if err == nil || o.Token != "short" && strings.Contains(err.Error(), o.Token) {
			t.Errorf("%s: %v", what, err)
		}
	}
	info, err := os.Stat(f.o.Control)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the socket: %v, %v", info.Mode(), err)
	}
	if b, err := os.ReadFile(filepath.Join(f.o.State, "exports")); err != nil || strings.Contains(string(b), otherToken) {
		t.Errorf("a token is in the state folder: %v", err)
	}
}

// A server that is just starting is waited for.
func TestChangeWhileRestarting(t *testing.T) {
	f := newFixture(t, nil)
	f.stop()
	done := make(chan error)
	go func() { done <- Change(context.Background(), f.o.Control, Order{Login: "other"}) }()
	time.Sleep(150 * time.Millisecond)
	f.start()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// Whatever runs when an export is taken away has ended when Change returns.
func TestUnbindUnderLoad(t *testing.T) {
	f := newFixture(t, nil)
	p := f.dial(token)
	file := p.make(p.root, "f", strings.Repeat("x", 1<<16), 0o666)
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for i := range 6 {
		q := f.dial(token)
		q.introduce(fmt.Sprint("load", i), 1)
		wg.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				r, err := q.send(at(q.root), arg(opCreate, uint32(kindFolder), fmt.Sprint("d", i, " ", n), fattr(0o755)))
				if err != nil || r.status != ok && r.status != errStale {
					t.Errorf("make: %v", err)
					return
				}
				if r, err = q.send(at(file), arg(opRead, anonymous, uint64(0), 1<<16)); err != nil || r.status != ok && r.status != errStale {
					t.Errorf("read: %v", err)
					return
				}
			}
		})
	}
	time.Sleep(100 * time.Millisecond)
	f.change(Order{Login: "first"})
	before, err := os.ReadDir(f.o.Data)
	if err != nil || len(before) < 10 {
		t.Errorf("%d objects, %v", len(before), err)
	}
	time.Sleep(50 * time.Millisecond)
	if after, _ := os.ReadDir(f.o.Data); len(after) != len(before) {
		t.Errorf("%d objects, later %d", len(before), len(after))
	}
	close(stop)
	wg.Wait()
	p.do(at(file)).is(t, errStale)
}

// On a disk without a free byte or inode exports are still given and taken away.
func TestFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can mount a small disk")
	}
	dir := shortDir(t)
	disk := filepath.Join(dir, "disk")
	image := filepath.Join(dir, "image")
	if err := os.Mkdir(disk, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, words := range [][]string{{"truncate", "-s", "24M", image}, {"mkfs.ext4", "-q", "-N", "300", "-m", "0", image}, {"mount", "-o", "loop", image, disk}} {
		if out, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil {
			t.Skipf("%s: %v: %s", words[0], err, out)
		}
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", disk).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	f := newFixture(t, func(o *Options) {
		o.Data, o.State = filepath.Join(disk, "data"), filepath.Join(disk, "state")
	})
	p := f.dial(token)
	big := p.make(p.root, "big", "x", 0o644)
	var offset uint64
	st := ok
	for chunk := strings.Repeat("x", 1<<20); len(chunk) > 0; chunk = chunk[:len(chunk)/2] {
		for st = ok; st == ok && offset < 1<<30; {
			r := p.last(at(big), arg(opWrite, anonymous, offset, unstable, chunk))
			if st = r.status; st == ok {
				offset += uint64(r.u32())
			}
		}
		if st != errNospc {
			t.Fatalf("a full disk: %d", st)
		}
	}
	st = ok
	for i := 0; i < 1000 && st == ok; i++ {
		st = p.symlink(p.root, fmt.Sprint("l", i), "x")
		if st == errNospc {
			st = p.do(at(p.root), arg(opCreate, uint32(kindFifo), fmt.Sprint("f", i), fattr(0o777))).status
		}
	}
	if st != errNospc {
		t.Errorf("a disk without inodes: %d", st)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(disk, &fs); err != nil || fs.Bavail > 0 {
		t.Errorf("%d blocks and %d inodes are free, %v", fs.Bavail, fs.Ffree, err)
	}
	f.change(Order{Login: "third", Token: "token-of-a-third-login-012345", Write: true, UID: 5000, GID: 5000})
	f.change(Order{Login: "other"})
	f.restart()
	if _, st := f.connect().find(nil, otherToken); st != errNoent {
		t.Errorf("an export that was taken away: %d", st)
	}
	p = f.dial("token-of-a-third-login-012345")
	if st := f.dial(token).remove(p.root, "big"); st != errStale && st != errBadhandle && st != ok {
		t.Errorf("remove: %d", st)
	}
	q := f.dial(token)
	if st := q.remove(q.root, "big"); st != ok && st != errNoent {
		t.Errorf("remove: %d", st)
	}
	q.make(q.root, "l0", "room", 0o644)
}
