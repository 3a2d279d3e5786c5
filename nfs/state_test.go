package nfs

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

func TestShares(t *testing.T) {
	f := newFixture(t, nil)
	p := f.dial(token)
	p.introduce("one", 1)
	p.make(p.root, "a", "text", 0o666)
	q := f.dial(otherToken)
	q.introduce("two", 1)
	for i, test := range []struct {
		access, deny, access2, deny2 int
		want                         status
	}{
		{shareRead, 0, shareBoth, 0, ok},
		{shareBoth, 0, shareBoth, 0, ok},
		{shareRead, shareWrite, shareRead, shareWrite, ok},
		{shareRead, shareWrite, shareWrite, 0, errShareDenied},
		{shareRead, shareRead, shareRead, 0, errShareDenied},
		{shareWrite, 0, shareRead, shareWrite, errShareDenied},
		{shareRead, 0, shareWrite, shareRead, errShareDenied},
		{shareWrite, shareRead, shareWrite, 0, ok},
		{0, 0, shareRead, 0, errInval},
		{shareRead, 4, shareRead, 0, errInval},
	} {
		o := p.newOwner(fmt.Sprint("o", i))
		id, file, st := o.open(p.root, "a", test.access, test.deny, -1)
		if test.want == errInval {
			if st != errInval {
				t.Errorf("%+v: %d", test, st)
			}
			continue
		}
		o2 := q.newOwner(fmt.Sprint("o", i))
		id2, file2, st := o2.open(q.root, "a", test.access2, test.deny2, -1)
		if st != test.want {
			t.Errorf("%+v: %d", test, st)
		}
		if st == ok {
			o2.close(file2, id2)
		}
		o.close(file, id)
	}
	// What somebody denies, others do not get without an open either.
	o := p.newOwner("deny")
	id, file, _ := o.open(p.root, "a", shareRead, shareBoth, -1)
	q.p(t, q.lookup(q.root, "a"), errLocked, errLocked)
	o.close(file, id)
	q.p(t, q.lookup(q.root, "a"), ok, ok)
}

// p tries to read and to write without an open.
func (p *peer) p(t *testing.T, file []byte, read, write status) {
	t.Helper()
	if _, st := p.read(file, anonymous); st != read {
		t.Errorf("read: %d, want %d", st, read)
	}
	if st := p.write(file, anonymous, 0, "x"); st != write {
		t.Errorf("write: %d, want %d", st, write)
	}
}

func TestStateids(t *testing.T) {
	f := newFixture(t, nil)
	p := f.dial(token)
	p.introduce("one", 1)
	p.make(p.root, "a", "text", 0o644)
	other := p.make(p.root, "b", "text", 0o644)
	o := p.newOwner("o")
	first, file, _ := o.open(p.root, "a", shareRead, 0, -1)
	id, _, _ := o.open(p.root, "a", shareWrite, 0, -1)
	foreign := f.dial(otherToken)
	random, boot := id, id
	random.other[11]++
	boot.other[0]++
	late := id
	late.seq++
	for name, test := range map[string]struct {
		p    *peer
		file []byte
		id   stateid
		want status
	}{
		"right":                  {p, file, id, ok},
		"anonymous":              {p, file, anonymous, ok},
		"bypass":                 {p, file, bypass, ok},
		"before":                 {p, file, first, errOldStateid},
		"not yet":                {p, file, late, errBadStateid},
		"unknown":                {p, file, random, errBadStateid},
		"of another run":         {p, file, boot, errStaleStateid},
		"of another file":        {p, other, id, errBadStateid},
		"through another export": {foreign, foreign.lookup(foreign.root, "a"), id, errBadStateid},
		"zeros":                  {p, file, stateid{seq: 1}, errStaleStateid},
	} {
		if _, st := test.p.read(test.file, test.id); st != test.want {
			t.Errorf("%s: %d, want %d", name, st, test.want)
		}
	}
	o.seq++
	r := p.last(at(file), arg(opOpenDowngrade, id, o.seq, shareRead, 0)).is(t, ok)
	id = r.stateid()
	if st := p.write(file, id, 0, "x"); st != errOpenmode {
		t.Errorf("write after a downgrade: %d", st)
	}
	o.seq++
	p.do(at(file), arg(opOpenDowngrade, id, o.seq, shareBoth, 0)).is(t, errInval)
	if st := o.close(file, id); st != ok {
		t.Errorf("close: %d", st)
	}
	if _, st := p.read(file, id); st != errBadStateid {
		t.Errorf("after close: %d", st)
	}
	// After a restart of the server everything is of another run, and is reclaimed.
	id, file, _ = o.open(p.root, "a", shareBoth, 0, -1)
	f.restart()
	q := f.dial(token)
	if _, st := q.read(file, id); st != errStaleStateid {
		t.Errorf("after a restart: %d", st)
	}
	q.do(arg(opRenew, p.id)).is(t, errStaleClientid)
	q.introduce("one", 1)
	r = q.last(at(file), arg(opOpen, 1, shareBoth, 0, q.id, "o", 0, claimPrevious, 0)).is(t, ok)
	id = r.stateid()
	r.take(20)
	if r.u32()&resultConfirm != 0 { // the Linux client could not give it: it does not ask for the handle
		t.Error("a reclaim is to be confirmed")
	}
	q.do(at(file), arg(opLock, lockWrite, true, uint64(0), uint64(1), true, 2, id, 1, q.id, "l")).is(t, ok)
	if st := q.write(file, id, 0, "x"); st != ok {
		t.Errorf("write after a reclaim: %d", st)
	}
}

func TestSequence(t *testing.T) {
	f := newFixture(t, nil)
	p := f.dial(token)
	p.introduce("one", 1)
	o := p.newOwner("o")
	id, file, _ := o.open(p.root, "a", shareBoth, 0, 0o644)
	o.seq++
	open := o.openArgs("b", shareRead, 0, 0o600)
	first, err := p.send(at(p.root), open, arg(opGetfh))
	if err != nil || first.status != ok {
		t.Fatalf("%v %d", err, first.status)
	}
	if st := p.rename(p.root, "b", p.root, "c"); st != ok {
		t.Fatal(st)
	}
	// The same again is answered as before, though it could not be done now.
	again := p.do(at(p.root), open, arg(opGetfh)).is(t, ok)
	if string(again.b) != string(first.b) {
		t.Error("a replay has another answer")
	}
	if _, st := p.find(p.root, "b"); st != errNoent {
		t.Errorf("a replay makes a file: %d", st)
	}
	p.do(at(p.root), o.openArgs("z", shareRead, 0, -1)).is(t, errBadSeqid) // same number, other request
	o.seq += 5
	p.do(at(p.root), o.openArgs("c", shareRead, 0, -1)).is(t, errBadSeqid)
	o.seq -= 5
	o.seq++
	p.do(at(p.root), o.openArgs("none", shareRead, 0, -1)).is(t, errNoent)
	p.do(at(p.root), o.openArgs("none", shareRead, 0, -1)).is(t, errNoent)
	o.seq++
	closing := arg(opClose, o.seq, id)
	a, b := p.last(at(file), closing).is(t, ok), p.last(at(file), closing).is(t, ok)
	if string(a.b) != string(b.b) {
		t.Error("a replay of CLOSE has another answer")
	}
	// An open that is not confirmed is good for nothing.
	n := p.newOwner("n")
	r := p.last(at(p.root), n.openArgs("c", shareRead, 0, -1)).is(t, ok)
	if _, st := p.read(p.lookup(p.root, "c"), r.stateid()); st != errBadStateid {
		t.Errorf("before a confirmation: %d", st)
	}
	if _, _, st := n.open(p.root, "c", shareRead, 0, -1); st != ok {
		t.Errorf("an owner that begins anew: %d", st)
	}
}

func TestLocks(t *testing.T) {
	f := newFixture(t, nil)
	p, q := f.dial(token), f.dial(otherToken)
	p.introduce("one", 1)
	q.introduce("two", 1)
	p.make(p.root, "a", "text", 0o666)
	o, oq := p.newOwner("o"), q.newOwner("o")
	id, file, _ := o.open(p.root, "a", shareBoth, 0, -1)
	idq, fileq, _ := oq.open(q.root, "a", shareBoth, 0, -1)
	first := func(o *owned, file []byte, id stateid, kind int, offset, length uint64, name string) *result {
		o.seq++
		return o.p.last(at(file), arg(opLock, kind, false, offset, length, true, o.seq, id, 1, o.p.id, name))
	}
	lock := first(o, file, id, lockWrite, 10, 10, "l").is(t, ok).stateid()
	for i, test := range []struct {
		kind           int
		offset, length uint64
		want           status
	}{
		{lockRead, 0, 10, ok}, {lockRead, 20, 10, ok}, {lockRead, 19, 1, errDenied}, {lockWrite, 0, endOfFile, errDenied},
		{lockReadW, 5, 6, errDenied}, {lockWriteW, 20, endOfFile, ok}, {lockRead, 0, 0, errInval}, {lockRead, 5, endOfFile - 1, errInval}, {5, 0, 1, errInval},
	} {
		r := q.last(at(fileq), arg(opLockt, test.kind, test.offset, test.length, q.id, "x")).is(t, test.want)
		if test.want == errDenied {
			if offset, length, kind, client := r.u64(), r.u64(), r.u32(), r.u64(); offset != 10 || length != 10 || kind != lockWrite || client != 0 || len(r.opaque(maxOwner)) != 0 {
				t.Errorf("in the way: %d %d %d %d", offset, length, kind, client)
			}
		}
		r = first(oq, fileq, idq, test.kind, test.offset, test.length, fmt.Sprint("x", i)).is(t, test.want)
		if test.want == ok {
			q.do(at(fileq), arg(opLocku, test.kind, 2, r.stateid(), test.offset, test.length)).is(t, ok)
			q.do(arg(opReleaseLockowner, q.id, fmt.Sprint("x", i))).is(t, ok)
		}
	}
	p.do(arg(opReleaseLockowner, p.id, "l")).is(t, errLocksHeld)
	// Its own owner may have it otherwise, and in parts.
	lock = p.last(at(file), arg(opLock, lockRead, false, uint64(15), uint64(1), false, lock, 2)).is(t, ok).stateid()
	q.do(at(fileq), arg(opLockt, lockRead, uint64(15), uint64(1), q.id, "x")).is(t, ok)
	unlock := arg(opLocku, lockRead, 3, lock, uint64(12), uint64(1))
	a, b := p.last(at(file), unlock).is(t, ok), p.last(at(file), unlock).is(t, ok)
	if string(a.b) != string(b.b) {
		t.Error("a replay of LOCKU has another answer")
	}
	q.do(at(fileq), arg(opLockt, lockWrite, uint64(12), uint64(1), q.id, "x")).is(t, ok)
	q.do(at(fileq), arg(opLockt, lockWrite, uint64(13), uint64(1), q.id, "x")).is(t, errDenied)
	// With what is open the locks end.
	if st := o.close(file, id); st != ok {
		t.Errorf("close: %d", st)
	}
	q.do(at(fileq), arg(opLockt, lockWrite, uint64(0), endOfFile, q.id, "x")).is(t, ok)
	// A lock for writing needs a file that is open for it.
	id, file, _ = o.open(p.root, "a", shareRead, 0, -1)
	first(o, file, id, lockWrite, 0, 1, "m").is(t, errOpenmode)
	first(o, file, id, lockRead, 0, 1, "n").is(t, ok)
}

// A client that is silent for longer than its lease keeps what it has until somebody
// else wants it; one that restarts loses it at once.
func TestLease(t *testing.T) {
	const lease = 150 * time.Millisecond
	f := newFixture(t, func(o *Options) { o.lease = lease })
	p, q := f.dial(token), f.dial(token)
	p.introduce("one", 1)
	q.introduce("two", 1)
	p.make(p.root, "a", "text", 0o644)
	o, oq := p.newOwner("o"), q.newOwner("o")
	id, file, _ := o.open(p.root, "a", shareRead, shareWrite, -1)
	if _, _, st := oq.open(q.root, "a", shareWrite, 0, -1); st != errShareDenied {
		t.Fatalf("with a lease: %d", st)
	}
	time.Sleep(2 * lease)
	if _, st := p.read(file, id); st != ok {
		t.Errorf("after the lease, with nobody in the way: %d", st)
	}
	time.Sleep(2 * lease)
	if _, _, st := oq.open(q.root, "a", shareWrite, 0, -1); st != ok {
		t.Errorf("without a lease: %d", st)
	}
	if _, st := p.read(file, id); st != errBadStateid && st != errExpired {
		t.Errorf("what was lost: %d", st)
	}
	p.do(arg(opRenew, p.id)).is(t, errStaleClientid)

	p.introduce("three", 1)
	o = p.newOwner("o")
	id, file, _ = o.open(p.root, "a", shareRead, 0, -1)
	p.introduce("three", 1) // other callbacks, nothing else
	if _, st := p.read(file, id); st != ok {
		t.Errorf("after an introduction of the same: %d", st)
	}
	p.introduce("three", 2)
	if _, st := p.read(file, id); st != errBadStateid {
		t.Errorf("after a restart of the client: %d", st)
	}
}

func TestLimits(t *testing.T) {
	f := newFixture(t, func(o *Options) { o.Opens, o.Locks, o.Clients, o.MaxFiles = 6, 8, 3, 10 })
	p := f.dial(token)
	p.introduce("one", 1)
	o := p.newOwner("o")
	var ids []stateid
	var files [][]byte
	for i := range 3 {
		id, file, st := o.open(p.root, fmt.Sprint("f", i), shareBoth, 0, 0o644)
		if st != ok {
			t.Fatalf("open %d: %d", i, st)
		}
		ids, files = append(ids, id), append(files, file)
	}
	if _, _, st := o.open(p.root, "f4", shareBoth, 0, 0o644); st != errResource {
		t.Errorf("an open too many: %d", st)
	}
	o.seq-- // which does not count
	if st := o.close(files[0], ids[0]); st != ok {
		t.Errorf("close: %d", st)
	}
	if _, _, st := o.open(p.root, "f4", shareBoth, 0, 0o644); st != ok {
		t.Errorf("after a close: %d", st)
	}
	o.seq++
	lock := p.last(at(files[1]), arg(opLock, lockWrite, false, uint64(0), uint64(1), true, o.seq, ids[1], 1, p.id, "l")).is(t, ok).stateid()
	st, seq := ok, 1
	for i := 1; i < 10 && st == ok; i++ {
		seq++
		r := p.last(at(files[1]), arg(opLock, lockWrite, false, uint64(4*i), uint64(1), false, lock, seq))
		if st = r.status; st == ok {
			lock = r.stateid()
		}
	}
	if st != errResource {
		t.Errorf("a lock too many: %d", st)
	}
	for i := range 20 {
		f.connect().introduce(fmt.Sprint("client ", i), 1) // those with nothing make way
	}
	if _, st := p.read(files[1], ids[1]); st != ok {
		t.Errorf("a client with something open: %d", st)
	}
	made := ok
	for i := 0; i < 20 && made == ok; i++ {
		made = p.mkdir(p.root, fmt.Sprint("d", i), 0o755)
	}
	if made != errNospc {
		t.Errorf("an object too many: %d", made)
	}
	if n := p.number(p.root, attrFilesFree); n != 0 {
		t.Errorf("%d objects are free", n)
	}
	if st := p.remove(p.root, "d0"); st != ok {
		t.Errorf("remove: %d", st)
	}
	if st := p.mkdir(p.root, "more", 0o755); st != ok {
		t.Errorf("after a removal: %d", st)
	}
}

// Ranges are compared with what one lock for each byte would do.
func TestSpans(t *testing.T) {
	owners := []*owner{{}, {}}
	const size = 12
	random := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		var list []span
		var bytes [2][size]int // 0 nothing, 1 read, 2 write
		for range 20 {
			who, kind := random.IntN(2), random.IntN(3)
			first := random.IntN(size)
			last := first + random.IntN(size-first)
			o := owners[who]
			if kind == 0 {
				list = cut(list, o, uint64(first), uint64(last))
			} else {
				free := true
				for b := first; b <= last; b++ {
					free = free && (bytes[1-who][b] == 0 || bytes[1-who][b] == 1 && kind == 1)
				}
				s := span{uint64(first), uint64(last), kind == 2, o}
				if _, is := conflict(list, s); is == free {
					t.Fatalf("conflict %v, want %v", is, !free)
				}
				if !free {
					continue
				}
				list = join(list, s)
			}
			for b := first; b <= last; b++ {
				bytes[who][b] = kind
			}
			for who, o := range owners {
				for b := range size {
					got := 0
					for _, s := range list {
						if s.owner == o && s.first <= uint64(b) && uint64(b) <= s.last {
							got += 1 + map[bool]int{true: 1}[s.write]
						}
					}
					if got != bytes[who][b] {
						t.Fatalf("byte %d is %d, want %d: %v", b, got, bytes[who][b], list)
					}
				}
			}
		}
	}
	for _, test := range []struct {
		offset, length uint64
		ok             bool
	}{{0, 0, false}, {0, endOfFile, true}, {5, endOfFile, true}, {1, endOfFile - 1, true}, {2, endOfFile - 1, false}, {endOfFile, 1, false}} {
		if _, _, is := spanOf(test.offset, test.length); is != test.ok {
			t.Errorf("%+v", test)
		}
	}
}
