// Package cgroupfs reads the files in which the kernel says what a cgroup uses.
package cgroupfs

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// Number reads a file that holds one number.
func Number(file string) (int64, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
}

// Field reads the line "name number" of a file.
func Field(file, name string) (int64, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok && key == name {
			return strconv.ParseInt(value, 10, 64)
		}
	}
	return 0, fmt.Errorf("%s has no %q", file, name)
}

// MemoryUsed is what the kernel cannot simply drop, in bytes: the number in one file less the field
// for inactive pages of files in another.
func MemoryUsed(current, stat, inactive string) (int64, error) {
	used, err := Number(current)
	if err != nil {
		return 0, err
	}
	cached, err := Field(stat, inactive)
	return max(used-cached, 0), err
}
