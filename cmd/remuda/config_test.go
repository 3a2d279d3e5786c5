package main

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/remuda/remuda/provisioner/agent"
)

// The example must show every key with its default.
func TestExampleIsTheDefault(t *testing.T) {
	b, err := os.ReadFile("../../manifests/remuda.yaml")
	if err != nil {
		t.Fatal(err)
	}
	got := Config{}
	if err := got.decode("remuda.yaml", b); err != nil {
		t.Fatal(err)
	}
	got.origin = origin{}
	want := DefaultConfig()
	want.Recipes, want.Offerings, want.Egress.Deny = []string{}, []string{}, []string{}
	want.Pools = map[string]Pool{"default": {Floor: ptr(1), Ceiling: ptr(20), Keep: ptr(Duration(5 * time.Minute))}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("example is\n%+v, default is\n%+v", got, want)
	}
	for i := range reflect.TypeFor[Config]().NumField() {
		key := reflect.TypeFor[Config]().Field(i).Tag.Get("yaml")
		if key != "" && !strings.Contains(string(b), "\n"+key+":") {
			t.Errorf("the example does not show %q", key)
		}
	}
}

// A Secret that was made from a file has its line end in the variable.
func TestEnvironmentIsTrimmed(t *testing.T) {
	c := DefaultConfig()
	c.environment(func(name string) string {
		return map[string]string{"REMUDA_DATABASE_URL": "postgres://a@b/c\n", "REMUDA_USERNAME": "u\n", "REMUDA_STATE_DIR": " \n"}[name]
	})
	if err := c.Validate(); err != nil || c.DatabaseURL != "postgres://a@b/c" || c.Username != "u" || c.StateDir != "/var/lib/remuda" {
		t.Errorf("%q, %q, %q: %v", c.DatabaseURL, c.Username, c.StateDir, err)
	}
}

// What the overlays give broker and controller is good.
func TestOverlays(t *testing.T) {
	for _, overlay := range []string{"dev", "production"} {
		file := "../../manifests/overlays/" + overlay + "/remuda.yaml"
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		c := DefaultConfig()
		err = errors.Join(c.decode(file, b), c.Validate())
		_, recipesErr := loadRecipes(c)
		if err := errors.Join(err, recipesErr); err != nil {
			t.Error(err)
		}
	}
}

func TestDecodeNamesEveryFaultWithItsLine(t *testing.T) {
	c := DefaultConfig()
	err := c.decode("x.yaml", []byte("listen: 1.2.3.4:5\nlissten: x\npublish: {hots: a}\nparallel: {creates: many}\n"))
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"x.yaml:2", "lissten", "x.yaml:3", "hots", "x.yaml:4"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in %q", want, err)
		}
	}
}

func TestValidateNamesEveryFault(t *testing.T) {
	c := DefaultConfig()
	c.Listen, c.Username, c.StateDir, c.Publish.Ports = "nowhere", "a:b", "relative", "9-1"
	c.Pools = map[string]Pool{"default": {}, "mysql/small": {Floor: ptr(9), Ceiling: ptr(3)}}
	c.DatabaseURL = "mysql://x"
	c.Egress.Deny = []string{"10.0.0.0/8", "10.0.0.1", "::ffff:10.0.0.0/104"}
	c.Backend, c.Kubernetes.CPULimit, c.Kubernetes.PodSecurity = "kubernetes", "0", "privileged"
	err := c.Validate()
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"kubernetes.image", `kubernetes.cpu_limit: "0" is neither plan nor none`, "kubernetes.pod_security", "listen", "username", "state_dir", "publish.ports", "pools.mysql/small", "database_url", `"10.0.0.1"`, `"::ffff:10.0.0.0/104"`} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in %q", want, err)
		}
	}
}

// The database is given by its URL or in a file, and its password is never shown.
func TestDatabaseURL(t *testing.T) {
	const secret = "s3cret"
	file := filepath.Join(t.TempDir(), "url")
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	good := "postgres://u:" + secret + "@db.example/remuda?sslmode=verify-full"
	write(good + "\n")
	for _, c := range []struct {
		url, file, text string
		ok              bool
	}{
		{"", "", "", true},
		{"sqlite:///x", "", "", true},
		{good, "", "", true},
		{"", file, good, true},
		{good, file, "", false},
		{"mysql://u:" + secret + "@h/x", "", "", false},
		{"postgres://u:" + secret + "@h:port/x", "", "", false},
		{"", file + "-not", "", false},
		{"", file, "postgres://u:" + secret + "%zz@h/x", false},
	} {
		if c.text != "" {
			write(c.text)
		}
		config := DefaultConfig()
		config.DatabaseURL, config.DatabaseURLFile = c.url, c.file
		err := config.Validate()
		if (err == nil) != c.ok || err != nil && strings.Contains(err.Error(), secret) {
			t.Errorf("%q, %q: %v", c.url, c.file, err)
		}
	}
}

// The way out of an instance never leads to the broker itself.
func TestEgressKnowsTheBroker(t *testing.T) {
	for listen, want := range map[string]agent.OwnPorts{
		"127.0.0.1:8080": {Address: netip.MustParseAddr("127.0.0.1"), First: 8080, Last: 8080},
		"10.1.2.3:1":     {Address: netip.MustParseAddr("10.1.2.3"), First: 1, Last: 1},
		":8080":          {First: 8080, Last: 8080}, "0.0.0.0:8080": {First: 8080, Last: 8080}, "[::]:8080": {First: 8080, Last: 8080},
		"broker.example:8080": {First: 8080, Last: 8080}, // at any address of the host
	} {
		c := DefaultConfig()
		c.Listen, c.Egress.Deny = listen, []string{"10.9.0.0/16"}
		e := c.egress()
		if len(e.Own) != 1 || e.Own[0] != want || len(e.Deny) != 1 || e.Deny[0] != netip.MustParsePrefix("10.9.0.0/16") {
			t.Errorf("%s: %+v", listen, e)
		}
	}
}

// What is wrong with a value is said where the value was given.
func TestFaultsHaveTheirPlace(t *testing.T) {
	c := DefaultConfig()
	err := c.decode("x.yaml", []byte("image_dir: a\nstate_dir: b\npools:\n  default: {floor: 1}\n  no/small:\n    ceiling: 0\noperation_memory: soon\nprovision_timeout: later\nrecipes: [/none]\nofferings: [none]\n\nparallel: {creates: 0}\n"))
	c.environment(func(name string) string { return map[string]string{"REMUDA_STATE_DIR": "c"}[name] })
	_, recipesErr := loadRecipes(c)
	err = errors.Join(err, c.Validate(), recipesErr)
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{
		"x.yaml:1: image_dir", "REMUDA_STATE_DIR: state_dir", "x.yaml:5: pools.no/small", "x.yaml:5: pools: there is no plan",
		"x.yaml:7: \"soon\"", "x.yaml:8: \"later\"", "x.yaml:9: recipes", "x.yaml:10: offerings", "x.yaml:12: parallel",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in %q", want, err)
		}
	}
}

func TestFaultOfAPlanWithADot(t *testing.T) {
	c := DefaultConfig()
	err := errors.Join(c.decode("x.yaml", []byte("pools:\n  default: {}\n  a/1.0: {ceiling: 0}\n")), c.Validate())
	if err == nil || !strings.HasPrefix(err.Error(), "x.yaml:3: ") {
		t.Errorf("error %v", err)
	}
}

func TestLimitsHaveTheirPlace(t *testing.T) {
	c := DefaultConfig()
	err := c.decode("x.yaml", []byte("limits:\n  per_space: -1\n  offerings:\n    mysql: {instances: 3, plans: {small: {per_organization: 1}, huge: {instances: 1}}}\n    none: {per_space: 1}\n    redis:\n      plans:\n        small:\n          per_space: -2\n"))
	_, recipesErr := loadRecipes(c)
	err = errors.Join(err, c.Validate(), recipesErr)
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{
		"x.yaml:2: limits.per_space: -1", "x.yaml:4: limits: offering mysql has no plan \"huge\"; it has small",
		"x.yaml:5: limits: there is no offering \"none\"", "x.yaml:9: limits.offerings.redis.plans.small.per_space",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in %q", want, err)
		}
	}
	got := c.Limits.forBroker()
	if n := got.Offerings["mysql"].Instances; n == nil || *n != 3 || got.Instances != nil {
		t.Errorf("limits are %+v", got)
	}
	if n := got.Offerings["mysql"].Plans["small"].PerOrganization; n == nil || *n != 1 {
		t.Errorf("limits of the plan are %+v", got.Offerings["mysql"].Plans)
	}
	if err := c.decode("x.yaml", []byte("limits: {per_spaces: 1}")); err == nil || !strings.Contains(err.Error(), "x.yaml:1") {
		t.Errorf("unknown key: %v", err)
	}
}

func TestPoolLimits(t *testing.T) {
	c := DefaultConfig()
	c.Pools = map[string]Pool{"default": {Floor: ptr(2)}, "mysql/small": {Ceiling: ptr(7)}}
	if floor, ceiling, keep := c.poolLimits("mysql/small"); floor != 2 || ceiling != 7 || keep != 5*time.Minute {
		t.Errorf("got %d, %d, %s", floor, ceiling, keep)
	}
	if _, ceiling, _ := c.poolLimits("redis/small"); ceiling != 20 {
		t.Errorf("default ceiling is %d", ceiling)
	}
}

func FuzzDecodeConfig(f *testing.F) {
	f.Add([]byte("listen: 127.0.0.1:1\npools: {default: {floor: 1, keep: 5m}}"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c := DefaultConfig()
		if c.decode("x", b) == nil {
			_ = c.Validate()
		}
	})
}
