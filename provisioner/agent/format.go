package agent

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"strings"

	"golang.org/x/sys/unix"
)

// The file of a pristine disk is a stream: pristineMagic, then entries. An entry is a byte
// that says what it is and what belongs to that; numbers are varints of encoding/binary,
// texts a length and bytes.
//
//	place    folder: what follows is in it
//	dir      name, owner, mode, time; what follows is in it until leave
//	file     name, owner, mode, time, size, extents until an extent of kind 0
//	symlink  name, owner, mode, time, target
//	fifo     name, owner, mode, time (socket the same)
//	hard     name, path in the place of a file before it
//	finish   nothing follows
//
// An extent is its kind (data, zeros, hole, room), its length, and the bytes of data. Zeros
// are written, holes are not; room is a hole whose blocks the file has. (tar has no holes that
// Go could write.)
const pristineMagic = "remuda pristine 1\n"

const (
	entryPlace   = 'P'
	entryDir     = 'd'
	entryLeave   = '.'
	entryFile    = 'f'
	entrySymlink = 'l'
	entryFifo    = 'p'
	entrySocket  = 's'
	entryHard    = 'h'
	entryFinish  = 'E'
)

const (
	extentEnd = iota
	extentData
	extentZeros
	extentHole
	extentRoom
)

const (
	pristineBuffer = 256 << 10
	textLimit      = 4095 // of paths and targets
	depthLimit     = 256
)

// entry is one thing in a pristine disk.
type entry struct {
	kind      byte
	name      string // or the folder of a place
	uid, gid  uint32
	mode      uint32
	sec, nsec int64
	size      int64  // of a file
	target    string // of a link
}

// packer writes the stream and its digest.
type packer struct {
	to   io.Writer
	buf  []byte
	hash hash.Hash
	size int64
}

func newPacker(to io.Writer) *packer {
	p := &packer{to: to, hash: sha256.New(), buf: make([]byte, 0, pristineBuffer+textLimit+256)}
	p.buf = append(p.buf, pristineMagic...)
	return p
}

func (p *packer) flush() error {
	p.hash.Write(p.buf)
	n, err := p.to.Write(p.buf)
	p.size += int64(n)
	p.buf = p.buf[:0]
	return err
}

func (p *packer) text(s string) {
	p.buf = binary.AppendUvarint(p.buf, uint64(len(s)))
	p.buf = append(p.buf, s...)
}

// entry writes everything of it but the extents of a file.
func (p *packer) entry(e entry) error {
	if len(p.buf) >= pristineBuffer-2*textLimit {
		if err := p.flush(); err != nil {
			return err
		}
	}
	p.buf = append(p.buf, e.kind)
	switch e.kind {
	case entryLeave:
		return nil
	case entryFinish:
		return p.flush()
	}
	p.text(e.name)
	if e.kind != entryPlace && e.kind != entryHard {
		for _, n := range []uint64{uint64(e.uid), uint64(e.gid), uint64(e.mode)} {
			p.buf = binary.AppendUvarint(p.buf, n)
		}
		p.buf = binary.AppendVarint(p.buf, e.sec)
		p.buf = binary.AppendVarint(p.buf, e.nsec)
	}
	switch e.kind {
	case entryFile:
		p.buf = binary.AppendUvarint(p.buf, uint64(e.size))
	case entrySymlink, entryHard:
		p.text(e.target)
	}
	return nil
}

// extent writes one of a file; fill is asked for the bytes of data, part by part.
func (p *packer) extent(kind byte, length int64, fill func([]byte) error) error {
	p.buf = append(p.buf, kind)
	if kind == extentEnd {
		return nil
	}
	p.buf = binary.AppendUvarint(p.buf, uint64(length))
	for kind == extentData && length > 0 {
		if len(p.buf) >= pristineBuffer {
			if err := p.flush(); err != nil {
				return err
			}
		}
		n := int(min(length, int64(pristineBuffer-len(p.buf))))
		at := len(p.buf)
		p.buf = p.buf[:at+n]
		if err := fill(p.buf[at:]); err != nil {
			return err
		}
		length -= int64(n)
	}
	return nil
}

func (p *packer) pristine() Pristine {
	return Pristine{Digest: hex.EncodeToString(p.hash.Sum(nil)), Size: p.size}
}

var errDamaged = errors.New("the kept disk is damaged")

// unpacker reads the stream, and digests what it has read.
type unpacker struct {
	from  io.Reader
	hash  hash.Hash
	buf   []byte
	rest  []byte // of buf, not read yet
	depth int
	begun bool // in a place
	left  int64
}

func newUnpacker(from io.Reader) (*unpacker, error) {
	u := &unpacker{from: from, hash: sha256.New(), buf: make([]byte, pristineBuffer)}
	for i := range len(pristineMagic) {
		b, err := u.ReadByte()
		if err == nil && b != pristineMagic[i] {
			err = fmt.Errorf("%w: it does not begin like one", errDamaged)
		}
		if err != nil {
			return nil, err
		}
	}
	return u, nil
}

// more reads the next part of the stream.
func (u *unpacker) more() error {
	n, err := io.ReadAtLeast(u.from, u.buf, 1)
	if err != nil {
		if err == io.EOF {
			return fmt.Errorf("%w: it is cut off", errDamaged)
		}
		return err
	}
	u.rest = u.buf[:n]
	u.hash.Write(u.rest)
	return nil
}

// ReadByte is for encoding/binary.
func (u *unpacker) ReadByte() (byte, error) {
	if len(u.rest) == 0 {
		if err := u.more(); err != nil {
			return 0, err
		}
	}
	b := u.rest[0]
	u.rest = u.rest[1:]
	return b, nil
}

func (u *unpacker) number(limit uint64) (uint64, error) {
	n, err := binary.ReadUvarint(u)
	if err == nil && n > limit {
		err = fmt.Errorf("%w: a number is too large", errDamaged)
	}
	return n, err
}

func (u *unpacker) text(limit uint64) (string, error) {
	n, err := u.number(limit)
	if err != nil {
		return "", err
	}
	out := make([]byte, 0, n)
	for uint64(len(out)) < n {
		if len(u.rest) == 0 {
			if err := u.more(); err != nil {
				return "", err
			}
		}
		part := u.rest[:min(len(u.rest), int(n)-len(out))]
		out = append(out, part...)
		u.rest = u.rest[len(part):]
	}
	return string(out), nil
}

// next is the next entry. It has been checked that it makes sense where it is; the extents
// of a file must have been read before.
func (u *unpacker) next() (e entry, err error) {
	if e.kind, err = u.ReadByte(); err != nil {
		return e, err
	}
	switch e.kind {
	case entryFinish:
		if n, err := u.from.Read(u.buf[:1]); len(u.rest) > 0 || n > 0 || (err != nil && err != io.EOF) || u.depth > 0 {
			return e, fmt.Errorf("%w: it does not end where it ends", errDamaged)
		}
		return e, nil
	case entryLeave:
		if u.depth == 0 {
			return e, fmt.Errorf("%w: it leaves a place", errDamaged)
		}
		u.depth--
		return e, nil
	case entryPlace, entryDir, entryFile, entrySymlink, entryFifo, entrySocket, entryHard:
	default:
		return e, fmt.Errorf("%w: an entry of kind %d", errDamaged, e.kind)
	}
	if err := u.fields(&e); err != nil {
		return e, err
	}
	return e, u.check(e)
}

func (u *unpacker) fields(e *entry) (err error) {
	if e.name, err = u.text(255); err != nil {
		return err
	}
	if e.kind != entryPlace && e.kind != entryHard {
		for _, f := range []struct {
			to    *uint32
			limit uint64
		}{{&e.uid, 1<<32 - 2}, {&e.gid, 1<<32 - 2}, {&e.mode, 0o7777}} {
			n, err := u.number(f.limit)
			if err != nil {
				return err
			}
			*f.to = uint32(n)
		}
		if e.sec, err = binary.ReadVarint(u); err != nil {
			return err
		}
		if e.nsec, err = binary.ReadVarint(u); err != nil {
			return err
		}
	}
	switch e.kind {
	case entryFile:
		var n uint64
		n, err = u.number(1 << 62)
		e.size, u.left = int64(n), int64(n)
	case entrySymlink, entryHard:
		e.target, err = u.text(textLimit)
	}
	return err
}

func (u *unpacker) check(e entry) error {
	switch {
	case !goodName(e.name):
		return fmt.Errorf("%w: the name %+q", errDamaged, e.name)
	case e.nsec < 0 || e.nsec >= 1e9:
		return fmt.Errorf("%w: the time of %+q", errDamaged, e.name)
	case e.kind == entryPlace && u.depth > 0:
		return fmt.Errorf("%w: a place in a place", errDamaged)
	case e.kind != entryPlace && !u.begun:
		return fmt.Errorf("%w: %+q is in no place", errDamaged, e.name)
	case e.kind == entrySymlink && (e.target == "" || strings.ContainsRune(e.target, 0)):
		return fmt.Errorf("%w: the target of %+q", errDamaged, e.name)
	}
	switch e.kind {
	case entryPlace:
		u.begun = true
	case entryDir:
		u.depth++
		if u.depth > depthLimit {
			return fmt.Errorf("%w: it is too deep", errDamaged)
		}
	case entryHard:
		for part := range strings.SplitSeq(e.target, "/") {
			if !goodName(part) {
				return fmt.Errorf("%w: the path %+q", errDamaged, e.target)
			}
		}
	}
	return nil
}

// extents calls data for the parts of a file that are not holes, zeros for those without bytes, and
// room for holes that have blocks.
func (u *unpacker) extents(data func(offset int64, bytes []byte) error, zeros, room func(offset, length int64) error) error {
	for at := int64(0); ; {
		kind, err := u.ReadByte()
		if err != nil || kind == extentEnd {
			return err
		}
		n, err := u.number(uint64(u.left))
		if err != nil {
			return err
		}
		length := int64(n)
		u.left -= length
		switch kind {
		case extentData:
			err = u.pass(at, length, data)
		case extentZeros:
			err = zeros(at, length)
		case extentHole:
		case extentRoom:
			err = room(at, length)
		default:
			err = fmt.Errorf("%w: an extent of kind %d", errDamaged, kind)
		}
		if err != nil {
			return err
		}
		at += length
	}
}

func (u *unpacker) pass(at, length int64, data func(int64, []byte) error) error {
	for length > 0 {
		if len(u.rest) == 0 {
			if err := u.more(); err != nil {
				return err
			}
		}
		part := u.rest[:min(int64(len(u.rest)), length)]
		if err := data(at, part); err != nil {
			return err
		}
		u.rest = u.rest[len(part):]
		at, length = at+int64(len(part)), length-int64(len(part))
	}
	return nil
}

// digest of all that was read.
func (u *unpacker) digest() string { return hex.EncodeToString(u.hash.Sum(nil)) }

// entryKind of a mode, 0 for what is not kept.
func entryKind(mode uint32) byte {
	switch mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return entryDir
	case unix.S_IFREG:
		return entryFile
	case unix.S_IFLNK:
		return entrySymlink
	case unix.S_IFIFO:
		return entryFifo
	case unix.S_IFSOCK:
		return entrySocket
	}
	return 0
}
