package agent

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// Baseline describes the member from inside.
func (a *Agent) Baseline() (Baseline, error) {
	var b Baseline
	var err error
	a.reaper.locked(func(programs map[int]bool) { b.Processes, err = baselineProcesses(programs) })
	if err != nil {
		return b, fmt.Errorf("baseline: %w", err)
	}
	if b.Listeners, err = a.listeners(); err != nil {
		return b, fmt.Errorf("baseline: %w", err)
	}
	if b.IPC, err = listIPC(); err != nil {
		return b, fmt.Errorf("baseline: %w", err)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return b, fmt.Errorf("baseline: %w", err)
	}
	b.Mounts = parseMounts(mounts)
	if a.places != nil {
		if b.Files, err = a.places.files(); err != nil {
			return b, fmt.Errorf("baseline: %w", err)
		}
	}
	for _, list := range []*[]string{&b.Processes, &b.Listeners, &b.IPC, &b.Mounts, &b.Files} {
		slices.Sort(*list)
		*list = slices.Compact(*list)
	}
	return b, nil
}

// baselineProcesses names each process by uid and comm: the path behind
// /proc/PID/exe is closed to an agent without ptrace capability. Programs that
// run just now (a probe) are left out with all of their sessions, and so are
// zombies.
func baselineProcesses(programs map[int]bool) ([]string, error) {
	list, err := processes()
	out := []string{}
	for _, p := range list {
		if programs[p.session] || p.state == 'Z' || p.state == 'X' {
			continue
		}
		st, err := os.Stat("/proc/" + strconv.Itoa(p.pid) + "/stat")
		if err != nil {
			continue
		}
		out = append(out, fmt.Sprintf("%d %s", st.Sys().(*syscall.Stat_t).Uid, p.comm))
	}
	return out, err
}

func (a *Agent) listeners() ([]string, error) {
	if a.opts.Egress && a.opts.Listen == "" {
		return []string{}, nil // the network is the host's
	}
	own := a.doors.inodes()
	maps.Copy(own, a.ownSockets)
	out, err := inetListeners(own)
	if err != nil {
		return nil, err
	}
	data, err := os.ReadFile("/proc/thread-self/net/unix")
	if err != nil {
		return nil, err
	}
	return append(out, parseUnix(data, own)...), nil
}

// parseUnix reads /proc/net/unix: listening sockets, and whoever holds an
// abstract name, listening or not. The agent's own are left out by inode.
func parseUnix(data []byte, own map[uint64]bool) []string {
	var out []string
	for line := range strings.Lines(string(data)) {
		// Num RefCount Protocol Flags Type St Inode Path; a path may hold blanks.
		rest := strings.TrimSuffix(line, "\n")
		var f [7]string
		ok := true
		for i := range f {
			rest = strings.TrimLeft(rest, " ")
			f[i], rest, _ = strings.Cut(rest, " ")
			ok = ok && f[i] != ""
		}
		inode, err := strconv.ParseUint(f[6], 10, 64)
		if !ok || err != nil || own[inode] || rest == "" {
			continue
		}
		flags, err := strconv.ParseUint(f[3], 16, 32)
		const accepting = 1 << 16 // __SO_ACCEPTCON
		if err == nil && (flags&accepting != 0 || rest[0] == '@') {
			out = append(out, "unix "+rest)
		}
	}
	return out
}

// parseMounts reads mountinfo: target, type and options, without the numbers
// and sources that differ from mount to mount.
func parseMounts(data []byte) []string {
	out := []string{}
	for line := range strings.Lines(string(data)) {
		left, right, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " - ")
		f, r := strings.Fields(left), strings.Fields(right)
		if ok && len(f) >= 6 && len(r) >= 1 {
			out = append(out, f[4]+" "+r[0]+" "+f[5])
		}
	}
	return out
}
