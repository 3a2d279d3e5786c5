// Package cluster runs a real Kubernetes of one node on this machine for tests:
// etcd, API server, controllers, scheduler, kubelet and kube-proxy as processes,
// containerd and runc below them. It needs root, the Debian packages that
// "scripts/deps kube" installs, and the programs that scripts/kube builds.
//
// All processes are in a PID namespace and a mount namespace of their own, so
// that they, all containers and all mounts end at once, either by Stop or
// because the test process has ended, however that was. What a killed test
// process cannot take along, its folder and its cgroups, the next Start removes.
//
// What is there: ServiceAccounts, RBAC, pod security admission, an audit log,
// Services (nftables), NetworkPolicies that are enforced (kube/policies), resizing of pods, and two StorageClasses
// (see disk.go) whose volumes are file systems of the size of their claim. What is not there:
// cluster DNS (pods want dnsPolicy Default, and no name but those in their
// /etc/hosts resolves), and a registry (see ImportImage).
//
// Pods' hostPath volumes see this machine's files, but /run, /var/lib and /var/log
// are empty there. A cluster's folder should have a short path: below it are
// sockets, whose names may have 107 bytes.
//
// The methods of a Cluster may be called concurrently, except Stop, after which
// none may be called.
package cluster
