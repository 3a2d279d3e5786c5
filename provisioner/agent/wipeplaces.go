package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// scope of a wipe.
type scope int

const (
	noPlaces     scope = iota // processes only: the agent ends
	memoryPlaces              // the disk's data are kept
	allPlaces
)

// wipe empties places, gives them back what can be changed of them, and proves it. It
// says how many things it has removed.
func (p *places) wipe(what scope) (removed int, err error) {
	if what == noPlaces {
		return 0, nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.nextMu.Lock()
	defer p.nextMu.Unlock()
	err = p.asOwner(func(act *actor) error {
		e := &emptier{actor: act}
		err := p.volumes(act, func(v volume) error {
			// The agent may have ended while it wrote that.
			if err := unix.Unlinkat(v.fd, partName, 0); err != nil && err != unix.ENOENT && !(p.one && err == unix.EISDIR) {
				return pathError("remove", v.path+"/"+partName, err)
			}
			if !v.memory && !p.one && !p.usable() { // half prepared, also by an agent that has ended
				if err := p.emptyNext(act, v); err != nil {
					return err
				}
			}
			if v.memory || what == allPlaces {
				if err := p.wipeVolume(e, v); err != nil {
					return err
				}
			}
			return p.prove(act, v, v.memory || what == allPlaces)
		})
		removed = e.removed
		return errors.Join(err, act.root(), p.wipeTermination(), p.wipeDevices(e), p.proveSelf())
	})
	return removed, err
}

func (p *places) wipeVolume(e *emptier, v volume) error {
	var errs []error
	spare := map[uint32]*spares{}
	for uid, n := range p.filled {
		if v.memory {
			break
		}
		s, err := openSpares(e.actor, v, uid)
		if err == nil && s != nil {
			defer s.close()
			err = s.empty(e)
			s.left, spare[uid] = n, s
		}
		errs = append(errs, err)
	}
	for _, pl := range p.in(v) {
		e.spares = spare[pl.uid]
		errs = append(errs, p.wipePlace(e, v, pl))
	}
	e.spares = nil
	if p.one {
		return errors.Join(append(errs, p.wipeRoot(e, v))...)
	}
	// What a check of the file system has found may be a tenant's.
	if _, err := statAt(v.fd, "lost+found"); err == nil {
		errs = append(errs, e.empty(v.fd, v.path, p.besideLost(v)))
	}
	return errors.Join(errs...)
}

// besideLost keeps all that is in a volume's root, and empties lost+found.
func (p *places) besideLost(v volume) keep {
	k := keep{"lost+found": keep{}}
	if names, err := list(v.fd); err == nil {
		for name := range names {
			if name != "lost+found" {
				k[name] = nil
			}
		}
	}
	return k
}

func (p *places) wipePlace(e *emptier, v volume, pl *place) error {
	fd, st, err := p.open(e.actor, v, pl)
	if err != nil {
		return err
	}
	defer closeFD(fd)
	name := v.path + "/" + pl.Folder
	if pl.File {
		err = truncate(fd, st)
	} else if err = e.empty(fd, name, pl.keep); err == nil {
		err = makeKept(e.actor, fd, st, pl.keep)
	}
	if err == nil {
		err = pl.restore(e.actor, v, fd)
	}
	return errors.Join(pathError("wipe", name, err), e.actor.root())
}

// truncate empties a file of root's.
func truncate(fd int, st unix.Stat_t) error {
	if err := chmodFD(fd, st.Mode|0o600); err != nil {
		return err
	}
	return again(func() error { return unix.Truncate(magic(fd), 0) })
}

// prove looks at a volume again: nothing is in its root but what belongs there, and
// places are empty, if they were emptied.
func (p *places) prove(act *actor, v volume, empty bool) error {
	if err := act.root(); err != nil {
		return err
	}
	if p.one && !empty {
		return nil // what is in the root besides is as much the servers' as their data
	}
	names, err := list(v.fd)
	if err != nil {
		return pathError("list", v.path, err)
	}
	for _, pl := range p.in(v) {
		delete(names, pl.Folder)
		if !empty {
			continue
		}
		if err := p.provePlace(act, v, pl); err != nil {
			return err
		}
	}
	if !p.one || ownLost(v) {
		delete(names, "lost+found")
	}
	if !v.memory && !p.one {
		for uid := range p.owners() {
			delete(names, spareName(uid))
		}
		for _, pl := range p.in(v) {
			if p.keeps(pl) {
				delete(names, nextName(pl))
			}
		}
		if err := errors.Join(p.proveSpares(act, v), p.proveNext(act, v), act.root()); err != nil {
			return err
		}
	}
	if !v.memory && (!p.one || p.hasPristine) {
		delete(names, pristineName)
	}
	for name := range names {
		return fmt.Errorf("%s/%s does not belong there", v.path, strings.Trim(fmt.Sprintf("%+q", name), `"`))
	}
	return nil
}

func (p *places) provePlace(act *actor, v volume, pl *place) error {
	fd, st, err := p.open(act, v, pl)
	if err != nil {
		return err
	}
	defer closeFD(fd)
	if pl.File {
		if st.Size != 0 {
			return fmt.Errorf("%s/%s is not empty", v.path, pl.Folder)
		}
		return nil
	}
	return errors.Join(proveEmpty(act, fd, st, v.path+"/"+pl.Folder, pl.keep), act.root())
}

// proveEmpty fails when more is in the directory than what is kept.
func proveEmpty(act *actor, fd int, st unix.Stat_t, path string, k keep) error {
	names, err := listAs(act, fd, st)
	if err != nil {
		return pathError("list", path, err)
	}
	for name := range names {
		if _, kept := k[name]; !kept {
			return fmt.Errorf("%s is not empty", path)
		}
	}
	for name, below := range k {
		if err := act.owner(&st); err != nil {
			return err
		}
		sub, err := openAt(fd, name, onlyPath|unix.O_DIRECTORY, 0)
		if err != nil {
			return pathError("open", path+"/"+name, err)
		}
		var st unix.Stat_t
		if err = unix.Fstat(sub, &st); err == nil {
			err = proveEmpty(act, sub, st, path+"/"+name, below)
		}
		closeFD(sub)
		if err != nil {
			return err
		}
	}
	return nil
}

// listAs lists a directory as its owner.
func listAs(act *actor, fd int, st unix.Stat_t) (map[string]byte, error) {
	dir, err := act.openOwn(fd, &st, unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	defer closeFD(dir)
	return list(dir)
}

// wipeTermination empties the file for last words.
func (p *places) wipeTermination() error {
	if p.termFile == "" {
		return nil
	}
	fd, err := openAt(unix.AT_FDCWD, p.termFile, unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err == unix.ENOENT || p.one && err == unix.EACCES { // then servers, being the same user, cannot either
		return nil
	}
	if err != nil {
		return pathError("open", p.termFile, err)
	}
	defer closeFD(fd)
	return pathError("truncate", p.termFile, again(func() error { return unix.Ftruncate(fd, 0) }))
}

// wipeDevices removes from /dev, which a process of root may change, what was not
// there when the agent began.
func (p *places) wipeDevices(e *emptier) error {
	if p.dev == "" || p.devAsNew == nil || !isInit() {
		return nil
	}
	fd, err := openAt(unix.AT_FDCWD, p.dev, listDir, 0)
	if err != nil {
		return pathError("open", p.dev, err)
	}
	defer closeFD(fd)
	k := keep{}
	for name, kind := range p.devAsNew {
		at := k
		parts := strings.Split(name, "/")
		for _, part := range parts[:len(parts)-1] {
			if at[part] == nil {
				at[part] = keep{}
			}
			at = at[part]
		}
		last := parts[len(parts)-1]
		if strings.HasPrefix(kind, "directory") && at[last] == nil {
			at[last] = keep{}
		} else if _, there := at[last]; !there {
			at[last] = nil
		}
	}
	for _, other := range otherDevices {
		k[other] = nil
	}
	return e.empty(fd, p.dev, k)
}

// otherDevices are file systems of their own in /dev: places, or places of the kernel's objects.
var otherDevices = []string{"pts", "shm", "mqueue"}

// devices describes what is in /dev: by path in it, type, owner and mode, device or destination.
func devices(dir string) (map[string]string, error) {
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		name, _ := filepath.Rel(dir, path)
		if err != nil || name == "." {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		owner := fmt.Sprintf("%d:%d %o", st.Uid, st.Gid, st.Mode&0o7777)
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFDIR:
			out[name] = "directory " + owner
			if slices.Contains(otherDevices, name) {
				out[name] = "directory"
				return filepath.SkipDir
			}
		case unix.S_IFLNK:
			to, err := os.Readlink(path)
			if err != nil {
				return err
			}
			out[name] = "link " + to
		case unix.S_IFCHR, unix.S_IFBLK:
			out[name] = fmt.Sprintf("device %o %d:%d %s", st.Mode>>12, unix.Major(st.Rdev), unix.Minor(st.Rdev), owner)
		default:
			out[name] = fmt.Sprintf("file %o %s", st.Mode>>12, owner)
		}
		return nil
	})
	return out, err
}
