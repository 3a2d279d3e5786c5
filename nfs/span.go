package nfs

// span is a range of bytes that is locked, from its first to its last.
type span struct {
	first, last uint64
	write       bool
	owner       *owner
}

const endOfFile = ^uint64(0)

// spanOf returns false for a range that is none.
func spanOf(offset, length uint64) (first, last uint64, ok bool) {
	switch {
	case length == 0:
		return 0, 0, false
	case length == endOfFile:
		return offset, endOfFile, true
	case offset > endOfFile-length:
		return 0, 0, false
	}
	return offset, offset + length - 1, true
}

// length is how the protocol says how long it is.
func (s span) length() uint64 {
	if s.last == endOfFile {
		return endOfFile
	}
	return s.last - s.first + 1
}

// conflict returns a lock that is in the way of another one.
func conflict(list []span, s span) (span, bool) {
	for _, l := range list {
		if l.owner != s.owner && l.first <= s.last && s.first <= l.last && (l.write || s.write) {
			return l, true
		}
	}
	return span{}, false
}

// cut takes a range away from what an owner has locked.
func cut(list []span, o *owner, first, last uint64) []span {
	out := make([]span, 0, len(list)+2)
	for _, l := range list {
		if l.owner != o || l.last < first || l.first > last {
			out = append(out, l)
			continue
		}
		if l.first < first {
			out = append(out, span{l.first, first - 1, l.write, o})
		}
		if l.last > last {
			out = append(out, span{last + 1, l.last, l.write, o})
		}
	}
	return out
}

// join adds a range in place of what its owner had locked there, and makes one of
// those that touch.
func join(list []span, s span) []span {
	list = cut(list, s.owner, s.first, s.last)
	out := list[:0]
	for _, l := range list {
		switch {
		case l.owner == s.owner && l.write == s.write && l.last != endOfFile && l.last+1 == s.first:
			s.first = l.first
		case l.owner == s.owner && l.write == s.write && s.last != endOfFile && s.last+1 == l.first:
			s.last = l.last
		default:
			out = append(out, l)
		}
	}
	return append(out, s)
}
