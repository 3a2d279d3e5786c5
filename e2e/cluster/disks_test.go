//go:build kube

package cluster

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

const diskPod = `
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: %[1]s}
spec:
  storageClassName: remuda-disk
  accessModes: [ReadWriteOnce]
  resources: {requests: {storage: 32Mi}}
---
apiVersion: v1
kind: Pod
metadata: {name: %[1]s}
spec:
  dnsPolicy: Default
  terminationGracePeriodSeconds: 0
  securityContext: {runAsUser: 1000}
  containers:
  - name: %[1]s
    image: localhost/busybox:1
    command: [sleep, "1000"]
    volumeMounts: [{name: disk, mountPath: /disk}]
  volumes: [{name: disk, persistentVolumeClaim: {claimName: %[1]s}}]
`

// fill writes a file until the disk is full and returns its size in MiB.
func fill(t *testing.T, c *Cluster, pod string) int {
	t.Helper()
	said := kubectl(t, c, "exec", pod, "--", "sh", "-c",
		"rm -f /disk/x; dd if=/dev/zero of=/disk/x bs=64k 2>&1 | grep -c 'No space left'; stat -c %s /disk/x")
	var full, size int
	if _, err := fmt.Sscan(said, &full, &size); err != nil || full != 1 {
		t.Fatalf("filling the disk: %q", said)
	}
	return size >> 20
}

func testDisk(t *testing.T, c *Cluster) {
	apply(t, c, fmt.Sprintf(diskPod, "data"))
	await(t, c, "pod/data", "condition=Ready")
	if found := kubectl(t, c, "exec", "data", "--", "ls", "-A", "/disk"); found != "" {
		t.Errorf("a new disk contains %q", found)
	}
	if size := fill(t, c, "data"); size < 22 || size > 32 {
		t.Errorf("%d MiB fit on a disk of 32", size)
	}
	volume := kubectl(t, c, "get", "pvc", "data", "-o", "jsonpath={.spec.volumeName}")
	if len(loopDevices([]string{c.diskImage(volume)})) != 1 {
		t.Error("the disk's loop device is not found")
	}
	kubectl(t, c, "delete", "pod/data", "pvc/data")
	await(t, c, "pv/"+volume, "delete")
	eventually(t, func() error {
		if _, err := os.Stat(c.diskImage(volume)); err == nil {
			return fmt.Errorf("the disk of %s is still there", volume)
		}
		return nil
	})
}

func testGrowth(t *testing.T, c *Cluster) {
	apply(t, c, fmt.Sprintf(diskPod, "growing"))
	await(t, c, "pod/growing", "condition=Ready")
	kubectl(t, c, "exec", "growing", "--", "sh", "-c", "echo kept > /disk/file")
	kubectl(t, c, "patch", "pvc", "growing", "-p", `{"spec": {"resources": {"requests": {"storage": "64Mi"}}}}`)
	await(t, c, "pvc/growing", "condition=FileSystemResizePending")
	kubectl(t, c, "delete", "pod", "growing")
	await(t, c, "pvc/growing", "jsonpath={.status.capacity.storage}=64Mi")
	_, pod, _ := strings.Cut(fmt.Sprintf(diskPod, "growing"), "---\n")
	apply(t, c, pod)
	await(t, c, "pod/growing", "condition=Ready")
	if said := kubectl(t, c, "exec", "growing", "--", "cat", "/disk/file"); said != "kept" {
		t.Errorf("the file says %q", said)
	}
	if size := fill(t, c, "growing"); size < 44 || size > 64 {
		t.Errorf("%d MiB fit on a disk of 64", size)
	}
	// It is left for Stop, mounted and in use.
}
