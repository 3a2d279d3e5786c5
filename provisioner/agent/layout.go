package agent

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Layout makes the folders and files of all places in the volumes, with owner and
// mode, and closes the roots of the volumes to everyone but root. With oneUser, the name of
// the user that all are, it writes the names of users too. It is done before servers see any of them:
// by the init container of a pod, with the same rights as the agent. What is in a
// folder that is there already stays.
func Layout(list []Place, oneUser string) error {
	if len(list) == 0 {
		return errors.New("lay out places: none were given in " + EnvPlaces)
	}
	p, err := newPlaces(list, oneUser != "")
	if err != nil {
		return err
	}
	if err := p.asOwner(p.layout); err != nil {
		return fmt.Errorf("lay out places: %w", err)
	}
	if oneUser == "" {
		return nil
	}
	if err := layoutNames(NamesVolume, oneUser); err != nil {
		return fmt.Errorf("lay out names: %w", err)
	}
	return nil
}

func (p *places) layout(act *actor) error {
	return p.volumes(act, func(v volume) error {
		// Without CAP_CHOWN only its owner can make a thing that is its own.
		if !p.one {
			if err := unix.Fchmod(v.fd, 0o777); err != nil {
				return pathError("open volume to all", v.path, err)
			}
		}
		var err error
		for _, pl := range p.in(v) {
			if e := pl.make(act, v); e != nil {
				err = errors.Join(err, fmt.Errorf("%s/%s: %w", v.path, pl.Folder, e))
			}
		}
		if p.one {
			return err
		}
		err = errors.Join(err, p.makeSpares(act, v), p.makeNext(act, v))
		return errors.Join(err, act.root(), unix.Fchmod(v.fd, 0o700))
	})
}

// make makes the place in its volume, or gives it its mode back.
func (pl *place) make(act *actor, v volume) error {
	if err := act.become(pl.owner(), pl.gid); err != nil {
		return err
	}
	var err error
	if pl.File {
		var fd int
		fd, err = openAt(v.fd, pl.Folder, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0o600)
		closeFD(fd)
	} else {
		err = unix.Mkdirat(v.fd, pl.Folder, 0o700)
	}
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	fd, err := openAt(v.fd, pl.Folder, onlyPath, 0)
	if err != nil {
		return err
	}
	defer closeFD(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if err := pl.check(st); err != nil {
		return err
	}
	if err := makeKept(act, fd, st, pl.keep); err != nil {
		return err
	}
	return pl.restore(act, v, fd)
}

// makeKept makes the directories that other places are mounted on, and gives them
// back all that can have been changed of them.
func makeKept(act *actor, fd int, st unix.Stat_t, k keep) error {
	for name, below := range k {
		if err := act.enterable(fd, &st); err != nil {
			return err
		}
		if err := unix.Mkdirat(fd, name, 0o755); err != nil && err != unix.EEXIST {
			return err
		}
		sub, err := openAt(fd, name, onlyPath|unix.O_DIRECTORY, 0)
		if err != nil {
			return err
		}
		err = restoreKept(act, sub, below)
		closeFD(sub)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func restoreKept(act *actor, fd int, below keep) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if err := makeKept(act, fd, st, below); err != nil {
		return err
	}
	if err := act.owner(&st); err != nil {
		return err
	}
	return errors.Join(chmodFD(fd, 0o755), removeAttributes(fd), chmodFD(fd, 0o755),
		unix.UtimesNanoAt(unix.AT_FDCWD, magic(fd), wellKnown, 0))
}
