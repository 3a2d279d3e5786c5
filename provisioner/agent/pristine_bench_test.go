package agent

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The shapes of what a PostgreSQL and a MariaDB begin with: many small files and a log
// that is mostly zero, and few large files that are mostly holes.
var benchDisks = map[string]func(dir string) error{
	"PostgreSQL": func(dir string) error {
		random := rand.NewChaCha8([32]byte{})
		for _, db := range []string{"1", "4", "5"} {
			if err := os.MkdirAll(dir+"/base/"+db, 0o700); err != nil {
				return err
			}
			for i := range 300 {
				data := make([]byte, 8192*(1+i%6))
				_, _ = random.Read(data)
				if err := os.WriteFile(fmt.Sprintf("%s/base/%s/%d", dir, db, i), data, 0o600); err != nil {
					return err
				}
			}
		}
		log := make([]byte, 16<<20)
		_, _ = random.Read(log[:1<<20])
		return os.WriteFile(dir+"/wal", log, 0o600)
	},
	"MariaDB": func(dir string) error {
		for i := range 100 {
			if err := os.WriteFile(fmt.Sprintf("%s/%d", dir, i), bytes.Repeat([]byte{byte(i), 1}, 8<<10), 0o660); err != nil {
				return err
			}
		}
		for _, size := range []int64{96 << 20, 12 << 20, 10 << 20} {
			f, err := os.Create(fmt.Sprintf("%s/sparse%d", dir, size))
			if err != nil {
				return err
			}
			defer f.Close()
			for at := int64(0); at < size; at += size / 16 {
				if _, err := f.WriteAt(bytes.Repeat([]byte("x"), 16<<10), at); err != nil {
					return err
				}
			}
			if err := f.Truncate(size); err != nil {
				return err
			}
		}
		return nil
	},
}

// benchPlaces are places without mounts.
func benchPlaces(b *testing.B) *places {
	if os.Getuid() != 0 {
		b.Skip("needs root to act as other users")
	}
	dir := b.TempDir()
	p := &places{disk: dir}
	pl := &place{Place: Place{Path: dir + "/p0", Folder: "p0", Mode: 0o700}, uid: 65534, gid: 65534}
	p.list = []*place{pl}
	must(b, asOwner(p.layout))
	return p
}

// processTime is what this process has used: on a machine that others use too it tells more
// than the time that has passed.
func processTime() time.Duration {
	var u unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func BenchmarkPristine(b *testing.B) {
	for name, make := range benchDisks {
		p := benchPlaces(b)
		must(b, asOwner(func(act *actor) error {
			fd, err := openAt(unix.AT_FDCWD, p.list[0].Path, onlyPath, 0)
			must(b, err)
			defer closeFD(fd)
			must(b, act.become(65534, 65534))
			return make(magic(fd))
		}))
		var kept Pristine
		b.Run("keep/"+name, func(b *testing.B) {
			for b.Loop() {
				must(b, asOwner(func(act *actor) (err error) {
					kept, err = p.pack(act)
					return err
				}))
			}
			b.SetBytes(kept.Size)
		})
		b.Run("fill/"+name, func(b *testing.B) {
			spent := time.Duration(0)
			for b.Loop() {
				b.StopTimer()
				_, err := p.wipe(allPlaces)
				must(b, err)
				b.StartTimer()
				before := processTime()
				must(b, asOwner(func(act *actor) error { return p.unpack(act, kept) }))
				spent += processTime() - before
			}
			b.ReportMetric(float64(spent.Microseconds())/1000/float64(b.N), "cpu-ms/op")
			b.SetBytes(kept.Size)
		})
		b.Run("wipe/"+name, func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				_, err := p.wipe(allPlaces)
				must(b, err)
				must(b, asOwner(func(act *actor) error { return p.unpack(act, kept) }))
				b.StartTimer()
				_, err = p.wipe(allPlaces)
				must(b, err)
			}
		})
	}
}
