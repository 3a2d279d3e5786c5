//go:build kube

package kube

import (
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	"github.com/remuda/remuda/e2e/cluster"
	"github.com/remuda/remuda/provisioner/kubernetes/kubetest"
)

type object = map[string]any

func groupsOf(t *testing.T, c *cluster.Cluster) dynamic.ResourceInterface {
	t.Helper()
	d, err := dynamic.NewForConfig(c.RESTConfig())
	if err != nil {
		t.Fatal(err)
	}
	return d.Resource(schema.GroupVersionResource{Group: "remuda.dev", Version: "v1alpha1", Resource: "containergroups"}).Namespace(kubetest.Namespace)
}

// member is a good one with other fields.
func member(other object) object {
	m := object{"role": "server", "count": int64(1), "cpu": "500m", "memory": "256Mi", "disk": "1Gi"}
	maps.Copy(m, other)
	return m
}

// group is a good one with other fields of its spec.
func group(name string, other object) *unstructured.Unstructured {
	spec := object{"recipe": object{"name": "redis", "version": "1.1.0"}, "image": "localhost/none:1", "generation": int64(1), "members": []any{member(nil)}}
	maps.Copy(spec, other)
	return &unstructured.Unstructured{Object: object{"apiVersion": "remuda.dev/v1alpha1", "kind": "ContainerGroup", "metadata": object{"name": name}, "spec": spec}}
}

var dryRun = []string{metav1.DryRunAll}

// testSpecs: what cannot be is refused with a sentence that says why.
func testSpecs(t *testing.T, c *cluster.Cluster) {
	groups := groupsOf(t, c)
	if _, err := groups.Create(t.Context(), group("good", nil), metav1.CreateOptions{DryRun: dryRun, FieldValidation: "Strict"}); err != nil {
		t.Fatal(err)
	}
	var many []any
	for i := range 13 {
		many = append(many, member(object{"role": fmt.Sprintf("r%d", i)}))
	}
	for _, bad := range []struct {
		what  string
		group *unstructured.Unstructured
		want  string
	}{
		{"a long name", group(strings.Repeat("a", 33), nil), "the name must be 1 to 32 small letters and digits"},
		{"a name with a hyphen", group("a-b", nil), "the name must be 1 to 32 small letters and digits"},
		{"an unknown field", group("bad", object{"colour": "red"}), `unknown field "spec.colour"`},
		{"no members", group("bad", object{"members": []any{}}), "spec.members in body should have at least 1 items"},
		{"too many members", group("bad", object{"members": many}), "must have at most 8 items"},
		{"a role twice", group("bad", object{"members": []any{member(nil), member(nil)}}), `Duplicate value: {"role":"server"}`},
		{"a strange role", group("bad", object{"members": []any{member(object{"role": "Server"})}}), "spec.members[0].role in body should match"},
		{"none of a role", group("bad", object{"members": []any{member(object{"count": int64(0)})}}), "count in body should be greater than or equal to 1"},
		{"little memory", group("bad", object{"members": []any{member(object{"memory": "1Mi"})}}), "memory must be at least 16Mi"},
		{"little disk", group("bad", object{"members": []any{member(object{"disk": "1Mi"})}}), "disk must be at least 32Mi"},
		{"little cpu", group("bad", object{"members": []any{member(object{"cpu": "1m"})}}), "cpu must be at least 10m"},
		{"memory that is none", group("bad", object{"members": []any{member(object{"memory": "much"})}}), "memory"},
		{"published but not lent", group("bad", object{"published": true}), "only a group that is lent in this generation can be published"},
		{"published in another generation", group("bad", object{"published": true, "lent": int64(1), "generation": int64(2)}), "only a group that is lent in this generation can be published"},
		{"lent before its time", group("bad", object{"lent": int64(2)}), "lent names a generation that has not begun yet"},
		{"no generation", group("bad", object{"generation": int64(0)}), "spec.generation in body should be greater than or equal to 1"},
		{"no image", group("bad", object{"image": ""}), "spec.image in body should be at least 1 chars long"},
		{"a strange recipe", group("bad", object{"recipe": object{"name": "Redis", "version": "1"}}), "spec.recipe.name in body should match"},
	} {
		_, err := groups.Create(t.Context(), bad.group, metav1.CreateOptions{DryRun: dryRun, FieldValidation: "Strict"})
		if err == nil || !strings.Contains(err.Error(), bad.want) {
			t.Errorf("%s: %v, want %q", bad.what, err, bad.want)
		}
	}
	pruned, err := groups.Create(t.Context(), group("bad", object{"colour": "red"}), metav1.CreateOptions{DryRun: dryRun, FieldValidation: "Ignore"})
	if err != nil {
		t.Fatal(err)
	}
	if _, there, _ := unstructured.NestedString(pruned.Object, "spec", "colour"); there {
		t.Error("an unknown field is kept")
	}
}

// testChanges: what a group is cannot be changed, nor does a generation come back.
func testChanges(t *testing.T, c *cluster.Cluster) {
	groups := groupsOf(t, c)
	first := group("changes", object{"generation": int64(3), "image": "localhost/not-there:1", "members": []any{member(object{"ephemeral": true})}})
	if _, err := groups.Create(t.Context(), first, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	defer remove(t, groups, "changes")
	for _, change := range []struct {
		what  string
		other object
		want  string // "" where it may be
	}{
		{"a later generation", object{"generation": int64(4)}, ""},
		{"more memory", object{"members": []any{member(object{"memory": "512Mi"})}}, ""},
		{"another version", object{"recipe": object{"name": "redis", "version": "2.0.0"}}, ""},
		{"lent and published", object{"lent": int64(3), "published": true}, ""},
		{"an earlier generation", object{"generation": int64(2)}, "a generation never comes back"},
		{"another recipe", object{"recipe": object{"name": "mysql", "version": "1.1.0"}}, "a group cannot become another kind of middleware"},
		{"more members", object{"members": []any{member(object{"count": int64(2)})}}, "the number of members cannot change"},
		{"another role", object{"members": []any{member(object{"role": "other"})}}, "the members of a group cannot be other ones; only their sizes can change"},
		{"one more role", object{"members": []any{member(nil), member(object{"role": "other"})}}, "the members of a group cannot be other ones; only their sizes can change"},
	} {
		patch, err := json.Marshal(object{"spec": change.other})
		if err != nil {
			t.Fatal(err)
		}
		_, err = groups.Patch(t.Context(), "changes", types.MergePatchType, patch, metav1.PatchOptions{DryRun: dryRun})
		switch {
		case change.want == "" && err != nil:
			t.Errorf("%s: %v", change.what, err)
		case change.want != "" && (err == nil || !strings.Contains(err.Error(), change.want)):
			t.Errorf("%s: %v, want %q", change.what, err, change.want)
		}
	}
}

// testExamples: the groups made by hand are taken, and the controller makes their pods and removes them.
func testExamples(t *testing.T, c *cluster.Cluster) {
	files, err := filepath.Glob(filepath.Join(kubetest.Root(t), "manifests/examples/containergroup-*.yaml"))
	if err != nil || len(files) < 2 {
		t.Fatalf("examples %v: %v", files, err)
	}
	for _, file := range files {
		kubectl(t, c, "apply", "--validate=strict", "-f", file)
	}
	groups := groupsOf(t, c)
	for _, name := range []string{"byhand1", "byhand2"} {
		await(t, "the pod of "+name, func() bool {
			list, err := c.Client().CoreV1().Pods(kubetest.Namespace).List(t.Context(), metav1.ListOptions{LabelSelector: "remuda.dev/group=" + name})
			return err == nil && len(list.Items) == 1
		})
		remove(t, groups, name)
		list, err := c.Client().CoreV1().Pods(kubetest.Namespace).List(t.Context(), metav1.ListOptions{LabelSelector: "remuda.dev/group=" + name})
		if err != nil || len(list.Items) > 0 {
			t.Errorf("group %s is gone and has %d pods: %v", name, len(list.Items), err)
		}
	}
}

func remove(t *testing.T, groups dynamic.ResourceInterface, name string) {
	t.Helper()
	if err := groups.Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	await(t, "the end of "+name, func() bool {
		_, err := groups.Get(t.Context(), name, metav1.GetOptions{})
		return err != nil
	})
}

func await(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !done(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s does not come", what)
		}
	}
}
