package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const doorMessageLimit = 128 << 10

// OpenDoors lets tenants in. The member must be running.
func (a *Agent) OpenDoors(r OpenRequest) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.phase != Running {
		return conflict("open doors: the agent is not running but %s", a.phase)
	}
	return a.doors.open(r)
}

// SetEgress says where an egress does not lead. It opens nothing.
func (a *Agent) SetEgress(e Egress) error {
	if !a.opts.Egress {
		return invalid("set egress: this agent is none")
	}
	a.doors.mu.Lock()
	defer a.doors.mu.Unlock()
	a.doors.rules = &e
	return nil
}

// CloseDoors ends every connection and refuses new ones.
func (a *Agent) CloseDoors(r CloseRequest) (CloseResult, error) {
	return a.doors.closeInOrder(r.Order)
}

// serveDoorSocket takes doors until the listener is closed.
func (a *Agent) serveDoorSocket(l *net.UnixListener) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		c, err := l.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return err
		}
		if err != nil {
			time.Sleep(50 * time.Millisecond) // no descriptors, most likely
			continue
		}
		if !a.mayOrder(c) {
			_ = c.Close()
			continue
		}
		wg.Go(func() {
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(closeTimeout + 5*time.Second))
			var reply failure
			if err := a.takeDoors(c); err != nil {
				reply.Error = err.Error()
			}
			body, _ := json.Marshal(reply)
			_, _ = c.Write(body)
		})
	}
}

// takeDoors receives one message of doors.
func (a *Agent) takeDoors(c *net.UnixConn) error {
	body := make([]byte, doorMessageLimit)
	control := make([]byte, unix.CmsgSpace(4*doorsLimit))
	n, cn, flags, _, err := c.ReadMsgUnix(body, control)
	if err != nil {
		return fmt.Errorf("receive doors: %w", err)
	}
	sockets, err := parseRights(control[:cn])
	if err == nil && flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		err = errors.New("the message is too long")
	}
	var list []Door
	if err == nil {
		list, err = parseDoors(body[:n])
	}
	if err != nil {
		for _, s := range sockets {
			_ = s.Close()
		}
		return fmt.Errorf("receive doors: %w", err)
	}
	return a.doors.replace(list, sockets)
}

func parseDoors(body []byte) ([]Door, error) {
	var list []Door
	err := decodeBytes(body, &list)
	return list, err
}

// parseRights takes the file descriptors out of a control message.
func parseRights(control []byte) ([]*os.File, error) {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return nil, err
	}
	var files []*os.File
	for _, m := range messages {
		if m.Header.Level != unix.SOL_SOCKET || m.Header.Type != unix.SCM_RIGHTS {
			continue
		}
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			return files, err
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "door"))
		}
	}
	return files, nil
}
