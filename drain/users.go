package drain

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"os"
	"strings"
	"sync"
	"time"
)

// lookAgain is how often a long request makes sure that its login is still there.
const lookAgain = 100 * time.Millisecond

// users are the logins in a file: "name:salt:SHA-256 of salt and password" a line.
// Passwords are long and random, so that a quick hash is enough. A change counts
// from the next request on; the file has to be replaced, not written to.
type users struct {
	path string

	mu   sync.Mutex
	seen os.FileInfo
	list map[string]user
}

type user struct{ salt, hash string }

// find looks a name up in the file as it is now.
func (u *users) find(name string) (user, bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	info, err := os.Stat(u.path)
	if err != nil {
		u.seen, u.list = nil, nil
		return user{}, false
	}
	if u.seen == nil || !os.SameFile(info, u.seen) || !info.ModTime().Equal(u.seen.ModTime()) || info.Size() != u.seen.Size() {
		text, err := os.ReadFile(u.path)
		if err != nil {
			u.seen, u.list = nil, nil
			return user{}, false
		}
		u.seen, u.list = info, map[string]user{}
		for line := range strings.Lines(string(text)) {
			if f := strings.Split(strings.TrimSpace(line), ":"); len(f) == 3 && f[0] != "" {
				u.list[f[0]] = user{f[1], f[2]}
			}
		}
	}
	found, ok := u.list[name]
	return found, ok
}

// login says whether name and password are right, and as whom.
func (u *users) login(name, password string) (user, bool) {
	found, ok := u.find(name)
	sum := sha256.Sum256([]byte(found.salt + password))
	same := subtle.ConstantTimeCompare([]byte(hex.EncodeToString(sum[:])), []byte(found.hash)) == 1
	return found, ok && same
}

// while returns a context that ends when the login does.
func (u *users) while(ctx context.Context, name string, as user) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		tick := time.NewTicker(lookAgain)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				if now, ok := u.find(name); !ok || now != as {
					cancel()
					return
				}
			}
		}
	}()
	return ctx, cancel
}
