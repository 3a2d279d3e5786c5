//go:build kube

package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/remuda/remuda/e2e/cluster"
	"github.com/remuda/remuda/provisioner/kubernetes/api/v1alpha1"
)

// A log drain in pods: messages arrive, are found, and are gone with the tenant.
func TestClusterSyslog(t *testing.T) {
	i := install(t)
	defer i.explain(t)
	p := i.plan("syslog", "small")
	i.awaitProvisioned("logs", p)
	group := i.groupOf("logs").ID
	l := i.bindLogs("logs", "logs-a", "", p)
	at := time.Now()
	c := l.open()
	if _, err := io.WriteString(c, octets(message(at, "app", "hello from the cluster"))); err != nil {
		t.Fatal(err)
	}
	l.found(at, "app", "hello from the cluster")
	i.want("unbind", i.unbind("logs", "logs-a", p), 200)
	i.awaitGone("logs", p)
	i.phase(group, time.Minute, v1alpha1.PhaseWarm)
	i.awaitProvisioned("logs-2", p)
	l = i.bindLogs("logs-2", "logs-b", "", p)
	if entries, err := l.search("*"); err != nil || len(entries) > 0 {
		t.Errorf("the next tenant finds %d messages: %v", len(entries), err)
	}
	i.awaitGone("logs-2", p)
}

// A route service in pods: requests reach the application through it, and no longer after the unbind.
func TestClusterGateway(t *testing.T) {
	i := install(t)
	defer i.explain(t)
	l, err := net.Listen("tcp", net.JoinHostPort(cluster.NodeAddress, "0"))
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "the application: "+r.URL.Path) })}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { server.Close() })
	p := i.plan("gateway", "small")
	i.awaitProvisioned("way", p)
	before := i.containers(i.groupOf("way").ID)
	a := i.call("PUT", bindingPath("way", "way-a"), p.body(map[string]any{"bind_resource": map[string]any{"route": cluster.NodeAddress}}))
	i.want("bind", a, 201)
	url, _ := a.body["route_service_url"].(string)
	app := "http://" + l.Addr().String() + "/hello"
	r := through(t, url, app)
	r.want(t, "a request of the route", 200)
	if r.body != "the application: /hello" {
		t.Errorf("the answer is %q", r.body)
	}
	through(t, url, "http://10.96.0.1/").want(t, "a request of another route", 403)
	group := i.groupOf("way").ID
	i.want("unbind", i.unbind("way", "way-a", p), 200)
	if r := through(t, url, app); r.status == 200 {
		t.Error("requests go on after the unbind")
	}
	i.awaitGone("way", p)
	i.phase(group, time.Minute, v1alpha1.PhaseWarm)
	if after := i.containers(group); after != before {
		t.Errorf("the containers were\n%s\nand are\n%s", before, after)
	}
}

// A volume in pods: what one binding writes the other reads, a reader cannot write, a pod that was deleted comes back with
// the files, exports and even handles, and the next tenant finds nothing.
func TestClusterVolume(t *testing.T) {
	i := install(t)
	defer i.explain(t)
	p := i.plan("volume", "small")
	i.awaitProvisioned("files", p)
	group := i.groupOf("files").ID
	w := credentials(i.bindVolume("files", "files-w", p, nil))
	mount := i.bindVolume("files", "files-r", p, map[string]any{"readonly": true})
	r := credentials(mount)
	if m := list(mount["volume_mounts"])[0]["device"].(map[string]any)["mount_config"].(map[string]any); m["source"] != fmt.Sprintf("nfs://%s%s", r["host"], r["export"]) {
		t.Errorf("the volume is to be mounted from %v", m["source"])
	}
	if err := put(t, w, "hello.txt", "hello from a pod"); err != nil {
		t.Fatal(err)
	}
	wantFile(t, r, "hello.txt", "hello from a pod")
	if err := put(t, r, "no.txt", "no"); err == nil {
		t.Error("a reader writes")
	}
	_, export := openVolume(t, w)
	i.replaceLeader(group)
	wantFile(t, r, "hello.txt", "hello from a pod")
	client, _ := openVolume(t, w)
	if err := errors.Join(client.Stat(export), client.Mkdir(export, "kept")); err != nil {
		t.Errorf("a handle from before the pod was deleted: %v", err)
	}
	i.want("unbind", i.unbind("files", "files-r", p), 200)
	if _, err := nfs("nfs-ls", nfsURL(r, "")); err == nil {
		t.Error("the export of a deleted binding is still there")
	}
	before := i.containers(group)
	i.awaitGone("files", p)
	i.phase(group, time.Minute, v1alpha1.PhaseWarm)
	if after := i.containers(group); after != before {
		t.Errorf("the containers were\n%s\nand are\n%s", before, after)
	}
	i.awaitProvisioned("files-2", p)
	next := credentials(i.bindVolume("files-2", "files-n", p, nil))
	if got, err := nfs("nfs-ls", nfsURL(next, "")); err != nil || strings.TrimSpace(got) != "" {
		t.Errorf("the next tenant sees %q, %v", got, err)
	}
	i.awaitGone("files-2", p)
}
