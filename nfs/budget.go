package nfs

import (
	"context"
	"sync"
)

// budget is how many bytes may be in use at once. Whoever wants more than are left
// waits, and those who come later wait behind it.
type budget struct {
	turn sync.Mutex
	mu   sync.Mutex
	more sync.Cond
	left int
}

func newBudget(n int) *budget {
	b := &budget{left: n}
	b.more.L = &b.mu
	return b
}

// take waits for n bytes and says whether it got them before ctx ended.
func (b *budget) take(ctx context.Context, n int) bool {
	b.turn.Lock()
	defer b.turn.Unlock()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.left < n {
		stop := context.AfterFunc(ctx, func() {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.more.Broadcast()
		})
		defer stop()
	}
	for b.left < n {
		if ctx.Err() != nil {
			return false
		}
		b.more.Wait()
	}
	b.left -= n
	return true
}

// try takes n bytes if they are left.
func (b *budget) try(n int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.left < n {
		return false
	}
	b.left -= n
	return true
}

func (b *budget) give(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.left += n
	b.more.Broadcast()
}
