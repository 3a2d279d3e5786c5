package drain

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
)

func TestReader(t *testing.T) {
	for text, want := range map[string]string{
		"5 hello":               "hello/EOF",
		"5 hello3 abc\n2 de":    "hello/abc/de/EOF",
		"<1>x\n<2>y\r\n\n<3>z":  "<1>x/<2>y/<3>z/EOF",
		"3 a\nb<1>x\n":          "a\nb/<1>x/EOF",
		"":                      "EOF",
		"5 hel":                 "unexpected EOF",
		"5":                     "unexpected EOF",
		"5x hello":              errFrame.Error(),
		"0 ":                    errFrame.Error(),
		"99999999999999999999 ": errTooLong.Error(),
		"2 \n\n<1>x\n":          "<1>x/EOF",
		strings.Repeat("x", MaxMessage) + "\n1 y":   strings.Repeat("x", MaxMessage) + "/y/EOF",
		strings.Repeat("x", MaxMessage+2) + "\n1 y": errTooLong.Error(),
	} {
		var got []string
		for r := newReader(strings.NewReader(text)); ; {
			m, err := r.next()
			if err != nil {
				got = append(got, err.Error())
				break
			}
			got = append(got, string(m))
		}
		if s := strings.Join(got, "/"); s != want {
			t.Errorf("%.40q gives %.80q, want %.80q", text, s, want)
		}
	}
}

// Whatever a body is, what is taken out of it is whole messages that fit, nothing
// of it is lost, and it goes through the frames of the log server unchanged.
func FuzzSplit(f *testing.F) {
	a := "<14>1 2026-01-02T03:04:05Z h a - - - "
	for _, seed := range []string{a + "x", a + "x\n" + a + "y\n", "38 " + a + "x38 " + a + "y", a + "x\nmore\n" + a + "y", "", "5", "5 x", "<14>1 - ", "\n\n" + a, "39 " + a + "\r\n"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		before := bytes.Clone(body)
		messages, err := split(body)
		if !bytes.Equal(before, body) {
			t.Fatal("the body has changed")
		}
		if err != nil {
			if messages != nil {
				t.Error("messages with an error")
			}
			return
		}
		if len(messages) == 0 {
			t.Fatal("neither messages nor an error")
		}
		rest := body
		var wire []byte
		for _, m := range messages {
			if fit(m) != nil {
				t.Fatalf("%q does not fit", m)
			}
			if !streamed(m) {
				t.Fatalf("%q would make the log server hang up", m)
			}
			i := bytes.Index(rest, m)
			if i < 0 {
				t.Fatalf("%q is not in the body, or not in its order", m)
			}
			if len(bytes.Trim(rest[:i], "0123456789 \r\n\x00")) > 0 {
				t.Fatalf("%q is lost", rest[:i])
			}
			rest = rest[i+len(m):]
			wire = appendFrame(wire, m)
		}
		if len(bytes.Trim(rest, "\r\n\x00")) > 0 {
			t.Fatalf("%q is lost", rest)
		}
		r := newReader(bytes.NewReader(wire))
		for _, m := range messages {
			if got, err := r.next(); err != nil || !bytes.Equal(got, m) {
				t.Fatalf("%q arrives as %q %v", m, got, err)
			}
		}
		if _, err := r.next(); !errors.Is(err, io.EOF) {
			t.Fatalf("at the end there is %v", err)
		}
	})
}
