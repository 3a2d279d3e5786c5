package agent

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// account is a line of passwd with the groups it is in.
type account struct {
	name, home string
	uid, gid   uint32
	groups     []uint32 // supplementary
}

// lookup finds a user in the image's /etc/passwd and /etc/group. The agent
// reads these files itself: no name service of the image has a say.
func lookup(name string) (account, error) {
	passwd, err := os.ReadFile("/etc/passwd")
	if err != nil {
		return account{}, fmt.Errorf("look up user %q: %w", name, err)
	}
	u, ok := parsePasswd(passwd, name)
	if !ok {
		return account{}, fmt.Errorf("look up user %q: not in /etc/passwd", name)
	}
	groups, err := os.ReadFile("/etc/group")
	if err != nil && !os.IsNotExist(err) {
		return account{}, fmt.Errorf("look up groups of %q: %w", name, err)
	}
	u.groups = parseGroups(groups, name)
	return u, nil
}

func parsePasswd(data []byte, name string) (account, bool) {
	for line := range bytes.Lines(data) {
		f := strings.Split(strings.TrimSuffix(string(line), "\n"), ":")
		if len(f) != 7 || f[0] != name || name == "" {
			continue
		}
		uid, err1 := strconv.ParseUint(f[2], 10, 32)
		gid, err2 := strconv.ParseUint(f[3], 10, 32)
		if err1 != nil || err2 != nil || uid == 1<<32-1 || gid == 1<<32-1 {
			return account{}, false
		}
		return account{name: name, home: f[5], uid: uint32(uid), gid: uint32(gid)}, true
	}
	return account{}, false
}

func parseGroups(data []byte, name string) []uint32 {
	var out []uint32
	for line := range bytes.Lines(data) {
		f := strings.Split(strings.TrimSuffix(string(line), "\n"), ":")
		if len(f) != 4 || !slices.Contains(strings.Split(f[3], ","), name) || name == "" {
			continue
		}
		if gid, err := strconv.ParseUint(f[2], 10, 32); err == nil && gid != 1<<32-1 {
			out = append(out, uint32(gid))
		}
	}
	return out
}

// attr is how a process of this user starts: in its own session, with nothing
// of the agent's identity. A user who is the agent's own needs no change.
func (u account) attr() *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Setsid: true}
	if os.Geteuid() == 0 || int(u.uid) != os.Geteuid() {
		attr.Credential = &syscall.Credential{Uid: u.uid, Gid: u.gid, Groups: u.groups}
	}
	return attr
}

const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// environ is the whole environment of a process: nothing of the agent's own.
// Later maps win.
func (u account) environ(more ...map[string]string) map[string]string {
	env := map[string]string{"PATH": defaultPath, "HOME": u.home, "USER": u.name, "LANG": "C.UTF-8"}
	for _, m := range more {
		for k, v := range m {
			env[k] = v
		}
	}
	return env
}

func flatten(env map[string]string) []string {
	out := make([]string, 0, len(env))
	for k, v := range env {
		out = append(out, k+"="+v)
	}
	slices.Sort(out)
	return out
}

// findProgram is where a command without a slash lies in path.
func findProgram(name, path string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	for dir := range strings.SplitSeq(path, ":") {
		if !strings.HasPrefix(dir, "/") {
			continue
		}
		full := dir + "/" + name
		if st, err := os.Stat(full); err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
			return full, nil
		}
	}
	return "", fmt.Errorf("find program %q: not in PATH", name)
}
