package backendtest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// NFS is a connection to an NFS version 4.0 server (RFC 7530): as much of a client
// as tests need to hold on to a file handle, which no tool does.
type NFS struct {
	conn net.Conn
	xid  uint32
}

// NFSError is the status of an operation that the server has refused.
type NFSError uint32

func (e NFSError) Error() string {
	return map[NFSError]string{1: "NFS4ERR_PERM", 2: "NFS4ERR_NOENT", 13: "NFS4ERR_ACCESS", 17: "NFS4ERR_EXIST", 28: "NFS4ERR_NOSPC",
		30: "NFS4ERR_ROFS", 70: "NFS4ERR_STALE", 10001: "NFS4ERR_BADHANDLE"}[e] + fmt.Sprintf(" (%d)", uint32(e))
}

// Operations of the protocol.
const (
	opCreate    = 6
	opGetattr   = 9
	opGetFH     = 10
	opLookup    = 15
	opPutFH     = 22
	opPutRootFH = 24
	opRead      = 25
	opReaddir   = 26
	opRemove    = 28
	opWrite     = 38
)

// DialNFS connects.
func DialNFS(ctx context.Context, address string) (*NFS, error) {
	d := net.Dialer{Timeout: 5 * time.Second}
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	return &NFS{conn: conn}, nil
}

// Close ends the connection.
func (c *NFS) Close() error { return c.conn.Close() }

func words(n ...uint32) (b []byte) {
	for _, w := range n {
		b = binary.BigEndian.AppendUint32(b, w)
	}
	return b
}

func opaque(data []byte) []byte {
	b := append(words(uint32(len(data))), data...)
	return append(b, make([]byte, -len(data)&3)...)
}

// compound sends the operations and returns what follows the list's length in
// the answer.
func (c *NFS) compound(ops ...[]byte) ([]byte, error) {
	c.xid++
	as := append(words(0), opaque([]byte("test"))...)
	as = append(as, words(0, 0, 0)...)
	call := append(words(c.xid, 0, 2, 100003, 4, 1, 1), opaque(as)...)
	call = append(call, words(0, 0, 0, 0, uint32(len(ops)))...) // verifier, no tag, minor version 0
	for _, op := range ops {
		call = append(call, op...)
	}
	_ = c.conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := c.conn.Write(append(words(0x80000000|uint32(len(call))), call...)); err != nil {
		return nil, err
	}
	var mark [4]byte
	if _, err := io.ReadFull(c.conn, mark[:]); err != nil {
		return nil, err
	}
	answer := make([]byte, binary.BigEndian.Uint32(mark[:])&0x7fffffff)
	if _, err := io.ReadFull(c.conn, answer); err != nil {
		return nil, err
	}
	if len(answer) < 36 || binary.BigEndian.Uint32(answer[20:]) != 0 {
		return nil, errors.New("the server does not understand the call")
	}
	if status := binary.BigEndian.Uint32(answer[24:]); status != 0 {
		return nil, NFSError(status)
	}
	return answer[36:], nil // no tag: 28 is its length, 32 the number of results
}

// Lookup finds a path from the server's root and returns its handle.
func (c *NFS) Lookup(path string) ([]byte, error) {
	ops := [][]byte{words(opPutRootFH)}
	for name := range strings.FieldsFuncSeq(path, func(r rune) bool { return r == '/' }) {
		ops = append(ops, append(words(opLookup), opaque([]byte(name))...))
	}
	ops = append(ops, words(opGetFH))
	b, err := c.compound(ops...)
	if err != nil {
		return nil, err
	}
	b = b[8*(len(ops)-1)+8:] // each result has an operation and a status
	return b[4 : 4+binary.BigEndian.Uint32(b)], nil
}

func at(handle []byte) []byte { return append(words(opPutFH), opaque(handle)...) }

// Stat asks for nothing of a file but whether it can be asked.
func (c *NFS) Stat(handle []byte) error {
	_, err := c.compound(at(handle), words(opGetattr, 1, 1<<1)) // its type
	return err
}

// List reads a folder's first entries; the names are somewhere in the answer.
func (c *NFS) List(handle []byte) (string, error) {
	b, err := c.compound(at(handle), words(opReaddir, 0, 0, 0, 0, 4096, 8192, 1, 0))
	return string(b), err
}

// Mkdir makes a folder.
func (c *NFS) Mkdir(handle []byte, name string) error {
	_, err := c.compound(at(handle), append(append(words(opCreate, 2), opaque([]byte(name))...), words(0, 0)...)) // NF4DIR, no attributes
	return err
}

// Remove removes a file or an empty folder.
func (c *NFS) Remove(handle []byte, name string) error {
	_, err := c.compound(at(handle), append(words(opRemove), opaque([]byte(name))...))
	return err
}

// Write writes to a file with the special stateid of nobody's open; the data are
// on the server's disk when it returns.
func (c *NFS) Write(handle []byte, offset uint64, data []byte) error {
	op := append(words(opWrite, 0, 0, 0, 0, uint32(offset>>32), uint32(offset), 2), opaque(data)...) // FILE_SYNC4
	_, err := c.compound(at(handle), op)
	return err
}

// Read reads a file with the special stateid of nobody's open.
func (c *NFS) Read(handle []byte) error {
	_, err := c.compound(at(handle), words(opRead, 0, 0, 0, 0, 0, 0, 100))
	return err
}

var volumeCanaries = []canary{
	{name: "files", find: found(`find /var/lib/volume/data | grep -q canary`)}, // by the session
	{name: "export", plant: `echo "$M 0123456789abcdef RW 2000 2000" | /remuda/agent nfs bind --control=/dev/shm/volume`, find: found(`grep -qrF "$M" /var/lib/volume/exports`)},
}

// volumeOpen finds the binding's export.
func volumeOpen(ctx context.Context, credentials map[string]any) (*NFS, []byte, error) {
	c, err := DialNFS(ctx, hostPort(credentials))
	if err != nil {
		return nil, nil, err
	}
	export, err := c.Lookup(credentials["export"].(string))
	if err != nil {
		c.Close()
		return nil, nil, err
	}
	return c, export, nil
}

func volumeLogin(ctx context.Context, credentials map[string]any) error {
	c, _, err := volumeOpen(ctx, credentials)
	if err == nil {
		c.Close()
	}
	return err
}

// volumeSession makes a folder and holds on to its export's handle.
func volumeSession(t testing.TB, credentials map[string]any, mark string) func() error {
	t.Helper()
	c, export, err := volumeOpen(t.Context(), credentials)
	if err != nil {
		t.Fatalf("open a session: %v", err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.Mkdir(export, "canary-"+mark); err != nil {
		t.Fatalf("make a folder: %v", err)
	}
	return func() error { return c.Stat(export) }
}

func volumeUse(t testing.TB, credentials map[string]any) {
	t.Helper()
	c, export, err := volumeOpen(t.Context(), credentials)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Mkdir(export, "mine"); err != nil {
		t.Errorf("a new tenant: %v", err)
	}
	if list, err := c.List(export); err != nil || !strings.Contains(list, "mine") || strings.Contains(list, "canary") {
		t.Errorf("a new tenant sees %q, %v", list, err)
	}
}
