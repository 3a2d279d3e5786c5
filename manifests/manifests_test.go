// Package manifests tests what can be said of the manifests without a cluster: kustomize and
// Helm make the same of them, and the examples are what they say.
package manifests

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	yaml3 "go.yaml.in/yaml/v3"
	"sigs.k8s.io/yaml"

	"github.com/remuda/remuda/catalog"
	"github.com/remuda/remuda/provisioner/kubernetes"
	"github.com/remuda/remuda/provisioner/kubernetes/api/v1alpha1"
)

type object = map[string]any

const chart = "chart/remuda"

// tool runs a program of tools-manifests.mod.
func tool(t *testing.T, args ...string) (string, error) {
	t.Helper()
	if testing.Short() {
		t.Skip("building helm and kustomize takes minutes the first time")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", append([]string{"tool", "-modfile=../tools-manifests.mod"}, args...)...)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%v: %w\n%s%s", args, err, said.String(), out.String())
	}
	return out.String(), nil
}

func helm(t *testing.T, args ...string) []object {
	t.Helper()
	out, err := tool(t, append([]string{"helm", "template", "remuda", chart, "--namespace=remuda", "--kube-version=1.34.0", "--include-crds"}, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	return objects(t, out)
}

// kustomize builds an overlay with components.
func kustomize(t *testing.T, overlay string, components ...string) []object {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "manifests")
	if err := os.CopyFS(dir, os.DirFS(".")); err != nil {
		t.Fatal(err)
	}
	secrets := filepath.Join(dir, "overlays/dev/secrets")
	if err := os.MkdirAll(secrets, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"username", "password", "seal.key"} {
		if err := os.WriteFile(filepath.Join(secrets, name), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(dir, "overlays", overlay, "kustomization.yaml")
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	for _, c := range components { // as a reader would: without the comment signs
		text = regexp.MustCompile(`(?m)^#(   - \.\./\.\./components/`+c+`)`).ReplaceAllString(text, " $1")
		text = strings.Replace(text, "# components:", "components:", 1)
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := tool(t, "kustomize", "build", filepath.Dir(file))
	if err != nil {
		t.Fatal(err)
	}
	return objects(t, out)
}

func objects(t *testing.T, text string) []object {
	t.Helper()
	var out []object
	for d := yaml3.NewDecoder(strings.NewReader(text)); ; {
		var o object
		err := d.Decode(&o)
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		if o != nil {
			out = append(out, o)
		}
	}
}

// TestChart: with the same values Helm makes what kustomize makes.
func TestChart(t *testing.T) {
	for _, c := range []struct {
		overlay    string
		components []string
		values     []string
		only       []string // what the one has alone: Helm's user makes it before
	}{
		{"production", nil, nil, []string{"Namespace//remuda", "Namespace//remuda-groups"}},
		{"production", []string{"people", "monitoring"}, []string{"--set=groups.createNamespace=true,people.enabled=true,serviceMonitor.enabled=true"}, []string{"Namespace//remuda"}},
		{"dev", nil, []string{"--values=" + chart + "/values-dev.yaml"}, []string{"Namespace//remuda", "Namespace//remuda-groups", "Secret/remuda/remuda-platform", "Secret/remuda/remuda-seal"}},
	} {
		t.Run(c.overlay, func(t *testing.T) {
			want, got := plain(t, kustomize(t, c.overlay, c.components...)), plain(t, helm(t, c.values...))
			for _, name := range c.only {
				if want[name] == nil {
					t.Errorf("kustomize makes no %s", name)
				}
				delete(want, name)
			}
			for _, name := range slices.Sorted(maps.Keys(want)) {
				if !reflect.DeepEqual(want[name], got[name]) {
					t.Errorf("%s\n%s", name, differences(text(want[name]), text(got[name])))
				}
			}
			for name := range got {
				if want[name] == nil {
					t.Errorf("only Helm makes %s", name)
				}
			}
			if n := len(c.components); n > 0 && (want["ClusterRole//remuda-containergroups-view"] == nil || want["ServiceMonitor/remuda/remuda-broker"] == nil) {
				t.Error("the components are not there")
			}
		})
	}
}

// TestRestricted: the component and the chart's value let the namespace of the groups enforce the level.
func TestRestricted(t *testing.T) {
	const namespace = "Namespace//remuda-groups"
	want := plain(t, kustomize(t, "production", "restricted"))[namespace]
	got := plain(t, helm(t, "--set=groups.createNamespace=true,groups.podSecurity=restricted"))
	if !reflect.DeepEqual(want, got[namespace]) {
		t.Errorf("%s", differences(text(want), text(got[namespace])))
	}
	labels, _ := want["metadata"].(object)["labels"].(object)
	for _, mode := range []string{"enforce", "warn", "audit"} {
		if labels["pod-security.kubernetes.io/"+mode] != "restricted" {
			t.Errorf("labels %v", labels)
		}
	}
	k := got["ConfigMap/remuda/remuda"]["data"].(object)["kubernetes"].(object)
	if k["pod_security"] != "restricted" {
		t.Errorf("settings %v", k)
	}
}

// differences are the lines that are in one text only.
func differences(kustomize, helm string) string {
	var out strings.Builder
	for _, side := range []struct{ name, in, other string }{{"kustomize", kustomize, helm}, {"helm", helm, kustomize}} {
		others := strings.Split(side.other, "\n")
		for line := range strings.SplitSeq(side.in, "\n") {
			if !slices.Contains(others, line) {
				fmt.Fprintf(&out, "%-9s %s\n", side.name, line)
			}
		}
	}
	if out.Len() == 0 {
		return "the same lines in another order:\n" + kustomize
	}
	return out.String()
}

func text(v any) string {
	b, err := yaml.Marshal(v)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// hashed is a name with kustomize's hash, which is written with these signs.
var hashed = regexp.MustCompile(`^remuda-[bcdfghkmt2456789]{10}$`)

// plain gives objects by their names, without what may differ: kustomize's hash in the name of the
// ConfigMap, Helm's labels and annotations, and the form of the settings.
func plain(t *testing.T, list []object) map[string]object {
	t.Helper()
	out := map[string]object{}
	for _, o := range list {
		o = visit(o, func(key string, v any) (any, bool) {
			s, _ := v.(string)
			switch {
			case hashed.MatchString(s):
				return "remuda", true
			case strings.HasPrefix(key, "helm.sh/"), key == "checksum/config", key == "app.kubernetes.io/managed-by":
				return nil, false
			}
			return v, true
		}).(object)
		if o["kind"] == "ConfigMap" {
			o["data"] = settings(t, o["data"].(object)["remuda.yaml"].(string))
		}
		meta := o["metadata"].(object)
		namespace, _ := meta["namespace"].(string)
		name := fmt.Sprintf("%s/%s/%s", o["kind"], namespace, meta["name"])
		if out[name] != nil {
			t.Errorf("%s is there twice", name)
		}
		out[name] = o
	}
	return out
}

// visit copies v with what f makes of each value, and without what f does not keep and labels and
// annotations that are empty. Lists of things with names are sorted by them.
func visit(v any, f func(key string, v any) (any, bool)) any {
	switch v := v.(type) {
	case object:
		out := object{}
		for key, in := range v {
			in, keep := f(key, in)
			if m, ok := in.(object); ok && (key == "labels" || key == "annotations") {
				in = visit(m, f)
				keep = keep && len(in.(object)) > 0
			}
			if keep {
				out[key] = visit(in, f)
			}
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = visit(v[i], f)
		}
		slices.SortStableFunc(out, func(a, b any) int { return strings.Compare(named(a), named(b)) })
		return out
	}
	return v
}

func named(v any) string {
	m, _ := v.(object)
	name, _ := m["name"].(string)
	return name
}

// settings are all of them, with the defaults.
func settings(t *testing.T, given string) object {
	t.Helper()
	b, err := os.ReadFile("remuda.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var all, over object
	if err := errors.Join(yaml3.Unmarshal(b, &all), yaml3.Unmarshal([]byte(given), &over)); err != nil {
		t.Fatal(err)
	}
	merge(all, over)
	return all
}

func merge(into, over object) {
	for key, v := range over {
		in, ok1 := into[key].(object)
		m, ok2 := v.(object)
		if ok1 && ok2 {
			merge(in, m)
		} else {
			into[key] = v
		}
	}
}

// TestValues: Helm's own check is content, and wrong values are refused with a reason.
func TestValues(t *testing.T) {
	for _, args := range [][]string{nil, {"--values=" + chart + "/values-dev.yaml"}, {"--set=config.log_level=debug,groups.storageClass=fast"}} {
		if _, err := tool(t, append([]string{"helm", "lint", "--strict", "--kube-version=1.34.0", chart}, args...)...); err != nil {
			t.Error(err)
		}
	}
	for set, want := range map[string]string{
		"database.secret=":              "broker.replicas must be 1 without database.secret",
		"brokers.replicas=3":            "brokers",
		"broker.replicas=many":          "replicas",
		"groups.cpuLimit=half":          "cpuLimit",
		"groups.address=name":           "address",
		"pools.mysql/small.ceiling=0":   "ceiling",
		"members.image=":                "image",
		"groups.namespace=Remuda":       "namespace",
		"networkPolicy.enabled=perhaps": "networkPolicy",
	} {
		_, err := tool(t, "helm", "template", "remuda", chart, "--namespace=remuda", "--kube-version=1.34.0", "--set="+set)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", set, err, want)
		}
	}
}

// TestGroups: the controller can make the groups of the examples.
func TestGroups(t *testing.T) {
	files, err := filepath.Glob("examples/containergroup-*.yaml")
	if err != nil || len(files) < 2 {
		t.Fatalf("examples %v: %v", files, err)
	}
	recipes, err := catalog.Builtin()
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var group v1alpha1.ContainerGroup
		if err := yaml.UnmarshalStrict(b, &group); err != nil {
			t.Errorf("%s: %v", file, err)
			continue
		}
		if _, err := kubernetes.DefinitionOf(group.Spec, recipes); err != nil {
			t.Errorf("%s: %v", file, err)
		}
	}
}
