package nfs

import (
	"fmt"
	"strings"
	"testing"
)

func benchmarkIO(b *testing.B, size int, op func(file []byte, id stateid, offset uint64) []byte) {
	f := newFixture(b, nil)
	p := f.dial(token)
	const total = 64 << 20
	file := p.make(p.root, "f", "", 0o644)
	for offset := uint64(0); offset < total; offset += maxIO {
		p.do(at(file), arg(opWrite, anonymous, offset, unstable, strings.Repeat("x", maxIO))).is(b, ok)
	}
	b.SetBytes(int64(size))
	offset := uint64(0)
	for b.Loop() {
		p.do(at(file), op(file, anonymous, offset)).is(b, ok)
		offset = (offset + uint64(size)) % total
	}
}

func BenchmarkRead(b *testing.B) {
	for _, size := range []int{4 << 10, 64 << 10, 1 << 20} {
		b.Run(fmt.Sprintf("%dKiB", size>>10), func(b *testing.B) {
			benchmarkIO(b, size, func(_ []byte, id stateid, offset uint64) []byte { return arg(opRead, id, offset, size) })
		})
	}
}

func BenchmarkWrite(b *testing.B) {
	for _, size := range []int{4 << 10, 64 << 10, 1 << 20} {
		data := strings.Repeat("y", size)
		b.Run(fmt.Sprintf("%dKiB", size>>10), func(b *testing.B) {
			benchmarkIO(b, size, func(_ []byte, id stateid, offset uint64) []byte { return arg(opWrite, id, offset, unstable, data) })
		})
	}
}

func BenchmarkGetattr(b *testing.B) {
	f := newFixture(b, nil)
	p := f.dial(token)
	p.mkdir(p.root, "d", 0o755)
	file := p.make(p.lookup(p.root, "d"), "f", "", 0o644)
	f.restart() // the file is not open
	p = f.dial(token)
	for b.Loop() {
		p.do(at(file), arg(opGetattr, attrs(supported&^attrsSetBy))).is(b, ok)
	}
}

func BenchmarkCreate(b *testing.B) {
	f := newFixture(b, func(o *Options) { o.MaxFiles = 10_000_000 })
	p := f.dial(token)
	p.introduce("bench", 1)
	o := p.newOwner("o")
	o.open(p.root, "first", shareBoth, 0, 0o644)
	for i := 0; b.Loop(); i++ {
		id, file, st := o.open(p.root, fmt.Sprint("f", i), shareBoth, 0, 0o644)
		if st != ok {
			b.Fatal(st)
		}
		o.close(file, id)
	}
}
