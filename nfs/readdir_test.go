package nfs

import (
	"fmt"
	"sync"
	"testing"
)

// list reads a folder in parts and returns how often each name came.
func (p *peer) list(t *testing.T, handle []byte, maxcount int, between func(page int)) map[string]int {
	t.Helper()
	names := map[string]int{}
	var cookie uint64
	for page := 0; ; page++ {
		r := p.last(at(handle), arg(opReaddir, cookie, uint64(0), maxcount/4, maxcount, attrs(1<<attrFileid|1<<attrRdattrError|1<<attrType|1<<attrFilehandle)))
		if r.status != ok {
			t.Fatalf("list: %d", r.status)
		}
		if len(r.b) > maxcount {
			t.Fatalf("a part has %d bytes, not %d", len(r.b), maxcount)
		}
		r.take(8)
		for r.flag() {
			cookie = r.u64()
			names[string(r.opaque(maxName))]++
			r.bitmap()
			r.opaque(1 << 10)
		}
		if r.flag() || r.bad {
			return names
		}
		if between != nil {
			between(page)
		}
	}
}

// Names that stay come once each, whatever happens to others meanwhile.
func TestReaddir(t *testing.T) {
	count := 10_000
	if testing.Short() {
		count = 1000
	}
	f := newFixture(t, nil)
	p := f.dial(token)
	if st := p.mkdir(p.root, "d", 0o777); st != ok {
		t.Fatal(st)
	}
	d := p.lookup(p.root, "d")
	for i := 0; i < count; i += maxOps / 2 {
		ops := [][]byte{at(d), arg(opSavefh)}
		for j := i; j < min(count, i+maxOps/2-2); j++ {
			ops = append(ops, arg(opRestorefh), arg(opCreate, uint32(kindFifo), fmt.Sprint("stays ", j), 0, 0))
		}
		if r := p.do(ops...); r.status != ok {
			t.Fatalf("make many: %d", r.status)
		}
	}
	want := len(p.list(t, d, 32<<10, nil))
	stop := make(chan struct{})
	var wg sync.WaitGroup
	q := f.dial(token)
	wg.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			name := fmt.Sprint("comes and goes ", i)
			q.mkdir(d, name, 0o755)
			q.rename(d, name, d, name+" renamed")
			if i >= 10 {
				q.remove(d, fmt.Sprint("comes and goes ", i-10, " renamed"))
			}
		}
	})
	for range 3 {
		got := p.list(t, d, 16<<10, func(page int) {
			if page == 3 {
				f.dial(otherToken).mkdir(d, "x", 0o755)
			}
		})
		stays := 0
		for name, n := range got {
			if len(name) > 5 && name[:5] == "stays" {
				stays++
				if n != 1 {
					t.Errorf("%q came %d times", name, n)
				}
			}
		}
		if stays != want {
			t.Errorf("%d names of %d", stays, want)
		}
	}
	close(stop)
	wg.Wait()
	// A cookie is good after a restart.
	restarted := false
	before := p.list(t, d, 64<<10, func(page int) {
		if page == 2 && !restarted {
			restarted = true
			f.restart()
			*p = *f.dial(token)
		}
	})
	stays := 0
	for name, n := range before {
		if len(name) > 5 && name[:5] == "stays" {
			stays++
			if n != 1 {
				t.Errorf("over a restart %q came %d times", name, n)
			}
		}
	}
	if stays != want {
		t.Errorf("over a restart: %d names of %d", stays, want)
	}
	p.do(at(d), arg(opReaddir, uint64(0), uint64(0), 0, 20, 0)).is(t, errToosmall)
	p.do(at(d), arg(opReaddir, uint64(0), uint64(0), 0, 0, 0)).is(t, errToosmall)
	p.do(at(d), arg(opReaddir, uint64(2), uint64(0), 0, 4096, 0)).is(t, errBadCookie)
	if n := len(p.list(t, p.root, 200, nil)); n != 1 {
		t.Errorf("the root has %d names", n)
	}
}
