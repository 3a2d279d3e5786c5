package agent

import "golang.org/x/sys/unix"

// spliceMax is the size of a pipe, and what one splice moves at most. Without
// privileges the kernel grants large pipes only to a limit per user, and
// smaller ones beyond it.
const spliceMax = 256 << 10

// pipe is what splice(2) needs between two sockets.
type pipe struct {
	read, write int
	left        int // bytes in it
}

func (p *pipe) close() {
	_ = unix.Close(p.read)
	_ = unix.Close(p.write)
}

func (f *flow) blocked() bool { return len(f.pending) > 0 || f.pipe != nil }

// takePipe is an empty pipe, or nil when no more can be had.
func (r *relays) takePipe() *pipe {
	if n := len(r.pipes); n > 0 {
		p := r.pipes[n-1]
		r.pipes = r.pipes[:n-1]
		return p
	}
	var fds [2]int
	if unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK) != nil {
		return nil
	}
	_, _ = unix.FcntlInt(uintptr(fds[1]), unix.F_SETPIPE_SZ, spliceMax)
	r.made++
	return &pipe{read: fds[0], write: fds[1]}
}

// splice moves one pipe full, and says whether there may be more at once. What
// the destination does not take stays in the pipe, which stays with the flow.
func (r *relays) splice(f *flow, from, to int) (more bool, err error) {
	p := r.takePipe()
	if p == nil {
		f.bulk = false
		return true, nil // through the buffer, then
	}
	n, err := unix.Splice(from, nil, p.write, nil, spliceMax, unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
	if err != nil || n == 0 {
		r.pipes = append(r.pipes, p)
	}
	switch {
	case err == unix.EAGAIN || err == unix.EINTR:
		return false, nil
	case err != nil:
		return false, err
	case n == 0:
		return false, f.end(to)
	}
	f.bulk = n >= relayBuffer/8
	f.pipe, p.left = p, int(n)
	if err := r.emptyPipe(f, to); err != nil || f.pipe != nil {
		return false, err
	}
	return f.bulk, nil
}

// emptyPipe sends what is in the flow's pipe, as far as the destination takes it.
func (r *relays) emptyPipe(f *flow, to int) error {
	for p := f.pipe; p.left > 0; {
		n, err := unix.Splice(p.read, nil, to, nil, p.left, unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
		switch {
		case err == unix.EAGAIN:
			return nil
		case err != nil && err != unix.EINTR:
			return err
		}
		p.left -= int(max(n, 0))
	}
	r.pipes = append(r.pipes, f.pipe)
	f.pipe = nil
	return nil
}
