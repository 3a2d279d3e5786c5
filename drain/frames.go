package drain

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

const (
	// MaxMessage is the longest message in bytes; the log server's own limit.
	MaxMessage = 256 << 10
	// MaxBody is the longest body of a request with messages.
	MaxBody = 1 << 20
)

var (
	errFrame   = errors.New("this is neither a length and a message, nor a message and a newline")
	errTooLong = fmt.Errorf("a message is longer than %d bytes", MaxMessage)
)

// reader takes messages from a stream: a length, a space and as many bytes
// (RFC 6587, octet counting), or whatever ends with a newline, mixed as they come.
// It never holds more than one message, however long the sender makes it.
type reader struct {
	br  *bufio.Reader
	buf []byte
}

func newReader(r io.Reader) *reader { return &reader{br: bufio.NewReaderSize(r, 32<<10)} }

// next returns a message that is valid until the next call, or io.EOF between two.
func (r *reader) next() ([]byte, error) {
	for {
		c, err := r.br.ReadByte()
		switch {
		case err != nil:
			return nil, err
		case c == '\n' || c == '\r' || c == 0:
			continue
		}
		if err := r.br.UnreadByte(); err != nil {
			return nil, err
		}
		if c < '0' || c > '9' {
			return r.line()
		}
		n, err := r.length()
		if err != nil {
			return nil, err
		}
		if cap(r.buf) < n {
			r.buf = make([]byte, n)
		}
		r.buf = r.buf[:n]
		if _, err := io.ReadFull(r.br, r.buf); err != nil {
			return nil, unexpected(err)
		}
		if m := bytes.TrimRight(r.buf, "\r\n\x00"); len(m) > 0 {
			return m, nil
		}
	}
}

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// length reads digits and the space behind them.
func (r *reader) length() (n int, err error) {
	for {
		c, err := r.br.ReadByte()
		switch {
		case err != nil:
			return 0, unexpected(err)
		case c == ' ' && n == 0:
			return 0, errFrame
		case c == ' ':
			return n, nil
		case c < '0' || c > '9':
			return 0, errFrame
		}
		if n = n*10 + int(c-'0'); n > MaxMessage {
			return 0, errTooLong
		}
	}
}

// line reads up to a newline or the end.
func (r *reader) line() ([]byte, error) {
	r.buf = r.buf[:0]
	for {
		part, err := r.br.ReadSlice('\n')
		if len(r.buf)+len(part) > MaxMessage+1 {
			return nil, errTooLong
		}
		r.buf = append(r.buf, part...)
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case err != nil && !errors.Is(err, io.EOF):
			return nil, err
		}
		return bytes.TrimRight(r.buf, "\r\n\x00"), nil
	}
}

// split takes a body apart: one message, several with their lengths before them, or
// several with newlines between them. A newline within a message is kept: what is
// behind it belongs to the message unless it begins like one.
func split(body []byte) ([][]byte, error) {
	body = bytes.TrimLeft(body, "\r\n\x00 ")
	if len(body) == 0 {
		return nil, errFrame
	}
	if body[0] >= '0' && body[0] <= '9' {
		return splitCounted(body)
	}
	var out [][]byte
	for len(body) > 0 {
		end := 0
		for {
			n := bytes.IndexByte(body[end:], '\n')
			if n < 0 {
				end = len(body)
				break
			}
			end += n + 1
			if header(body[end:]) == nil {
				break
			}
		}
		m := bytes.TrimRight(body[:end], "\r\n\x00")
		body = body[end:]
		if err := fit(m); err != nil {
			return nil, err
		}
		out = append(out, m)
	}
	return out, nil
}

func splitCounted(body []byte) (out [][]byte, err error) {
	r := newReader(bytes.NewReader(body))
	for {
		m, err := r.next()
		switch {
		case errors.Is(err, io.EOF) && len(out) > 0:
			return out, nil
		case err != nil:
			return nil, unexpected(err)
		}
		if err := fit(m); err != nil {
			return nil, err
		}
		out = append(out, bytes.Clone(m))
	}
}

// fit accepts what the log server takes.
func fit(m []byte) error {
	if len(m) > MaxMessage {
		return errTooLong
	}
	return header(m)
}

var errHeader = errors.New("a message does not begin like one of RFC 5424: <PRI>1 TIMESTAMP HOSTNAME APP-NAME PROCID MSGID")

// header looks at priority, version and timestamp.
func header(m []byte) error {
	rest, ok := bytes.CutPrefix(m, []byte("<"))
	if !ok {
		return errHeader
	}
	priority, rest, ok := bytes.Cut(rest[:min(len(rest), 128)], []byte(">1 "))
	if n, err := strconv.Atoi(string(priority)); !ok || err != nil || n < 0 || n > 191 || len(priority) > 3 {
		return errHeader
	}
	stamp, _, ok := bytes.Cut(rest, []byte(" "))
	if !ok || !timestamp(string(stamp)) {
		return errHeader
	}
	return nil
}

// timestamp says whether it is one that the log server can keep, or none (-).
func timestamp(s string) bool {
	if s == "-" {
		return true
	}
	t, err := time.Parse(time.RFC3339Nano, s)
	return err == nil && !strings.Contains(s, ",") && t.Year() >= 1970 && t.Year() <= 2200
}

// streamed says whether the log server takes a message of a stream. It is more
// patient there: only a timestamp that is none would make it hang up.
func streamed(m []byte) bool {
	if len(m) > MaxMessage {
		return false
	}
	_, rest, ok := bytes.Cut(m[:min(len(m), 8)], []byte(">1 "))
	return m[0] != '<' || !ok || len(rest) == len(m) || header(m) == nil
}

// appendFrame appends a message with its length before it.
func appendFrame(to, m []byte) []byte {
	to = strconv.AppendInt(to, int64(len(m)), 10)
	return append(append(to, ' '), m...)
}
