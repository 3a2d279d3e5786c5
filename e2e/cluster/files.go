package cluster

import (
	"fmt"
	"os"
	"path/filepath"
)

const (
	containerdSocket = "/run/containerd/containerd.sock" // in the mount namespace
	pauseImage       = "localhost/pause:1"
)

// arguments are those of all components.
func (c *Cluster) arguments() map[string][]string {
	pki := func(name string) string { return c.path("pki", name) }
	return map[string][]string{
		"etcd": {
			"--data-dir=" + c.path("etcd"), "--unsafe-no-fsync", "--log-level=warn",
			"--listen-client-urls=http://127.0.0.1:2379", "--advertise-client-urls=http://127.0.0.1:2379",
			"--listen-peer-urls=http://127.0.0.1:2380",
			"--initial-advertise-peer-urls=http://127.0.0.1:2380", "--initial-cluster=default=http://127.0.0.1:2380",
		},
		"containerd": {"--config=" + c.path("containerd.toml")},
		"kube-apiserver": {
			"--etcd-servers=http://127.0.0.1:2379",
			"--bind-address=" + NodeAddress, "--advertise-address=" + NodeAddress, "--secure-port=6443",
			"--tls-cert-file=" + pki("apiserver.crt"), "--tls-private-key-file=" + pki("apiserver.key"),
			"--client-ca-file=" + pki("ca.crt"),
			"--service-account-issuer=https://kubernetes.default.svc",
			"--service-account-key-file=" + pki("accounts.key"), "--service-account-signing-key-file=" + pki("accounts.key"),
			"--service-cluster-ip-range=" + ServiceCIDR, "--allow-privileged=true",
			"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
			"--kubelet-client-certificate=" + pki("admin.crt"), "--kubelet-client-key=" + pki("admin.key"),
			"--kubelet-certificate-authority=" + pki("ca.crt"), "--kubelet-preferred-address-types=InternalIP",
			"--audit-policy-file=" + c.path("audit.yaml"), "--audit-log-path=" + c.AuditLog(), "--audit-log-mode=blocking",
			"--shutdown-delay-duration=0s",
		},
		"kube-controller-manager": {
			"--kubeconfig=" + c.path("controllers.kubeconfig"), "--bind-address=127.0.0.1", "--leader-elect=false",
			"--use-service-account-credentials=true", "--service-account-private-key-file=" + pki("accounts.key"),
			"--root-ca-file=" + pki("ca.crt"),
			"--cluster-signing-cert-file=" + pki("ca.crt"), "--cluster-signing-key-file=" + pki("ca.key"),
			"--node-monitor-period=1s",
			"--kube-api-qps=1000", "--kube-api-burst=1000", // its controllers start one after the other
			"--flex-volume-plugin-dir=" + c.path("flex"),
		},
		"kube-scheduler": {
			"--kubeconfig=" + c.path("scheduler.kubeconfig"), "--bind-address=127.0.0.1", "--leader-elect=false",
		},
		"kubelet": {
			"--kubeconfig=" + c.path("kubelet.kubeconfig"), "--config=" + c.path("kubelet.yaml"), "--root-dir=" + c.path("kubelet"),
			"--hostname-override=" + NodeName, "--node-ip=" + NodeAddress,
		},
		"kube-proxy": {
			"--kubeconfig=" + c.path("proxy.kubeconfig"), "--hostname-override=" + NodeName, "--proxy-mode=nftables",
			"--cluster-cidr=" + PodRange, "--conntrack-max-per-core=0", "--conntrack-tcp-timeout-established=0",
			"--conntrack-tcp-timeout-close-wait=0", "--healthz-bind-address=127.0.0.1:10256",
			"--metrics-bind-address=127.0.0.1:10249", "--oom-score-adj=0",
		},
		"policies": {"--kubeconfig=" + c.path("policies.kubeconfig"), "--healthz=127.0.0.1:9080", "--node=" + NodeName},
	}
}

const containerdConfig = `version = 2
root = "%[1]s/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.tracing.processor.v1.otlp"]
[grpc]
  address = "` + containerdSocket + `"
[plugins."io.containerd.internal.v1.opt"]
  path = "%[1]s/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "` + pauseImage + `"
  restrict_oom_score_adj = true # a host may withhold the right to lower it
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "%[1]s/cni"
`

// A link to each pod instead of a bridge: what pods say to each other by way of
// a Service must come back through the host, and not every kernel can make a
// bridge see to that.
const networkConfig = `{"cniVersion": "0.4.0", "name": "pods", "plugins": [
  {"type": "ptp", "ipMasq": false, "ipam": {"type": "host-local", "dataDir": "%[1]s/addresses",
    "ranges": [[{"subnet": "` + PodRange + `"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}, "snat": true}
]}
`

const kubeletConfig = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: true}
  x509: {clientCAFile: "%[1]s/pki/ca.crt"}
authorization: {mode: Webhook}
tlsCertFile: "%[1]s/pki/kubelet-server.crt"
tlsPrivateKeyFile: "%[1]s/pki/kubelet-server.key"
containerRuntimeEndpoint: unix://` + containerdSocket + `
imageServiceEndpoint: unix://` + containerdSocket + `
cgroupDriver: cgroupfs
cgroupRoot: "/%[2]s"
failCgroupV1: false
failSwapOn: false
podPidsLimit: 512
makeIPTablesUtilChains: false
oomScoreAdj: 0
podLogsDir: "%[1]s/pod-logs"
volumePluginDir: "%[1]s/flex"
resolvConf: "%[1]s/resolv.conf"
evictionHard: {memory.available: 50Mi, nodefs.available: 1%%, nodefs.inodesFree: 1%%, imagefs.available: 1%%}
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
maxPods: 250
registryPullQPS: 0
eventRecordQPS: 0
kubeAPIQPS: 1000
kubeAPIBurst: 1000
`

const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules: [{level: Metadata}]
`

// writeFiles writes configuration and credentials.
func (c *Cluster) writeFiles() error {
	files := map[string]string{
		"containerd.toml":      fmt.Sprintf(containerdConfig, c.dir),
		"cni/10-pods.conflist": fmt.Sprintf(networkConfig, c.dir),
		"kubelet.yaml":         fmt.Sprintf(kubeletConfig, c.dir, c.name),
		"audit.yaml":           auditPolicy,
		"resolv.conf":          "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n", // refuses at once
	}
	for _, dir := range []string{"log", "tmp", "pki", "flex", "disks", "pod-logs"} {
		if err := os.MkdirAll(c.path(dir), 0o755); err != nil {
			return err
		}
	}
	for name, content := range files {
		if err := os.MkdirAll(filepath.Dir(c.path(name)), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(c.path(name), []byte(content), 0o644); err != nil {
			return err
		}
	}
	return c.writeCredentials()
}
