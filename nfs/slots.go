package nfs

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// slots is the file that outlives restarts. It has two slots, which are written in
// turns and in place: one is whole whenever the machine stops, and a disk on which
// nothing is free has room for the next. A slot is
//
//	SHA-256   32 bytes of all that follows
//	sequence  8 bytes; the whole slot with the higher one counts
//	length    4 bytes
//	content   JSON of kept
type slots struct {
	f    *os.File
	next uint64 // sequence
}

const (
	slotSize   = 512 << 10
	slotHead   = sha256.Size + 8 + 4
	lockPeriod = 2 * time.Second // for a server that is ending to let go of the file
)

// kept is what a slot has.
type kept struct {
	Key     []byte    `json:"key"`  // of this folder, random
	Last    uint32    `json:"last"` // number that an export was given
	Exports []*export `json:"exports"`
}

var errTooMany = errors.New("there are as many exports as can be kept")

// openSlots opens the file in the folder, making both when absent, and reads it. No
// other server can have it open.
func openSlots(dir string) (s *slots, k kept, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, k, err
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return nil, k, err
	}
	path := filepath.Join(dir, "exports")
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		if err := makeSlots(path); err != nil {
			return nil, k, fmt.Errorf("make the file for exports: %w", err)
		}
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, k, err
	}
	defer func() {
		if err != nil {
			_ = f.Close()
		}
	}()
	for end := time.Now().Add(lockPeriod); ; time.Sleep(20 * time.Millisecond) {
		if err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err == nil {
			break
		}
		if time.Now().After(end) {
			return nil, k, fmt.Errorf("another server uses the state folder: %w", err)
		}
	}
	s = &slots{f: f}
	found := false
	for i := range int64(2) {
		b := make([]byte, slotSize)
		if _, err := f.ReadAt(b, i*slotSize); err != nil {
			return nil, k, fmt.Errorf("read exports: %w", err)
		}
		sequence, content, ok := parseSlot(b)
		if !ok || found && sequence < s.next {
			continue
		}
		var this kept
		if err := json.Unmarshal(content, &this); err != nil {
			return nil, k, fmt.Errorf("read exports: %w", err)
		}
		s.next, k, found = sequence+1, this, true
	}
	if !found || len(k.Key) != sha256.Size {
		return nil, k, errors.New("the file with exports is damaged")
	}
	return s, k, nil
}

// makeSlots writes all of the file before it gets its name.
func makeSlots(path string) error {
	k := kept{Key: make([]byte, sha256.Size)}
	_, _ = rand.Read(k.Key)
	content, err := json.Marshal(k)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	b := append(formatSlot(1, content), make([]byte, 2*slotSize)...)[:2*slotSize]
	if _, err := f.Write(b); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

func formatSlot(sequence uint64, content []byte) []byte {
	b := make([]byte, sha256.Size, slotHead+len(content))
	b = binary.BigEndian.AppendUint64(b, sequence)
	b = binary.BigEndian.AppendUint32(b, uint32(len(content)))
	b = append(b, content...)
	sum := sha256.Sum256(b[sha256.Size:])
	copy(b, sum[:])
	return b
}

func parseSlot(b []byte) (sequence uint64, content []byte, ok bool) {
	n := uint64(binary.BigEndian.Uint32(b[sha256.Size+8:]))
	if n > uint64(len(b)-slotHead) {
		return 0, nil, false
	}
	b = b[:slotHead+int(n)]
	sum := sha256.Sum256(b[sha256.Size:])
	return binary.BigEndian.Uint64(b[sha256.Size:]), b[slotHead:], bytes.Equal(sum[:], b[:sha256.Size])
}

// write returns when what there is now is on the disk.
func (s *slots) write(k kept) error {
	content, err := json.Marshal(k)
	if err != nil {
		return err
	}
	if slotHead+len(content) > slotSize {
		return errTooMany
	}
	w := io.NewOffsetWriter(s.f, int64(1-s.next%2)*slotSize) // the first has sequence 1
	if _, err := w.Write(formatSlot(s.next, content)); err != nil {
		return err
	}
	if err := unix.Fdatasync(int(s.f.Fd())); err != nil {
		return err
	}
	s.next++
	return nil
}

func (s *slots) close() { _ = s.f.Close() }
