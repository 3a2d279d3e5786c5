package agent

import (
	"bytes"
	"os"
	"strconv"
	"strings"
)

// processStat is what the agent reads of /proc/PID/stat.
type processStat struct {
	pid, session int
	comm         string
	state        byte
}

// parseStat reads a line of /proc/PID/stat. The name stands in parentheses and
// may hold anything, parentheses too.
func parseStat(data []byte) (processStat, bool) {
	open, shut := bytes.IndexByte(data, '('), bytes.LastIndexByte(data, ')')
	if open < 1 || shut < open {
		return processStat{}, false
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data[:open])))
	f := strings.Fields(string(data[shut+1:]))
	if err != nil || len(f) < 4 {
		return processStat{}, false
	}
	session, err := strconv.Atoi(f[3])
	if err != nil {
		return processStat{}, false
	}
	return processStat{pid: pid, session: session, comm: string(data[open+1 : shut]), state: f[0][0]}, true
}

// processes lists /proc, without the agent itself.
func processes() ([]processStat, error) {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	var out []processStat
	self := os.Getpid()
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil || pid == self {
			continue
		}
		data, err := os.ReadFile("/proc/" + name + "/stat")
		if err != nil {
			continue // it has ended meanwhile
		}
		if st, ok := parseStat(data); ok {
			out = append(out, st)
		}
	}
	return out, nil
}
