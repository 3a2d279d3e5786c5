package e2e

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/remuda/remuda/provisioner/backendtest"
	"github.com/remuda/remuda/provisioner/local"
)

const oneVolume = "offerings: [volume]\npools: {volume/medium: {floor: 0}, volume/small: {floor: 1, ceiling: 2}}"

func (h *host) bindVolume(id, binding string, p plan, parameters map[string]any) map[string]any {
	h.t.Helper()
	a := h.call("PUT", bindingPath(id, binding), map[string]any{"service_id": p.service, "plan_id": p.plan, "parameters": parameters})
	h.want("bind", a, 201)
	return a.body
}

func credentials(binding map[string]any) map[string]any {
	c, _ := binding["credentials"].(map[string]any)
	return c
}

// A volume as applications use it: two bindings with different rights, a full
// disk, an unbind, crashes, and the next tenant.
func TestVolume(t *testing.T) {
	if _, err := exec.LookPath("nfs-cp"); err != nil && os.Geteuid() == 0 {
		t.Fatalf("%v: 'make test' installs it as root", err)
	}
	h := newHost(t, backendtest.Binary(t), oneVolume)
	h.start()
	h.settled(3*time.Minute, 1)
	p := h.plan("volume", "small")
	h.want("provision", h.provision("vol", p), 201)
	first := h.groupOf("vol")
	for _, wrong := range []map[string]any{{"mount": "relative"}, {"mount": "/a/$(b)"}, {"uid": 0}, {"uid": "1; Access_Type = RW"}, {"readonly": "no"}, {"sec": "none"}} {
		a := h.call("PUT", bindingPath("vol", "wrong"), map[string]any{"service_id": p.service, "plan_id": p.plan, "parameters": wrong})
		h.want(fmt.Sprint("bind with ", wrong), a, 400)
	}
	writer := h.bindVolume("vol", "writer", p, nil)
	reader := h.bindVolume("vol", "reader", p, map[string]any{"readonly": true, "mount": "/data/in"})
	w, r := credentials(writer), credentials(reader)

	t.Run("Mounts", func(t *testing.T) { volumeMounts(t, writer, reader) })
	t.Run("Files", func(t *testing.T) { volumeFiles(t, w, r) })
	t.Run("Unguessable", func(t *testing.T) { volumeHidden(t, w) })
	t.Run("Forged", func(t *testing.T) { volumeForged(t, h, p, w) })
	t.Run("Owner", func(t *testing.T) { volumeOwner(t, h, p, w) })
	t.Run("Quota", func(t *testing.T) { volumeQuota(t, w, r) })
	t.Run("Unbind", func(t *testing.T) { volumeUnbind(t, h, p, w) })
	t.Run("Crash", func(t *testing.T) { volumeCrash(t, h, w, r) })

	t.Run("Update", func(t *testing.T) { volumeUpdate(t, h, w, r) })

	client, export := openVolume(t, w)
	h.want("deprovision", h.deprovision("vol", p), 200)
	if err := client.Stat(export); err == nil {
		t.Error("the tenant still gets in after the deprovision")
	}
	eventually(t, 30*time.Second, func() error {
		for _, g := range h.groups() {
			if g.ID == first.ID && g.State == "warm" && g.Generation == first.Generation+1 {
				return nil
			}
		}
		return errors.New("the group is not warm again")
	})
	h.settled(time.Minute, 1)
	h.want("provision", h.provision("next", p), 201)
	next := credentials(h.bindVolume("next", "b", p, nil))
	if got, err := nfs("nfs-ls", nfsURL(next, "")); err != nil || strings.TrimSpace(got) != "" {
		t.Errorf("the next tenant sees %q, %v", got, err)
	}
	w["port"] = next["port"]
	if _, err := nfs("nfs-ls", nfsURL(w, "")); err == nil {
		t.Error("the export of the last tenant is still there")
	}

	h.kill()
	if out, err := h.run("groups", "close", "--all"); err != nil {
		t.Fatalf("close all groups: %v\n%s", err, out)
	}
	for _, left := range backendtest.HostState(t, h.state, "remuda-"+local.HostKey(h.state)) {
		if kind, _, _ := strings.Cut(left, " "); kind != "file" && kind != "link" || strings.Contains(left, "/groups/") || strings.Contains(left, ".ext4") {
			t.Errorf("after everything was closed this is left: %s", left)
		}
	}
}

func volumeMounts(t *testing.T, writer, reader map[string]any) {
	w, r := credentials(writer), credentials(reader)
	source := func(c map[string]any) string {
		return fmt.Sprintf("nfs://%s:%.0f%s", c["host"], c["port"], c["export"])
	}
	want := []any{map[string]any{"driver": "nfsv3driver", "container_dir": "/var/vcap/data/vol", "mode": "rw", "device_type": "shared", "device": map[string]any{
		"volume_id": "vol", "mount_config": map[string]any{"source": source(w), "version": "4.0", "uid": "2000", "gid": "2000"}}}}
	if !reflect.DeepEqual(writer["volume_mounts"], want) {
		t.Errorf("volume mounts are %v, want %v", writer["volume_mounts"], want)
	}
	want = []any{map[string]any{"driver": "nfsv3driver", "container_dir": "/data/in", "mode": "r", "device_type": "shared", "device": map[string]any{
		"volume_id": "vol", "mount_config": map[string]any{"source": source(r), "version": "4.0", "uid": "2000", "gid": "2000", "readonly": "true"}}}}
	if !reflect.DeepEqual(reader["volume_mounts"], want) {
		t.Errorf("volume mounts are %v, want %v", reader["volume_mounts"], want)
	}
	if w["export"] == r["export"] || len(w["export"].(string)) < 30 || w["uri"] != source(w) {
		t.Error("the exports are not apart, or can be guessed")
	}
}

func volumeFiles(t *testing.T, w, r map[string]any) {
	if err := put(t, w, "hello.txt", "hello"); err != nil {
		t.Fatal(err)
	}
	wantFile(t, w, "hello.txt", "hello")
	if err := put(t, r, "no.txt", "no"); err == nil || !strings.Contains(err.Error(), "ROFS") {
		t.Errorf("a write through the read-only export: %v", err)
	}
	client, export := openVolume(t, r)
	for what, err := range map[string]error{"make": client.Mkdir(export, "no"), "remove": client.Remove(export, "hello.txt")} {
		if !errors.Is(err, backendtest.NFSError(30)) {
			t.Errorf("%s through the read-only export: %v", what, err)
		}
	}
	list, err := nfs("nfs-ls", nfsURL(r, ""))
	if f := strings.Fields(list); err != nil || len(f) != 6 || f[2] != "2000" || f[3] != "2000" || f[5] != "hello.txt" {
		t.Errorf("through the read-only export there are %q, %v", list, err)
	}
}

// volumeHidden looks for what a stranger finds who reaches the port.
func volumeHidden(t *testing.T, w map[string]any) {
	client, _ := openVolume(t, w)
	root, err := client.Lookup("/")
	if err != nil {
		t.Fatal(err)
	}
	if list, err := client.List(root); !errors.Is(err, backendtest.NFSError(13)) {
		t.Errorf("the names of exports can be listed: %q, %v", list, err)
	}
	for _, path := range []string{"/.", "/..", "/../data", "/wrong", w["export"].(string)[:10], w["export"].(string) + "/.."} {
		if _, err := client.Lookup(path); err == nil {
			t.Errorf("%s leads somewhere", path)
		}
	}
	if err := client.Mkdir(root, "mine"); err == nil {
		t.Error("a stranger makes folders in the root")
	}
	// Nothing else listens beside the server's one port: neither the port mapper nor mountd.
	for _, port := range []string{"111", "20048"} {
		if _, err := nfs("nfs-ls", fmt.Sprintf("nfs://%s%s?version=3&nfsport=%.0f&mountport=%s", w["host"], w["export"], w["port"], port)); err == nil {
			t.Error("NFS version 3 is served")
		}
	}
}

// volumeForged makes up handles from those of another instance, and of another binding of the same: no
// token, no file.
func volumeForged(t *testing.T, h *host, p plan, w map[string]any) {
	h.t = t
	h.want("provision", h.provision("stranger", p), 201, 202)
	h.provisioned("stranger", p)
	mine, export := openVolume(t, credentials(h.bindVolume("stranger", "s", p, nil)))
	victim, theirs := openVolume(t, w)
	_, sibling := openVolume(t, credentials(h.bindVolume("vol", "sibling", p, nil)))
	// A handle names in its 5th to 8th byte an export, in its next eight an object, and ends with what proves it.
	const names, object, proof = 4, 8, 16
	if len(export) <= proof || len(export) != len(theirs) || bytes.Equal(export[names:object], sibling[names:object]) || !bytes.Equal(theirs[object:proof], sibling[object:proof]) {
		t.Fatalf("handles are %x, %x and %x", export, theirs, sibling)
	}
	h.want("unbind", h.unbind("vol", "sibling", p), 200)
	if err := errors.Join(mine.Stat(export), victim.Stat(theirs)); err != nil {
		t.Fatalf("real handles: %v", err)
	}
	tried := 0
	try := func(handle []byte) {
		tried++
		if err := victim.Stat(handle); err == nil && !bytes.Equal(handle, theirs) {
			t.Errorf("the handle %x leads into another instance, or through an export that is gone", handle)
		}
	}
	for _, from := range [][]byte{export, sibling, theirs} {
		for number := range uint32(8) {
			forged := bytes.Clone(from)
			binary.BigEndian.PutUint32(forged[names:], number)
			try(forged)
			copy(forged[object:], theirs[object:proof])
			try(forged)
		}
		for bit := range 8 * len(from) {
			forged := bytes.Clone(from)
			forged[bit/8] ^= 1 << (bit % 8)
			try(forged)
		}
		try(from[:proof])
		try(append(bytes.Clone(from), 0))
	}
	t.Logf("%d handles were tried", tried)
	h.want("deprovision", h.deprovision("stranger", p), 200)
}

// volumeOwner binds as another user.
func volumeOwner(t *testing.T, h *host, p plan, w map[string]any) {
	h.t = t
	other := h.bindVolume("vol", "other", p, map[string]any{"uid": 3000, "gid": 3001, "container_dir": "/data"})
	mount := list(other["volume_mounts"])[0]
	config := mount["device"].(map[string]any)["mount_config"].(map[string]any)
	if mount["container_dir"] != "/data" || config["uid"] != "3000" || config["gid"] != "3001" {
		t.Errorf("the volume mount is %v", mount)
	}
	if err := put(t, credentials(other), "theirs.txt", "theirs"); err != nil {
		t.Fatal(err)
	}
	if got, err := nfs("nfs-ls", nfsURL(w, "")); err != nil || !strings.Contains(got, " 3000  3001            6 theirs.txt") {
		t.Errorf("the files are %q, %v", got, err)
	}
	client, export := openVolume(t, credentials(other))
	if err := client.Remove(export, "theirs.txt"); err != nil {
		t.Error(err)
	}
	h.want("unbind", h.unbind("vol", "other", p), 200)
}

// volumeQuota fills the disk. nfs-cp writes no more than some 3 kB at once, which
// is a fault of libnfs 4.0.
func volumeQuota(t *testing.T, w, r map[string]any) {
	if err := put(t, w, "big", "x"); err != nil {
		t.Fatal(err)
	}
	client, export := openVolume(t, w)
	big, err := client.Lookup(w["export"].(string) + "/big")
	if err != nil {
		t.Fatal(err)
	}
	chunk := bytes.Repeat([]byte("volume\n\n"), 1<<17)
	begin, size := time.Now(), uint64(0)
	for err == nil && size < 2<<30 {
		if err = client.Write(big, size, chunk); err == nil {
			size += uint64(len(chunk))
		}
	}
	if !errors.Is(err, backendtest.NFSError(28)) || size < 900<<20 || size >= 1<<30 {
		t.Errorf("the disk of 1 GiB took %d MiB, then: %v", size>>20, err)
	}
	t.Logf("%d MiB took %s", size>>20, time.Since(begin).Round(time.Millisecond))
	if err := client.Mkdir(export, "more"); err == nil {
		err = client.Write(big, size, chunk)
		if !errors.Is(err, backendtest.NFSError(28)) {
			t.Errorf("a full disk takes more: %v", err)
		}
	}
	wantFile(t, r, "hello.txt", "hello")
	_ = client.Remove(export, "more")
	if err := client.Remove(export, "big"); err != nil {
		t.Errorf("remove: %v", err)
	}
	if err := put(t, w, "after.txt", "room"); err != nil {
		t.Errorf("after making room: %v", err)
	}
	wantFile(t, r, "after.txt", "room")
}

// volumeUnbind ends one binding's access while clients of both hold handles.
func volumeUnbind(t *testing.T, h *host, p plan, w map[string]any) {
	h.t = t
	gone := credentials(h.bindVolume("vol", "gone", p, nil))
	other, otherExport := openVolume(t, w)
	client, export := openVolume(t, gone)
	file, err := client.Lookup(gone["export"].(string) + "/hello.txt")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(client.Stat(file), client.Read(file), client.Mkdir(export, "made")); err != nil {
		t.Fatalf("before the unbind: %v", err)
	}
	begin := time.Now()
	h.want("unbind", h.unbind("vol", "gone", p), 200)
	t.Logf("unbind took %s", time.Since(begin).Round(time.Millisecond))
	for what, err := range map[string]error{"stat": client.Stat(export), "read": client.Read(file), "write": client.Mkdir(export, "late")} {
		if err == nil {
			t.Errorf("after the unbind an old handle is good for: %s", what)
		}
	}
	if _, err := client.Lookup(gone["export"].(string)); err == nil {
		t.Error("the export is still there")
	}
	if err := errors.Join(other.Stat(otherExport), other.Mkdir(otherExport, "goes-on"), other.Remove(otherExport, "made"), other.Remove(otherExport, "goes-on")); err != nil {
		t.Errorf("the other binding's client does not go on: %v", err)
	}
	h.want("unbind again", h.unbind("vol", "gone", p), 410)
}

// volumeCrash ends the server, then the whole container.
func volumeCrash(t *testing.T, h *host, w, r map[string]any) {
	h.t = t
	_, export := openVolume(t, w)
	pid := h.groupOf("vol").Members[0].PID
	server := childOf(t, pid, "agent")
	for _, victim := range []int{server, pid} {
		backendtest.Kill(t, "vol", victim)
		begin := time.Now()
		eventually(t, 10*time.Second, func() error { return stillThere(victim) })
		eventually(t, 30*time.Second, func() error {
			got, err := nfs("nfs-cat", nfsURL(r, "hello.txt"))
			if err == nil && got != "hello" {
				err = fmt.Errorf("the file has %q", got)
			}
			return err
		})
		t.Logf("served again after %s", time.Since(begin).Round(time.Millisecond))
		if err := put(t, r, "no.txt", "no"); err == nil {
			t.Error("the read-only export is not read-only any more")
		}
		client, _ := openVolume(t, w)
		if err := errors.Join(client.Stat(export), client.Mkdir(export, "kept"), client.Remove(export, "kept")); err != nil {
			t.Errorf("a handle from before the crash: %v", err)
		}
	}
}

// volumeUpdate changes the plan and back: files, exports and even handles stay.
func volumeUpdate(t *testing.T, h *host, w, r map[string]any) {
	h.t = t
	_, export := openVolume(t, w)
	small, medium := h.plan("volume", "small"), h.plan("volume", "medium")
	for _, change := range []struct {
		from, to plan
		mib      int
	}{{small, medium, 3600}, {medium, small, 900}} {
		h.want("change the plan", h.patch("vol", change.from, map[string]any{"plan_id": change.to.plan}), 200)
		wantFile(t, r, "hello.txt", "hello")
		client, _ := openVolume(t, w)
		if err := errors.Join(client.Stat(export), client.Mkdir(export, "kept"), client.Remove(export, "kept")); err != nil {
			t.Errorf("a handle from before the change: %v", err)
		}
		if err := put(t, r, "no.txt", "no"); err == nil {
			t.Error("the read-only export is not read-only any more")
		}
		var fs syscall.Statfs_t
		if err := syscall.Statfs(fmt.Sprintf("/proc/%d/root/var/lib/volume", h.groupOf("vol").Members[0].PID), &fs); err != nil || int(fs.Blocks>>8) < change.mib {
			t.Errorf("the disk has %d MiB, %v", fs.Blocks>>8, err)
		}
	}
}
