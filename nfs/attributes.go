package nfs

import (
	"math"
	"math/bits"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Attributes (RFC 7531, section 2; RFC 7530, section 5).
const (
	attrSupported       = 0
	attrType            = 1
	attrFhExpire        = 2
	attrChange          = 3
	attrSize            = 4
	attrLinkSupport     = 5
	attrSymlinkSupport  = 6
	attrNamed           = 7
	attrFsid            = 8
	attrUniqueHandles   = 9
	attrLease           = 10
	attrRdattrError     = 11
	attrAclSupport      = 13
	attrCansettime      = 15
	attrCaseInsensitive = 16
	attrCasePreserving  = 17
	attrChownRestricted = 18
	attrFilehandle      = 19
	attrFileid          = 20
	attrFilesAvail      = 21
	attrFilesFree       = 22
	attrFilesTotal      = 23
	attrHomogeneous     = 26
	attrMaxfilesize     = 27
	attrMaxlink         = 28
	attrMaxname         = 29
	attrMaxread         = 30
	attrMaxwrite        = 31
	attrMode            = 33
	attrNoTrunc         = 34
	attrNumlinks        = 35
	attrOwner           = 36
	attrOwnerGroup      = 37
	attrRawdev          = 41
	attrSpaceAvail      = 42
	attrSpaceFree       = 43
	attrSpaceTotal      = 44
	attrSpaceUsed       = 45
	attrTimeAccess      = 47
	attrTimeAccessSet   = 48
	attrTimeDelta       = 51
	attrTimeMetadata    = 52
	attrTimeModify      = 53
	attrTimeModifySet   = 54
	attrMountedOn       = 55

	attrsOfDisk = 1<<attrFilesAvail | 1<<attrFilesFree | 1<<attrFilesTotal | 1<<attrSpaceAvail | 1<<attrSpaceFree | 1<<attrSpaceTotal
	attrsToSet  = 1<<attrSize | 1<<attrMode | 1<<attrOwner | 1<<attrOwnerGroup | 1<<attrTimeAccessSet | 1<<attrTimeModifySet
	attrsSetBy  = 1<<attrTimeAccessSet | 1<<attrTimeModifySet // can be set, but not be asked for
)

// attributeOf encodes one value.
type attributeOf func(e *encoder, a *attributes)

// attributes is what is known of an object when its attributes are asked for.
type attributes struct {
	s     *server
	at    place
	meta  meta
	st    unix.Stat_t
	disk  unix.Statfs_t
	files uint64 // how many can be made
	total uint64
	chang uint64
}

// supported are the attributes that can be asked for or set.
const supported = uint64(attrsToSet |
	1<<attrSupported | 1<<attrType | 1<<attrFhExpire | 1<<attrChange | 1<<attrSize | 1<<attrLinkSupport |
	1<<attrSymlinkSupport | 1<<attrNamed | 1<<attrFsid | 1<<attrUniqueHandles | 1<<attrLease | 1<<attrRdattrError |
	1<<attrAclSupport | 1<<attrCansettime | 1<<attrCaseInsensitive | 1<<attrCasePreserving | 1<<attrChownRestricted | 1<<attrFilehandle |
	1<<attrFileid | 1<<attrFilesAvail | 1<<attrFilesFree | 1<<attrFilesTotal | 1<<attrHomogeneous | 1<<attrMaxfilesize |
	1<<attrMaxlink | 1<<attrMaxname | 1<<attrMaxread | 1<<attrMaxwrite | 1<<attrMode | 1<<attrNoTrunc |
	1<<attrNumlinks | 1<<attrOwner | 1<<attrOwnerGroup | 1<<attrRawdev | 1<<attrSpaceAvail | 1<<attrSpaceFree |
	1<<attrSpaceTotal | 1<<attrSpaceUsed | 1<<attrTimeAccess | 1<<attrTimeDelta | 1<<attrTimeMetadata | 1<<attrTimeModify |
	1<<attrMountedOn)

func number(get func(a *attributes) uint64) attributeOf {
	return func(e *encoder, a *attributes) { e.u64(get(a)) }
}

func word(n uint32) attributeOf { return func(e *encoder, _ *attributes) { e.u32(n) } }

var attributeTable = [64]attributeOf{
	attrSupported:       func(e *encoder, _ *attributes) { e.bitmap(supported) },
	attrType:            func(e *encoder, a *attributes) { e.u32(uint32(a.meta.kind)) },
	attrFhExpire:        word(0), // persistent
	attrChange:          number(func(a *attributes) uint64 { return a.chang }),
	attrSize:            number(func(a *attributes) uint64 { return uint64(a.st.Size) }),
	attrLinkSupport:     word(1),
	attrSymlinkSupport:  word(1),
	attrNamed:           word(0),
	attrFsid:            func(e *encoder, a *attributes) { e.u64(a.s.fsid); e.u64(a.export()) },
	attrUniqueHandles:   word(1),
	attrLease:           func(e *encoder, a *attributes) { e.u32(uint32(a.s.state.lease / time.Second)) },
	attrRdattrError:     word(uint32(ok)),
	attrAclSupport:      word(0),
	attrCansettime:      word(1),
	attrCaseInsensitive: word(0),
	attrCasePreserving:  word(1),
	attrChownRestricted: word(1),
	attrFilehandle:      func(e *encoder, a *attributes) { e.opaque(a.s.handle(a.at)) },
	attrFileid:          number(func(a *attributes) uint64 { return a.meta.id }),
	attrFilesAvail:      number(func(a *attributes) uint64 { return a.files }),
	attrFilesFree:       number(func(a *attributes) uint64 { return a.files }),
	attrFilesTotal:      number(func(a *attributes) uint64 { return a.total }),
	attrHomogeneous:     word(1),
	attrMaxfilesize:     number(func(*attributes) uint64 { return maxFile }),
	attrMaxlink:         word(maxLinks),
	attrMaxname:         word(maxName),
	attrMaxread:         number(func(*attributes) uint64 { return maxIO }),
	attrMaxwrite:        number(func(*attributes) uint64 { return maxIO }),
	attrMode:            func(e *encoder, a *attributes) { e.u32(a.meta.mode) },
	attrNoTrunc:         word(1),
	attrNumlinks:        func(e *encoder, a *attributes) { e.u32(uint32(min(a.st.Nlink, math.MaxUint32))) },
	attrOwner:           func(e *encoder, a *attributes) { e.text(strconv.Itoa(int(a.meta.uid))) },
	attrOwnerGroup:      func(e *encoder, a *attributes) { e.text(strconv.Itoa(int(a.meta.gid))) },
	attrRawdev:          func(e *encoder, _ *attributes) { e.u32(0); e.u32(0) },
	attrSpaceAvail:      number(func(a *attributes) uint64 { return a.disk.Bavail * uint64(a.disk.Bsize) }),
	attrSpaceFree:       number(func(a *attributes) uint64 { return a.disk.Bfree * uint64(a.disk.Bsize) }),
	attrSpaceTotal:      number(func(a *attributes) uint64 { return a.disk.Blocks * uint64(a.disk.Bsize) }),
	attrSpaceUsed:       number(func(a *attributes) uint64 { return uint64(a.st.Blocks) * 512 }),
	attrTimeAccess:      func(e *encoder, a *attributes) { e.time(a.st.Atim) },
	attrTimeDelta:       func(e *encoder, _ *attributes) { e.time(unix.Timespec{Nsec: 1}) },
	attrTimeMetadata:    func(e *encoder, a *attributes) { e.time(a.st.Ctim) },
	attrTimeModify:      func(e *encoder, a *attributes) { e.time(a.st.Mtim) },
	attrMountedOn:       number(func(a *attributes) uint64 { return a.mountedOn() }),
}

func (e *encoder) time(t unix.Timespec) {
	e.u64(uint64(t.Sec))
	e.u32(uint32(t.Nsec))
}

func (a *attributes) export() uint64 {
	if a.at.x == nil {
		return 0
	}
	return uint64(a.at.x.Number)
}

// mountedOn is the number that an export's root has as seen from the pseudo root.
func (a *attributes) mountedOn() uint64 {
	if a.at.x != nil && a.at.n == a.s.tree.root {
		return a.export() + 1
	}
	return a.meta.id
}

// look finds out what the attributes need; the tree is locked unless it is the
// pseudo root.
func (s *server) look(at place, want uint64) (a attributes, err error) {
	a.s, a.at = s, at
	if at.x == nil {
		a.meta = meta{id: 1, kind: kindFolder, mode: 0o111, uid: defaultUser, gid: defaultUser}
		a.st.Nlink, a.st.Ctim = 2, unix.NsecToTimespec(s.began.UnixNano())
		a.st.Mtim, a.st.Atim = a.st.Ctim, a.st.Ctim
		a.chang = uint64(s.began.UnixNano())
		return a, nil
	}
	a.meta = at.n.meta
	if a.st, err = s.tree.stat(at.n); err != nil {
		return a, err
	}
	a.chang = s.tree.change(at.n, &a.st)
	if want&attrsOfDisk != 0 {
		err = s.lookAtDisk(&a)
	}
	return a, err
}

func (s *server) lookAtDisk(a *attributes) error {
	if err := unix.Fstatfs(s.tree.disk.root, &a.disk); err != nil {
		return err
	}
	used := uint64(len(s.tree.objects))
	a.total = uint64(s.tree.limit)
	if used < a.total {
		a.files = a.total - used
	}
	if a.disk.Files > 0 {
		a.files, a.total = min(a.files, a.disk.Ffree), min(a.total, a.disk.Files)
	}
	return nil
}

// encode appends a fattr4 with those attributes of want that there are.
func (a *attributes) encode(e *encoder, want uint64) {
	want &= supported &^ attrsSetBy
	e.bitmap(want)
	at := len(e.b)
	e.u32(0)
	a.values(e, want)
	e.put(at, uint32(len(e.b)-at-4))
}

func (a *attributes) values(e *encoder, want uint64) {
	for ; want != 0; want &= want - 1 {
		attributeTable[bits.TrailingZeros64(want)](e, a)
	}
}

// look looks at the current object.
func (c *compound) look(want uint64) (attributes, error) {
	c.s.tree.mu.RLock()
	defer c.s.tree.mu.RUnlock()
	return c.s.look(c.at, want)
}

func (c *compound) getattr() status {
	want, _ := c.d.bitmap()
	if c.d.bad {
		return errBadxdr
	}
	if want&attrsSetBy != 0 {
		return errInval
	}
	a, err := c.look(want)
	if err != nil {
		return statusOf(err)
	}
	a.encode(&c.e, want)
	return ok
}

func (c *compound) verify() status  { return c.compare(ok, errNotSame) }
func (c *compound) nverify() status { return c.compare(errSame, ok) }

// compare says whether attributes have the values that the client thinks they have.
func (c *compound) compare(same, other status) status {
	want, more := c.d.bitmap()
	values := c.d.opaque(4 << 10)
	switch {
	case c.d.bad:
		return errBadxdr
	case more || want&^supported != 0:
		return errAttrnotsupp
	case want&(attrsSetBy|1<<attrRdattrError) != 0:
		return errInval
	}
	a, err := c.look(want)
	if err != nil {
		return statusOf(err)
	}
	var e encoder
	a.values(&e, want)
	if string(e.b) == string(values) {
		return same
	}
	return other
}
