//go:build kube

package e2e

import (
	"bufio"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/remuda/remuda/catalog"
	"github.com/remuda/remuda/provisioner"
	"github.com/remuda/remuda/provisioner/backendtest"
	"github.com/remuda/remuda/provisioner/kubernetes"
	"github.com/remuda/remuda/provisioner/kubernetes/api/v1alpha1"
	"github.com/remuda/remuda/provisioner/kubernetes/kubetest"
	"github.com/remuda/remuda/provisioner/local"
)

// BenchmarkCluster measures what 'make bench-kube' prints. Each number stands beside what it is
// compared with, from the same run: the machines that run this are noisy.
func BenchmarkCluster(b *testing.B) {
	i := install(b)
	b.Run("FirstQuery", i.firstQuery)
	b.Run("Parallel", i.parallelProvisions)
	b.Run("Writes", i.writes)
	b.Run("Reset", i.resets)
}

// bare is a pod of the members' image that does what somebody without a pool would do.
const bare = `
apiVersion: v1
kind: Pod
metadata: {name: NAME, namespace: default}
spec:
  automountServiceAccountToken: false
  terminationGracePeriodSeconds: 1
  containers:
    - name: mysql
      image: ` + kubetest.Image + `
      imagePullPolicy: Never
      command:
        - /bin/sh
        - -euc
        - |
          mariadb-install-db --no-defaults --datadir=/data/d --user=root --skip-test-db >/dev/null
          echo "CREATE USER bench IDENTIFIED BY 'bench';" > /data/init
          exec mariadbd --no-defaults --user=root --datadir=/data/d --socket=/data/s --pid-file=/data/p --init-file=/data/init --bind-address=0.0.0.0
      volumeMounts: [{name: data, mountPath: /data}]
  volumes: [{name: data, emptyDir: {}}]
`

// firstQuery: from the PUT, or from kubectl create, to the answer of the first query.
func (i *installation) firstQuery(b *testing.B) {
	i.t = b
	p := i.plan("mysql", "small")
	var warm, cold []time.Duration
	for n := range 10 {
		id := fmt.Sprintf("first-%d", n)
		i.awaitWarm("mysql", 1)
		began := time.Now()
		i.want("provision", i.provision(id, p), 201)
		c, res := i.bind(id, id+"-b", p)
		i.want("bind", res, 201)
		if err := selectOne(func() (*sql.DB, error) { return openMySQL(c) }); err != nil {
			b.Fatal(err)
		}
		warm = append(warm, time.Since(began))
		i.awaitGone(id, p)
	}
	file := b.TempDir() + "/pod.yaml"
	for n := range 3 {
		name := fmt.Sprintf("bare-%d", n)
		i.write(file, strings.Replace(bare, "NAME", name, 1))
		began := time.Now()
		i.kubectl("create", "-f", file)
		address := ""
		eventually(b, time.Minute, func() error {
			if address == "" {
				address = strings.TrimSpace(i.kubectl("get", "pod", name, "-o", "jsonpath={.status.podIP}"))
			}
			if address == "" {
				return fmt.Errorf("%s has no address", name)
			}
			return selectOne(func() (*sql.DB, error) { return sql.Open("mysql", "bench:bench@tcp("+address+":3306)/") })
		})
		cold = append(cold, time.Since(began))
		i.kubectl("delete", "pod", name, "--wait=false")
	}
	ours, theirs := middle(warm), middle(cold)
	b.ReportMetric(ms(ours), "ms/warm")
	b.ReportMetric(ms(theirs), "ms/bare-pod")
	b.ReportMetric(float64(theirs)/float64(ours), "times-faster(aim≥10)")
	b.ReportMetric(0, "ns/op")
}

func selectOne(open func() (*sql.DB, error)) error {
	db, err := open()
	if err != nil {
		return err
	}
	defer db.Close()
	var one int
	return db.QueryRow("SELECT 1").Scan(&one)
}

// awaitWarm waits for so many warm groups of a recipe.
func (i *installation) awaitWarm(recipe string, n int) {
	i.t.Helper()
	eventually(i.t, 5*time.Minute, func() error {
		warm := 0
		for _, cg := range i.resources() {
			if cg.Spec.Recipe.Name == recipe && cg.Status.Phase == v1alpha1.PhaseWarm {
				warm++
			}
		}
		if warm < n {
			return fmt.Errorf("%d groups of %s are warm, want %d", warm, recipe, n)
		}
		return nil
	})
	time.Sleep(100 * time.Millisecond) // the store learns of it just after
}

// parallelProvisions: 8 at a time, each on a warm group, and then 8 clients that go on without a pause,
// where resets cannot keep up.
func (i *installation) parallelProvisions(b *testing.B) {
	i.t = b
	p := i.plan("redis", "small")
	const clients, rounds = 8, 13
	for k := range clients + 4 { // the pool follows demand
		i.awaitProvisioned(fmt.Sprintf("grow-%d", k), p)
	}
	for k := range clients + 4 {
		i.awaitGone(fmt.Sprintf("grow-%d", k), p)
	}
	var mu sync.Mutex
	var took, reached []time.Duration
	cold := 0
	life := func(id string) {
		began := time.Now()
		a := i.provision(id, p)
		answered := time.Since(began)
		if a.status != 201 {
			i.awaitProvisioned(id, p)
		}
		c, res := i.bind(id, id+"-b", p)
		i.want("bind", res, 201)
		err := use("redis", c, "x")
		mu.Lock()
		if err != nil {
			b.Error(err)
		}
		if a.status == 201 {
			took, reached = append(took, answered), append(reached, time.Since(began))
		} else {
			cold++
		}
		mu.Unlock()
		i.awaitGone(id, p)
	}
	var wg sync.WaitGroup
	for round := range rounds {
		i.awaitWarm("redis", clients)
		for k := range clients {
			wg.Go(func() { life(fmt.Sprintf("round-%d-%d", round, k)) })
		}
		wg.Wait()
	}
	b.ReportMetric(ms(percentile(took, 50)), "ms/PUT-p50")
	b.ReportMetric(ms(percentile(took, 99)), "ms/PUT-p99(aim≤300)")
	b.ReportMetric(ms(percentile(reached, 50)), "ms/first-command-p50")
	b.ReportMetric(ms(percentile(reached, 99)), "ms/first-command-p99")
	b.ReportMetric(float64(cold), "cold-of-104")
	began, before := time.Now(), len(took)+cold
	for k := range clients {
		wg.Go(func() {
			for n := 0; time.Since(began) < 20*time.Second; n++ {
				life(fmt.Sprintf("on-%d-%d", k, n))
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(len(took)+cold-before)/time.Since(began).Seconds(), "lives/s")
	b.ReportMetric(0, "ns/op")
}

// writes counts the objects that a whole life of an instance on a warm group writes, by the
// API server's audit log: ours, and the endpoints that the cluster itself writes.
func (i *installation) writes(b *testing.B) {
	i.t = b
	p := i.plan("redis", "small")
	i.awaitWarm("redis", 2)
	time.Sleep(3 * time.Second)
	offset := size(b, i.cluster.AuditLog())
	const lives = 10
	for n := range lives {
		id := fmt.Sprintf("life-%d", n)
		i.awaitWarm("redis", 2)
		i.want("provision", i.provision(id, p), 201)
		_, res := i.bind(id, id+"-b", p)
		i.want("bind", res, 201)
		i.want("unbind", i.unbind(id, id+"-b", p), 200)
		i.awaitGone(id, p)
	}
	i.awaitWarm("redis", 2)
	time.Sleep(time.Second)
	ours, others, reads := i.count(b, offset)
	b.ReportMetric(float64(ours)/lives, "writes/life")
	b.ReportMetric(float64(others)/lives, "endpoint-writes/life")
	b.ReportMetric(float64(reads)/lives, "reads/life")
	b.ReportMetric(0, "ns/op")
}

func size(b *testing.B, file string) int64 {
	info, err := os.Stat(file)
	if err != nil {
		b.Fatal(err)
	}
	return info.Size()
}

// count reads the audit log from the offset.
func (i *installation) count(b *testing.B, offset int64) (ours, others, reads int) {
	f, err := os.Open(i.cluster.AuditLog())
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Seek(offset, io.SeekStart); err != nil {
		b.Fatal(err)
	}
	kinds := map[string]int{}
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e struct {
			Verb      string
			User      struct{ Username string }
			ObjectRef struct{ Namespace, Resource, Subresource string }
		}
		if json.Unmarshal(lines.Bytes(), &e) != nil || e.ObjectRef.Namespace != kubetest.Namespace {
			continue
		}
		mine := strings.HasPrefix(e.User.Username, "system:serviceaccount:remuda:")
		switch {
		case slices.Contains([]string{"create", "update", "patch", "delete"}, e.Verb) && mine:
			ours++
			kinds[e.Verb+" "+e.ObjectRef.Resource+"/"+e.ObjectRef.Subresource]++
		case slices.Contains([]string{"create", "update", "patch", "delete"}, e.Verb) && e.ObjectRef.Resource == "endpointslices":
			others++
		case mine && e.Verb != "watch":
			reads++
		}
	}
	b.Logf("writes: %v", kinds)
	return ours, others, reads
}

// resets: the same definitions on the local back end and on pods, with and without a CPU limit, from the
// beginning of the cut-off until the group is warm again.
func (i *installation) resets(b *testing.B) {
	i.t = b
	recipes, err := catalog.Builtin()
	if err != nil {
		b.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	inPods := func(limit v1alpha1.CPULimit) provisioner.Backend {
		config := i.cluster.RESTConfig()
		config.QPS, config.Burst = 200, 400
		back, err := kubernetes.New(kubernetes.Options{Config: config, Namespace: kubetest.Namespace, System: kubetest.System, Broker: "bench", CPULimit: limit, Logger: log})
		if err != nil {
			b.Fatal(err)
		}
		go func() { _ = back.Run(ctx) }()
		return back
	}
	limited, bursting := inPods(v1alpha1.CPULimitPlan), inPods(v1alpha1.CPULimitNone)
	here, err := local.New(local.Options{StateDir: b.TempDir(), ImageDir: backendtest.ImageDir(), Agent: kubetest.Binary() + "-agent", Logger: log,
		Publish: local.Publish{Host: "127.0.0.1", FirstPort: 21000, LastPort: 21999}})
	if err != nil {
		b.Fatal(err)
	}
	for _, r := range recipes {
		if !slices.Contains([]string{"mysql", "postgresql", "redis", "http"}, r.Name) {
			continue
		}
		of := func(back provisioner.Backend, image string) time.Duration {
			g := provisioner.Group{ID: "bench" + r.Name, Generation: 1, Definition: provisioner.NewDefinition(r, r.Offering.Plans[0], image)}
			defer func() { _ = back.Close(ctx, g.ID) }() // also when it is half there
			if _, err := back.Create(ctx, g); err != nil {
				b.Fatal(err)
			}
			var took []time.Duration
			for range 12 {
				if err := back.Publish(ctx, g); err != nil {
					b.Fatal(err)
				}
				time.Sleep(700 * time.Millisecond) // the next disk is prepared meanwhile, as with tenants
				g.Generation++
				began := time.Now()
				if err := back.Cutoff(ctx, g.ID, g.Generation); err != nil {
					b.Fatal(err)
				}
				if _, err := back.Reset(ctx, g); err != nil {
					b.Fatal(err)
				}
				took = append(took, time.Since(began))
			}
			return middle(took)
		}
		local := of(here, backendtest.Image(b, recipes...))
		b.ReportMetric(ms(local), "ms/"+r.Name+"-local")
		report := func(name string, pod time.Duration) {
			b.ReportMetric(ms(pod), "ms/"+name)
			b.ReportMetric(float64(pod)/float64(local), name+"-ratio(aim≤1.5)")
		}
		report(r.Name, of(limited, kubetest.Image))
		report(r.Name+"-no-cpu-limit", of(bursting, kubetest.Image))
	}
	b.ReportMetric(0, "ns/op")
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func middle(list []time.Duration) time.Duration { return percentile(list, 50) }

// percentile of the list, which it sorts.
func percentile(list []time.Duration, p int) time.Duration {
	if len(list) == 0 {
		return 0
	}
	slices.Sort(list)
	return list[min(len(list)*p/100, len(list)-1)]
}
