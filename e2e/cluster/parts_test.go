//go:build kube

package cluster

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// webPod answers with the pod's name at port 8080.
const webPod = `
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  dnsPolicy: Default
  terminationGracePeriodSeconds: 0
  containers:
  - name: web
    image: localhost/busybox:1
    command: [sh, -c, "echo hello from web; exec httpd -f -p 8080 -h /etc"]
    resources: {requests: {cpu: 50m, memory: 16Mi}, limits: {cpu: 100m, memory: 32Mi}}
    readinessProbe: {httpGet: {port: 8080, path: /hostname}, periodSeconds: 1}
    volumeMounts: [{name: memory, mountPath: /memory}]
  volumes: [{name: memory, emptyDir: {medium: Memory, sizeLimit: 4Mi}}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress:
  - from: [{podSelector: {matchLabels: {run: other}}}, {podSelector: {matchLabels: {app: web}}}]
    ports: [{port: 8080}]
`

func testPod(t *testing.T, c *Cluster) {
	begin := time.Now()
	apply(t, c, webPod)
	await(t, c, "pod/web", "condition=Ready")
	t.Logf("ready after %v", time.Since(begin).Round(10*time.Millisecond))
	if said := kubectl(t, c, "exec", "web", "--", "cat", "/etc/hostname"); said != "web" {
		t.Errorf("exec: %q", said)
	}
	if said := kubectl(t, c, "logs", "web"); said != "hello from web" {
		t.Errorf("logs: %q", said)
	}
	address := kubectl(t, c, "get", "pod", "web", "-o", "jsonpath={.status.podIP}")
	if said, err := get(c, address+":8080/hostname"); said != "web" {
		t.Errorf("the pod from here: %q, %v", said, err)
	}
}

func testService(t *testing.T, c *Cluster) {
	address := kubectl(t, c, "get", "service", "web", "-o", "jsonpath={.spec.clusterIP}")
	eventually(t, func() error {
		said, err := get(c, address+"/hostname")
		if err == nil && said != "web" {
			err = fmt.Errorf("the Service says %q", said)
		}
		return err
	})
	// Another pod, and the pod itself, reach it too.
	for _, name := range []string{"other", "stranger"} {
		kubectl(t, c, "run", name, "--image="+BusyboxImage, "--restart=Never", "--overrides="+defaultDNS, "--", "sleep", "1000")
	}
	for _, name := range []string{"other", "stranger"} {
		await(t, c, "pod/"+name, "condition=Ready")
	}
	ask := func(pod string) error {
		said, err := c.Kubectl("exec", pod, "--", "sh", "-c", "printf 'GET /hostname HTTP/1.0\\r\\n\\r\\n' | nc -w 3 "+address+" 80")
		if err == nil && !strings.HasSuffix(strings.TrimSpace(said), "web") {
			err = fmt.Errorf("it says %q", said)
		}
		return err
	}
	for _, pod := range []string{"other", "web"} {
		if err := ask(pod); err != nil {
			t.Errorf("the Service from %s: %v", pod, err)
		}
	}
	if ask("stranger") == nil {
		t.Error("the policy lets a stranger in")
	}
	kubectl(t, c, "label", "pod", "stranger", "run=other", "--overwrite")
	eventually(t, func() error { return ask("stranger") })
}

const defaultDNS = `{"spec": {"dnsPolicy": "Default", "terminationGracePeriodSeconds": 0}}`

func testResize(t *testing.T, c *Cluster) {
	kubectl(t, c, "patch", "pod", "web", "--subresource", "resize", "--patch",
		`{"spec": {"containers": [{"name": "web", "resources": {"requests": {"cpu": "200m", "memory": "48Mi"}, "limits": {"cpu": "500m", "memory": "64Mi"}}}]}}`)
	await(t, c, "pod/web", "jsonpath={.status.containerStatuses[0].resources.limits.memory}=64Mi")
	if restarts := kubectl(t, c, "get", "pod", "web", "-o", "jsonpath={.status.containerStatuses[0].restartCount}"); restarts != "0" {
		t.Errorf("%s restarts", restarts)
	}
	limit := kubectl(t, c, "exec", "web", "--", "sh", "-c", "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null || true")
	if limit != "67108864" {
		t.Errorf("the limit of memory is %q", limit)
	}
}

func testMemory(t *testing.T, c *Cluster) {
	said, err := c.Kubectl("exec", "web", "--", "dd", "if=/dev/zero", "of=/memory/x", "bs=1M", "count=8")
	if err == nil || !strings.Contains(said, "No space left") {
		t.Errorf("writing more than the limit: %v\n%s", err, said)
	}
	kubectl(t, c, "exec", "web", "--", "rm", "/memory/x")
}

func testSecurity(t *testing.T, c *Cluster) {
	kubectl(t, c, "create", "namespace", "strict")
	kubectl(t, c, "label", "namespace", "strict", "pod-security.kubernetes.io/enforce=restricted")
	eventually(t, func() error {
		said, err := c.Kubectl("run", "-n", "strict", "bad", "--image="+BusyboxImage, "--restart=Never", "--privileged", "--", "true")
		if err == nil {
			return fmt.Errorf("a privileged pod is taken")
		}
		if !strings.Contains(said, `violates PodSecurity "restricted`) {
			return fmt.Errorf("said %q", said)
		}
		return nil
	})
}

func testAccounts(t *testing.T, c *Cluster) {
	if said, _ := c.Kubectl("auth", "can-i", "list", "secrets", "--as=system:serviceaccount:default:default"); strings.TrimSpace(said) != "no" {
		t.Errorf("may a ServiceAccount list secrets: %q", said)
	}
	token := kubectl(t, c, "exec", "web", "--", "cat", "/var/run/secrets/kubernetes.io/serviceaccount/token")
	if said, err := c.Kubectl("--token="+token, "auth", "whoami"); err != nil {
		t.Errorf("a pod's token: %v %s", err, said)
	}
}

func testKustomize(t *testing.T, c *Cluster) {
	dir := t.TempDir()
	for name, content := range map[string]string{
		"kustomization.yaml": "namePrefix: pre-\nresources: [map.yaml]\n",
		"map.yaml":           "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: map}\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	kubectl(t, c, "apply", "-k", dir)
	kubectl(t, c, "get", "configmap", "pre-map")
}

func testAudit(t *testing.T, c *Cluster) {
	kubectl(t, c, "create", "configmap", "counted")
	file, err := os.Open(c.AuditLog())
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	count := 0
	for lines := bufio.NewScanner(file); lines.Scan(); {
		var event struct {
			Verb      string
			ObjectRef struct{ Resource, Name string }
		}
		if err := json.Unmarshal(lines.Bytes(), &event); err != nil {
			t.Fatal(err)
		}
		if event.Verb == "create" && event.ObjectRef.Resource == "configmaps" && event.ObjectRef.Name == "counted" {
			count++
		}
	}
	if count != 1 {
		t.Errorf("the audit log has %d records of one creation", count)
	}
}

func testDrain(t *testing.T, c *Cluster) {
	apply(t, c, `
apiVersion: apps/v1
kind: Deployment
metadata: {name: d}
spec:
  selector: {matchLabels: {app: d}}
  template:
    metadata: {labels: {app: d}}
    spec:
      dnsPolicy: Default
      terminationGracePeriodSeconds: 0
      containers: [{name: d, image: "localhost/busybox:1", command: [sleep, "1000"]}]
`)
	await(t, c, "deployment/d", "condition=Available")
	kubectl(t, c, "drain", NodeName, "--force", "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=60s")
	await(t, c, "deployment/d", "jsonpath={.status.unavailableReplicas}=1")
	kubectl(t, c, "uncordon", NodeName)
	await(t, c, "deployment/d", "condition=Available")
}

func testFaults(t *testing.T, c *Cluster) {
	pod := kubectl(t, c, "get", "pods", "-l", "app=d", "-o", "jsonpath={.items[0].metadata.name}")
	for _, name := range []string{"kube-apiserver", "etcd", "kubelet", "containerd", "kube-controller-manager", "kube-scheduler", "kube-proxy", "policies"} {
		if err := c.Restart(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, func() error {
		said, err := c.Kubectl("exec", pod, "--", "echo", "still here")
		if err == nil && strings.TrimSpace(said) != "still here" {
			err = fmt.Errorf("said %q", said)
		}
		return err
	})
	if restarts := kubectl(t, c, "get", "pod", pod, "-o", "jsonpath={.status.containerStatuses[0].restartCount}"); restarts != "0" {
		t.Errorf("%s restarts", restarts)
	}
	if err := c.Kill("kube-scheduler"); err != nil {
		t.Fatal(err)
	}
	if err := c.Kill("kube-scheduler"); err != nil {
		t.Errorf("killing a dead one: %v", err)
	}
	if err := c.StartComponent(t.Context(), "kube-scheduler"); err != nil {
		t.Fatal(err)
	}
	if err := c.StartComponent(t.Context(), "kube-scheduler"); err == nil {
		t.Error("started twice")
	}
}
