package store

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"regexp"
	"strings"
	"syscall"
)

// ErrSealed says that a sealed value cannot be opened: it is damaged, belongs
// to another record, or its key is not among those given.
var ErrSealed = errors.New("sealed value cannot be opened")

const (
	keySize     = 32
	sealVersion = 1
)

var keyID = regexp.MustCompile(`^[A-Za-z0-9._-]{1,32}$`)

// Key is one key with the name that sealed values know it by.
type Key struct {
	ID     string // [A-Za-z0-9._-]{1,32}
	Secret []byte // 32 bytes
}

// Sealer keeps secrets of records unreadable on disk, with AES-256-GCM. It may
// be used concurrently.
//
// A sealed value is: version 1 (a byte), length of the key id (a byte), key id,
// nonce (12 bytes), ciphertext with tag. All before the nonce, and the context,
// are authenticated with it.
type Sealer struct {
	active string
	keys   map[string]cipher.AEAD
}

// NewSealer seals with the first key and opens with any: a key is rotated by
// putting a new one before it.
func NewSealer(keys ...Key) (*Sealer, error) {
	if len(keys) == 0 {
		return nil, errors.New("make sealer: no key")
	}
	s := &Sealer{active: keys[0].ID, keys: map[string]cipher.AEAD{}}
	for _, k := range keys {
		if !keyID.MatchString(k.ID) {
			return nil, fmt.Errorf("make sealer: key id %q is not %s", k.ID, keyID)
		}
		if _, ok := s.keys[k.ID]; ok {
			return nil, fmt.Errorf("make sealer: key id %q twice", k.ID)
		}
		if len(k.Secret) != keySize {
			return nil, fmt.Errorf("make sealer: key %q has %d bytes, not %d", k.ID, len(k.Secret), keySize)
		}
		block, err := aes.NewCipher(k.Secret)
		if err != nil {
			return nil, fmt.Errorf("make sealer: %w", err)
		}
		if s.keys[k.ID], err = cipher.NewGCMWithRandomNonce(block); err != nil {
			return nil, fmt.Errorf("make sealer: %w", err)
		}
	}
	return s, nil
}

// Seal encrypts plain for the record that context names, for example
// "binding/<id>". Only Open with the same context gives it back, so a value
// cannot be moved to another record.
func (s *Sealer) Seal(plain, context []byte) ([]byte, error) {
	header := append([]byte{sealVersion, byte(len(s.active))}, s.active...)
	return s.keys[s.active].Seal(header, nil, plain, bound(header, context)), nil
}

// Open gives back what Seal was given, or an error that wraps ErrSealed.
func (s *Sealer) Open(sealed, context []byte) ([]byte, error) {
	id, err := SealedBy(sealed)
	if err != nil {
		return nil, err
	}
	key, ok := s.keys[id]
	if !ok {
		return nil, fmt.Errorf("%w: key %q is not given", ErrSealed, id)
	}
	n := 2 + len(id)
	plain, err := key.Open(nil, nil, sealed[n:], bound(sealed[:n], context))
	if err != nil {
		return nil, fmt.Errorf("%w: it is damaged or belongs elsewhere", ErrSealed)
	}
	return plain, nil
}

// Stale says that a value was sealed with another key than the active one, and
// should be sealed again.
func (s *Sealer) Stale(sealed []byte) bool {
	id, err := SealedBy(sealed)
	return err == nil && id != s.active
}

// SealedBy returns the id of the key that a value was sealed with.
func SealedBy(sealed []byte) (string, error) {
	if len(sealed) < 2 || sealed[0] != sealVersion || len(sealed) < 2+int(sealed[1]) {
		return "", fmt.Errorf("%w: not a sealed value", ErrSealed)
	}
	id := string(sealed[2 : 2+int(sealed[1])])
	if !keyID.MatchString(id) {
		return "", fmt.Errorf("%w: not a sealed value", ErrSealed)
	}
	return id, nil
}

func bound(header, context []byte) []byte {
	return append(append([]byte{}, header...), context...) // the header tells its own length
}

// ParseKeys reads one "id:base64" per line, the active key first. Empty lines
// and those that begin with # are skipped. It is the form of the key file and
// of the value in the environment.
func ParseKeys(text string) ([]Key, error) {
	var keys []Key
	for n, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		id, encoded, ok := strings.Cut(line, ":")
		if !ok {
			return nil, fmt.Errorf("read keys: line %d is not id:base64", n+1)
		}
		secret, err := base64.StdEncoding.DecodeString(strings.TrimSpace(encoded))
		if err != nil || len(secret) != keySize {
			return nil, fmt.Errorf("read keys: key in line %d is not the base64 of %d bytes", n+1, keySize) // never the line itself
		}
		keys = append(keys, Key{ID: strings.TrimSpace(id), Secret: secret})
	}
	if len(keys) == 0 {
		return nil, errors.New("read keys: no key there")
	}
	return keys, nil
}

// KeysFromFile reads the key file, and makes it with a random key when it is
// not there. It refuses a file that others may read, see ReadPrivate.
func KeysFromFile(path string) ([]Key, error) {
	text, err := ReadPrivate(path)
	if errors.Is(err, fs.ErrNotExist) {
		if text, err = createKeyFile(path); errors.Is(err, fs.ErrExist) {
			text, err = ReadPrivate(path) // somebody else was faster
		}
	}
	if err != nil {
		return nil, fmt.Errorf("read key file: %w", err)
	}
	keys, err := ParseKeys(text)
	if err != nil {
		return nil, fmt.Errorf("key file %q: %w", path, err)
	}
	return keys, nil
}

// ReadPrivate reads a file that others may not read. One that belongs to root may be read by its
// group, when this process is not root: so the files of a Kubernetes Secret reach a pod's user. (libpq has
// the same rule for keys.)
func ReadPrivate(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	owner := os.Geteuid()
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		owner = int(s.Uid)
	}
	if mode := info.Mode().Perm(); !private(mode, owner, os.Geteuid()) {
		return "", fmt.Errorf("%s has mode %04o and others may read it; chmod 0600 it", path, mode)
	}
	b, err := io.ReadAll(f)
	return string(b), err
}

func private(mode fs.FileMode, owner, self int) bool {
	if owner == 0 && self != 0 {
		return mode&0o037 == 0
	}
	return mode&0o077 == 0
}

// createKeyFile writes the whole file before it gets its name.
func createKeyFile(path string) (string, error) {
	secret := make([]byte, keySize)
	rand.Read(secret) // never fails
	text := "k1:" + base64.StdEncoding.EncodeToString(secret) + "\n"
	tmp := fmt.Sprintf("%s.%d.new", path, os.Getpid())
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", err
	}
	defer os.Remove(tmp)
	_, err = f.WriteString(text)
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err != nil {
		return "", err
	}
	return text, os.Link(tmp, path) // fails when it exists
}

// DeriveKeys makes a key of 32 bytes for another purpose from each sealing key
// (HKDF with SHA-256, RFC 5869), in the same order. Nothing can be learned of
// the sealing keys from them.
func DeriveKeys(keys []Key, purpose string) ([][]byte, error) {
	var derived [][]byte
	for _, k := range keys {
		d, err := hkdf.Key(sha256.New, k.Secret, nil, purpose, keySize)
		if err != nil {
			return nil, fmt.Errorf("derive key: %w", err)
		}
		derived = append(derived, d)
	}
	return derived, nil
}
