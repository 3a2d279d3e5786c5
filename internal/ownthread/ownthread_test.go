package ownthread_test

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/remuda/remuda/internal/ownthread"
)

// From the first thread too, another one is taken, and it ends with the function.
func TestDo(t *testing.T) {
	first := 0
	for range 2000 {
		ids := make(chan int)
		go func() {
			runtime.LockOSThread() // Go prefers to go on with the thread that asks
			defer runtime.UnlockOSThread()
			if unix.Gettid() == unix.Getpid() {
				first++
			}
			ownthread.Go(func() { ids <- unix.Gettid() })
			runtime.Gosched()
		}()
		if id := <-ids; id == unix.Getpid() {
			t.Fatal("on the first thread")
		}
	}
	t.Logf("asked on the first thread %d times", first)

	failed := errors.New("failed")
	tid := 0
	if err := ownthread.Do(func() error { tid = unix.Gettid(); return failed }); err != failed {
		t.Errorf("error %v", err)
	}
	for range 500 {
		if _, err := os.Stat(fmt.Sprintf("/proc/self/task/%d", tid)); os.IsNotExist(err) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("thread %d did not end", tid)
}
