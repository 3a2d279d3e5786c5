package backendtest

import (
	_ "embed"
	"fmt"
	"slices"
	"strings"

	"github.com/remuda/remuda/catalog"
)

//go:embed testdata/daemon.pl
var daemon string

// canary is something a tenant leaves behind. Both are shell scripts in which
// $M is the run's mark; find says "there" as often as the canary is there.
type canary struct {
	name  string
	plant string // "" when another canary's does it
	find  string
}

// Of scripts that run in a member as the role's user.
func found(condition string) string { return condition + " && echo there" }

// memberCanaries are what any program can leave in any member.
func memberCanaries(role catalog.Role) []canary {
	list := []canary{
		{name: "output of a server", plant: `echo "said by a tenant: $M" >/proc/$PPID/fd/1; echo "$M" >/proc/$PPID/fd/2`},
		{name: "daemon", plant: fmt.Sprintf("CANARY=environment-$M perl -e '%s' \"$M\" /tmp", strings.ReplaceAll(daemon, "'", `'\''`)),
			find: found(`cat /proc/[0-9]*/comm 2>/dev/null | grep -q '^canary'`)},
		{name: "stopped process", find: found(`cat /proc/[0-9]*/comm 2>/dev/null | grep -q '^stopped'`)},
		{name: "storm of processes", find: found(`cat /proc/[0-9]*/comm 2>/dev/null | grep -q '^storm'`)},
		{name: "environment of a process", find: found(`cat /proc/[0-9]*/environ 2>/dev/null | grep -qaF "environment-$M"`)},
		{name: "deleted file that is held open", find: found(`ls -l /proc/[0-9]*/fd 2>/dev/null | grep -qF "gone-$M"`)},
		{name: "abstract socket", find: found(`grep -qF "@canary-$M" /proc/net/unix`)},
		{name: "listening TCP socket", find: found(`grep -q ' 0100007F:198F ' /proc/net/tcp`)},
		{name: "UDP socket", find: found(`grep -q ' 0100007F:1990 ' /proc/net/udp`)},
		{name: "POSIX message queue", find: found(`ls /dev/mqueue | grep -qF "canary-$M"`)},
	}
	// The fourth column is a segment's size: servers have segments of their own.
	for _, kind := range []struct{ name, mine string }{{"shm", "$4 == 4096"}, {"sem", "1"}, {"msg", "1"}} {
		list = append(list, canary{name: "System V " + kind.name, find: fmt.Sprintf("awk 'NR > 1 && %s { print \"there\" }' /proc/sysvipc/%s", kind.mine, kind.name)})
	}
	paths := []string{"/tmp", "/dev/shm"}
	for _, p := range role.Paths {
		if p.User == "" || p.User == role.User {
			paths = append(paths, p.Path)
		}
	}
	for _, p := range paths {
		list = append(list, canary{
			name: "files in " + p,
			plant: fmt.Sprintf(`d=%s; echo "$M" >"$d/canary"; mkdir -p "$d/.hidden/$M/deep"; echo "$M" >"$d/.hidden/$M/deep/.x"
echo x >"$d/ odd
name$M"; ln -s "/$M" "$d/.link"; ln "$d/canary" "$d/.hard"; mkfifo "$d/.pipe"; chmod 000 "$d/canary"`, p),
			find: found(fmt.Sprintf(`find %s 2>/dev/null | grep -qF -e "$M" -e canary -e .hidden -e .pipe`, p)),
		})
	}
	return list
}

// plantScript plants all; what one says tells a failure.
func plantScript(list []canary, mark string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "M=%s\n", mark)
	for _, c := range list {
		if c.plant != "" {
			fmt.Fprintf(&b, "( %s\n) || echo 'failed: %s'\n", c.plant, c.name)
		}
	}
	return b.String()
}

func findScript(list []canary, mark string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "M=%s\n", mark)
	for i, c := range list {
		if c.find != "" {
			fmt.Fprintf(&b, "[ -z \"$( %s\n)\" ] || echo FOUND-%d.\n", c.find, i)
		}
	}
	return b.String() + "echo LOOKED\n"
}

// names splits canaries into those that were found and those that were not.
func names(list []canary, said string) (found, missing []string) {
	for i, c := range list {
		switch {
		case c.find == "":
		case strings.Contains(said, fmt.Sprintf("FOUND-%d.", i)):
			found = append(found, c.name)
		default:
			missing = append(missing, c.name)
		}
	}
	slices.Sort(found)
	return found, missing
}
