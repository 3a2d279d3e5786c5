package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
)

// StorageClasses. A volume is an ext4 file system of the size of its claim, less
// what ext4 needs for itself, writable for all. Claims of DiskClass may grow.
// The file system grows while nothing has it mounted: a claim of a running pod
// gets the condition FileSystemResizePending and grows when the pod has ended.
// (Growing it under the pod needs CAP_SYS_RESOURCE, which hosts often withhold.)
//
// Volumes of MemoryClass are tmpfs, which also grow while they are in use, as those of
// most storage systems do.
const (
	DiskClass   = "remuda-disk"
	FixedClass  = "remuda-fixed"
	MemoryClass = "remuda-memory"
)

var classes = []string{DiskClass, FixedClass, MemoryClass}

const provisionerName = "remuda.test/disks"

// disks makes and removes volumes. One goroutine does all, one after the other.
type disks struct {
	c       *Cluster
	claims  corelisters.PersistentVolumeClaimLister
	volumes corelisters.PersistentVolumeLister
	wake    chan struct{}
	cancel  context.CancelFunc
	ended   sync.WaitGroup
	waiting bool // claims that cannot grow yet
}

func (c *Cluster) startDisks(ctx context.Context) (*disks, error) {
	for _, class := range classes {
		mode, grows, policy := storagev1.VolumeBindingImmediate, class != FixedClass, corev1.PersistentVolumeReclaimDelete
		_, err := c.client.StorageV1().StorageClasses().Create(ctx, &storagev1.StorageClass{
			ObjectMeta:  metav1.ObjectMeta{Name: class},
			Provisioner: provisionerName, VolumeBindingMode: &mode, AllowVolumeExpansion: &grows, ReclaimPolicy: &policy,
		}, metav1.CreateOptions{})
		if err != nil {
			return nil, fmt.Errorf("create storage class: %w", err)
		}
	}
	running, cancel := context.WithCancel(context.Background())
	d := &disks{c: c, wake: make(chan struct{}, 1), cancel: cancel}
	d.ended.Go(func() { d.run(running) })
	return d, nil
}

func (d *disks) stop() {
	d.cancel()
	d.ended.Wait()
}

func (d *disks) run(ctx context.Context) {
	client, err := kubernetes.NewForConfig(d.c.RESTConfig())
	if err != nil {
		d.c.say("disks: %v", err)
		return
	}
	factory := informers.NewSharedInformerFactory(client, 0)
	d.claims = factory.Core().V1().PersistentVolumeClaims().Lister()
	d.volumes = factory.Core().V1().PersistentVolumes().Lister()
	notify := func() {
		select {
		case d.wake <- struct{}{}:
		default:
		}
	}
	handler := cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { notify() }, UpdateFunc: func(any, any) { notify() }, DeleteFunc: func(any) { notify() },
	}
	for _, informer := range []cache.SharedIndexInformer{
		factory.Core().V1().PersistentVolumeClaims().Informer(), factory.Core().V1().PersistentVolumes().Informer(),
	} {
		if _, err := informer.AddEventHandler(handler); err != nil {
			d.c.say("disks: %v", err)
			return
		}
	}
	factory.Start(ctx.Done())
	defer factory.Shutdown()
	factory.WaitForCacheSync(ctx.Done())
	for {
		var again <-chan time.Time
		if err := d.reconcile(ctx); err != nil && ctx.Err() == nil {
			d.c.say("disks: %v", err)
			again = time.After(time.Second)
		}
		if d.waiting {
			again = time.After(time.Second)
		}
		select {
		case <-d.wake:
		case <-again:
		case <-ctx.Done():
			return
		}
	}
}

// reconcile makes what claims want and removes what none wants.
func (d *disks) reconcile(ctx context.Context) error {
	claims, err := d.claims.List(labels.Everything())
	if err != nil {
		return err
	}
	volumes, err := d.volumes.List(labels.Everything())
	if err != nil {
		return err
	}
	var errs []error
	have := map[string]*corev1.PersistentVolume{}
	for _, volume := range volumes {
		if volume.Annotations[createdBy] != provisionerName {
			continue
		}
		have[volume.Name] = volume
		if volume.Status.Phase == corev1.VolumeReleased && volume.DeletionTimestamp == nil {
			errs = append(errs, d.remove(ctx, volume))
		}
	}
	d.waiting = false
	for _, claim := range claims {
		class := claim.Spec.StorageClassName
		if class == nil || !slices.Contains(classes, *class) || claim.DeletionTimestamp != nil {
			continue
		}
		volume := have[volumeName(claim)]
		switch {
		case volume == nil && claim.Spec.VolumeName == "":
			errs = append(errs, d.provision(ctx, claim))
		case volume != nil && claim.Status.Phase == corev1.ClaimBound:
			errs = append(errs, d.grow(ctx, claim, volume))
		}
	}
	return errors.Join(errs...)
}

// createdBy is the annotation by which the controllers know whose a volume is.
const createdBy = "pv.kubernetes.io/provisioned-by"

func volumeName(claim *corev1.PersistentVolumeClaim) string { return "pvc-" + string(claim.UID) }

func (d *disks) provision(ctx context.Context, claim *corev1.PersistentVolumeClaim) error {
	name, size := volumeName(claim), claim.Spec.Resources.Requests[corev1.ResourceStorage]
	make := d.c.makeDisk
	if *claim.Spec.StorageClassName == MemoryClass {
		make = d.c.makeMemory
	}
	if err := make(name, size.Value()); err != nil {
		return err
	}
	volume := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{createdBy: provisionerName}},
		Spec: corev1.PersistentVolumeSpec{
			AccessModes: claim.Spec.AccessModes, StorageClassName: *claim.Spec.StorageClassName,
			Capacity:                      corev1.ResourceList{corev1.ResourceStorage: size},
			PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimDelete,
			ClaimRef: &corev1.ObjectReference{
				APIVersion: "v1", Kind: "PersistentVolumeClaim", Namespace: claim.Namespace, Name: claim.Name, UID: claim.UID,
			},
			PersistentVolumeSource: corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: d.c.mountpoint(name)}},
			NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
				MatchExpressions: []corev1.NodeSelectorRequirement{{
					Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{NodeName},
				}},
			}}}},
		},
	}
	_, err := d.c.client.CoreV1().PersistentVolumes().Create(ctx, volume, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil // the list is behind
	}
	return err
}

func (d *disks) remove(ctx context.Context, volume *corev1.PersistentVolume) error {
	if err := d.c.removeDisk(volume.Name); err != nil {
		return err
	}
	err := d.c.client.CoreV1().PersistentVolumes().Delete(ctx, volume.Name, metav1.DeleteOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// grow makes a volume as large as its claim wants it, or says that this waits.
func (d *disks) grow(ctx context.Context, claim *corev1.PersistentVolumeClaim, volume *corev1.PersistentVolume) error {
	want := claim.Spec.Resources.Requests[corev1.ResourceStorage]
	has := claim.Status.Capacity[corev1.ResourceStorage]
	if want.Cmp(has) <= 0 {
		return nil
	}
	var pending []corev1.PersistentVolumeClaimCondition
	grow := d.c.growDisk
	if volume.Spec.StorageClassName == MemoryClass {
		grow = d.c.growMemory
	}
	switch err := grow(volume.Name, want.Value()); {
	case errors.Is(err, errDiskBusy):
		d.waiting = true
		if len(claim.Status.Conditions) == 1 && claim.Status.Conditions[0].Type == corev1.PersistentVolumeClaimFileSystemResizePending {
			return nil
		}
		pending = []corev1.PersistentVolumeClaimCondition{{
			Type: corev1.PersistentVolumeClaimFileSystemResizePending, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now(),
			Message: "waiting for the pod that uses the volume to end",
		}}
		want = has
	case err != nil:
		return err
	default:
		grown := volume.DeepCopy()
		grown.Spec.Capacity[corev1.ResourceStorage] = want
		if _, err := d.c.client.CoreV1().PersistentVolumes().Update(ctx, grown, metav1.UpdateOptions{}); err != nil {
			return err
		}
	}
	claim = claim.DeepCopy()
	claim.Status.Capacity[corev1.ResourceStorage] = want
	claim.Status.Conditions = pending
	_, err := d.c.client.CoreV1().PersistentVolumeClaims(claim.Namespace).UpdateStatus(ctx, claim, metav1.UpdateOptions{})
	return err
}
