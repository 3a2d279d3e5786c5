package nfs

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// ends says whether the server hangs up on what is sent.
func (f *fixture) ends(what string, known bool, send []byte) {
	f.t.Helper()
	p := f.connect()
	if known {
		p.lookup(nil, token)
	}
	_ = p.conn.SetDeadline(time.Now().Add(5 * time.Second))
	_, _ = p.conn.Write(send)
	if _, err := p.conn.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) || err == nil {
		f.t.Errorf("%s: %v", what, err)
	}
}

func mark(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }

func TestHostile(t *testing.T) {
	f := newFixture(t, nil)
	f.ends("a request of 2 GiB", true, mark(1<<31-1))
	f.ends("a request too long", true, mark(lastPart|maxRecord+1))
	f.ends("a long request of a stranger", false, mark(lastPart|maxStranger+1))
	f.ends("many parts", true, []byte(strings.Repeat("\x00\x00\x00\x00", maxFragments+1)))
	f.ends("rubbish", false, []byte("GET / HTTP/1.1\r\n\r\n"))
	f.ends("an answer", true, append(mark(lastPart|8), arg(1, 1)...))
	f.ends("half a head", true, append(mark(lastPart|12), arg(1, 0, 2)...))
	f.ends("long credentials", true, append(mark(lastPart|40), arg(1, 0, 2, 100003, 4, 1, 1, 1<<30, 0, 0)...))

	p := f.dial(token)
	hello := p.make(p.root, "f", "hello", 0o644)
	// A request in parts is one.
	b := request(77, at(hello), arg(opRead, anonymous, uint64(0), 100))
	for i, part := range [][]byte{b[:10], nil, b[10:50], b[50:]} {
		head := uint32(len(part))
		if i == 3 {
			head |= lastPart
		}
		_, _ = p.conn.Write(append(mark(head), part...))
	}
	answer, err := p.receive()
	if err != nil || !strings.Contains(string(answer), "hello") {
		t.Errorf("a request in parts: %q, %v", answer, err)
	}
	// A million operations are told and not there, or too many.
	b, err = p.exchange(minorCall(1, 0, 1_000_000, at(nil)))
	if r, err2 := parse(b, 1); err != nil || err2 != nil || r.status != errResource {
		t.Errorf("a million operations: %v %v", err, err2)
	}
	b, err = p.exchange(minorCall(2, 0, 10, at(nil)))
	if r, err2 := parse(b, 2); err != nil || err2 != nil || r.status != errBadxdr {
		t.Errorf("operations that are not there: %v %v", err, err2)
	}
	// An answer has an end.
	big := p.make(p.root, "big", strings.Repeat("x", maxIO), 0o644)
	ops := [][]byte{at(big)}
	for range maxOps - 1 {
		ops = append(ops, arg(opRead, anonymous, uint64(0), maxIO))
	}
	if r := p.do(ops...); r.status != errResource || r.count > 4 || len(r.b) > maxRecord {
		t.Errorf("many reads: %d, %d results of %d bytes", r.status, r.count, len(r.b))
	}
	for what, op := range map[string][]byte{
		"long bitmap":    arg(opGetattr, 1<<30),
		"long name":      arg(opLookup, 1<<31-1),
		"long handle":    arg(opPutfh, 1<<20),
		"long data":      arg(opWrite, anonymous, uint64(0), 0, maxIO+1),
		"no such stable": arg(opWrite, anonymous, uint64(0), 9, "x"),
		"half a read":    arg(opRead, anonymous),
		"how":            arg(opOpen, 1, 1, 0, p.id, "x", 1, 9),
		"long owner":     arg(opOpen, 1, 1, 0, p.id, 1<<20),
	} {
		if r := p.do(at(big), op); r.status != errBadxdr {
			t.Errorf("%s: %d", what, r.status)
		}
	}
	p.do(at(big), arg(opWrite, anonymous, uint64(maxFile), 0, "xx")).is(t, errFbig)
	p.do(at(big), arg(opRead, anonymous, ^uint64(0), 10)).is(t, ok)
	if p.do(at(nil)); len(f.dial(token).root) == 0 {
		t.Error("it does not go on")
	}
}

// Clients that send half of something, or take no answers, hold up nobody else.
func TestBudget(t *testing.T) {
	f := newFixture(t, func(o *Options) { o.Memory = 4 << 20 })
	p := f.dial(token)
	big := p.make(p.root, "big", strings.Repeat("x", maxIO), 0o644)
	stuck := make([]*peer, 5)
	for i := range stuck { // five have asked for 40 MiB and read none of it
		stuck[i] = f.dial(token)
		for range 8 {
			b := request(1, at(big), arg(opRead, anonymous, uint64(0), maxIO))
			_, _ = stuck[i].conn.Write(append(mark(lastPart|uint32(len(b))), b...))
		}
	}
	time.Sleep(100 * time.Millisecond)
	began := time.Now()
	for range 20 {
		p.number(big, attrSize) // needs none of that memory
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("20 small requests took %s", took)
	}
	for _, q := range stuck {
		q.conn.Close()
	}
	if text, st := p.read(big, anonymous); len(text) != 1<<16 || st != ok {
		t.Errorf("%d bytes, %d", len(text), st)
	}
}

// Connections are bounded. Those who show nothing make way, those who know a token stay.
func TestTooManyConnections(t *testing.T) {
	f := newFixture(t, func(o *Options) { o.Connections = 3 })
	p := f.dial(token)
	for range 20 {
		c, err := net.Dial("tcp", f.o.Address)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	p.do(at(p.root)).is(t, ok)
	q, r := f.dial(otherToken), f.dial(otherToken) // in place of two
	late := f.connect()
	if _, err := late.send(at(nil)); err == nil {
		t.Error("it takes any number of connections")
	}
	for _, p := range []*peer{p, q, r} {
		p.do(at(p.root)).is(t, ok)
	}
}

// A client that has something open is taken over only from its own address.
func TestImpostor(t *testing.T) {
	f := newFixture(t, nil)
	p := f.dial(token)
	p.introduce("victim", 1)
	p.make(p.root, "a", "text", 0o644)
	id, file, _ := p.newOwner("o").open(p.root, "a", shareRead, 0, -1)
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}
	conn, err := d.Dial("tcp", f.o.Address)
	if err != nil {
		t.Skipf("there is one loopback address only: %v", err)
	}
	defer conn.Close()
	q := &peer{t: t, conn: conn}
	q.do(arg(opSetclientid, uint64(2), "victim", 0, "tcp", "", 0)).is(t, errClidInuse)
	if text, st := p.read(file, id); text != "text" || st != ok {
		t.Errorf("%q %d", text, st)
	}
	q.introduce("somebody else", 2)
}

// A request that comes again after its connection was lost is not carried out again.
func TestReplies(t *testing.T) {
	f := newFixture(t, nil)
	root := f.dial(token).root
	for n, test := range []struct {
		xid  uint32
		want status
	}{{77, ok}, {77, ok}, {78, errExist}} {
		p := f.connect()
		p.xid = test.xid - 1
		if st := p.mkdir(root, "once", 0o755); st != test.want {
			t.Errorf("request %d: status %d, want %d", n, st, test.want)
		}
	}
}

// No input takes the server down or makes it answer more than it may.
func FuzzCall(f *testing.F) {
	dir := shortDir(f)
	s, err := open(Options{Address: "-", Data: filepath.Join(dir, "data"), State: filepath.Join(dir, "state"), MaxFiles: 1000, Logger: slog.New(failing{slog.DiscardHandler, f})})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(s.close)
	if err := s.exports.change(Order{Login: "a", Token: token, Write: true, UID: 2000, GID: 2000}, s.dropExport); err != nil {
		f.Fatal(err)
	}
	root := s.handle(place{true, s.exports.named([]byte(token)), s.tree.root})
	id := stateid{seq: 1}
	s.state.clients[1] = &client{id: 1, name: "c", seen: time.Now().Add(24 * time.Hour), owners: map[ownerName]*owner{}}
	open := append(arg(opOpen, 1, shareBoth, 0, uint64(1), "o", 1, createUnchecked, fattr(0o644)), arg(claimNull, "f")...)
	for _, ops := range [][][]byte{
		{at(nil), arg(opLookup, token), arg(opGetfh), arg(opGetattr, attrs(supported&^attrsSetBy))},
		{arg(opSetclientid, uint64(1), "client", 0, "tcp", "addr", 0)},
		{at(root), open, arg(opGetfh)},
		{at(root), arg(opCreate, uint32(kindLink), "target", "l", fattr(0o777)), arg(opReadlink)},
		{at(root), arg(opReaddir, uint64(0), uint64(0), 512, 4096, attrs(supported&^attrsSetBy))},
		{at(root), arg(opLock, 1, false, uint64(0), uint64(1), true, 1, id, 1, uint64(1), "l")},
		{at(root), arg(opSavefh), arg(opRename, "f", "g"), arg(opLink, "h"), arg(opRemove, "g")},
		{at(root), arg(opLookup, "f"), arg(opWrite, anonymous, uint64(5), 2, "data"), arg(opRead, anonymous, uint64(0), 100), arg(opCommit, uint64(0), 0)},
		{at(root), arg(opSetattr, anonymous, fattr(0o755)), arg(opVerify, fattr(0o755)), arg(opAccess, 63), arg(opSecinfo, "f")},
		{at(root), arg(opGetattr, 1<<30)}, {arg(1 << 31)}, {at(root), arg(opLookup, 1<<31)},
	} {
		b := request(1, ops...)
		f.Add(b)
		f.Add(b[:len(b)-5])
	}
	f.Add(minorCall(1, 0, 1_000_000, at(root)))
	f.Add([]byte{})
	client, server := net.Pipe()
	f.Cleanup(func() { client.Close(); server.Close() })
	f.Fuzz(func(t *testing.T, record []byte) {
		if len(record) > maxRecord {
			return
		}
		c := &connection{Conn: server, s: s, r: bufio.NewReader(server), meet: func() {}}
		w := &worker{ctx: context.Background(), slots: s.workers}
		w.resume()
		reply, free := c.call(context.Background(), w, record)
		w.rest()
		free()
		if len(reply) > maxRecord+64<<10 || s.answers.left != s.Memory {
			t.Errorf("an answer of %d bytes", len(reply))
		}
	})
}

// failing fails a test for what is logged as an error.
type failing struct {
	slog.Handler
	t testing.TB
}

func (failing) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelError }

func (f failing) Handle(_ context.Context, r slog.Record) error {
	text := r.Message
	r.Attrs(func(a slog.Attr) bool { text += "\n" + a.String(); return true })
	panic(text)
}

func FuzzMeta(f *testing.F) {
	f.Add(meta{id: 1, kind: kindFile, mode: 0o644, uid: 2000, gid: 2000}.encode())
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		if m, ok := decodeMeta(b); ok && string(m.encode()) != string(b) {
			t.Errorf("%x is %+v", b, m)
		}
	})
}
