package local

import (
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/remuda/remuda/catalog"
	"github.com/remuda/remuda/provisioner"
	"github.com/remuda/remuda/provisioner/agent"
	"github.com/remuda/remuda/provisioner/backendtest"
)

// groupOf makes a group of a built-in recipe that is closed when the test ends.
func groupOf(t *testing.T, b *Backend, name, id string) provisioner.Observation {
	t.Helper()
	recipes, err := catalog.Builtin()
	if err != nil {
		t.Fatal(err)
	}
	r := recipe(t, name)
	t.Cleanup(func() { closeAllGroups(t, b) })
	o, err := b.Create(t.Context(), provisioner.Group{ID: id, Generation: 1,
		Definition: provisioner.NewDefinition(r, r.Offering.Plans[0], backendtest.Image(t, recipes...))})
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// devices of all that is mounted, as in a mountinfo: "254:0".
func devices(t *testing.T, mountinfo string) []string {
	t.Helper()
	text, err := os.ReadFile(mountinfo)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for line := range strings.Lines(string(text)) {
		out = append(out, strings.Fields(line)[2])
	}
	return out
}

func deviceOf(t *testing.T, path string) string {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev))
}

// A member with rights to files sees no file system that the host sees.
func TestOwnRootHasNoDeviceOfTheHost(t *testing.T) {
	b := newBackend(t)
	o := groupOf(t, b, "volume", "gvolume")
	host := append(devices(t, "/proc/self/mountinfo"), deviceOf(t, "/"), deviceOf(t, b.opts.StateDir), deviceOf(t, b.opts.ImageDir), deviceOf(t, "/proc"))
	member := devices(t, fmt.Sprintf("/proc/%d/mountinfo", o.Members[0].PID))
	if len(member) < 8 {
		t.Fatalf("the member has the mounts %q", member)
	}
	for _, d := range member {
		if slices.Contains(host, d) {
			t.Errorf("the device %s is the host's too", d)
		}
	}
	// Two members share what is read-only, and so the memory for it, and nothing else.
	other := groupOf(t, b, "volume", "other")
	for path, shared := range map[string]bool{"": true, "/remuda/agent": true, "/remuda/run": false, "/etc/hosts": false, "/remuda/disk": false, "/var/lib/volume": false, "/run": false, "/proc": false} {
		one, two := deviceOf(t, fmt.Sprintf("/proc/%d/root%s", o.Members[0].PID, path)), deviceOf(t, fmt.Sprintf("/proc/%d/root%s", other.Members[0].PID, path))
		if (one == two) != shared {
			t.Errorf("%s/ is on the devices %s and %s", path, one, two)
		}
	}
	// The others do: this is what the test looks for.
	plain := groupOf(t, b, "redis", "gredis")
	if !slices.Contains(devices(t, fmt.Sprintf("/proc/%d/mountinfo", plain.Members[0].PID)), deviceOf(t, b.opts.ImageDir)) {
		t.Error("a member without such rights is not on the device of the image folder")
	}
}

// handle of a file as open_by_handle_at takes it, its type and bytes in hex.
func handle(t *testing.T, path string) string {
	t.Helper()
	h, _, err := unix.NameToHandleAt(unix.AT_FDCWD, path, unix.AT_SYMLINK_FOLLOW)
	if err != nil {
		t.Logf("no handle of %s: %v", path, err)
		return ""
	}
	return fmt.Sprintf("%d %s", h.Type(), hex.EncodeToString(h.Bytes()))
}

// openAll tries handles (type and bytes on standard input) on every file system
// of which anything can be seen, and says for what it opens: device, inode, and
// what it reads there.
const openAll = `use strict;
use POSIX (); use Fcntl;
my $n = {x86_64 => 304, aarch64 => 265}->{(POSIX::uname())[4]};
my @at = ([-100, "cwd"], [-10002, "pidfs"], [-10003, "nsfs"]);
open(my $m, "<", "/proc/self/mountinfo"); my @keep;
while (<$m>) { my $p = (split)[4]; sysopen(my $f, $p, O_RDONLY) or next; push @keep, $f; push @at, [fileno $f, $p] }
print "mounts ", scalar(@at), "\n";
while (my $line = <STDIN>) {
  my ($type, $hex) = split " ", $line; my $bytes = pack("H*", $hex);
  for my $at (@at) { for my $flags (O_RDONLY, 010000000) {
    my $h = pack("L l", length $bytes, $type) . $bytes;
    my $fd = syscall($n, $at->[0], $h, $flags);
    if ($fd < 0) { $! == 1 and print "refused\n"; next }
    my @st = POSIX::fstat($fd); my $text = ""; POSIX::read($fd, $text, 200) unless $flags;
    printf "opened %d:%d %d at %s: %s\n", ($st[0] >> 8) & 0xfff, ($st[0] & 0xff) | (($st[0] >> 12) & 0xfff00), $st[1], $at->[1], unpack("H*", $text // "");
    POSIX::close($fd);
  } }
}`

// With CAP_DAC_READ_SEARCH a program opens whatever it has a handle of: nothing of
// the host, though it knows the handles of the host's files.
func TestOwnRootOpensNothingOfTheHost(t *testing.T) {
	b := newBackend(t)
	secret := "the host's own secret"
	marker := filepath.Join(b.opts.StateDir, "marker")
	if err := os.WriteFile(marker, []byte(secret), 0o600); err != nil {
		t.Fatal(err)
	}
	groupOf(t, b, "volume", "gvolume")
	groupOf(t, b, "ftp", "gftp")
	files := []string{"/", "/etc", "/etc/passwd", "/etc/shadow", marker, b.opts.StateDir, b.agentPath, b.agentPath + ".disk/agent.ext4", b.opts.ImageDir,
		filepath.Join(b.groupDir("gvolume"), "group.json"), filepath.Join(b.memberDir("gvolume", "server-0"), "disk-1.img"),
		filepath.Join(b.memberDir("gftp", "server-0"), "disk-1.img"), filepath.Join(b.memberDir("gftp", "server-0"), "run/agent.sock"),
		"/proc", "/dev", "/dev/shm", "/run", "/tmp", "/proc/self/ns/mnt", "/proc/self/ns/pid", "/proc/1/ns/mnt", "/proc/1/ns/net"}
	handles := []string{"1 0200000000000000", "1 0200000001000000", "2 02000000000000000200000000000000"} // inode 2, the root of ext4
	hostInodes := map[string]bool{}
	for _, f := range files {
		var st unix.Stat_t
		if err := unix.Stat(f, &st); err != nil {
			continue
		}
		hostInodes[fmt.Sprintf("%s %d", deviceOf(t, f), st.Ino)] = true
		if h := handle(t, f); h != "" {
			handles = append(handles, h)
		}
	}
	stdin := strings.Join(handles, "\n") + "\n"
	host := devices(t, "/proc/self/mountinfo")

	cmd := exec.Command("perl", "-e", openAll) // the handles are right: the host's root opens them
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), hex.EncodeToString([]byte(secret))) {
		t.Fatalf("the host does not open its own file by its handle: %v\n%s", err, out)
	}

	run := func(group string) string {
		r, err := b.client(group, "server-0").Run(t.Context(), agent.Program{User: "root", Command: []string{"/usr/bin/perl", "-e", openAll}, Stdin: stdin})
		if err != nil || r.ExitCode != 0 {
			t.Fatalf("%s: %v %+v", group, err, r)
		}
		return r.Stdout
	}
	said := run("gvolume")
	t.Logf("%d handles", len(handles))
	opened := 0
	for line := range strings.Lines(said) {
		f := strings.Fields(line)
		if f[0] != "opened" {
			continue
		}
		opened++
		if slices.Contains(host, f[1]) || hostInodes[f[1]+" "+f[2]] {
			t.Errorf("it opens a file of the host: %s", line)
		}
	}
	if opened == 0 || strings.Contains(said, "refused") {
		t.Errorf("it opens nothing at all, so this proves nothing: %s", said)
	}
	if strings.Contains(said, hex.EncodeToString([]byte(secret))) {
		t.Error("it reads the host's secret")
	}
	if said := run("gftp"); strings.Contains(said, "opened") || !strings.Contains(said, "refused") {
		t.Errorf("a role without the capability opens files by handles: %s", said)
	}
}

// What makes the pristine disk sees folders of the host, and has none of the rights.
func TestTemplateProgramHasNoRightsToFiles(t *testing.T) {
	b := newBackend(t)
	t.Cleanup(func() { closeAllGroups(t, b) })
	recipes, err := catalog.Builtin()
	if err != nil {
		t.Fatal(err)
	}
	r := recipe(t, "volume")
	r.Roles = slices.Clone(r.Roles)
	const rights = 1<<unix.CAP_DAC_OVERRIDE | 1<<unix.CAP_DAC_READ_SEARCH | 1<<unix.CAP_FOWNER
	r.Roles[0].Template = &catalog.Program{Command: []string{"/bin/sh", "-euc", fmt.Sprintf(
		`set -- $(grep CapBnd /proc/self/status); [ $((0x$2 & %d)) = 0 ]; touch /var/lib/volume/made`, rights)}}
	d := provisioner.NewDefinition(r, r.Offering.Plans[0], backendtest.Image(t, recipes...))
	dir := t.TempDir()
	if err := b.fillTemplate(t.Context(), d, d.MemberList()[0], dir); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "p0/made")); err != nil {
		t.Error(err)
	}
}
