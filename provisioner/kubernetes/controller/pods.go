package controller

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/remuda/remuda/catalog"
	"github.com/remuda/remuda/provisioner"
	"github.com/remuda/remuda/provisioner/agent"
	"github.com/remuda/remuda/provisioner/kubernetes"
	"github.com/remuda/remuda/provisioner/kubernetes/api/v1alpha1"
	"github.com/remuda/remuda/provisioner/orders"
)

// agentContainer is the one container of a pod.
const agentContainer = "member"

// oneUser is the user of everything in pods of the level restricted, and their group.
const oneUser = 65532

// nobody is the user of pods that need none.
const nobody = 65534

// unreachable is how long a pod stays on a node that nothing is heard of.
const unreachable = 30

// places are the writable paths of a role: the recipe's, and those that every member has.
func places(role catalog.Role) ([]agent.Place, error) {
	list := []agent.Place{
		{Path: "/tmp", Folder: "tmp", User: "root", Mode: 0o1777},
		{Path: "/run", Folder: "run", Memory: true, User: "root", Mode: 0o755},
		{Path: "/dev/shm", Folder: "shm", Memory: true, User: "root", Mode: 0o1777},
		{Path: "/etc/hosts", Folder: "hosts", Memory: true, User: "root", Mode: 0o644, File: true},
	}
	for i, p := range role.Paths {
		mode := uint64(0o700)
		if p.Mode != "" {
			var err error
			if mode, err = strconv.ParseUint(p.Mode, 8, 12); err != nil {
				return nil, fmt.Errorf("mode of %s: %w", p.Path, err)
			}
		}
		user := p.User
		if user == "" {
			user = role.User
		}
		list = append(list, agent.Place{Path: p.Path, Folder: "p" + strconv.Itoa(i), Memory: p.Memory, User: user, Mode: uint32(mode)})
	}
	return list, nil
}

func (w *work) labels(member string) map[string]string {
	l := map[string]string{"app.kubernetes.io/managed-by": "remuda", "app.kubernetes.io/name": w.cg.Spec.Recipe.Name, kubernetes.LabelGroup: w.cg.Name}
	if member != "" {
		l[kubernetes.LabelMember] = member
	}
	return l
}

func (w *work) meta(name, member string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Name: name, Namespace: w.cg.Namespace, Labels: w.labels(member),
		OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(w.cg, v1alpha1.GroupVersion.WithKind("ContainerGroup"))}}
}

// hasClaim says whether the member's disk outlives its pod.
func (w *work) hasClaim(m provisioner.Member) bool {
	for _, s := range w.cg.Spec.Members {
		if s.Role == m.Role.Name && !orders.IsEgress(m) {
			return !s.Ephemeral && w.r.o.StorageClass != "none"
		}
	}
	return false
}

func (w *work) claim(m provisioner.Member) *corev1.PersistentVolumeClaim {
	c := &corev1.PersistentVolumeClaim{ObjectMeta: w.meta(kubernetes.PodName(w.cg.Name, m.Name), m.Name)}
	c.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
	c.Spec.Resources.Requests = corev1.ResourceList{corev1.ResourceStorage: *resource.NewQuantity(int64(m.Size.Disk), resource.BinarySI)}
	if w.r.o.StorageClass != "" {
		c.Spec.StorageClassName = &w.r.o.StorageClass
	}
	return c
}

// resources of a member: it gets its memory for certain, and a tenth of its processor time.
func (w *work) resources(s catalog.Size) corev1.ResourceRequirements {
	cpu, memory := int64(s.CPU*1000+0.5), resource.NewQuantity(int64(s.Memory), resource.BinarySI)
	r := corev1.ResourceRequirements{
		Limits:   corev1.ResourceList{corev1.ResourceMemory: *memory},
		Requests: corev1.ResourceList{corev1.ResourceCPU: *resource.NewMilliQuantity(max(cpu/10, 1), resource.DecimalSI), corev1.ResourceMemory: *memory},
	}
	if w.cg.Spec.CPULimit != v1alpha1.CPULimitNone {
		r.Limits[corev1.ResourceCPU] = *resource.NewMilliQuantity(cpu, resource.DecimalSI)
	}
	return r
}

// pod of a member. Pod Security "baseline": a read-only root, no right beyond those to change users. With
// "restricted" there is one user, and no right.
func (w *work) pod(m provisioner.Member) (*corev1.Pod, error) {
	if orders.IsEgress(m) {
		return w.egressPod(m), nil
	}
	list, err := places(m.Role)
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(list)
	if err != nil {
		return nil, err
	}
	var mounts []corev1.VolumeMount
	for _, p := range list {
		volume := "disk"
		if p.Memory {
			volume = "memory"
		}
		mounts = append(mounts, corev1.VolumeMount{Name: volume, MountPath: p.Path, SubPath: p.Folder})
	}
	whole := []corev1.VolumeMount{{Name: "disk", MountPath: agent.DiskVolume}, {Name: "memory", MountPath: agent.MemoryVolume}}
	security := w.security(m)
	env := []corev1.EnvVar{{Name: agent.EnvPlaces, Value: string(text)}}
	layout := corev1.Container{Name: "layout", Image: w.cg.Spec.Image, Command: []string{"/remuda/agent", "agent", "--layout"}, ImagePullPolicy: w.r.o.PullPolicy,
		Env: env, SecurityContext: security, VolumeMounts: whole, Resources: w.resources(m.Size), TerminationMessagePath: agent.PrivateDir + "/termination"}
	disk := corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{SizeLimit: resource.NewQuantity(int64(m.Size.Disk), resource.BinarySI)}}
	if w.hasClaim(m) {
		disk = corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: kubernetes.PodName(w.cg.Name, m.Name)}}
	}
	memory := resource.NewQuantity(int64(max(m.Size.Memory/2, 32<<20)), resource.BinarySI)
	p := w.agentPod(m)
	p.Spec.InitContainers = []corev1.Container{layout}
	p.Spec.Volumes = []corev1.Volume{{Name: "disk", VolumeSource: disk},
		{Name: "memory", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory, SizeLimit: memory}}}}
	// Members look nothing up.
	p.Spec.DNSPolicy, p.Spec.DNSConfig = corev1.DNSNone, &corev1.PodDNSConfig{Nameservers: []string{"127.0.0.1"}}
	member := &p.Spec.Containers[0]
	member.Env = append(env, member.Env...)
	member.SecurityContext, member.VolumeMounts = security, append(whole, mounts...)
	member.TerminationMessagePath = agent.PrivateDir + "/termination"
	if w.restricted() {
		ofOneUser(p, m.Role.User)
	}
	return p, nil
}

func (w *work) restricted() bool { return w.memory.record.Level == kubernetes.Restricted }

// security of a member's containers.
func (w *work) security(m provisioner.Member) *corev1.SecurityContext {
	if w.restricted() {
		return unprivileged(oneUser)
	}
	s := unprivileged(0)
	s.RunAsNonRoot = nil
	s.Capabilities.Add = []corev1.Capability{"SETUID", "SETGID", "KILL"}
	for _, c := range m.Role.Capabilities {
		s.Capabilities.Add = append(s.Capabilities.Add, corev1.Capability(c))
	}
	return s
}

// unprivileged is what Pod Security "restricted" asks for.
func unprivileged(user int64) *corev1.SecurityContext {
	return &corev1.SecurityContext{
		RunAsUser: &user, RunAsGroup: &user, RunAsNonRoot: ptr.To(true), ReadOnlyRootFilesystem: ptr.To(true), AllowPrivilegeEscalation: ptr.To(false),
		Capabilities:   &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
		SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
	}
}

// ofOneUser lets the pod's agent be of one user, to whom the volumes are open, and who has the
// name in a passwd that the layout writes and servers only read.
func ofOneUser(p *corev1.Pod, name string) {
	p.Spec.SecurityContext.FSGroup = ptr.To[int64](oneUser)
	// Not what is in a volume that has been opened before: servers care for the modes of their files.
	p.Spec.SecurityContext.FSGroupChangePolicy = ptr.To(corev1.FSGroupChangeOnRootMismatch)
	p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: "names", VolumeSource: corev1.VolumeSource{
		EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory, SizeLimit: resource.NewQuantity(1<<20, resource.BinarySI)}}})
	layout, member := &p.Spec.InitContainers[0], &p.Spec.Containers[0]
	layout.Command = append(layout.Command, "--one-user", name)
	member.Command = append(member.Command, "--one-user", name)
	layout.VolumeMounts = append(slices.Clone(layout.VolumeMounts), corev1.VolumeMount{Name: "names", MountPath: agent.NamesVolume})
	member.VolumeMounts = append(member.VolumeMounts, corev1.VolumeMount{Name: "names", MountPath: "/etc/passwd", SubPath: "passwd", ReadOnly: true})
}

// egressPod of a group's way out: Pod Security "restricted", and nothing that could be written to.
func (w *work) egressPod(m provisioner.Member) *corev1.Pod {
	p := w.agentPod(m)
	p.Spec.DNSPolicy = w.r.o.EgressDNS
	// Names are whole ones: the cluster's own are looked for last.
	p.Spec.DNSConfig = &corev1.PodDNSConfig{Options: []corev1.PodDNSConfigOption{{Name: "ndots", Value: ptr.To("1")}}}
	c := &p.Spec.Containers[0]
	c.Command = append(c.Command, "--egress")
	c.SecurityContext = unprivileged(nobody)
	return p
}

// agentPod is what the pods of all members have.
func (w *work) agentPod(m provisioner.Member) *corev1.Pod {
	identity := func(name, key string) corev1.EnvVar {
		return corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{
			LocalObjectReference: corev1.LocalObjectReference{Name: kubernetes.SecretName(w.cg.Name)}, Key: key}}}
	}
	p := &corev1.Pod{ObjectMeta: w.meta(kubernetes.PodName(w.cg.Name, m.Name), m.Name)}
	p.Spec = corev1.PodSpec{
		Containers: []corev1.Container{{
			Name: agentContainer, Image: w.cg.Spec.Image, ImagePullPolicy: w.r.o.PullPolicy,
			Command: []string{"/remuda/agent", "agent", "--listen", ":" + strconv.Itoa(agent.Port)},
			Env: []corev1.EnvVar{identity(agent.EnvCertificate, kubernetes.KeyCertificate), identity(agent.EnvKey, kubernetes.KeyKey),
				identity(agent.EnvAuthorities, kubernetes.KeyAuthorities)},
			Resources: w.resources(m.Size),
			Ports:     []corev1.ContainerPort{{Name: "agent", ContainerPort: agent.Port}},
			ResizePolicy: []corev1.ContainerResizePolicy{
				{ResourceName: corev1.ResourceCPU, RestartPolicy: corev1.NotRequired}, {ResourceName: corev1.ResourceMemory, RestartPolicy: corev1.NotRequired}},
		}},
		Hostname: m.Name, RestartPolicy: corev1.RestartPolicyAlways,
		AutomountServiceAccountToken: ptr.To(false), EnableServiceLinks: ptr.To(false), SetHostnameAsFQDN: ptr.To(false),
		TerminationGracePeriodSeconds: ptr.To[int64](12), // the agent stops its servers within 8
		SecurityContext:               &corev1.PodSecurityContext{SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}},
		Tolerations: []corev1.Toleration{
			{Key: corev1.TaintNodeNotReady, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: ptr.To[int64](unreachable)},
			{Key: corev1.TaintNodeUnreachable, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: ptr.To[int64](unreachable)}},
	}
	for _, s := range w.r.o.PullSecrets {
		p.Spec.ImagePullSecrets = append(p.Spec.ImagePullSecrets, corev1.LocalObjectReference{Name: s})
	}
	return p
}

// portsOf gives every endpoint its published ports: the recipe's own where it has one.
func portsOf(list []catalog.Endpoint) []v1alpha1.Endpoint {
	var out []v1alpha1.Endpoint
	row := int32(firstRowPort)
	for _, e := range list {
		p := v1alpha1.Endpoint{Name: e.Name, Port: int32(e.Port), Count: int32(e.Count)}
		if e.Count > 0 {
			p.Port = row
			row += p.Count
		}
		out = append(out, p)
	}
	return out
}
