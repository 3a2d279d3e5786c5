package image

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
)

// Places in the superblock of ext4 (the kernel's documentation, "Super Block").
const (
	superblockAt    = 1024
	superMagic      = 0x38
	superIncompat   = 0x60
	superUUID       = 0x68
	superChecksum   = 0x3fc
	checksumSeed    = 0x2000 // incompatible feature: the UUID is no part of checksums
	superblockMagic = 0xef53
)

// NewUUID gives a disk that is mounted nowhere a UUID of its own, which its clones'
// template shares with all of them. File handles of a disk begin with it.
func NewUUID(disk string) (err error) {
	f, err := os.OpenFile(disk, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	block := make([]byte, 1024)
	if _, err := f.ReadAt(block, superblockAt); err != nil {
		return err
	}
	if binary.LittleEndian.Uint16(block[superMagic:]) != superblockMagic || binary.LittleEndian.Uint32(block[superIncompat:])&checksumSeed == 0 {
		return fmt.Errorf("%s is no disk whose UUID can be changed", disk)
	}
	uuid := block[superUUID : superUUID+16]
	_, _ = rand.Read(uuid)                                 // never fails
	uuid[6], uuid[8] = uuid[6]&0xf|0x40, uuid[8]&0x3f|0x80 // RFC 9562, version 4
	sum := ^crc32.Checksum(block[:superChecksum], crc32.MakeTable(crc32.Castagnoli))
	binary.LittleEndian.PutUint32(block[superChecksum:], sum)
	_, err = f.WriteAt(block, superblockAt)
	return err
}
