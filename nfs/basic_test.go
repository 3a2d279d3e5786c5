package nfs

import (
	"encoding/binary"
	"strings"
	"testing"
)

func TestFiles(t *testing.T) {
	f := newFixture(t, nil)
	p := f.dial(token)
	file := p.make(p.root, "hello.txt", "hello", 0o640)
	if text, st := p.read(file, anonymous); text != "hello" || st != ok {
		t.Errorf("%q %d", text, st)
	}
	for attr, want := range map[int]uint64{attrSize: 5, attrMode: 0o640, attrNumlinks: 1, attrType: uint64(kindFile), attrFhExpire: 0} {
		if got := p.number(file, attr); got != want {
			t.Errorf("attribute %d is %d, want %d", attr, got, want)
		}
	}
	if st := p.symlink(p.root, "link", "../../etc/passwd"); st != ok {
		t.Errorf("a symbolic link: %d", st)
	}
	link := p.lookup(p.root, "link")
	if r := p.last(at(link), arg(opReadlink)); string(r.opaque(100)) != "../../etc/passwd" {
		t.Errorf("the link is another one: %d", r.status)
	}
	if _, st := p.find(p.root, "link/x"); st != errSymlink {
		t.Errorf("through a link: %d", st)
	}
	// A hard link is the same object.
	p.do(at(file), arg(opSavefh), at(p.root), arg(opLink, "again")).is(t, ok)
	if string(p.lookup(p.root, "again")) != string(file) || p.number(file, attrNumlinks) != 2 {
		t.Error("a hard link is another object")
	}
	if st := p.remove(p.root, "hello.txt"); st != ok {
		t.Errorf("remove: %d", st)
	}
	if text, _ := p.read(file, anonymous); text != "hello" {
		t.Errorf("by its other name: %q", text)
	}
	if st := p.remove(p.root, "again"); st != ok {
		t.Errorf("remove: %d", st)
	}
	if _, st := p.read(file, anonymous); st != errStale {
		t.Errorf("a file that is no more: %d", st)
	}
}

// The change attribute differs after each change, however fast they come, and after a
// restart.
func TestChange(t *testing.T) {
	f := newFixture(t, nil)
	p := f.dial(token)
	file := p.make(p.root, "a", "", 0o644)
	last := p.number(file, attrChange)
	for i := range 200 {
		if i%2 == 0 {
			p.write(file, anonymous, 0, "x")
		} else {
			p.chmod(file, 0o600+uint32(i%4))
		}
		now := p.number(file, attrChange)
		if now <= last {
			t.Fatalf("change %d: %d after %d", i, now, last)
		}
		last = now
	}
	f.restart()
	if now := f.dial(token).number(file, attrChange); now <= last {
		t.Errorf("after a restart %d, before %d", now, last)
	}
}

func TestNames(t *testing.T) {
	f := newFixture(t, nil)
	p := f.dial(token)
	for name, want := range map[string]status{
		"": errInval, ".": errBadname, "..": errBadname, "a/b": errBadname, "a\x00b": errBadname, "/": errBadname,
		strings.Repeat("x", 255): ok, strings.Repeat("x", 256): errNametoolong, "\xff\xfe": ok, "…": ok, "a b": ok, "-": ok,
	} {
		if st := p.mkdir(p.root, name, 0o755); st != want {
			t.Errorf("a folder %q: %d, want %d", name, st, want)
		}
	}
	// Paths may be longer than the kernel takes.
	h := p.root
	for range 40 {
		if st := p.mkdir(h, strings.Repeat("y", 250), 0o755); st != ok {
			t.Fatalf("a deep folder: %d", st)
		}
		h = p.lookup(h, strings.Repeat("y", 250))
	}
	deep := p.make(h, "deep", "deep", 0o644)
	f.restart()
	if text, st := f.dial(token).read(deep, anonymous); text != "deep" {
		t.Errorf("%q %d", text, st)
	}
}

func TestRename(t *testing.T) {
	f := newFixture(t, nil)
	p := f.dial(token)
	for _, name := range []string{"empty", "full", "mover"} {
		p.mkdir(p.root, name, 0o755)
	}
	full := p.lookup(p.root, "full")
	p.mkdir(full, "in", 0o755)
	in := p.lookup(full, "in")
	file := p.make(p.root, "file", "1", 0o644)
	p.make(p.root, "file2", "2", 0o644)
	for _, test := range []struct {
		from []byte
		name string
		to   []byte
		as   string
		want status
	}{
		{p.root, "none", p.root, "x", errNoent},
		{p.root, "file", p.root, "empty", errExist},
		{p.root, "mover", p.root, "file", errExist},
		{p.root, "mover", p.root, "full", errNotempty},
		{p.root, "full", in, "x", errInval},
		{p.root, "full", full, "x", errInval},
		{p.root, "mover", p.root, "empty", ok},
		{p.root, "file", p.root, "file", ok},
		{p.root, "file", p.root, "file2", ok},
		{p.root, "file2", in, "moved", ok},
		{full, "in", p.root, "out", ok},
		{file, "x", p.root, "y", errNotdir},
	} {
		if st := p.rename(test.from, test.name, test.to, test.as); st != test.want {
			t.Errorf("%s to %s: %d, want %d", test.name, test.as, st, test.want)
		}
	}
	check := func(p *peer) {
		t.Helper()
		if h := p.lookup(p.root, "out/moved"); string(h) != string(file) {
			t.Error("a file that has moved is another one")
		}
		if text, st := p.read(file, anonymous); text != "1" {
			t.Errorf("%q %d", text, st)
		}
		r := p.last(at(in), arg(opLookupp), arg(opGetfh))
		if h := r.opaque(128); string(h) != string(p.root) {
			t.Errorf("above: %d", r.status)
		}
	}
	check(p)
	f.restart()
	check(f.dial(token))
	p = f.dial(token)
	p.do(at(p.root), arg(opLookupp)).is(t, errNoent)
}

// What is removed while it is open can be read until it is closed.
func TestRemovedWhileOpen(t *testing.T) {
	f := newFixture(t, nil)
	p := f.dial(token)
	p.introduce("client", 1)
	file := p.make(p.root, "a", "text", 0o644)
	o := p.newOwner("o")
	id, _, _ := o.open(p.root, "a", shareBoth, 0, -1)
	p.make(p.root, "b", "other", 0o644)
	if st := p.rename(p.root, "b", p.root, "a"); st != ok {
		t.Fatalf("rename: %d", st)
	}
	for range 2 {
		if text, st := p.read(file, id); text != "text" || st != ok {
			t.Errorf("%q %d", text, st)
		}
		if st := p.write(file, id, 0, "text"); st != ok {
			t.Errorf("write: %d", st)
		}
		if n := p.number(file, attrNumlinks); n != 0 {
			t.Errorf("it has %d names", n)
		}
		p.make(p.root, "c", "", 0o644)
	}
	if st := o.close(file, id); st != ok {
		t.Errorf("close: %d", st)
	}
	p.do(at(file)).is(t, errStale)
}

func TestPseudoRoot(t *testing.T) {
	f := newFixture(t, nil)
	p := f.connect()
	for name, test := range map[string]struct {
		op   []byte
		want status
	}{
		"list":     {arg(opReaddir, uint64(0), uint64(0), 4096, 8192, 0), errAccess},
		"make":     {arg(opCreate, uint32(kindFolder), "x", 0, 0), errRofs},
		"remove":   {arg(opRemove, token), errRofs},
		"unknown":  {arg(opLookup, "token-of-nobody-0123456789"), errNoent},
		"part":     {arg(opLookup, token[:len(token)-1]), errNoent},
		"above":    {arg(opLookupp), errNoent},
		"secinfo":  {arg(opSecinfo, token), ok},
		"secinfo?": {arg(opSecinfo, "token-of-nobody-0123456789"), errNoent},
		"attrs":    {arg(opGetattr, attrs(supported&^attrsSetBy)), ok},
		"access":   {arg(opAccess, 63), ok},
		"commit":   {arg(opCommit, uint64(0), 0), errAccess},
		"handle":   {arg(opGetfh), ok},
	} {
		t.Run(name, func(t *testing.T) { p.do(at(nil), test.op).is(t, test.want) })
	}
	p.do(arg(opGetfh)).is(t, errNofilehandle)
	p.do(arg(opSetattr, anonymous, fattr(0))).is(t, errNofilehandle)
	p.do(arg(opRestorefh)).is(t, errRestorefh)
	r := p.last(at(nil), arg(opGetfh))
	p.do(arg(opPutfh, append([]byte{}, r.opaque(128)...)), arg(opLookup, token)).is(t, ok)
}

func TestProtocol(t *testing.T) {
	f := newFixture(t, nil)
	p := f.dial(token)
	p.do(at(nil), arg(2)).is(t, errOpIllegal)
	p.do(at(nil), arg(40)).is(t, errOpIllegal)
	p.do(at(nil), arg(opOpenattr, true)).is(t, errNotsupp)
	p.do(at(nil), arg(opGetattr)).is(t, errBadxdr)
	p.do().is(t, ok)
	var many [][]byte
	for range maxOps {
		many = append(many, at(nil))
	}
	p.do(many...).is(t, ok)
	p.do(append(many, at(nil))...).is(t, errResource)
	b, err := p.exchange(minorCall(1, 2, 1, arg(42)))
	if err != nil {
		t.Fatal(err)
	}
	if r, err := parse(b, 1); err != nil || r.status != errMinorVers || r.count != 0 {
		t.Errorf("version 4.2: %+v, %v", r, err)
	}
	for name, test := range map[string]struct {
		call []byte
		want []uint32 // behind the number of the call
	}{
		"null":         {arg(1, 0, 2, 100003, 4, 0, 0, 0, 0, 0), []uint32{1, 0, 0, 0, acceptSuccess}},
		"version 3":    {arg(1, 0, 2, 100003, 3, 0, 0, 0, 0, 0), []uint32{1, 0, 0, 0, acceptProgMismatch, 4, 4}},
		"mount":        {arg(1, 0, 2, 100005, 3, 0, 0, 0, 0, 0), []uint32{1, 0, 0, 0, acceptProgUnavail}},
		"procedure":    {arg(1, 0, 2, 100003, 4, 2, 0, 0, 0, 0), []uint32{1, 0, 0, 0, acceptProcUnavail}},
		"rpc":          {arg(1, 0, 3, 100003, 4, 0, 0, 0, 0, 0), []uint32{1, 1, 0, 2, 2}},
		"kerberos":     {arg(1, 0, 2, 100003, 4, 1, 6, 0, 0, 0), []uint32{1, 1, 1, 1}},
		"no arguments": {arg(1, 0, 2, 100003, 4, 1, 0, 0, 0, 0), []uint32{1, 0, 0, 0, acceptGarbage}},
	} {
		b, err := p.exchange(test.call)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for i, want := range test.want {
			if got := binary.BigEndian.Uint32(b[4+4*i:]); got != want {
				t.Errorf("%s: word %d is %d, want %d", name, i, got, want)
			}
		}
	}
	// VERIFY compares.
	same := arg(attrs(1<<attrType), arg(uint32(kindFolder)))
	other := arg(attrs(1<<attrType), arg(uint32(kindFile)))
	for _, test := range []struct {
		op   int
		attr []byte
		want status
	}{{opVerify, same, ok}, {opVerify, other, errNotSame}, {opNverify, same, errSame}, {opNverify, other, ok}, {opVerify, arg(attrs(1<<12), arg(0)), errAttrnotsupp}} {
		p.do(at(p.root), append(arg(test.op), test.attr...)).is(t, test.want)
	}
}
