package nfs

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

const (
	token      = "token-of-the-first-login-0123456789"
	otherToken = "token-of-another-login-0123456789"
)

// fixture is a server with two exports: one of user 2000, and other's of 3000.
type fixture struct {
	t    testing.TB
	o    Options
	stop func()
}

func newFixture(t testing.TB, change func(*Options)) *fixture {
	t.Helper()
	if test, is := t.(*testing.T); is {
		t.Cleanup(func() { goleak.VerifyNone(test, goleak.IgnoreCurrent()) })
	}
	dir := shortDir(t)
	f := &fixture{t: t, o: Options{Address: free(t), Data: filepath.Join(dir, "data"), State: filepath.Join(dir, "state"), Control: filepath.Join(dir, "control"), Logger: slog.New(slog.DiscardHandler)}}
	if change != nil {
		change(&f.o)
	}
	f.start()
	t.Cleanup(func() { f.stop() })
	f.change(Order{Login: "first", Token: token, Write: true, UID: 2000, GID: 2000})
	f.change(Order{Login: "other", Token: otherToken, Write: true, UID: 3000, GID: 3000})
	return f
}

// shortDir is a folder with a path that is short enough for a socket's.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "nfs")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func (f *fixture) start() {
	f.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, f.o) }()
	f.stop = func() {
		cancel()
		if err := <-done; err != nil {
			f.t.Error(err)
		}
		f.stop = func() {}
	}
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		c, err := net.Dial("tcp", f.o.Address)
		if err == nil {
			c.Close()
			return
		}
		select {
		case err := <-done:
			f.t.Fatalf("serve: %v", err)
		default:
		}
		if time.Now().After(end) {
			f.t.Fatal(err)
		}
	}
}

func (f *fixture) restart() {
	f.t.Helper()
	f.stop()
	f.start()
}

func (f *fixture) change(o Order) {
	f.t.Helper()
	if err := Change(context.Background(), f.o.Control, o); err != nil {
		f.t.Fatal(err)
	}
}

func free(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// peer is a connection of a client.
type peer struct {
	t    testing.TB
	conn net.Conn
	xid  uint32
	root []byte // of its export
	id   uint64 // of the client, once it has introduced itself
	made int    // files
}

// dial connects and looks up the export with the token.
func (f *fixture) dial(token string) *peer {
	f.t.Helper()
	p := f.connect()
	p.root = p.lookup(nil, token)
	return p
}

func (f *fixture) connect() *peer {
	f.t.Helper()
	conn, err := net.Dial("tcp", f.o.Address)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { conn.Close() })
	return &peer{t: f.t, conn: conn, xid: uint32(time.Now().UnixNano())}
}

// arg puts an operation's arguments together.
func arg(parts ...any) []byte {
	var e encoder
	for _, p := range parts {
		switch p := p.(type) {
		case int:
			e.u32(uint32(p))
		case uint32:
			e.u32(p)
		case uint64:
			e.u64(p)
		case bool:
			e.flag(p)
		case string:
			e.text(p)
		case []byte:
			e.opaque(p)
		case raw:
			e.b = append(e.b, p...)
		case stateid:
			e.stateid(p)
		case attrs:
			e.bitmap(uint64(p))
		default:
			panic(fmt.Sprintf("%T", p))
		}
	}
	return e.b
}

type (
	raw   []byte // without a length before it
	attrs uint64 // a bitmap
)

func request(xid uint32, ops ...[]byte) []byte { return minorCall(xid, 0, len(ops), ops...) }

func minorCall(xid uint32, minor, count int, ops ...[]byte) []byte {
	b := arg(xid, 0, 2, 100003, 4, 1, 1, arg(0, "test", 0, 0, 0), 0, 0, "", minor, count)
	for _, op := range ops {
		b = append(b, op...)
	}
	return b
}

// result is the answer to a compound, from its first result on.
type result struct {
	status status
	count  uint32
	decoder
}

func (p *peer) send(ops ...[]byte) (*result, error) {
	p.xid++
	b, err := p.exchange(request(p.xid, ops...))
	if err != nil {
		return nil, err
	}
	return parse(b, p.xid)
}

// exchange sends a record and returns the answer's.
func (p *peer) exchange(record []byte) ([]byte, error) {
	_ = p.conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := p.conn.Write(append(binary.BigEndian.AppendUint32(nil, lastPart|uint32(len(record))), record...)); err != nil {
		return nil, err
	}
	return p.receive()
}

func (p *peer) receive() ([]byte, error) {
	var mark [4]byte
	if _, err := io.ReadFull(p.conn, mark[:]); err != nil {
		return nil, err
	}
	b := make([]byte, binary.BigEndian.Uint32(mark[:])&^lastPart)
	_, err := io.ReadFull(p.conn, b)
	return b, err
}

func parse(b []byte, xid uint32) (*result, error) {
	d := decoder{b: b}
	if got := d.u32(); got != xid {
		return nil, fmt.Errorf("an answer to %d, not %d", got, xid)
	}
	if kind, denied := d.u32(), d.u32(); kind != msgReply || denied != 0 {
		return nil, fmt.Errorf("denied: %d %d", kind, denied)
	}
	d.u32()
	d.opaque(0)
	if accepted := d.u32(); accepted != acceptSuccess {
		return nil, fmt.Errorf("accepted: %d", accepted)
	}
	r := &result{status: status(d.u32())}
	d.opaque(maxTag)
	r.count = d.u32()
	r.decoder = d
	return r, nil
}

// do sends operations and goes to the result of the last one.
func (p *peer) do(ops ...[]byte) *result {
	p.t.Helper()
	r, err := p.send(ops...)
	if err != nil {
		p.t.Fatal(err)
	}
	return r
}

// last does operations of which all but the last have no results, and skips those.
func (p *peer) last(ops ...[]byte) *result {
	p.t.Helper()
	r := p.do(ops...)
	if int(r.count) == len(ops) {
		r.take(8 * len(ops))
	}
	return r
}

func (r *result) is(t testing.TB, want status) *result {
	t.Helper()
	if r.status != want {
		t.Errorf("status %d, want %d", r.status, want)
	}
	return r
}

func at(handle []byte) []byte {
	if handle == nil {
		return arg(opPutrootfh)
	}
	return arg(opPutfh, handle)
}

// find looks a path up.
func (p *peer) find(handle []byte, path string) ([]byte, status) {
	p.t.Helper()
	ops := [][]byte{at(handle)}
	for name := range strings.FieldsFuncSeq(path, func(r rune) bool { return r == '/' }) {
		ops = append(ops, arg(opLookup, name))
	}
	r := p.last(append(ops, arg(opGetfh))...)
	if r.status != ok {
		return nil, r.status
	}
	return append([]byte{}, r.opaque(128)...), ok
}

func (p *peer) lookup(handle []byte, path string) []byte {
	p.t.Helper()
	h, st := p.find(handle, path)
	if st != ok {
		p.t.Fatalf("look up a path: %d", st)
	}
	return h
}

// fattr is a mode as a fattr4.
func fattr(mode uint32) raw { return arg(attrs(1<<attrMode), arg(mode)) }

func (p *peer) mkdir(handle []byte, name string, mode uint32) status {
	p.t.Helper()
	return p.do(at(handle), arg(opCreate, uint32(kindFolder), name, fattr(mode))).status
}

func (p *peer) symlink(handle []byte, name, target string) status {
	p.t.Helper()
	return p.do(at(handle), arg(opCreate, uint32(kindLink), target, name, fattr(0o777))).status
}

func (p *peer) remove(handle []byte, name string) status {
	p.t.Helper()
	return p.do(at(handle), arg(opRemove, name)).status
}

func (p *peer) rename(from []byte, name string, to []byte, as string) status {
	p.t.Helper()
	return p.do(at(from), arg(opSavefh), at(to), arg(opRename, name, as)).status
}

func (p *peer) chmod(handle []byte, mode uint32) status {
	p.t.Helper()
	return p.do(at(handle), arg(opSetattr, anonymous, fattr(mode))).status
}

func (p *peer) write(handle []byte, id stateid, offset uint64, data string) status {
	p.t.Helper()
	return p.do(at(handle), arg(opWrite, id, offset, fileSync, data)).status
}

func (p *peer) read(handle []byte, id stateid) (string, status) {
	p.t.Helper()
	r := p.last(at(handle), arg(opRead, id, uint64(0), 1<<16))
	r.u32()
	return string(r.opaque(maxIO)), r.status
}

// numbers asks for attributes that are 64 bits each.
func (p *peer) number(handle []byte, attr int) uint64 {
	p.t.Helper()
	r := p.last(at(handle), arg(opGetattr, attrs(1<<attr)))
	if r.status != ok {
		p.t.Fatalf("ask for attribute %d: %d", attr, r.status)
	}
	r.bitmap()
	d := decoder{b: r.opaque(64)}
	if len(d.b) == 4 {
		return uint64(d.u32())
	}
	return d.u64()
}

// introduce makes the peer a client with a name.
func (p *peer) introduce(name string, verifier uint64) {
	p.t.Helper()
	r := p.last(arg(opSetclientid, verifier, name, 0, "tcp", "127.0.0.1.0.0", 0)).is(p.t, ok)
	p.id = r.u64()
	p.do(arg(opSetclientidConfirm, p.id, r.u64())).is(p.t, ok)
}

// owned is an owner of opens with its sequence.
type owned struct {
	p    *peer
	name string
	seq  uint32
}

func (p *peer) newOwner(name string) *owned { return &owned{p: p, name: name, seq: 7} }

// openArgs are those of OPEN for a file that is there, or, with a mode, one to be made.
func (o *owned) openArgs(name string, access, deny int, mode int) []byte {
	b := arg(opOpen, o.seq, access, deny, o.p.id, o.name)
	if mode >= 0 {
		b = append(b, arg(1, createUnchecked, fattr(uint32(mode)))...)
	} else {
		b = append(b, arg(0)...)
	}
	return append(b, arg(claimNull, name)...)
}

// open opens a file and confirms if it is asked to.
func (o *owned) open(handle []byte, name string, access, deny int, mode int) (id stateid, file []byte, st status) {
	o.p.t.Helper()
	o.seq++
	r := o.p.do(at(handle), o.openArgs(name, access, deny, mode), arg(opGetfh))
	if r.status != ok {
		return id, nil, r.status
	}
	r.take(8 + 8)
	id = r.stateid()
	r.take(4 + 16)
	flags := r.u32()
	r.bitmap()
	r.u32()
	r.take(8)
	file = append([]byte{}, r.opaque(128)...)
	if flags&resultConfirm != 0 {
		o.seq++
		r := o.p.last(at(file), arg(opOpenConfirm, id, o.seq)).is(o.p.t, ok)
		id = r.stateid()
	}
	return id, file, ok
}

func (o *owned) close(file []byte, id stateid) status {
	o.p.t.Helper()
	o.seq++
	return o.p.do(at(file), arg(opClose, o.seq, id)).status
}

// make makes a file with content.
func (p *peer) make(handle []byte, name, text string, mode uint32) []byte {
	p.t.Helper()
	if p.id == 0 {
		p.introduce(p.conn.LocalAddr().String(), 1)
	}
	p.made++
	o := p.newOwner(fmt.Sprintf("maker %d", p.made))
	id, file, st := o.open(handle, name, shareBoth, 0, int(mode))
	if st != ok {
		p.t.Fatalf("make a file: %d", st)
	}
	p.do(at(file), arg(opWrite, id, uint64(0), unstable, text)).is(p.t, ok)
	if st := o.close(file, id); st != ok {
		p.t.Fatalf("close a file: %d", st)
	}
	return file
}
