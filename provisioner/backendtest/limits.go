package backendtest

import (
	"strconv"
	"strings"
	"testing"

	"github.com/remuda/remuda/provisioner"
)

// limits makes members take more than their plan gives. What they get is
// measured inside; what the others notice is that nothing of theirs changed.
func (g *tenant) limits(t *testing.T) {
	list := g.group.Definition.MemberList()
	t.Run("Memory", func(t *testing.T) {
		said := g.in(t, 1, `perl -e '$x = "x" x (600 << 20); print "got it\n"'; echo "ended with $?"`)
		if strings.Contains(said, "got it") || !strings.Contains(said, "ended with 137") {
			t.Errorf("600 MiB of memory in a member of %d MiB: %s", list[1].Size.Memory.MiB(), said)
		}
		g.unmoved(t)
	})
	t.Run("SharedMemory", func(t *testing.T) {
		said := g.in(t, 1, `dd if=/dev/zero of=/dev/shm/x bs=1M count=600 2>&1; stat -c 'size %s' /dev/shm/x; rm -f /dev/shm/x`)
		if n := number(said, "size "); n <= 0 || n > int64(list[1].Size.Memory) {
			t.Errorf("/dev/shm takes %d bytes in a member of %d MiB: %s", n, list[1].Size.Memory.MiB(), said)
		}
		g.unmoved(t)
	})
	t.Run("Disk", func(t *testing.T) {
		said := g.in(t, 2, `cd /var/lib/http; dd if=/dev/zero of=x bs=1M count=400 2>&1; dd if=/dev/zero of=/tmp/y bs=1M count=400 2>&1; cat x /tmp/y | wc -c | sed 's/^/size /'; rm -f x /tmp/y; echo still there >z; cat z`)
		size := int64(list[2].Size.Disk)
		if n := number(said, "size "); n > size || n < size/2 || strings.Count(said, "No space left") != 2 || !strings.Contains(said, "still there") {
			t.Errorf("a disk of %d bytes takes %d: %s", size, n, said)
		}
		g.unmoved(t)
	})
	t.Run("CPU", func(t *testing.T) {
		const busy = `perl -MTime::HiRes=clock_gettime,CLOCK_MONOTONIC -e '
my $begin = clock_gettime(CLOCK_MONOTONIC); my @kids;
for (1 .. 2) { my $p = fork(); unless ($p) { 1 while clock_gettime(CLOCK_MONOTONIC) < $begin + 2; exit } push @kids, $p }
waitpid $_, 0 for @kids; my (undef, undef, $u, $s) = times; my $wall = clock_gettime(CLOCK_MONOTONIC) - $begin;
printf "share %d\n", 1000 * ($u + $s) / $wall'`
		said := g.in(t, 0, busy)
		share, limit := number(said, "share "), int64(1000*list[0].Size.CPU)
		if share <= 0 || share > limit*14/10 {
			t.Errorf("two busy loops get %d thousandths of a core, the plan gives %d: %s", share, limit, said)
		}
		g.unmoved(t)
	})
	t.Run("Processes", func(t *testing.T) {
		said := g.in(t, 1, `perl -e 'my $n = 0; my @kids; while ($n < 5000) { my $p = fork(); last unless defined $p; unless ($p) { sleep 60; exit } push @kids, $p; $n++ } print "size $n\n"; kill 9, @kids'`)
		if n := number(said, "size "); n < 50 || n > 1024 {
			t.Errorf("a member makes %d processes: %s", n, said)
		}
		g.unmoved(t)
	})
}

// number is what stands behind the word.
func number(said, word string) int64 {
	_, rest, ok := strings.Cut(said, word)
	if !ok {
		return -1
	}
	rest, _, _ = strings.Cut(rest, "\n")
	n, err := strconv.ParseInt(strings.TrimSpace(rest), 10, 64)
	if err != nil {
		return -1
	}
	return n
}

// unmoved fails unless all members are well and the same as before.
func (g *tenant) unmoved(t *testing.T) {
	t.Helper()
	sameContainers(t, g.seen, g.await(t, "all members well", provisioner.Observation.Healthy))
}
