package agent

import (
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
)

// filesLimit is how much of a file tells whether it is the same.
const filesLimit = 1 << 20

// files describes what a process of root could have changed although the root of the
// container is read-only: files that the runtime has mounted, and /dev.
func (p *places) files() ([]string, error) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	paths := map[string]bool{"/etc/hosts": true, "/etc/hostname": true, "/etc/resolv.conf": true}
	for _, path := range writableMounts(mounts) {
		paths[path] = true
	}
	out := []string{}
	for path := range paths {
		if p.at(path) != nil || p.holder(path) != nil || path == p.termFile {
			continue
		}
		if line, err := describeFile(path); err != nil {
			return nil, err
		} else if line != "" {
			out = append(out, line)
		}
	}
	things, err := devices(p.dev)
	for name, what := range things {
		out = append(out, p.dev+"/"+name+" "+what)
	}
	return out, err
}

// writableMounts reads mountinfo: where something is mounted to be written. Only files of
// these matter, see describeFile.
func writableMounts(mountinfo []byte) []string {
	var out []string
	for line := range strings.Lines(string(mountinfo)) {
		f := strings.Fields(line)
		if len(f) < 6 || !strings.HasPrefix(f[5]+",", "rw,") || strings.HasPrefix(f[4], "/proc/") || strings.HasPrefix(f[4], "/sys/") {
			continue
		}
		out = append(out, unescape.Replace(f[4]))
	}
	return out
}

// unescape is what the kernel writes blanks as.
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)

// describeFile is "path sha256" of a regular file, "" of anything else.
func describeFile(path string) (string, error) {
	st, err := os.Lstat(path)
	if err != nil || !st.Mode().IsRegular() {
		return "", nil
	}
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Sprintf("%s unreadable %s", path, st.Mode()), nil
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, io.LimitReader(f, filesLimit)); err != nil {
		return "", err
	}
	return fmt.Sprintf("%s %x", path, sum.Sum(nil)), nil
}
