package backendtest

import (
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/remuda/remuda/catalog"
	"github.com/remuda/remuda/provisioner"
)

// attempts are scripts of a tenant that must not say "broken".
var attempts = map[string]string{
	"mount":                "mount -t tmpfs x /tmp 2>/dev/null && echo broken; mount --bind /tmp /var 2>/dev/null && echo broken",
	"new namespaces":       "for n in -U -r -m -n -p -i -u -C; do unshare $n true 2>/dev/null && echo broken $n; done",
	"enter PID 1":          "nsenter -t 1 -m -n -p true 2>/dev/null && echo broken",
	"PID 1's environment":  "cat /proc/1/environ 2>/dev/null | grep -qa . && echo broken",
	"PID 1's memory":       "dd if=/proc/1/mem bs=1 count=1 skip=4194304 2>/dev/null | grep -qa . && echo broken; cat /proc/1/maps 2>/dev/null | grep -q . && echo broken",
	"PID 1's files":        "for f in /proc/1/fd/* /proc/1/exe /proc/1/cwd; do readlink $f >/dev/null 2>&1 && echo broken $f; done; ls /proc/1/root/ 2>/dev/null | grep -q . && echo broken",
	"trace PID 1":          sys("ptrace", 101, 117, "16, 1, 0, 0"),
	"key rings":            sys("add_key", 248, 217, `"user", "k", "v", 1, -3`) + "\n" + sys("keyctl", 250, 219, "0, -3, 1"),
	"bpf":                  sys("bpf", 321, 280, "0, 0, 0"),
	"performance events":   sys("perf_event_open", 298, 241, "0, 0, -1, -1, 0"),
	"io_uring":             sys("io_uring_setup", 425, 425, `4, "\0" x 120`),
	"kernel log":           "dmesg 2>/dev/null | grep -q . && echo broken; [ -r /dev/kmsg ] && echo broken",
	"kernel settings":      "for f in /proc/sys/kernel/core_pattern /proc/sys/kernel/hostname /proc/sys/net/ipv4/ip_forward /proc/sysrq-trigger /proc/sys/vm/drop_caches; do ( : >>$f ) 2>/dev/null && echo broken $f; done",
	"host name":            "hostname broken 2>/dev/null && echo broken",
	"devices":              "find /dev -type b | grep -q . && echo broken; for d in /dev/mem /dev/loop0 /dev/loop-control /dev/fuse /dev/net/tun; do [ -e $d ] && echo broken $d; done; mknod /tmp/d b 7 0 2>/dev/null && echo broken; mknod /tmp/d c 1 1 2>/dev/null && echo broken",
	"root file system":     "for d in / /etc /usr/bin /var /dev /home /root /remuda /sys; do ( : >$d/canary ) 2>/dev/null && echo broken $d; done; for f in /etc/passwd /remuda/agent /usr/bin/perl; do ( : >>$f ) 2>/dev/null && echo broken $f; done",
	"names of members":     "( : >>/etc/hosts ) 2>/dev/null && echo broken",
	"execution of data":    "for d in /tmp /dev/shm; do cp /usr/bin/true $d/x && $d/x 2>/dev/null && echo broken $d; rm -f $d/x; done",
	"privileges":           "grep -q '^NoNewPrivs:.1' /proc/self/status || echo broken no_new_privs; grep -q '^Seccomp:.2' /proc/self/status || echo broken seccomp; [ $(id -u) = 0 ] || grep -q '^CapEff:.0000000000000000' /proc/self/status || echo broken capabilities",
	"other processes":      "[ $(ls -d /proc/[0-9]* | wc -l) -lt 60 ] || echo broken; cat /proc/[0-9]*/cmdline 2>/dev/null | grep -qa [n]eighbour && echo broken",
	"orders for the agent": orders,
	"owners":               "touch /tmp/o; chown 1 /tmp/o 2>/dev/null && [ $(stat -c %u /tmp/o) = 1 ] && echo broken; rm -f /tmp/o",
}

// orders speaks to the agent's socket.
const orders = `perl -e 'use Socket; for my $dir (glob("/remuda/run /run/remuda /run")) { socket(my $s, PF_UNIX, SOCK_STREAM, 0) or next;
connect($s, sockaddr_un("$dir/agent.sock")) or next; $SIG{PIPE} = "IGNORE";
syswrite($s, "GET /v1/state HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n"); my $n = sysread($s, my $b, 100); print "broken $b\n" if $n }'`

// sys tries a system call by its number on x86-64 and on arm64.
func sys(name string, amd64, arm64 int, arguments string) string {
	return strings.NewReplacer("NAME", name, "A", strconv.Itoa(amd64), "B", strconv.Itoa(arm64), "ARGS", arguments).Replace(
		`perl -e 'use POSIX (); my $n = (POSIX::uname())[4] eq "x86_64" ? A : B; my @a = (ARGS); my $r = syscall($n, @a); print "broken NAME $r\n" if $r >= 0'`)
}

// isolation tries everything in every member; other groups run beside.
func (g *tenant) isolation(t *testing.T) {
	g.in(t, 2, "perl -e '$0 = \"neighbour\"; sleep 20' >/dev/null 2>&1 & exit")
	for i := range trioMembers[:2] {
		g.attempt(t, trioMembers[i], func(script string) string { return g.in(t, i, script) })
	}
	g.unmoved(t)
}

// lacksOf names what a back end may lack for an attempt to fail.
func lacksOf(attempt, member string) []string {
	root := !slices.Contains(trioMembers, member) // the recipe's server is root
	switch {
	case attempt == "execution of data":
		return []string{NoExec}
	case attempt == "root file system" && root:
		return []string{SealedRoot}
	case attempt == "names of members" && root:
		return []string{SealedRoot, OtherUser}
	case attempt == "names of members":
		return []string{OtherUser}
	}
	return nil
}

func (g *tenant) attempt(t *testing.T, member string, run func(script string) string) {
	t.Helper()
	for name, script := range attempts {
		lacks := slices.DeleteFunc(lacksOf(name, member), func(lack string) bool { return g.target.Lacks[lack] == "" })
		if len(lacks) > 0 {
			t.Logf("%s: %s: not tried: %s", member, name, g.target.Lacks[lacks[0]])
			continue
		}
		if said := run(script + "\necho tried"); strings.Contains(said, "broken") || !strings.Contains(said, "tried") {
			t.Errorf("%s: %s: %s", member, name, said)
		}
	}
}

// RunRoot tries the same where the recipe's server runs as root.
func RunRoot(t *testing.T, f Factory) {
	target := f(t)
	recipes, err := catalog.Builtin()
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range recipes {
		if r.Roles[0].User != "root" {
			continue
		}
		if why := target.cannot(r); why != "" {
			t.Logf("%s: not tried: %s", r.Name, why)
			continue
		}
		g := create(t, target, "root"+r.Name, provisioner.NewDefinition(withShell(r, ""), r.Offering.Plans[0], target.Image))
		g.publish(t)
		g.attempt(t, r.Name, func(script string) string { return g.shell(t, script) })
		t.Run("FalseAgent", g.falseAgent)
	}
}

// falseAgent puts sockets of the tenant's in the place of the agent's: no order
// of the back end, and no secret in it, may get there.
func (g *tenant) falseAgent(t *testing.T) {
	const imposter = `perl -e 'use Socket; my $ok; for my $dir ("/remuda/run", "/run/remuda") { unlink "$dir/agent.sock" or next;
socket(my $s, PF_UNIX, SOCK_STREAM, 0); bind($s, sockaddr_un("$dir/agent.sock")) or next; listen($s, 9); $ok = 1; print "false agent\n";
unless (fork()) { close STDOUT; close STDERR; while (accept(my $c, $s)) { sysread($c, my $b, 65536); open(my $f, ">>", "/tmp/heard"); print $f $b;
syswrite($c, "HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n{\"exit_code\":0}"); close $c } } }'`
	if said := g.shell(t, imposter); !strings.Contains(said, "false agent") {
		return
	}
	values := map[string]any{"parameters": map[string]any{"script": "echo secret-of-the-broker"}}
	_, _ = g.target.Backend.Program(t.Context(), g.group, "provision", values)
	if heard := g.shell(t, "cat /tmp/heard 2>/dev/null"); strings.Contains(heard, "secret-of-the-broker") {
		t.Error("a process of the member takes the agent's place and is told secrets")
	}
}
