package image

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// customise turns the tree of a distribution into the root of members:
// nothing that differs from build to build or that only an administrator needs,
// the users and mount points that members need, and no setuid programs.
//
// /remuda is the agent's: the back end mounts the agent's binary at
// /remuda/agent and its socket directory at /remuda/run. /etc/hosts,
// /etc/hostname and /etc/resolv.conf are empty files to mount over.
func customise(root string, i ingredients) error {
	for _, path := range []string{
		"etc/apt/sources.list", "etc/apt/sources.list.d", "etc/machine-id", "var/lib/dbus/machine-id",
		"etc/hosts", "etc/hostname", "etc/resolv.conf", "etc/nginx/sites-enabled/default",
		"etc/apt/apt.conf.d/99mmdebstrap", // how this host reaches its archive, logins included
	} {
		if err := os.RemoveAll(filepath.Join(root, path)); err != nil {
			return err
		}
	}
	for _, pattern := range []string{"etc/ssh/ssh_host_*", "var/cache/apt/*", "var/lib/apt/lists/*", "var/cache/debconf/*", "var/cache/ldconfig/*", "var/log/*", "etc/*-", "usr/share/doc/*", "usr/share/man/*", "dev/*"} {
		if err := removeAll(filepath.Join(root, pattern)); err != nil {
			return err
		}
	}
	for _, dir := range i.Directories {
		if err := emptyDirectory(root, dir); err != nil {
			return err
		}
	}
	for _, dir := range []string{"/remuda", "/remuda/run", "/dev", "/dev/shm", "/proc", "/sys", "/run", "/tmp"} {
		if err := emptyDirectory(root, dir); err != nil {
			return err
		}
	}
	if err := os.Chmod(filepath.Join(root, "tmp"), 0o777|os.ModeSticky); err != nil {
		return err
	}
	for _, file := range []string{"remuda/agent", "etc/hosts", "etc/hostname", "etc/resolv.conf", "etc/machine-id"} {
		if err := writeFile(filepath.Join(root, file), nil, 0o644); err != nil {
			return err
		}
	}
	// Some servers look there for what is mounted.
	if err := errors.Join(os.RemoveAll(filepath.Join(root, "etc/mtab")), os.Symlink("../proc/self/mounts", filepath.Join(root, "etc/mtab"))); err != nil {
		return err
	}
	if err := dropSnakeoil(root); err != nil {
		return err
	}
	if err := addUsers(root, i.Users); err != nil {
		return err
	}
	if err := forgetPasswordDates(filepath.Join(root, "etc/shadow")); err != nil {
		return err
	}
	return dropSetuid(root)
}

// writeFile writes a file with exactly that mode, whatever the umask is.
func writeFile(path string, text []byte, mode os.FileMode) error {
	return errors.Join(os.WriteFile(path, text, mode), os.Chmod(path, mode))
}

// dropSnakeoil removes the key and the certificate that the package ssl-cert has
// made for this host, and the links to the certificate: a key that all members
// share is no secret, and both differ from build to build.
func dropSnakeoil(root string) error {
	const certificate = "ssl-cert-snakeoil.pem"
	certs := filepath.Join(root, "etc/ssl/certs")
	links, err := filepath.Glob(filepath.Join(certs, "*"))
	if err != nil {
		return err
	}
	for _, link := range links {
		if target, err := os.Readlink(link); err == nil && filepath.Base(target) == certificate {
			if err := os.Remove(link); err != nil {
				return err
			}
		}
	}
	return errors.Join(os.RemoveAll(filepath.Join(certs, certificate)), os.RemoveAll(filepath.Join(root, "etc/ssl/private/ssl-cert-snakeoil.key")))
}

// forgetPasswordDates empties the field of the last change (shadow(5)), which
// is the day on which the image was made. All passwords are locked.
func forgetPasswordDates(shadow string) error {
	text, err := os.ReadFile(shadow)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	lines := strings.Split(string(text), "\n")
	for i, line := range lines {
		if f := strings.Split(line, ":"); len(f) > 2 {
			f[2] = ""
			lines[i] = strings.Join(f, ":")
		}
	}
	return os.WriteFile(shadow, []byte(strings.Join(lines, "\n")), 0) // keeps the mode that it has
}

func removeAll(pattern string) error {
	paths, err := filepath.Glob(pattern)
	if err != nil {
		return err
	}
	for _, p := range paths {
		if err := os.RemoveAll(p); err != nil {
			return err
		}
	}
	return nil
}

// emptyDirectory makes a mount point: nothing of the image may show through.
func emptyDirectory(root, dir string) error {
	r, err := os.OpenRoot(root) // links in the tree cannot lead out of it
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }()
	rel := strings.TrimPrefix(dir, "/")
	if err := r.MkdirAll(rel, 0o755); err != nil {
		return fmt.Errorf("make mount point %s: %w", dir, err)
	}
	entries, err := fs.ReadDir(r.FS(), rel)
	if err != nil {
		return fmt.Errorf("make mount point %s: %w", dir, err)
	}
	for _, e := range entries {
		if err := r.RemoveAll(filepath.Join(rel, e.Name())); err != nil {
			return fmt.Errorf("empty mount point %s: %w", dir, err)
		}
	}
	return errors.Join(r.Chown(rel, 0, 0), r.Chmod(rel, 0o755))
}

// dropSetuid takes away every way to gain rights by running a program.
func dropSetuid(root string) error {
	return filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		if info.Mode()&(os.ModeSetuid|os.ModeSetgid) == 0 {
			return nil
		}
		return os.Chmod(path, info.Mode().Perm())
	})
}

// addUsers makes the users that no package has made, as Debian numbers system
// users: downwards from 999, each with a group of its own.
func addUsers(root string, users []string) error {
	passwd, groups, err := readAccounts(root)
	if err != nil {
		return err
	}
	id := 999
	taken := func(n int) bool {
		return slices.Contains(passwd.ids, n) || slices.Contains(groups.ids, n)
	}
	var newUsers, newGroups strings.Builder
	for _, user := range users {
		if slices.Contains(passwd.names, user) {
			continue
		}
		for taken(id) {
			id--
		}
		gid := id
		if n := slices.Index(groups.names, user); n >= 0 {
			gid = groups.ids[n]
		} else {
			fmt.Fprintf(&newGroups, "%s:x:%d:\n", user, gid)
		}
		fmt.Fprintf(&newUsers, "%s:x:%d:%d::/nonexistent:/usr/sbin/nologin\n", user, id, gid)
		id--
	}
	if err := appendFile(filepath.Join(root, "etc/passwd"), newUsers.String()); err != nil {
		return err
	}
	return appendFile(filepath.Join(root, "etc/group"), newGroups.String())
}

// accounts are names with ids, from passwd or group.
type accounts struct {
	names []string
	ids   []int
}

func readAccounts(root string) (passwd, groups accounts, err error) {
	read := func(file string) (a accounts, err error) {
		text, err := os.ReadFile(filepath.Join(root, file))
		for _, line := range strings.Split(string(text), "\n") {
			if f := strings.Split(line, ":"); len(f) > 2 {
				if n, err := strconv.Atoi(f[2]); err == nil {
					a.names, a.ids = append(a.names, f[0]), append(a.ids, n)
				}
			}
		}
		return a, err
	}
	if passwd, err = read("etc/passwd"); err == nil {
		groups, err = read("etc/group")
	}
	return passwd, groups, err
}

func appendFile(path, text string) error {
	if text == "" {
		return nil
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}
