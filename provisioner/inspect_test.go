package provisioner

import (
	"strings"
	"testing"
	"unicode/utf8"
)

func TestLogTail(t *testing.T) {
	for in, want := range map[string]string{
		"":                               "",
		"a\nb\n\n":                       "a\nb",
		"\x1b[31mred\x1b[0m\r\n\tx\x00":  "[31mred[0m\n\tx",
		"caf\xe9 é\xff":                  "caf é",
		"\u202eright to left\u2028 line": "right to left line",
	} {
		if got := LogTail([]byte(in)); got != want {
			t.Errorf("%q became %q, want %q", in, got, want)
		}
	}
	long := LogTail([]byte(strings.Repeat("0123456789\n", 10_000)))
	if len(long) > MaxLogTail || !strings.HasPrefix(long, "0123456789\n") {
		t.Errorf("%d bytes, begins with %.20q", len(long), long)
	}
	if got := LogTail([]byte(strings.Repeat("é", MaxLogTail))); !utf8.ValidString(got) || len(got) > MaxLogTail {
		t.Errorf("%d bytes", len(got))
	}
}
