package agent

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// An agent of one user has no capability and changes no identity: it, and all that it
// starts, have one number, whatever names a recipe gives them. What the servers make
// is its own, so it can remove all of it, and the servers can do to its volumes
// whatever it can. Three things it keeps from them: its memory, environment and
// descriptors (it is not dumpable), its root file system, and the names of users, which it has
// written before they began.

// one is what a user of the image is to an agent of one user.
func (u account) one() account {
	u.uid, u.gid, u.groups = uint32(os.Geteuid()), uint32(os.Getegid()), nil
	return u
}

// lookup finds a user as the agent starts programs for him.
func (a *Agent) lookup(name string) (account, error) {
	u, err := lookup(name)
	if err == nil && a.opts.OneUser != "" {
		u = u.one()
	}
	return u, err
}

// asOwner calls f with an actor that may touch what is in the places.
func (p *places) asOwner(f func(*actor) error) error {
	if p.one {
		return f(&actor{one: true})
	}
	return asOwner(f)
}

// layoutNames writes the passwd that servers see: without it many programs do not start under
// a number that has no name, and servers that ask who is at their socket do not know it.
func layoutNames(dir, name string) error {
	passwd, err := os.ReadFile("/etc/passwd")
	if err != nil {
		return err
	}
	text, err := oneUserNames(passwd, name, os.Geteuid(), os.Getegid())
	if err != nil {
		return err
	}
	return errors.Join(os.WriteFile(dir+"/passwd", text, 0o644), os.Chmod(dir+"/passwd", 0o644))
}

// oneUserNames is the passwd in which a user has the numbers. It comes first, so
// that the number has its name.
func oneUserNames(passwd []byte, name string, uid, gid int) ([]byte, error) {
	var first, rest bytes.Buffer
	for line := range bytes.Lines(passwd) {
		f := strings.Split(strings.TrimSuffix(string(line), "\n"), ":")
		if len(f) == 7 && f[0] == name && first.Len() == 0 {
			fmt.Fprintf(&first, "%s:%s:%d:%d:%s\n", name, f[1], uid, gid, strings.Join(f[4:], ":"))
		} else if len(f) == 7 {
			rest.WriteString(strings.Join(f, ":") + "\n")
		}
	}
	if name == "" || first.Len() == 0 {
		return nil, fmt.Errorf("user %q is not in /etc/passwd", name)
	}
	return append(first.Bytes(), rest.Bytes()...), nil
}

// wipeRoot removes from the root of a volume, where servers of the agent's user may write,
// what is neither a place nor the agent's.
func (p *places) wipeRoot(e *emptier, v volume) error {
	k := keep{}
	for _, pl := range p.in(v) {
		k[pl.Folder] = nil
	}
	var errs []error
	if kept, err := p.tidyPristine(v); kept {
		k[pristineName] = nil
		errs = append(errs, err)
	}
	if ownLost(v) {
		k["lost+found"] = nil
		if fd, err := openAt(v.fd, "lost+found", listDir, 0); err == nil { // else nobody here can get in
			errs = append(errs, removeUserAttributes(fd))
			closeFD(fd)
			k["lost+found"] = keep{}
		}
	}
	errs = append(errs, e.empty(v.fd, v.path, k), removeUserAttributes(v.fd))
	return errors.Join(errs...)
}

// ownLost says whether a volume has a lost+found that is its file system's, and not a server's.
func ownLost(v volume) bool {
	st, err := statAt(v.fd, "lost+found")
	return err == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR && int(st.Uid) != os.Geteuid()
}

// tidyPristine says whether the pristine file is still what this agent has kept, as far as can be
// seen without reading it, and takes from it what else it can carry. What is in it is
// proven when the places are filled from it.
func (p *places) tidyPristine(v volume) (kept bool, err error) {
	if v.memory || !p.hasPristine {
		return false, nil
	}
	fd, err := openAt(v.fd, pristineName, onlyPath, 0)
	if err != nil {
		return false, nil
	}
	defer closeFD(fd)
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil || !plain(&st, uint32(os.Geteuid())) {
		return false, nil
	}
	return true, errors.Join(chmodFD(fd, 0o600), removeAttributes(fd), chmodFD(fd, 0o600),
		unix.UtimesNanoAt(unix.AT_FDCWD, magic(fd), wellKnown, 0))
}

// removeUserAttributes removes those that who may write to a directory of another user's may set.
func removeUserAttributes(fd int) error {
	names, err := attributes(fd)
	for _, name := range names {
		if strings.HasPrefix(name, "user.") {
			err = errors.Join(err, describe("remove attribute", unix.Removexattr(magic(fd), name)))
		}
	}
	return err
}
