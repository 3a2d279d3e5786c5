package broker

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
)

func TestNewNumber(t *testing.T) {
	taken := map[int]bool{}
	for n := 1; n <= maxNumber; n++ {
		taken[n] = true
	}
	var e *Error
	if _, err := newNumber(taken); !errors.As(err, &e) || e.Code != Refused {
		t.Errorf("got %v", err)
	}
	for _, free := range []int{1, 25000, maxNumber} {
		delete(taken, free)
		if n, err := newNumber(taken); n != free || err != nil {
			t.Errorf("got %d, %v, want %d", n, err, free)
		}
		taken[free] = true
	}
}

func TestRandom(t *testing.T) {
	seen := map[rune]int{}
	for range 2000 {
		for _, c := range newPassword() {
			seen[c]++
		}
	}
	if len(seen) != 62 {
		t.Errorf("%d different characters", len(seen))
	}
	for c, n := range seen { // 1032 expected
		if n < 800 || n > 1300 {
			t.Errorf("%c drawn %d times", c, n)
		}
	}
}

func TestTemplateValues(t *testing.T) {
	got, err := templateValues(json.RawMessage(`{"a":1,"b":1.0,"c":1.5,"d":1e400,"e":[2,{"f":3}],"g":12345678901234567890,"h":null,"i":"x","j":true}`))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"a": 1, "b": 1, "c": 1.5, "d": "1e400", "e": []any{2, map[string]any{"f": 3}},
		"g": 12345678901234567890.0, "h": nil, "i": "x", "j": true,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %#v", got)
	}
}

func FuzzObject(f *testing.F) {
	f.Add([]byte(`{"b":1,"a":{"c":[1,2.50]}}`))
	f.Add([]byte(`{"a":1,"a":2}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		once, err := object("x", raw)
		if err != nil {
			return
		}
		twice, err := object("x", once)
		if err != nil || !sameJSON(once, twice) {
			t.Errorf("%q, then %q, %v", once, twice, err)
		}
		if _, err := templateValues(once); err != nil {
			t.Error(err)
		}
	})
}

func FuzzID(f *testing.F) {
	f.Add("a")
	f.Add("..")
	f.Add("a\x00")
	f.Fuzz(func(t *testing.T, id string) {
		if checkID("id", id) == nil && (id == "" || len(id) > maxID || strings.ContainsAny(id, "/\n\r\x00\x7f") || strings.Contains(id, "..")) {
			t.Errorf("%q accepted", id)
		}
	})
}
