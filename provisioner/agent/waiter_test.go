package agent

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestWindow(t *testing.T) {
	for _, tt := range []struct{ window, took, want time.Duration }{
		{0, 20 * time.Microsecond, leastWindow},
		{0, mostWindow, leastWindow},
		{0, mostWindow + 1, 0},
		{leastWindow, 20 * time.Microsecond, 2 * leastWindow},
		{40 * time.Microsecond, 45 * time.Microsecond, mostWindow},
		{mostWindow, time.Second, mostWindow / 2},
		{leastWindow, time.Second, 0},
	} {
		if got := nextWindow(tt.window, tt.took); got != tt.want {
			t.Errorf("window %s after a wait of %s: %s, want %s", tt.window, tt.took, got, tt.want)
		}
	}
}

// A door that may poll copies like any other, and does nothing while it is idle.
func TestDoorPolls(t *testing.T) {
	c, address, _ := behindDoor(t)
	must(t, c.OpenDoors(t.Context(), OpenRequest{Poll: true}))
	conn, err := net.Dial("tcp", address)
	must(t, err)
	defer conn.Close()
	for i := range 2000 {
		roundTrip(t, conn, fmt.Sprint("hello ", i))
	}
	data := make([]byte, 8<<20)
	_, _ = rand.Read(data)
	sent := make(chan error, 1)
	go func() { _, err := conn.Write(data); sent <- err }()
	got := make([]byte, len(data))
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.ReadFull(conn, got); err != nil || !bytes.Equal(got, data) {
		t.Fatalf("the echo is not what was sent: %v", err)
	}
	must(t, <-sent)
	time.Sleep(50 * time.Millisecond)
	before := doorTime(t)
	time.Sleep(200 * time.Millisecond)
	if used := doorTime(t) - before; used > time.Millisecond {
		t.Errorf("an idle door took %s of processor time in 200 ms", used)
	}
}

// doorTime is the processor time that the doors' threads of this process took.
func doorTime(t *testing.T) (sum time.Duration) {
	t.Helper()
	names, err := filepath.Glob("/proc/self/task/*/comm")
	must(t, err)
	found := false
	for _, name := range names {
		if comm, _ := os.ReadFile(name); strings.TrimSpace(string(comm)) != DoorThread {
			continue
		}
		var took int64
		text, err := os.ReadFile(filepath.Join(filepath.Dir(name), "schedstat"))
		must(t, err)
		_, err = fmt.Sscan(string(text), &took)
		must(t, err)
		sum, found = sum+time.Duration(took), true
	}
	if !found {
		t.Fatal("no thread is called " + DoorThread)
	}
	return sum
}

// One epoll reports through the waiter what comes while it polls and while it
// sleeps.
func TestWaiter(t *testing.T) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	must(t, err)
	defer unix.Close(epoll)
	r, w, err := os.Pipe()
	must(t, err)
	defer r.Close()
	defer w.Close()
	must(t, unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, int(r.Fd()), &unix.EpollEvent{Events: unix.EPOLLIN, Fd: 7}))
	var wait waiter
	wait.mayPoll.Store(true)
	events := make([]unix.EpollEvent, 4)
	for i := range 200 {
		go func() {
			time.Sleep(time.Duration(i%4) * 30 * time.Microsecond)
			_, _ = w.Write([]byte{1})
		}()
		n, err := wait.wait(epoll, events)
		if err == unix.EINTR {
			continue
		}
		if n != 1 || err != nil || events[0].Fd != 7 {
			t.Fatalf("%d events, %v: %+v", n, err, events[0])
		}
		_, err = r.Read(make([]byte, 1))
		must(t, err)
	}
}
