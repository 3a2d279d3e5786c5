package nfs

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
)

// A file handle is
//
//	version  1 byte, 1
//	-        3 bytes, 0
//	export   4 bytes, 0 for the pseudo root
//	object   8 bytes
//	MAC      16 bytes of HMAC-SHA256 of what stands before it
//
// The MAC's key is the export's own, so that nobody can make a handle, or one for
// another export of one's own. The object's number is kept in its attributes (see
// meta); it is random, and a new object never has that of an old one.
const (
	handleSize    = 32
	handleVersion = 1
	macAt         = 16
)

func appendHandle(to []byte, key []byte, export uint32, object uint64) []byte {
	var b [macAt]byte
	b[0] = handleVersion
	binary.BigEndian.PutUint32(b[4:], export)
	binary.BigEndian.PutUint64(b[8:], object)
	return append(append(to, b[:]...), mac(key, b[:])[:handleSize-macAt]...)
}

// splitHandle takes a handle apart, and leaves its MAC to verify.
func splitHandle(h []byte) (export uint32, object uint64, ok bool) {
	if len(h) != handleSize || h[0] != handleVersion || h[1]|h[2]|h[3] != 0 {
		return 0, 0, false
	}
	return binary.BigEndian.Uint32(h[4:]), binary.BigEndian.Uint64(h[8:]), true
}

func verifyHandle(h, key []byte) bool {
	return hmac.Equal(mac(key, h[:macAt])[:handleSize-macAt], h[macAt:])
}

func mac(key []byte, parts ...[]byte) []byte {
	h := hmac.New(sha256.New, key)
	for _, p := range parts {
		h.Write(p)
	}
	return h.Sum(nil)
}
