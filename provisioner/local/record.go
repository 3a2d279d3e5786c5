package local

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/remuda/remuda/provisioner"
	"github.com/remuda/remuda/provisioner/agent"
	"github.com/remuda/remuda/store"
)

// record is what is known of a group, in memory and in group.json.
type record struct {
	recordData // fields are read and changed under mu
	mu         sync.Mutex
	dir        string
	persisted  func()      // called after every write
	work       sync.Mutex  // held by the one call that works on the group
	ahead      atomic.Bool // the next generation's disks are about to be prepared
}

type recordData struct {
	ID         string                 `json:"id"`
	Hidden     bool                   `json:"hidden,omitempty"` // makes a template, is no group of the pool
	Generation int                    `json:"generation"`
	Endpoints  []store.Endpoint       `json:"endpoints,omitempty"`
	Definition provisioner.Definition `json:"definition"`
	Members    []memberRecord         `json:"members"` // the leader first
}

type memberRecord struct {
	Name       string          `json:"name"`
	Role       string          `json:"role"`
	PID        int             `json:"pid,omitempty"`         // of PID 1, as the host sees it
	StartTicks uint64          `json:"start_ticks,omitempty"` // its start time (proc(5), field 22): tells it from a later process of the same PID
	BootID     string          `json:"boot_id,omitempty"`     // of the boot it was started in
	Baseline   *agent.Baseline `json:"baseline,omitempty"`    // how it looked when it was new
}

const recordFile = "group.json"

func readRecord(dir string, persisted func()) (*record, error) {
	b, err := os.ReadFile(filepath.Join(dir, recordFile))
	if err != nil {
		return nil, err
	}
	r := &record{dir: dir, persisted: persisted}
	if err := json.Unmarshal(b, &r.recordData); err != nil {
		return nil, fmt.Errorf("read %s of group %q: %w", recordFile, filepath.Base(dir), err)
	}
	return r, nil
}

// snapshot copies the data for readers.
func (r *record) snapshot() recordData {
	r.mu.Lock()
	defer r.mu.Unlock()
	d := r.recordData
	d.Members = slices.Clone(d.Members)
	d.Endpoints = slices.Clone(d.Endpoints)
	return d
}

// update changes the record in memory and durably on disk.
func (r *record) update(change func(*recordData)) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	next := r.recordData
	next.Members = slices.Clone(next.Members)
	change(&next)
	b, err := json.Marshal(next)
	if err != nil {
		return fmt.Errorf("encode group %q: %w", r.ID, err)
	}
	if err := writeFileSync(filepath.Join(r.dir, recordFile), b, 0o600); err != nil {
		return fmt.Errorf("write record of group %q: %w", r.ID, err)
	}
	r.recordData = next
	r.persisted()
	return nil
}

// setMember changes one member of the record.
func (r *record) setMember(name string, change func(*memberRecord)) error {
	return r.update(func(d *recordData) {
		for i := range d.Members {
			if d.Members[i].Name == name {
				change(&d.Members[i])
			}
		}
	})
}

func (d recordData) member(name string) memberRecord {
	for _, m := range d.Members {
		if m.Name == name {
			return m
		}
	}
	return memberRecord{}
}

// alive says whether the member's PID 1 is still the process that was started.
func (m memberRecord) alive() bool {
	if m.PID == 0 || m.BootID != bootID() {
		return false
	}
	state, ticks, err := procStat(m.PID)
	return err == nil && ticks == m.StartTicks && state != 'Z' && state != 'X'
}

// writeFileSync replaces a file so that after a crash it is either the old or
// the new one.
func writeFileSync(path string, b []byte, mode os.FileMode) error {
	tmp := path + ".tmp"
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	if _, err = f.Write(b); err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

// procStat reads state and start time (in clock ticks since boot) of a process.
func procStat(pid int) (state byte, startTicks uint64, err error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, 0, err
	}
	return parseStat(string(b))
}

// parseStat reads a line of /proc/PID/stat; the command name may hold anything,
// so fields are counted from its last parenthesis.
func parseStat(line string) (state byte, startTicks uint64, err error) {
	i := strings.LastIndexByte(line, ')')
	if i < 0 {
		return 0, 0, fmt.Errorf("stat line without a command name")
	}
	f := strings.Fields(line[i+1:])
	if len(f) < 20 || len(f[0]) != 1 {
		return 0, 0, fmt.Errorf("stat line with %d fields", len(f))
	}
	ticks, err := strconv.ParseUint(f[19], 10, 64)
	return f[0][0], ticks, err
}

var bootID = sync.OnceValue(func() string {
	b, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b))
})

var bootTime = sync.OnceValue(func() time.Time {
	b, _ := os.ReadFile("/proc/stat")
	for line := range strings.Lines(string(b)) {
		if s, ok := strings.CutPrefix(line, "btime "); ok {
			n, _ := strconv.ParseInt(strings.TrimSpace(s), 10, 64)
			return time.Unix(n, 0)
		}
	}
	return time.Time{}
})

// startedAt turns clock ticks since boot (100 a second on every Linux port that
// Go supports) into a time.
func startedAt(ticks uint64) time.Time {
	return bootTime().Add(time.Duration(ticks) * 10 * time.Millisecond).UTC()
}
