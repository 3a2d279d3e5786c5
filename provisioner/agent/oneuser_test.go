package agent

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

const oneUser = 65532

var oneCredential = &syscall.Credential{Uid: oneUser, Gid: oneUser, Groups: []uint32{oneUser}}

// oneVolumes makes the volumes as a kubelet does for a pod with fsGroup.
func oneVolumes(root string, p pod) error {
	names := root + NamesVolume
	err := errors.Join(os.Mkdir(names, 0o755), unix.Mount("names", names, "tmpfs", 0, "mode=0777"), os.Chown(p.Base+"/a", oneUser, oneUser))
	for _, v := range []string{root + DiskVolume, root + MemoryVolume, names} {
		err = errors.Join(err, os.Chown(v, 0, oneUser), syscall.Chmod(v, 0o2775))
	}
	return err
}

// oneMounts mounts the passwd, and lets what was there before be the user's.
func oneMounts() error {
	err := errors.Join(unix.Mount(NamesVolume+"/passwd", "/etc/passwd", "", unix.MS_BIND, ""),
		unix.Mount("", "/etc/passwd", "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""), unix.Unmount(NamesVolume, unix.MNT_DETACH))
	for _, path := range []string{"/dev/shm/of", "/dev/shm/of/earlier", "/data/earlier"} {
		err = errors.Join(err, os.Chown(path, oneUser, oneUser))
	}
	return err
}

func becomeOne() error {
	return errors.Join(unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), syscall.Setgroups([]int{oneUser}),
		syscall.Setresgid(oneUser, oneUser, oneUser), syscall.Setresuid(oneUser, oneUser, oneUser))
}

func TestOneUserWipe(t *testing.T) {
	t.Run("memory", func(t *testing.T) { testOneUserWipe(t, servePod(t, pod{One: "nobody"})) })
	t.Run("disk", func(t *testing.T) { testOneUserWipe(t, servePod(t, pod{One: "nobody", Disk: true})) })
}

func testOneUserWipe(t *testing.T, m member) {
	if got := m.tree(t, MemoryVolume); !strings.Contains(got, `"" 42775 0:65532`) || !strings.Contains(got, `"/p2" 40750 65532:65532`) ||
		!strings.Contains(got, `"/shm" 41777 65532:65532`) || !strings.Contains(got, `"/hosts" 100644 65532:65532`) || strings.Contains(got, "earlier") {
		t.Errorf("laid out: %s", got)
	}
	_, err := m.Wipe(t.Context(), WipeRequest{})
	must(t, err)
	disk, memory := m.tree(t, DiskVolume), m.tree(t, MemoryVolume)
	clean, err := m.Baseline(t.Context())
	must(t, err)
	for range 2 {
		m.begin(t)
		if said := m.run(t, Program{User: "root", Command: []string{"/bin/sh", "-c", "id -u; id -un; id -G"}}); said != "65532\nnobody\n65532\n" {
			t.Errorf("a program is %q", said)
		}
		m.run(t, Program{Command: []string{m.binary, "helper:nasty", "/data", "/tmp", "/dev/shm"}})
		m.run(t, Program{Command: []string{m.binary, "helper:nasty", "/run/deep/server", "/files"}})
		m.run(t, shell(`set -e
			for d in /remuda/disk /remuda/memory; do
				mkdir -p "$d/mine/a/b" "$d/pristine.part/x" "$d/lost+found/y" "$d/spare.65532"
				echo secret >"$d/mine/a/b/f"; chmod 0 "$d/mine/a" "$d/lost+found"; echo secret >"$d/pristine"; ln "$d/pristine" "$d/mine/hard"
			done
			mkdir /remuda/memory/run/deep/server/below; echo 1.2.3.4 x >/etc/hosts; chmod 600 /etc/hosts; mkdir /run/beside; chmod 711 /run`))
		for _, dir := range []string{DiskVolume, MemoryVolume} {
			must(t, markRoot(m.path(dir)))
		}
		_, err := m.Wipe(t.Context(), WipeRequest{})
		must(t, err)
		if got := m.tree(t, DiskVolume); got != disk {
			t.Errorf("the disk after a wipe:\n%swas\n%s", got, disk)
		}
		if got := m.tree(t, MemoryVolume); got != memory {
			t.Errorf("memory after a wipe:\n%swas\n%s", got, memory)
		}
		after, err := m.Baseline(t.Context())
		must(t, err)
		if fmt.Sprint(after) != fmt.Sprint(clean) {
			t.Errorf("after the wipe: %+v\nwant %+v", after, clean)
		}
		for _, dir := range []string{DiskVolume, MemoryVolume} {
			if n, err := unix.Getxattr(m.path(dir), "user.mark", make([]byte, 10)); err == nil {
				t.Errorf("%s has an attribute of %d bytes", dir, n)
			}
		}
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", m.pid))
	must(t, err)
	for _, want := range []string{"Uid:\t65532\t65532\t65532\t65532\n", "Gid:\t65532\t65532\t65532\t65532\n", "CapEff:\t0000000000000000\n"} {
		if !strings.Contains(string(status), want) {
			t.Errorf("the agent is changed: %s", status)
		}
	}
}

// markRoot leaves a mark as a server may that can write to a directory, where there are such marks.
func markRoot(dir string) error {
	if err := unix.Setxattr(dir, "user.mark", []byte("a tenant's"), 0); err != unix.ENOTSUP {
		return err
	}
	return nil
}

// Servers of the agent's own user learn nothing of it, and cannot change who they are.
func TestOneUserAgentIsClosed(t *testing.T) {
	m := servePod(t, pod{One: "nobody", Score: 100}, "SECRET_OF_THE_AGENT=here")
	m.begin(t)
	said := m.run(t, shell(`
		cat /proc/self/oom_score_adj /proc/1/oom_score_adj
		cat /proc/1/environ && echo READ
		ls -l /proc/1/fd && echo LISTED
		ls -l /proc/1/task/1/fd && echo LISTED
		head -c 1 /proc/1/mem && echo READ
		cat /proc/1/maps && echo READ
		readlink /proc/1/exe && echo READ
		ls /proc/1/root/ && echo LISTED
		echo 1000 >/proc/1/oom_score_adj && echo WRITTEN
		echo x >>/etc/passwd && echo WRITTEN
		cat /remuda/private/termination && echo READ
		for s in KILL STOP HUP QUIT PIPE USR1 USR2 ALRM TSTP; do kill -$s 1; done
		true`))
	if said != "600\n100\n" {
		t.Errorf("servers learn of the agent: %q", said)
	}
	s, err := m.State(t.Context())
	must(t, err)
	if s.Phase != Running {
		t.Errorf("state %+v", s)
	}
}

func TestOneUserPristine(t *testing.T) {
	t.Run("memory", func(t *testing.T) { testPodPristine(t, servePod(t, pod{One: "nobody"})) })
	for script, want := range map[string]string{
		"setfattr -n user.x -v y /remuda/disk/pristine 2>/dev/null; touch /remuda/disk/pristine; chmod 4777 /remuda/disk/pristine": "",
		"printf X | dd of=/remuda/disk/pristine bs=1 seek=20 conv=notrunc":                                                         "digest is|damaged|unpack",
		"rm /remuda/disk/pristine":                      "no disk was kept",
		"ln /remuda/disk/pristine /remuda/disk/p0/link": "",
	} {
		t.Run(script, func(t *testing.T) {
			m := servePod(t, pod{One: "nobody", Disk: true})
			m.begin(t)
			m.run(t, shell("echo kept >/data/file; touch -d @1000000000 /data/file"))
			_, err := m.Wipe(t.Context(), WipeRequest{Kindly: true})
			must(t, err)
			kept, err := m.KeepPristine(t.Context())
			must(t, err)
			_, err = m.Wipe(t.Context(), WipeRequest{})
			must(t, err)
			before := m.tree(t, DiskVolume)
			must(t, m.FillPristine(t.Context(), kept))
			m.begin(t)
			m.run(t, shell(script))
			_, err = m.Wipe(t.Context(), WipeRequest{})
			must(t, err)
			if got := m.tree(t, DiskVolume); got != before {
				t.Errorf("the disk after a wipe:\n%swas\n%s", got, before)
			}
			var st unix.Stat_t
			if err := unix.Lstat(m.path(DiskVolume+"/pristine"), &st); err == nil && (st.Mode != unix.S_IFREG|0o600 || st.Mtim != wellKnown[0]) {
				t.Errorf("the pristine file has mode %o and time %v", st.Mode, st.Mtim)
			}
			err = m.FillPristine(t.Context(), kept)
			if (err == nil) != (want == "") || err != nil && !containsAny(err.Error(), want) {
				t.Errorf("filled: %v, want %q", err, want)
			}
			if content, _ := os.ReadFile(m.path("/data/file")); (string(content) == "kept\n") != (err == nil) {
				t.Errorf("after %v there is %q", err, content)
			}
		})
	}
}

// A place that servers have moved away is not what they see any more: its member is not clean.
func TestOneUserMoved(t *testing.T) {
	for _, script := range []string{
		"mv /remuda/disk/p0 /remuda/disk/p9; mkdir /remuda/disk/p0",
		"mv /remuda/memory/shm /remuda/disk-is-elsewhere 2>/dev/null; mv /remuda/memory/shm /remuda/memory/p2/shm",
		"rm -rf /remuda/disk/p1",
	} {
		m := servePod(t, pod{One: "nobody"})
		m.begin(t)
		m.run(t, shell(script))
		_, err := m.Wipe(t.Context(), WipeRequest{})
		if s, serr := m.State(t.Context()); err == nil || serr != nil || s.Phase != Failed {
			t.Errorf("%s: %v; %+v %v", script, err, s, serr)
		}
	}
}

// What servers have changed of the agent itself is taken back, or its member is not clean.
func TestOneUserChangesAgent(t *testing.T) {
	for _, c := range []struct{ script, want string }{
		{"taskset -ap 1 1", ""},
		{"prlimit --pid 1 --nproc=50:50", "limits or scheduling"},
		{"renice -n 5 -p 1", "limits or scheduling"},
		{"for t in /proc/1/task/*; do ionice -c 3 -p ${t##*/}; done", "limits or scheduling"},
		{"for t in /proc/1/task/*; do chrt -b -p 0 ${t##*/}; done", "limits or scheduling"},
	} {
		m := servePod(t, pod{One: "nobody"})
		before, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", m.pid))
		must(t, err)
		m.begin(t)
		m.run(t, shell(c.script))
		_, err = m.Wipe(t.Context(), WipeRequest{})
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.script, err)
		}
		after, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", m.pid))
		must(t, err)
		if processors(before) != processors(after) {
			t.Errorf("%s: the agent has %s, and had %s", c.script, processors(after), processors(before))
		}
	}
}

// processors that a process may use.
func processors(status []byte) string {
	_, rest, _ := strings.Cut(string(status), "Cpus_allowed:\t")
	line, _, _ := strings.Cut(rest, "\n")
	return line
}

func containsAny(text, words string) bool {
	for word := range strings.SplitSeq(words, "|") {
		if strings.Contains(text, word) {
			return true
		}
	}
	return false
}

func TestOneUserNames(t *testing.T) {
	passwd := "root:x:0:0:root:/root:/bin/sh\nnot a line\nwww:x:33:33:www:/var/www:/bin/false\n"
	got, err := oneUserNames([]byte(passwd), "www", oneUser, oneUser+1)
	must(t, err)
	if want := "www:x:65532:" + strconv.Itoa(oneUser+1) + ":www:/var/www:/bin/false\nroot:x:0:0:root:/root:/bin/sh\n"; string(got) != want {
		t.Errorf("%q", got)
	}
	for _, name := range []string{"", "nobody"} {
		if _, err := oneUserNames([]byte(passwd), name, 1, 1); err == nil {
			t.Errorf("%q has a name", name)
		}
	}
}
