package local

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// users are the accounts of an image: name → uid, gid.
type users map[string][2]int

// usersOf reads the accounts of an image once.
func (b *Backend) usersOf(rootfs string) (users, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if u, ok := b.users[rootfs]; ok {
		return u, nil
	}
	u, err := readUsers(rootfs)
	if err == nil {
		b.users[rootfs] = u
	}
	return u, err
}

func readUsers(rootfs string) (users, error) {
	f, err := os.Open(filepath.Join(rootfs, "etc/passwd"))
	if err != nil {
		return nil, fmt.Errorf("read the image's accounts: %w", err)
	}
	defer f.Close()
	out := users{}
	s := bufio.NewScanner(f)
	for s.Scan() {
		p := strings.Split(s.Text(), ":")
		if len(p) < 4 {
			continue
		}
		uid, err1 := strconv.Atoi(p[2])
		gid, err2 := strconv.Atoi(p[3])
		if err1 == nil && err2 == nil {
			out[p[0]] = [2]int{uid, gid}
		}
	}
	return out, s.Err()
}

func (u users) lookup(name string) (uid, gid int, err error) {
	ids, ok := u[name]
	if !ok {
		return 0, 0, fmt.Errorf("the image has no user %q", name)
	}
	return ids[0], ids[1], nil
}
