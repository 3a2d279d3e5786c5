package agent

import (
	"net"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// What the kernel says when it is asked is what stands in /proc.
func TestListeners(t *testing.T) {
	for _, address := range []string{"127.0.0.1:0", "0.0.0.0:0", "[::1]:0", "[::]:0"} {
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Log(err) // no IPv6, perhaps
			continue
		}
		defer l.Close()
		c, err := net.Dial("tcp", l.Addr().String())
		must(t, err)
		defer c.Close()
	}
	var want []string
	for _, name := range []string{"tcp", "tcp6"} {
		data, err := os.ReadFile("/proc/thread-self/net/" + name)
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		want = append(want, parseInet(data, name, nil)...)
	}
	got, err := diagListeners(nil)
	must(t, err)
	slices.Sort(got)
	slices.Sort(want)
	if len(got) < 2 || !slices.Equal(got, want) {
		t.Errorf("listeners %q, want %q", got, want)
	}
}

func TestParsers(t *testing.T) {
	inet := `  sl  local_address rem_address   st tx_queue
   0: 0100007F:0CEA 00000000:0000 0A 00000000:00000000
   1: 0100007F:0CEB 0100007F:9999 01 00000000:00000000
`
	if got := parseInet([]byte(inet), "tcp", nil); !reflect.DeepEqual(got, []string{"tcp 127.0.0.1:3306"}) {
		t.Errorf("tcp %q", got)
	}
	six := "0: 00000000000000000000000001000000:0050 0:0 0A\n1: 0000000000000000FFFF00000100007F:0051 0:0 0A\n"
	if got := parseInet([]byte(six), "tcp6", nil); !reflect.DeepEqual(got, []string{"tcp [::1]:80", "tcp 127.0.0.1:81"}) {
		t.Errorf("tcp6 %q", got)
	}
	unixSockets := `Num       RefCount Protocol Flags    Type St Inode Path
ffff: 00000002 00000000 00010000 0001 01 10 /run/a b
ffff: 00000002 00000000 00000000 0001 01 11 /run/connected
ffff: 00000002 00000000 00000000 0002 01 12 @datagram
ffff: 00000002 00000000 00010000 0001 01 13 /run/own
ffff: 00000002 00000000 00000000 0001 03 14
`
	want := []string{"unix /run/a b", "unix @datagram"}
	if got := parseUnix([]byte(unixSockets), map[uint64]bool{13: true}); !reflect.DeepEqual(got, want) {
		t.Errorf("unix %q", got)
	}
	mounts := "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n"
	if got := parseMounts([]byte(mounts)); !reflect.DeepEqual(got, []string{"/mnt2 ext3 rw,noatime"}) {
		t.Errorf("mounts %q", got)
	}
	if got, ok := parseStat([]byte("12 (a) S) (b) Z 1 2 3 4")); !ok || got != (processStat{12, 3, "a) S) (b", 'Z'}) {
		t.Errorf("stat %+v", got)
	}
	msg := "  key  msqid perms cbytes qnum lspid lrpid uid gid\n 0 7 600 0 0 0 0 105 106\n"
	if got := parseSysv([]byte(msg), "msg"); !reflect.DeepEqual(got, []ipcObject{{kind: "msg", id: 7, owner: 105}}) {
		t.Errorf("msg %+v", got)
	}
	u, ok := parsePasswd([]byte("x:bad\nmysql:x:105:106:My:/var/lib/mysql:/bin/false\n"), "mysql")
	if !ok || u.uid != 105 || u.gid != 106 || u.home != "/var/lib/mysql" {
		t.Errorf("passwd %+v", u)
	}
	if got := parseGroups([]byte("a:x:1:mysql,b\nc:x:2:xmysql\nd:x:3:b,mysql\n"), "mysql"); !reflect.DeepEqual(got, []uint32{1, 3}) {
		t.Errorf("groups %v", got)
	}
}

func TestRing(t *testing.T) {
	r := newRing(10)
	for _, tt := range []struct{ write, want string }{
		{"", ""}, {"abc", "abc"}, {"defghij", "abcdefghij"}, {"k", "bcdefghijk"},
		{"0123456789ABC", "3456789ABC"}, {"xy", "56789ABCxy"},
	} {
		_, _ = r.Write([]byte(tt.write))
		if got := string(r.bytes()); got != tt.want {
			t.Errorf("after %q: %q, want %q", tt.write, got, tt.want)
		}
	}
	if got := r.tail(2); got != "xy" {
		t.Errorf("tail %q", got)
	}
	r.clear()
	_, _ = r.Write([]byte(strings.Repeat("z", 3)))
	if got := string(r.bytes()); got != "zzz" {
		t.Errorf("after clear: %q", got)
	}
}

func TestBackoff(t *testing.T) {
	for n, want := range map[int]string{0: "100ms", 1: "200ms", 5: "3.2s", 6: "5s", 1000: "5s"} {
		if got := backoff(n).String(); got != want {
			t.Errorf("backoff(%d) = %s, want %s", n, got, want)
		}
	}
}
