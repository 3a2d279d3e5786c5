package store

import (
	"bytes"
	"encoding/base64"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func key(id string) Key {
	return Key{ID: id, Secret: bytes.Repeat([]byte(id[:1]), keySize)}
}

func sealer(t testing.TB, keys ...Key) *Sealer {
	t.Helper()
	s, err := NewSealer(keys...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSealOpens(t *testing.T) {
	s := sealer(t, key("a"))
	for _, plain := range []string{"", "secret", strings.Repeat("long ", 10000)} {
		sealed, err := s.Seal([]byte(plain), []byte("binding/1"))
		if err != nil {
			t.Fatal(err)
		}
		if plain != "" && bytes.Contains(sealed, []byte(plain)) {
			t.Error("sealed value shows the plain one")
		}
		got, err := s.Open(sealed, []byte("binding/1"))
		if err != nil || string(got) != plain {
			t.Errorf("got %q, %v", got, err)
		}
		if _, err := s.Open(sealed, []byte("binding/2")); !errors.Is(err, ErrSealed) {
			t.Errorf("opened for another record: %v", err)
		}
	}
}

func TestSealIsNeverTheSame(t *testing.T) {
	s := sealer(t, key("a"))
	one, _ := s.Seal([]byte("x"), nil)
	two, _ := s.Seal([]byte("x"), nil)
	if bytes.Equal(one, two) {
		t.Error("same value twice: nonce reused")
	}
}

func TestEveryBitIsAuthentic(t *testing.T) {
	s := sealer(t, key("a"), key("b"))
	sealed, _ := s.Seal([]byte("secret"), []byte("c"))
	for i := range len(sealed) * 8 {
		bad := bytes.Clone(sealed)
		bad[i/8] ^= 1 << (i % 8)
		if _, err := s.Open(bad, []byte("c")); !errors.Is(err, ErrSealed) {
			t.Fatalf("bit %d flipped: %v", i, err)
		}
	}
	for n := range sealed {
		if _, err := s.Open(sealed[:n], []byte("c")); !errors.Is(err, ErrSealed) {
			t.Fatalf("cut to %d bytes: %v", n, err)
		}
	}
}

func TestKeysRotate(t *testing.T) {
	old := sealer(t, key("old"))
	sealed, _ := old.Seal([]byte("x"), nil)
	both := sealer(t, key("new"), key("old"))
	if got, err := both.Open(sealed, nil); err != nil || string(got) != "x" {
		t.Errorf("old key does not open: %v", err)
	}
	if !both.Stale(sealed) {
		t.Error("value of the old key is not stale")
	}
	fresh, _ := both.Seal([]byte("x"), nil)
	if both.Stale(fresh) {
		t.Error("value of the active key is stale")
	}
	if _, err := old.Open(fresh, nil); !errors.Is(err, ErrSealed) || !strings.Contains(err.Error(), `"new"`) {
		t.Errorf("error does not say which key is missing: %v", err)
	}
}

func TestNewSealerRefuses(t *testing.T) {
	for name, keys := range map[string][]Key{
		"none":      nil,
		"short":     {{ID: "a", Secret: []byte("short")}},
		"no id":     {{Secret: key("a").Secret}},
		"colon":     {{ID: "a:b", Secret: key("a").Secret}},
		"twice":     {key("a"), key("a")},
		"long id":   {{ID: strings.Repeat("a", 33), Secret: key("a").Secret}},
		"second id": {key("a"), {ID: "ü", Secret: key("a").Secret}},
	} {
		if _, err := NewSealer(keys...); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestParseKeys(t *testing.T) {
	b64 := base64.StdEncoding.EncodeToString(key("a").Secret)
	keys, err := ParseKeys("# first is active\n\n new:" + b64 + " \nold: " + b64 + "\n")
	if err != nil || len(keys) != 2 || keys[0].ID != "new" || keys[1].ID != "old" {
		t.Errorf("got %v, %v", keys, err)
	}
	for _, bad := range []string{"", "# only\n", "justtext", "a:!!!", "a:c2hvcnQ="} {
		_, err := ParseKeys(bad)
		if err == nil {
			t.Errorf("%q accepted", bad)
		}
		if err != nil && strings.Contains(err.Error(), "c2hvcnQ") {
			t.Error("error shows the key")
		}
	}
}

// Files of a Kubernetes Secret are root's, and those of a pod's group may read them.
func TestPrivate(t *testing.T) {
	for _, c := range []struct {
		mode        os.FileMode
		owner, self int
		want        bool
	}{
		{0o600, 0, 0, true}, {0o400, 1000, 1000, true}, {0o440, 0, 65532, true}, {0o640, 0, 65532, true},
		{0o640, 0, 0, false}, {0o640, 1000, 1000, false}, {0o440, 1000, 65532, false},
		{0o660, 0, 65532, false}, {0o444, 0, 65532, false}, {0o604, 0, 0, false},
	} {
		if got := private(c.mode, c.owner, c.self); got != c.want {
			t.Errorf("mode %o of %d for %d: %v", c.mode, c.owner, c.self, got)
		}
	}
}

func TestKeyFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys")
	made, err := KeysFromFile(path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	again, err := KeysFromFile(path)
	if err != nil || !bytes.Equal(made[0].Secret, again[0].Secret) {
		t.Errorf("second read differs: %v", err)
	}
	for _, mode := range []os.FileMode{0o640, 0o604, 0o660, 0o666} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := KeysFromFile(path); err == nil {
			t.Errorf("mode %o accepted", mode)
		}
	}
	left, _ := filepath.Glob(path + ".*")
	if len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func FuzzOpen(f *testing.F) {
	s := sealer(f, key("a"), key("bb"))
	good, _ := s.Seal([]byte("secret"), []byte("c"))
	f.Add(good)
	f.Add([]byte{sealVersion, 255, 'a'})
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, sealed []byte) {
		plain, err := s.Open(sealed, []byte("c"))
		if err == nil && string(plain) != "secret" { // what the seeds hold
			t.Errorf("opened %x", sealed)
		}
		if err != nil && !errors.Is(err, ErrSealed) {
			t.Errorf("error %v", err)
		}
	})
}

func FuzzParseKeys(f *testing.F) {
	f.Add("a:" + base64.StdEncoding.EncodeToString(key("a").Secret))
	f.Add("::\n#")
	f.Fuzz(func(t *testing.T, text string) {
		keys, err := ParseKeys(text)
		if err == nil && len(keys) == 0 {
			t.Error("no key and no error")
		}
		for _, k := range keys {
			if len(k.Secret) != keySize {
				t.Errorf("key of %d bytes", len(k.Secret))
			}
		}
	})
}

func TestDeriveKeys(t *testing.T) {
	a, b := Key{ID: "a", Secret: make([]byte, 32)}, Key{ID: "b", Secret: bytes.Repeat([]byte{1}, 32)}
	one, err := DeriveKeys([]Key{a, b}, "one")
	if err != nil || len(one) != 2 || len(one[0]) != 32 || bytes.Equal(one[0], one[1]) || bytes.Equal(one[0], a.Secret) {
		t.Fatalf("%x, %v", one, err)
	}
	again, _ := DeriveKeys([]Key{b}, "one")
	other, _ := DeriveKeys([]Key{b}, "other")
	if !bytes.Equal(again[0], one[1]) || bytes.Equal(again[0], other[0]) {
		t.Error("keys do not depend on secret and purpose alone")
	}
}
