package main

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/remuda/remuda/catalog"
	"github.com/remuda/remuda/provisioner/agent"
	"github.com/remuda/remuda/provisioner/local"
)

// Config is everything an operator can set. manifests/remuda.yaml shows every
// key with its default and an explanation.
type Config struct {
	Listen       string `yaml:"listen"`        // host:port of the API
	Username     string `yaml:"username"`      // of the platform
	PasswordFile string `yaml:"password_file"` // default <state_dir>/password, made with a random password
	Backend      string `yaml:"backend"`       // where groups live: local or kubernetes
	StateDir     string `yaml:"state_dir"`
	ImageDir     string `yaml:"image_dir"`
	DatabaseURL  string `yaml:"database_url"` // "" is SQLite in the state folder
	// DatabaseURLFile holds the URL instead, so that a password is in no other file.
	DatabaseURLFile string           `yaml:"database_url_file"`
	SealKeyFile     string           `yaml:"seal_key_file"`
	Recipes         []string         `yaml:"recipes"`   // folders with the operator's own recipes
	Offerings       []string         `yaml:"offerings"` // which to offer; empty is all
	Publish         PublishConfig    `yaml:"publish"`
	Egress          EgressConfig     `yaml:"egress"`
	Kubernetes      KubernetesConfig `yaml:"kubernetes"`
	Pools           map[string]Pool  `yaml:"pools"`
	Limits          Limits           `yaml:"limits"`
	Parallel        Parallel         `yaml:"parallel"`
	Audit           AuditConfig      `yaml:"audit"`
	Dashboard       DashboardConfig  `yaml:"dashboard"`
	// OperationMemory is how long finished operations can be polled.
	OperationMemory Duration `yaml:"operation_memory"`
	// ProvisionTimeout is how long an instance waits for a group before its create fails.
	ProvisionTimeout Duration `yaml:"provision_timeout"`
	LogLevel         string   `yaml:"log_level"` // debug, info, warn or error

	password     string // from REMUDA_PASSWORD
	clientSecret string // from dashboard.oauth2.client_secret_file
	origin       origin
}

// PublishConfig says where instances are reached.
type PublishConfig struct {
	Host   string `yaml:"host"`   // name or address that credentials carry
	Listen string `yaml:"listen"` // IP address to listen on
	Ports  string `yaml:"ports"`  // "first-last"
}

// EgressConfig says where instances that reach out (gateways) do not.
type EgressConfig struct {
	Deny []string `yaml:"deny"` // networks, as CIDR
}

// egress adds the broker's own address, at all of the host's when it is a name.
func (c *Config) egress() local.Egress {
	var e local.Egress
	for _, text := range c.Egress.Deny {
		if p, err := netip.ParsePrefix(text); err == nil { // Validate says so if not
			e.Deny = append(e.Deny, p)
		}
	}
	host, text, _ := net.SplitHostPort(c.Listen)
	if port, err := net.LookupPort("tcp", text); err == nil {
		address, _ := netip.ParseAddr(host)
		if address = address.Unmap(); address.IsUnspecified() {
			address = netip.Addr{}
		}
		e.Own = append(e.Own, agent.OwnPorts{Address: address, First: port, Last: port})
	}
	return e
}

// Pool sizes the pool of one plan. Unset keys come from the entry "default".
type Pool struct {
	Floor   *int      `yaml:"floor"`   // groups kept warm at least; 0 is always cold
	Ceiling *int      `yaml:"ceiling"` // groups at most, claimed ones included
	Keep    *Duration `yaml:"keep"`    // how long a returned group stays warm above the target
}

// AuditConfig is about the record of who changed what.
type AuditConfig struct {
	Keep Duration `yaml:"keep"`
}

// Parallel bounds background work on groups.
type Parallel struct {
	Creates int `yaml:"creates"`
	Resets  int `yaml:"resets"`
}

// Duration is a time.Duration written like "90s" or "5m".
type Duration time.Duration

// UnmarshalYAML reads a Go duration.
func (d *Duration) UnmarshalYAML(n *yaml.Node) error {
	v, err := time.ParseDuration(n.Value)
	if err != nil {
		return &yaml.TypeError{Errors: []string{fmt.Sprintf("line %d: %q is not a duration like 90s or 5m", n.Line, n.Value)}}
	}
	*d = Duration(v)
	return nil
}

func ptr[T any](v T) *T { return &v }

// DefaultConfig is what an empty file and an empty environment mean.
func DefaultConfig() Config {
	return Config{
		Listen: "127.0.0.1:8080", Username: "remuda", Backend: "local", Kubernetes: defaultKubernetes(),
		StateDir: "/var/lib/remuda", ImageDir: "/var/cache/remuda",
		Publish:         PublishConfig{Host: "127.0.0.1", Ports: "20000-29999"},
		Egress:          EgressConfig{Deny: []string{}},
		Pools:           map[string]Pool{"default": {}},
		Parallel:        Parallel{Creates: 2, Resets: 4},
		Dashboard:       DashboardConfig{Enabled: true, LinkLifetime: Duration(30 * 24 * time.Hour)},
		Audit:           AuditConfig{Keep: Duration(365 * 24 * time.Hour)},
		OperationMemory: Duration(72 * time.Hour), ProvisionTimeout: Duration(10 * time.Minute),
		LogLevel: "info",
	}
}

// loadConfig reads the file that flag or environment name, then the
// environment. It returns every fault at once.
func loadConfig(cmd *cobra.Command) (Config, error) {
	file, _ := cmd.Flags().GetString("config")
	if file == "" {
		file = os.Getenv("REMUDA_CONFIG")
	}
	c := DefaultConfig()
	var faults error
	if file != "" {
		b, err := os.ReadFile(file)
		if err != nil {
			return c, fmt.Errorf("read configuration: %w", err)
		}
		faults = c.decode(file, b)
	}
	c.environment(os.Getenv)
	return c, errors.Join(faults, c.Validate())
}

// decode reads YAML strictly: an unknown key is a fault.
func (c *Config) decode(name string, b []byte) error {
	c.origin.file = name
	if err := yaml.Unmarshal(b, &c.origin.root); err != nil {
		return catalog.YAMLFaults(name, err)
	}
	dec := yaml.NewDecoder(bytes.NewReader(b))
	dec.KnownFields(true)
	err := dec.Decode(c)
	if errors.Is(err, io.EOF) {
		return nil
	}
	faults := catalog.YAMLFaults(name, err)
	if extra := dec.Decode(&yaml.Node{}); !errors.Is(extra, io.EOF) {
		faults = append(faults, catalog.Fault{File: name, Message: "only one YAML document is allowed"})
	}
	if len(faults) > 0 {
		return faults
	}
	return nil
}

func (c *Config) environment(get func(string) string) {
	c.origin.variables = map[string]string{}
	for name, setting := range map[string]struct {
		key   string
		field *string
	}{
		"REMUDA_LISTEN": {"listen", &c.Listen}, "REMUDA_USERNAME": {"username", &c.Username}, "REMUDA_PASSWORD": {"", &c.password},
		"REMUDA_STATE_DIR": {"state_dir", &c.StateDir}, "REMUDA_IMAGE_DIR": {"image_dir", &c.ImageDir},
		"REMUDA_DATABASE_URL": {"database_url", &c.DatabaseURL}, "REMUDA_DATABASE_URL_FILE": {"database_url_file", &c.DatabaseURLFile},
		"REMUDA_BACKEND": {"backend", &c.Backend}, "REMUDA_KUBERNETES_IMAGE": {"kubernetes.image", &c.Kubernetes.Image},
	} {
		if v := strings.TrimSpace(get(name)); v != "" { // files of secrets end with a line end
			*setting.field = v
			c.origin.variables[setting.key] = name
		}
	}
	// Either of the two wins over both in the file.
	url, file := c.origin.variables["database_url"] != "", c.origin.variables["database_url_file"] != ""
	if url && !file {
		c.DatabaseURLFile = ""
	} else if file && !url {
		c.DatabaseURL = ""
	}
}

// ports parses publish.ports.
func (c *Config) ports() (first, last int, err error) {
	a, b, ok := strings.Cut(c.Publish.Ports, "-")
	first, err1 := strconv.Atoi(strings.TrimSpace(a))
	last, err2 := strconv.Atoi(strings.TrimSpace(b))
	if !ok || err1 != nil || err2 != nil || first < 1 || last > 65535 || first > last {
		return 0, 0, fmt.Errorf("publish.ports %q is not a range like 20000-29999", c.Publish.Ports)
	}
	return first, last, nil
}

// poolLimits returns the limits of an "offering/plan", with what "default" and
// the built-in defaults add.
func (c *Config) poolLimits(name string) (floor, ceiling int, keep time.Duration) {
	floor, ceiling, keep = 1, 20, 5*time.Minute
	for _, p := range []Pool{c.Pools["default"], c.Pools[name]} {
		if p.Ceiling != nil {
			ceiling = *p.Ceiling
		}
		if p.Floor != nil {
			floor = *p.Floor
		}
		if p.Keep != nil {
			keep = time.Duration(*p.Keep)
		}
	}
	return floor, ceiling, keep
}

// secret returns the platform's password: from the environment, else from its
// file, which is made on first use (when create is true).
func (c *Config) secret(create bool) (password, source string, err error) {
	if c.password != "" {
		return c.password, "REMUDA_PASSWORD", nil
	}
	file := c.PasswordFile
	if file == "" {
		file = filepath.Join(c.StateDir, "password")
	}
	b, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) && create {
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			return "", "", fmt.Errorf("make state folder: %w", err)
		}
		b = []byte(rand.Text() + "\n")
		err = os.WriteFile(file, b, 0o600)
	}
	if err != nil {
		return "", "", fmt.Errorf("password file: %w", err)
	}
	password = strings.TrimSpace(string(b))
	if password == "" {
		return "", "", fmt.Errorf("password file %s is empty", file)
	}
	return password, file, nil
}
