package nfs

import "encoding/binary"

// decoder takes XDR (RFC 4506) apart. After the first fault it is bad, and all that
// it returns is zero. Opaque data are parts of what is decoded, not copies.
type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) take(n int) []byte {
	if d.bad || n > len(d.b) {
		d.bad = true
		return nil
	}
	b := d.b[:n:n]
	d.b = d.b[n:]
	return b
}

func (d *decoder) u32() uint32 {
	if b := d.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (d *decoder) u64() uint64 {
	if b := d.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

func (d *decoder) flag() bool {
	n := d.u32()
	d.bad = d.bad || n > 1
	return n == 1
}

// opaque returns data of a length that stands before them and is limit at most.
func (d *decoder) opaque(limit int) []byte {
	n := d.u32()
	if n > uint32(limit) {
		d.bad = true
		return nil
	}
	b := d.take(int(n))
	d.take(int(-n & 3))
	return b
}

// bitmap returns attributes 0 to 63, and whether there are others.
func (d *decoder) bitmap() (bits uint64, more bool) {
	n := d.u32()
	if n > 8 {
		d.bad = true
		return 0, false
	}
	for i := range n {
		word := d.u32()
		switch {
		case i < 2:
			bits |= uint64(word) << (32 * i)
		case word != 0:
			more = true
		}
	}
	return bits, more
}

func (d *decoder) stateid() (id stateid) {
	id.seq = d.u32()
	copy(id.other[:], d.take(len(id.other)))
	return id
}

// encoder puts XDR together.
type encoder struct{ b []byte }

func (e *encoder) u32(n uint32) { e.b = binary.BigEndian.AppendUint32(e.b, n) }
func (e *encoder) u64(n uint64) { e.b = binary.BigEndian.AppendUint64(e.b, n) }

func (e *encoder) flag(v bool) {
	if v {
		e.u32(1)
	} else {
		e.u32(0)
	}
}

func (e *encoder) opaque(data []byte) {
	e.u32(uint32(len(data)))
	e.b = append(e.b, data...)
	e.pad(len(data))
}

func (e *encoder) text(s string) {
	e.u32(uint32(len(s)))
	e.b = append(e.b, s...)
	e.pad(len(s))
}

func (e *encoder) pad(n int) { e.b = append(e.b, make([]byte, -n&3)...) }

func (e *encoder) bitmap(bits uint64) {
	switch {
	case bits == 0:
		e.u32(0)
	case bits>>32 == 0:
		e.u32(1)
		e.u32(uint32(bits))
	default:
		e.u32(2)
		e.u32(uint32(bits))
		e.u32(uint32(bits >> 32))
	}
}

func (e *encoder) stateid(id stateid) {
	e.u32(id.seq)
	e.b = append(e.b, id.other[:]...)
}

// put overwrites a number.
func (e *encoder) put(at int, n uint32) { binary.BigEndian.PutUint32(e.b[at:], n) }
