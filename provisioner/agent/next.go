package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/sys/unix"
)

// The disk that the next generation begins with is unpacked while this one serves, so that a
// reset only has to move it: into folders beside the places, that only the agent can enter. The
// owner of a place owns its folder too, but the root of the volume is closed to him. Only a process
// of root could get there; once one has run in this agent's life, nothing is prepared any more, and
// what is prepared is not used.

// nextPrefix and the folder of a place name the folder beside it.
const nextPrefix = "next."

const (
	nextAfter = 100 * time.Millisecond // after the servers serve
	nextLeast = 256 << 10              // less is unpacked in no time
	nextRoom  = 8                      // how many times its size must be free besides an eighth of the disk
	nextRests = 3                      // how many times as long as it works it rests: at most a quarter of a processor
)

// next is what is known of these folders.
type next struct {
	want   Pristine // what the next generation is likely to begin with
	have   Pristine // what they hold, verified; without a digest they hold nothing that can be used
	filled map[uint32]int
}

// usable says whether what the folders hold can be used.
func (p *places) usable() bool { return p.next.have.Digest != "" && !p.rooted.Load() }

func nextName(pl *place) string { return nextPrefix + pl.Folder }

// sawUser is told of whatever is going to run.
func (p *places) sawUser(u account) {
	if p != nil && u.uid == 0 {
		p.rooted.Store(true)
	}
}

// makeNext makes the folders; the root of the volume is open to all.
func (p *places) makeNext(act *actor, v volume) error {
	if v.memory {
		return nil
	}
	return p.onDisk(v, func(pl *place) error {
		if err := act.become(pl.uid, pl.gid); err != nil {
			return err
		}
		if err := unix.Mkdirat(v.fd, nextName(pl), 0o700); err != nil && err != unix.EEXIST {
			return pathError("make", v.path+"/"+nextName(pl), err)
		}
		return nil
	})
}

// openNext opens the folder of a place.
func (p *places) openNext(act *actor, v volume, pl *place) (fd int, st unix.Stat_t, err error) {
	name := v.path + "/" + nextName(pl)
	if err = act.root(); err != nil {
		return -1, st, err
	}
	if fd, err = openAt(v.fd, nextName(pl), onlyPath|unix.O_DIRECTORY, 0); err != nil {
		return -1, st, pathError("open", name, err)
	}
	if err = unix.Fstat(fd, &st); err == nil && st.Uid != pl.uid {
		err = fmt.Errorf("%s belongs to user %d", name, st.Uid)
	}
	if err != nil {
		closeFD(fd)
		return -1, st, err
	}
	return fd, st, nil
}

// emptyNext removes what is in the folders.
func (p *places) emptyNext(act *actor, v volume) error {
	p.next.have = Pristine{}
	err := p.onDisk(v, func(pl *place) error {
		fd, _, err := p.openNext(act, v, pl)
		if errors.Is(err, unix.ENOENT) {
			return nil // laid out by an agent that knew of none
		}
		if err != nil {
			return err
		}
		defer closeFD(fd)
		return (&emptier{actor: act}).empty(fd, v.path+"/"+nextName(pl), nil)
	})
	return errors.Join(err, act.root())
}

// proveNext fails when more is in the folders than there should be.
func (p *places) proveNext(act *actor, v volume) error {
	if p.usable() {
		return nil
	}
	return p.onDisk(v, func(pl *place) error {
		fd, st, err := p.openNext(act, v, pl)
		if errors.Is(err, unix.ENOENT) {
			return nil
		}
		if err != nil {
			return err
		}
		defer closeFD(fd)
		return proveEmpty(act, fd, st, v.path+"/"+nextName(pl), nil)
	})
}

// keepNext prepares the next disk, or gives it up where a tenant needs the room.
func (p *places) keepNext(ctx context.Context) error {
	p.nextMu.Lock()
	defer p.nextMu.Unlock()
	if p.next.want.Size < nextLeast || p.rooted.Load() {
		return nil
	}
	return asOwner(func(act *actor) error {
		return p.volume(act, volume{path: p.disk}, func(v volume) error {
			var st unix.Statfs_t
			if err := unix.Fstatfs(v.fd, &st); err != nil {
				return pathError("look at", v.path, err)
			}
			room := (int64(st.Bavail) - int64(st.Blocks/8)) * st.Bsize
			switch has := p.next.have.Digest != ""; {
			case has && room < 0:
				return p.emptyNext(act, v)
			case has || room < nextRoom*p.next.want.Size:
				return nil
			}
			err := p.prepareNext(ctx, act, v)
			if err != nil {
				err = errors.Join(err, p.emptyNext(act, v))
			}
			return errors.Join(err, act.root())
		})
	})
}

func (p *places) prepareNext(ctx context.Context, act *actor, v volume) error {
	for _, pl := range p.in(v) {
		if !p.keeps(pl) {
			continue
		}
		fd, _, err := p.openNext(act, v, pl)
		if errors.Is(err, unix.ENOENT) {
			return nil
		}
		closeFD(fd)
	}
	if err := p.emptyNext(act, v); err != nil {
		return err
	}
	file, err := openPristine(v, p.next.want)
	if err != nil {
		return err
	}
	defer file.Close()
	filled, err := p.unpackFrom(act, v, &resting{ctx: ctx, from: file, since: time.Now()}, p.next.want, true)
	if err == nil {
		p.next.have, p.next.filled = p.next.want, filled
	}
	return err
}

// useNext moves what is prepared into the places, which are empty, and says whether that is done: if not,
// there may be something in them.
func (p *places) useNext(act *actor, v volume, want Pristine) bool {
	if !p.usable() || p.next.have != want {
		return false
	}
	p.next.have = Pristine{}
	err := p.onDisk(v, func(pl *place) error { return p.moveNext(act, v, pl) })
	if err != nil || p.proveNext(act, v) != nil {
		return false
	}
	p.filled = p.next.filled
	return true
}

func (p *places) moveNext(act *actor, v volume, pl *place) error {
	from, st, err := p.openNext(act, v, pl)
	if err != nil {
		return err
	}
	defer closeFD(from)
	to, _, err := p.open(act, v, pl)
	if err != nil {
		return err
	}
	defer closeFD(to)
	names, err := listAs(act, from, st)
	if err == nil && pl.Mode&0o300 != 0o300 {
		err = chmodFD(to, 0o700)
	}
	if err != nil {
		return err
	}
	for name := range names {
		if err := unix.Renameat2(from, name, to, name, unix.RENAME_NOREPLACE); err != nil {
			return err
		}
	}
	return pl.restore(act, v, to)
}

// resting reads, and rests between.
type resting struct {
	ctx   context.Context
	from  io.Reader
	since time.Time
}

func (r *resting) Read(b []byte) (int, error) {
	select {
	case <-r.ctx.Done():
		return 0, r.ctx.Err()
	case <-time.After(nextRests * time.Since(r.since)):
	}
	r.since = time.Now()
	return r.from.Read(b)
}

// prepareNext keeps the next disk prepared until the generation ends.
func (g *generation) prepareNext() {
	for pause := nextAfter; ; pause = g.a.opts.ProbeEvery {
		select {
		case <-g.ctx.Done():
			return
		case <-time.After(pause):
		}
		if err := g.a.places.keepNext(g.ctx); err != nil && g.ctx.Err() == nil {
			g.a.log.Warn("cannot prepare the next disk", "error", err)
			return
		}
	}
}
