package broker

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestKeyLock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l keyLock
		ctx := context.Background()
		_, unlock, err := l.lock(ctx, "a")
		if err != nil {
			t.Fatal(err)
		}
		if _, _, ok := l.tryLock(ctx, "a"); ok {
			t.Error("taken twice")
		}
		_, other, ok := l.tryLock(ctx, "b")
		if !ok {
			t.Fatal("keys share a lock")
		}
		other()
		short, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		if _, _, err := l.lock(short, "a"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("waited: %v", err)
		}
		unlock()
		if len(l.keys) != 0 {
			t.Errorf("%d keys are left", len(l.keys))
		}
	})
}

func TestKeyLockSeize(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l keyLock
		ctx := context.Background()
		held, unlock, err := l.lock(ctx, "a")
		if err != nil {
			t.Fatal(err)
		}
		waiting := make(chan error, 1)
		go func() {
			_, _, err := l.lock(ctx, "a")
			waiting <- err
		}()
		synctest.Wait()
		deleted := make(chan bool, 1)
		go func() {
			_, unlock, err := l.seize(ctx, "a")
			if err != nil {
				t.Error(err)
				return
			}
			time.Sleep(time.Second)
			unlock()
			deleted <- true
		}()
		<-held.Done()
		if !errors.Is(context.Cause(held), errSeized) {
			t.Errorf("cause %v", context.Cause(held))
		}
		unlock()
		if err := <-waiting; !errors.Is(err, errSeized) {
			t.Errorf("one who waited got %v", err)
		}
		<-deleted
		if len(l.keys) != 0 {
			t.Errorf("%d keys are left", len(l.keys))
		}
	})
}

// Two who seize exclude, but do not interrupt, each other.
func TestKeyLockSeizeTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l keyLock
		var wg sync.WaitGroup
		inside := 0
		for range 2 {
			wg.Go(func() {
				held, unlock, err := l.seize(context.Background(), "a")
				if err != nil {
					t.Error(err)
					return
				}
				defer unlock()
				inside++
				time.Sleep(time.Second)
				if inside != 1 || held.Err() != nil {
					t.Errorf("%d inside, %v", inside, held.Err())
				}
				inside--
			})
		}
		wg.Wait()
	})
}

func TestQueue(t *testing.T) {
	q := newQueue()
	ctx, cancel := context.WithCancel(context.Background())
	for _, id := range []string{"a", "b", "a"} {
		q.add(job{settleInstance, id})
	}
	q.add(job{settleBinding, "a"})
	for _, want := range []job{{settleInstance, "a"}, {settleInstance, "b"}, {settleBinding, "a"}} {
		if got, err := q.next(ctx); err != nil || got != want {
			t.Errorf("got %v, %v, want %v", got, err, want)
		}
	}
	cancel()
	if _, err := q.next(ctx); err == nil {
		t.Error("a job out of nothing")
	}
}
