package agent

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// pristineName is a file in the root of the disk volume, beside the places' folders;
// it has the other name until it is complete.
const (
	pristineName = "pristine"
	partName     = "pristine.part"
)

// places are what an agent keeps in its two volumes. What changes them excludes each other, and
// but for writeFile nothing else may run in the member meanwhile.
type places struct {
	mu       sync.Mutex
	list     []*place
	disk     string // the volumes
	memory   string
	termFile string // "" for none
	dev      string // "" when it is not to be looked at
	devAsNew map[string]string
	filled   map[uint32]int // files that a filling makes, by user
	one      bool           // of an agent of one user
	// hasPristine says that this agent has made the pristine file, or proven it.
	hasPristine bool
	self        string // ownState of an agent of one user when it began

	nextMu sync.Mutex // taken after mu
	next   next
	rooted atomic.Bool // a process of root has run
}

// takePlaces begins to keep the agent's Places. Memory is empty at the start of an
// agent, also where its container was started again and only the volume has remained.
func (a *Agent) takePlaces() error {
	if len(a.opts.Places) == 0 {
		return nil
	}
	p, err := newPlaces(a.opts.Places, a.opts.OneUser != "")
	if err != nil {
		return err
	}
	if isInit() {
		if p.devAsNew, err = devices(p.dev); err != nil {
			return fmt.Errorf("places: %w", err)
		}
	}
	if p.one {
		if p.self, err = ownState(); err != nil {
			return fmt.Errorf("places: %w", err)
		}
	}
	a.places = p
	if _, err := p.wipe(memoryPlaces); err != nil {
		a.phase, a.unclean, a.reason = Failed, true, err.Error()
	}
	return nil
}

// place is a Place with what the agent knows of it.
type place struct {
	Place
	uid, gid uint32
	keep     keep // in it: where other places are mounted
}

// termination is where the runtime may mount a file for last words.
const termination = PrivateDir + "/termination"

// newPlaces checks them and looks their owners up.
// With one all owners are the agent.
func newPlaces(list []Place, one bool) (*places, error) {
	p := &places{one: one, disk: DiskVolume, memory: MemoryVolume, termFile: termination, dev: "/dev"}
	p.rooted.Store(one) // servers could reach what is prepared
	var faults []error
	paths, folders := map[string]bool{}, map[string]bool{}
	for _, spec := range list {
		if err := spec.validate(); err != nil {
			faults = append(faults, err)
			continue
		}
		folder := fmt.Sprint(spec.Memory, spec.Folder)
		if paths[spec.Path] || folders[folder] {
			faults = append(faults, fmt.Errorf("place %s: another one has its path or folder", spec.Path))
		}
		paths[spec.Path], folders[folder] = true, true
		pl := &place{Place: spec}
		if one {
			pl.gid = uint32(os.Getegid())
		}
		if !spec.File {
			u, err := lookup(spec.User)
			if err != nil {
				faults = append(faults, fmt.Errorf("place %s: %w", spec.Path, err))
			}
			if one {
				u = u.one()
			}
			pl.uid, pl.gid = u.uid, u.gid
		}
		p.list = append(p.list, pl)
	}
	for _, pl := range p.list {
		pl.keep = p.mountedIn(pl)
	}
	if len(faults) > 0 {
		return nil, fmt.Errorf("places: %w", errors.Join(faults...))
	}
	return p, nil
}

func (p Place) validate() error {
	switch {
	case !strings.HasPrefix(p.Path, "/") || path.Clean(p.Path) != p.Path || p.Path == "/" || strings.ContainsRune(p.Path, 0):
		return fmt.Errorf("place %q: must be a clean absolute path", p.Path)
	case p.Path == "/remuda" || strings.HasPrefix(p.Path, "/remuda/") || p.Path == "/proc" || strings.HasPrefix(p.Path, "/proc/"):
		return fmt.Errorf("place %s: is not for places", p.Path)
	case !goodName(p.Folder) || p.Folder == pristineName || p.Folder == partName || p.Folder == "lost+found" || strings.HasPrefix(p.Folder, sparePrefix) || strings.HasPrefix(p.Folder, nextPrefix):
		return fmt.Errorf("place %s: its folder cannot be named %q", p.Path, p.Folder)
	case p.Mode > 0o7777:
		return fmt.Errorf("place %s: its mode has strange bits", p.Path)
	}
	return nil
}

// goodName says whether s can be a name in a directory.
func goodName(s string) bool {
	return s != "" && s != "." && s != ".." && len(s) <= 255 && !strings.ContainsAny(s, "/\x00")
}

// mountedIn says what must stay in a place since other places are mounted there.
func (p *places) mountedIn(outer *place) keep {
	k := keep{}
	for _, inner := range p.list {
		if rest, ok := strings.CutPrefix(inner.Path, outer.Path+"/"); ok && p.holder(inner.Path) == outer {
			at := k
			for name := range strings.SplitSeq(rest, "/") {
				if at[name] == nil {
					at[name] = keep{}
				}
				at = at[name]
			}
		}
	}
	return k
}

// holder is the place in which a path lies, nil for none.
func (p *places) holder(path string) *place {
	var best *place
	for _, pl := range p.list {
		if strings.HasPrefix(path, pl.Path+"/") && (best == nil || len(pl.Path) > len(best.Path)) {
			best = pl
		}
	}
	return best
}

// at is the place with that path, nil for none.
func (p *places) at(path string) *place {
	for _, pl := range p.list {
		if pl.Path == path {
			return pl
		}
	}
	return nil
}

// volume is an open root of a volume.
type volume struct {
	fd     int
	path   string
	memory bool
}

func (v volume) close() { closeFD(v.fd) }

// volumes calls f for each volume. The roots are the agent's and nobody else may
// enter them, whatever they were before. Those of an agent of one user are the kubelet's, open
// to its group, and stay so: only their owner could close them, and the servers are who it is.
func (p *places) volumes(act *actor, f func(volume) error) error {
	for _, v := range []volume{{path: p.disk}, {path: p.memory, memory: true}} {
		if !p.uses(v.memory) {
			continue
		}
		err := p.volume(act, v, f)
		if err != nil {
			return err
		}
	}
	return nil
}

func (p *places) volume(act *actor, v volume, f func(volume) error) (err error) {
	if err := act.root(); err != nil {
		return err
	}
	if v.fd, err = openAt(unix.AT_FDCWD, v.path, listDir, 0); err != nil {
		return pathError("open volume", v.path, err)
	}
	defer v.close()
	if err := p.seal(v); err != nil {
		return err
	}
	return f(v)
}

func (p *places) seal(v volume) error {
	var st unix.Stat_t
	if err := unix.Fstat(v.fd, &st); err != nil {
		return pathError("stat volume", v.path, err)
	}
	if p.one {
		return pathError("write to volume", v.path, unix.Access(v.path, unix.R_OK|unix.W_OK|unix.X_OK))
	}
	if int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("volume %s belongs to user %d: its root must belong to root, who may not take it", v.path, st.Uid)
	}
	if st.Mode&0o7777 == 0o700 {
		return nil
	}
	return pathError("close volume", v.path, unix.Fchmod(v.fd, 0o700))
}

// uses says whether there are places in that volume.
func (p *places) uses(memory bool) bool {
	for _, pl := range p.list {
		if pl.Memory == memory {
			return true
		}
	}
	return false
}

// in are the places in a volume.
func (p *places) in(v volume) []*place {
	var out []*place
	for _, pl := range p.list {
		if pl.Memory == v.memory {
			out = append(out, pl)
		}
	}
	return out
}

// open finds a place in its volume and checks that it is what servers see at its
// path: a process of root could have renamed its folder. The descriptor is an O_PATH one.
func (p *places) open(act *actor, v volume, pl *place) (fd int, st unix.Stat_t, err error) {
	name := v.path + "/" + pl.Folder
	if err = act.root(); err != nil {
		return -1, st, err
	}
	if fd, err = openAt(v.fd, pl.Folder, onlyPath, 0); err != nil {
		return -1, st, pathError("open", name, err)
	}
	defer func() {
		if err != nil {
			closeFD(fd)
			fd = -1
		}
	}()
	if err = unix.Fstat(fd, &st); err != nil {
		return fd, st, pathError("stat", name, err)
	}
	if err = pl.check(st); err != nil {
		return fd, st, fmt.Errorf("%s: %w", name, err)
	}
	if holder := p.holder(pl.Path); holder != nil {
		err = act.become(holder.uid, holder.gid)
	}
	var seen unix.Stat_t
	if err == nil {
		err = pathError("stat", pl.Path, unix.Stat(pl.Path, &seen))
	}
	if err == nil && (seen.Dev != st.Dev || seen.Ino != st.Ino) {
		err = fmt.Errorf("%s is not what is mounted at %s", name, pl.Path)
	}
	return fd, st, errors.Join(err, act.root())
}

// check says whether a thing in a volume can be the place.
func (pl *place) check(st unix.Stat_t) error {
	kind, what := uint32(unix.S_IFDIR), "directory"
	if pl.File {
		kind, what = unix.S_IFREG, "file"
	}
	switch {
	case st.Mode&unix.S_IFMT != kind:
		return fmt.Errorf("it is no %s", what)
	case st.Uid != pl.owner():
		return fmt.Errorf("it belongs to user %d, not to %d, and the agent may not give it away", st.Uid, pl.owner())
	}
	return nil
}

func (pl *place) owner() uint32 {
	if pl.File {
		return uint32(os.Geteuid())
	}
	return pl.uid
}
