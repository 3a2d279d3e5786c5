package nfs

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// meta is what the disk's own file system cannot keep for a server that is nobody
// special: it is an extended attribute of each object.
//
// Objects are ordinary files and folders of the server's user, also those that are
// something else for clients: the text of a symbolic link is its file's content. So
// there is nothing on the disk that could be followed or would block, and all
// objects can have the attribute.
type meta struct {
	id       uint64 // of the object, never used twice; also its fileid. Below 2^53, which programs that count with floats need.
	kind     kind
	mode     uint32 // 07777 at most
	uid, gid uint32
	verifier [8]byte // of the OPEN with EXCLUSIVE4 that has made it
}

const (
	attribute = "user.remuda"
	metaSize  = 28
	maxID     = 1<<53 - 1

	defaultUser = 2000

	// Modes on the disk; with the sticky bit the object has no attribute yet.
	fileMode   = 0o600
	folderMode = 0o700
	unfinished = unix.S_ISVTX
)

func (m meta) encode() []byte {
	b := make([]byte, metaSize)
	b[0], b[1] = 1, byte(m.kind)
	binary.BigEndian.PutUint16(b[2:], uint16(m.mode))
	binary.BigEndian.PutUint64(b[4:], m.id)
	binary.BigEndian.PutUint32(b[12:], m.uid)
	binary.BigEndian.PutUint32(b[16:], m.gid)
	copy(b[20:28], m.verifier[:])
	return b
}

func decodeMeta(b []byte) (m meta, ok bool) {
	if len(b) != metaSize || b[0] != 1 {
		return m, false
	}
	m.kind, m.mode, m.id = kind(b[1]), uint32(binary.BigEndian.Uint16(b[2:])), binary.BigEndian.Uint64(b[4:])
	m.uid, m.gid = binary.BigEndian.Uint32(b[12:]), binary.BigEndian.Uint32(b[16:])
	copy(m.verifier[:], b[20:28])
	switch m.kind {
	case kindFile, kindFolder, kindLink, kindSocket, kindFifo:
	default:
		return m, false
	}
	return m, m.mode <= 0o7777 && m.id > 0 && m.id <= maxID
}

// readMeta returns ok false if the object has none, or none of ours.
func readMeta(fd int) (m meta, ok bool, err error) {
	var b [metaSize + 1]byte
	n, err := ignoringEINTR(func() (int, error) { return unix.Fgetxattr(fd, attribute, b[:]) })
	switch {
	case errors.Is(err, unix.ENODATA), errors.Is(err, unix.ERANGE):
		return m, false, nil
	case err != nil:
		return m, false, err
	}
	m, ok = decodeMeta(b[:n])
	return m, ok, nil
}

func writeMeta(fd int, m meta) error {
	err := unix.Fsetxattr(fd, attribute, m.encode(), 0)
	if errors.Is(err, unix.ENOTSUP) {
		return fmt.Errorf("the file system has no extended attributes for users: %w", err)
	}
	return err
}

func ignoringEINTR(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}
