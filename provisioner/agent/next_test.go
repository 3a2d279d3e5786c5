package agent

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// nextTree is what is prepared for the place p0, as the host sees it.
func (m member) nextTree(t *testing.T) []string {
	t.Helper()
	list, err := filepath.Glob(m.path(DiskVolume + "/" + nextPrefix + "p0/*"))
	must(t, err)
	return list
}

// awaitNext waits until the pod has prepared its next disk.
func (m member) awaitNext(t *testing.T) {
	t.Helper()
	eventually(t, func() error {
		if len(m.nextTree(t)) < 8 {
			return errors.New("nothing is prepared")
		}
		_, err := os.Stat(m.path(DiskVolume + "/" + nextPrefix + "p0/z")) // its last entry
		return err
	})
}

func TestPodPreparesNext(t *testing.T) {
	places := slices.DeleteFunc(slices.Clone(podPlaces), func(p Place) bool { return p.Path == "/files" })
	m := servePod(t, pod{Places: places}) // the last one on the disk is not root's
	m.begin(t)
	m.run(t, Program{Command: []string{m.binary, "helper:template", "/data"}})
	// A directory that its owner cannot move is filled as ever.
	m.run(t, shell("chmod 700 /data/closed; rm -r /data/closed"))
	_, err := m.Wipe(t.Context(), WipeRequest{Kindly: true})
	must(t, err)
	kept, err := m.KeepPristine(t.Context())
	must(t, err)
	fill := func() string {
		t.Helper()
		_, err := m.Wipe(t.Context(), WipeRequest{})
		must(t, err)
		must(t, m.FillPristine(t.Context(), kept))
		return m.tree(t, DiskVolume)
	}
	first := fill()
	inode := func(path string) uint64 {
		t.Helper()
		var st unix.Stat_t
		must(t, unix.Stat(m.path(path), &st))
		return st.Ino
	}
	m.begin(t)
	m.awaitNext(t)
	m.run(t, Program{Command: []string{m.binary, "helper:mark", "/data"}})
	prepared := inode(DiskVolume + "/next.p0/a/7")
	if r, err := m.Run(t.Context(), shell("ls "+DiskVolume)); err != nil || r.ExitCode == 0 {
		t.Errorf("a server looks at the next disk: %+v %v", r, err)
	}
	if got := fill(); got != first {
		t.Errorf("filled from what was prepared:\n%s\nwas\n%s", got, first)
	}
	if inode("/data/a/7") != prepared || len(m.nextTree(t)) > 0 {
		t.Error("what was prepared was not used")
	}

	// Half of it is removed by a wipe, and so is all of it once root has run.
	m.begin(t)
	if got := fill(); got != first || len(m.nextTree(t)) > 0 {
		t.Errorf("filled after half a preparation: %q\n%s", m.nextTree(t), got)
	}
	m.begin(t)
	m.awaitNext(t)
	m.run(t, Program{User: "root", Command: []string{"/bin/true"}})
	must(t, os.WriteFile(m.path(DiskVolume+"/next.p0/a/7"), []byte("evil"), 0o600)) // as it could have
	if got := fill(); got != first || len(m.nextTree(t)) > 0 {
		t.Errorf("filled after root has run: %q\n%s", m.nextTree(t), got)
	}
	m.begin(t)
	must(t, os.WriteFile(m.path(DiskVolume+"/next.p0/strange"), nil, 0o600))
	if got := fill(); got != first || strings.Contains(got, "strange") {
		t.Errorf("a thing of somebody's among what is prepared: %s", got)
	}
}
