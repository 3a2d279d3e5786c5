package agent

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// KeepPristine remembers what the disk places hold now, but /tmp. The agent must be
// idle: nothing changes them meanwhile.
func (a *Agent) KeepPristine() (Pristine, error) {
	var kept Pristine
	err := a.whileIdle("keep pristine", func(p *places) error {
		return p.asOwner(func(act *actor) (err error) {
			kept, err = p.pack(act)
			return err
		})
	})
	if err != nil {
		return Pristine{}, fmt.Errorf("keep pristine: %w", err)
	}
	return kept, nil
}

// FillPristine fills the disk places, which must be empty, with what was kept. If
// that has another digest, or anything else fails, they are empty again.
func (a *Agent) FillPristine(want Pristine) error {
	err := a.whileIdle("fill pristine", func(p *places) error {
		return p.asOwner(func(act *actor) error { return p.unpack(act, want) })
	})
	if err != nil {
		return fmt.Errorf("fill pristine: %w", err)
	}
	return nil
}

// whileIdle calls f while nothing runs, and nothing begins.
func (a *Agent) whileIdle(what string, f func(*places) error) error {
	if a.places == nil || !a.places.uses(false) {
		return invalid("this agent keeps no disk")
	}
	select {
	case a.exclusive <- struct{}{}:
		defer func() { <-a.exclusive }()
	default:
		return conflict("a start or wipe is under way")
	}
	a.mu.Lock()
	phase, busy := a.phase, a.generation != nil || a.unclean || a.wiping > 0
	a.mu.Unlock()
	if phase != Idle || busy {
		return conflict("the agent is not idle but %s", phase)
	}
	a.places.mu.Lock()
	defer a.places.mu.Unlock()
	return f(a.places)
}

// keeps says whether what is in a place of the disk is kept.
func (p *places) keeps(pl *place) bool { return !pl.File && pl.Path != "/tmp" }

// onDisk calls f for the places that are kept.
func (p *places) onDisk(v volume, f func(*place) error) error {
	for _, pl := range p.in(v) {
		if !p.keeps(pl) {
			continue
		}
		if err := f(pl); err != nil {
			return err
		}
	}
	return nil
}

// pack writes all of them to the pristine file.
func (p *places) pack(act *actor) (kept Pristine, err error) {
	err = p.volume(act, volume{path: p.disk}, func(v volume) error {
		if err := errno(unix.Unlinkat(v.fd, partName, 0)); err != 0 && err != unix.ENOENT {
			return pathError("remove", v.path+"/"+partName, err)
		}
		fd, err := openAt(v.fd, partName, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW, 0o600)
		if err != nil {
			return pathError("make", v.path+"/"+partName, err)
		}
		file := os.NewFile(uintptr(fd), partName)
		kept, err = p.packTo(act, v, file)
		err = errors.Join(err, act.root(), file.Close())
		if err == nil {
			err = unix.Renameat(v.fd, partName, v.fd, pristineName)
			p.hasPristine = err == nil
		}
		if err != nil {
			_ = unix.Unlinkat(v.fd, partName, 0)
		}
		return err
	})
	return kept, err
}

func (p *places) packTo(act *actor, v volume, to io.Writer) (Pristine, error) {
	w := &walker{actor: act, packer: newPacker(to), files: map[uint32]int{}}
	err := p.onDisk(v, func(pl *place) error {
		fd, st, err := p.open(act, v, pl)
		if err != nil {
			return err
		}
		defer closeFD(fd)
		if err := w.entry(entry{kind: entryPlace, name: pl.Folder}); err != nil {
			return err
		}
		w.links = map[[2]uint64]string{}
		return w.dir(fd, st, "", pl.keep, v.path+"/"+pl.Folder)
	})
	if err != nil {
		return Pristine{}, err
	}
	if err := w.entry(entry{kind: entryFinish}); err != nil {
		return Pristine{}, err
	}
	p.filled = w.files // as many as a filling will make
	return w.pristine(), nil
}

// unpack fills them from the pristine file.
func (p *places) unpack(act *actor, want Pristine) error {
	return p.volume(act, volume{path: p.disk}, func(v volume) error {
		file, err := openPristine(v, want)
		if err != nil {
			return err
		}
		defer file.Close()
		err = p.onDisk(v, func(pl *place) error { return p.provePlace(act, v, pl) })
		if err != nil {
			return conflict("%v", err)
		}
		return errors.Join(p.fill(act, v, file, want), act.root())
	})
}

// fill fills places that are empty; after an error they are empty again.
func (p *places) fill(act *actor, v volume, file io.Reader, want Pristine) error {
	p.nextMu.Lock()
	defer p.nextMu.Unlock()
	p.next.want = Pristine{}
	clear := func() error {
		return p.onDisk(v, func(pl *place) error { return p.wipePlace(&emptier{actor: act}, v, pl) })
	}
	prepared := p.next.have.Digest != ""
	if !p.useNext(act, v, want) {
		if prepared {
			if err := errors.Join(p.emptyNext(act, v), clear()); err != nil {
				return err
			}
		}
		filled, err := p.unpackFrom(act, v, file, want, false)
		p.filled, p.hasPristine = filled, err == nil
		if err != nil {
			return errors.Join(err, clear())
		}
	}
	p.next.want = want
	return nil
}

func openPristine(v volume, want Pristine) (*os.File, error) {
	fd, err := openAt(v.fd, pristineName, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err == unix.ENOENT {
		return nil, conflict("no disk was kept")
	}
	if err != nil {
		return nil, pathError("open", v.path+"/"+pristineName, err)
	}
	file := os.NewFile(uintptr(fd), pristineName)
	st, err := file.Stat()
	if err == nil && (!st.Mode().IsRegular() || st.Size() != want.Size) {
		err = fmt.Errorf("the kept disk is not the one that is wanted: it has %d bytes, not %d", st.Size(), want.Size)
	}
	if err != nil {
		_ = file.Close()
		return nil, err
	}
	return file, nil
}

// unpackFrom says how many files it has made, by user.
func (p *places) unpackFrom(act *actor, v volume, from io.Reader, want Pristine, beside bool) (filled map[uint32]int, err error) {
	u, err := newUnpacker(from)
	if err != nil {
		return nil, err
	}
	x := &extractor{actor: act, unpacker: u, places: p, volume: v, beside: beside, filled: map[uint32]int{}}
	defer func() { err = errors.Join(err, x.close()) }()
	if err := x.all(); err != nil {
		return nil, err
	}
	if got := u.digest(); got != want.Digest {
		return nil, fmt.Errorf("the kept disk is not the one that is wanted: its digest is %s, not %s", got, want.Digest)
	}
	return x.filled, nil
}
