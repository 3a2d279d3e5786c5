package agent

import (
	"fmt"
	"maps"
	"slices"

	"golang.org/x/sys/unix"
)

// walker packs directories, reading each thing as its owner.
type walker struct {
	*packer
	actor *actor
	links map[[2]uint64]string // device and inode of files with several names → path in the place
	depth int
	files map[uint32]int // by user
}

// dir packs what is in a directory that an O_PATH descriptor knows, but for what other
// places are mounted on. rel is its path in the place.
func (w *walker) dir(fd int, st unix.Stat_t, rel string, keep keep, path string) error {
	if w.depth++; w.depth > depthLimit {
		return fmt.Errorf("pack %s: it is too deep", path)
	}
	defer func() { w.depth-- }()
	dir, err := w.actor.openOwn(fd, &st, unix.O_DIRECTORY)
	if err != nil {
		return pathError("pack", path, err)
	}
	defer closeFD(dir)
	names, err := list(dir)
	if err != nil {
		return pathError("pack", path, err)
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if err := w.actor.owner(&st); err != nil {
			return err
		}
		if k, ok := keep[name]; ok {
			if len(k) == 0 {
				continue
			}
			return fmt.Errorf("pack %s/%s: a place is mounted in it", path, name)
		}
		if err := w.thing(dir, name, rel, path+"/"+name); err != nil {
			return err
		}
	}
	return nil
}

// thing packs one name in a directory, as whose owner the thread acts.
func (w *walker) thing(dir int, name, rel, path string) error {
	fd, err := openAt(dir, name, onlyPath, 0)
	if err != nil {
		return pathError("pack", path, err)
	}
	defer closeFD(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return pathError("pack", path, err)
	}
	e := entry{kind: entryKind(st.Mode), name: name, uid: st.Uid, gid: st.Gid, mode: st.Mode & 0o7777,
		sec: st.Mtim.Sec, nsec: st.Mtim.Nsec, size: st.Size}
	if rel != "" {
		rel += "/"
	}
	rel += name
	if e.kind != entryDir && st.Nlink > 1 {
		id := [2]uint64{st.Dev, st.Ino}
		if first, ok := w.links[id]; ok {
			return w.entry(entry{kind: entryHard, name: name, target: first})
		}
		if len(rel) > textLimit {
			return fmt.Errorf("pack %s: its path is too long for a file with several names", path)
		}
		w.links[id] = rel
	}
	if e.kind != entrySymlink {
		if names, err := attributes(fd); err != nil || len(names) > 0 {
			return fmt.Errorf("pack %s: extended attributes and access lists are not kept, and it has %+q (%v)", path, names, err)
		}
	}
	switch e.kind {
	case 0:
		return fmt.Errorf("pack %s: it is a device", path)
	case entryDir:
		if err := w.entry(e); err != nil {
			return err
		}
		if err := w.dir(fd, st, rel, nil, path); err != nil {
			return err
		}
		return w.entry(entry{kind: entryLeave})
	case entrySymlink:
		buf := make([]byte, textLimit+1)
		n, err := unix.Readlinkat(fd, "", buf)
		if err != nil || n > textLimit {
			return pathError("pack", path, err)
		}
		e.target = string(buf[:n])
	case entryFile:
		w.files[st.Uid]++
		return w.file(fd, st, e, path)
	}
	return w.entry(e)
}

// file packs a regular file: the parts that it has, read in blocks, and those of
// them that are zero by their length.
func (w *walker) file(pathFD int, st unix.Stat_t, e entry, path string) error {
	fd, err := w.actor.openOwn(pathFD, &st, unix.O_NOATIME)
	if err != nil {
		return pathError("pack", path, err)
	}
	defer closeFD(fd)
	if err := w.entry(e); err != nil {
		return err
	}
	hole := byte(extentHole)
	if st.Blocks >= (e.size+511)/512 {
		hole = extentRoom
	}
	for at := int64(0); at < e.size; {
		begin, end, err := nextData(fd, at, e.size)
		if err != nil {
			return pathError("pack", path, err)
		}
		if begin > at {
			if err := w.extent(hole, begin-at, nil); err != nil {
				return err
			}
		}
		if err := w.data(fd, begin, end); err != nil {
			return pathError("pack", path, err)
		}
		at = end
	}
	return w.extent(extentEnd, 0, nil)
}

// nextData is where the next data of a file begin and end; both are size if there are none.
func nextData(fd int, at, size int64) (begin, end int64, err error) {
	begin, err = unix.Seek(fd, at, unix.SEEK_DATA)
	if err == unix.ENXIO {
		return size, size, nil
	}
	if err != nil {
		return 0, 0, err
	}
	end, err = unix.Seek(fd, begin, unix.SEEK_HOLE)
	return min(begin, size), min(end, size), err
}

// zeroBlock is how much must be zero to be told by its length.
const zeroBlock = 64 << 10

var zeros [pristineBuffer]byte

// data packs a part of a file.
func (w *walker) data(fd int, at, end int64) error {
	for at < end {
		zero, n, err := likeRun(fd, at, end)
		if err != nil {
			return err
		}
		kind := byte(extentData)
		if zero {
			kind = extentZeros
		}
		from := at
		err = w.extent(kind, n, func(to []byte) error {
			err := readAt(fd, to, from)
			from += int64(len(to))
			return err
		})
		if err != nil {
			return err
		}
		at += n
	}
	return nil
}

// likeRun is how long what is at a place of a file goes on being zero, or not being zero.
func likeRun(fd int, at, end int64) (zero bool, length int64, err error) {
	var block [zeroBlock]byte
	for begin := at; at < end; {
		part := block[:min(zeroBlock, end-at)]
		if err := readAt(fd, part, at); err != nil {
			return false, 0, err
		}
		is := len(part) == zeroBlock && string(part) == string(zeros[:zeroBlock])
		if at == begin {
			zero = is
		} else if is != zero {
			break
		}
		at += int64(len(part))
		length += int64(len(part))
	}
	return zero, length, nil
}

// readAt fills the buffer from there.
func readAt(fd int, buf []byte, at int64) error {
	for len(buf) > 0 {
		n, err := unix.Pread(fd, buf, at)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return err
		case n == 0:
			return fmt.Errorf("it became shorter")
		}
		buf, at = buf[n:], at+int64(n)
	}
	return nil
}
