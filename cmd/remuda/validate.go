package main

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/remuda/remuda/catalog"
)

// origin remembers where settings come from, to say where a fault is.
type origin struct {
	file      string
	root      yaml.Node
	variables map[string]string // key → environment variable that set it
}

// fault names the variable, or file and line, where the setting at path was made.
func (o origin) fault(message string, path ...string) error {
	if v := o.variables[path[0]]; v != "" {
		return fmt.Errorf("%s: %s", v, message)
	}
	steps := make([]any, len(path))
	for i, key := range path {
		steps[i] = key
	}
	for ; len(steps) > 0; steps = steps[:len(steps)-1] {
		if line := catalog.LineOf(&o.root, steps...); line > 0 {
			return catalog.Fault{File: o.file, Line: line, Message: message}
		}
	}
	return fmt.Errorf("configuration: %s", message)
}

// Validate returns all faults at once.
func (c *Config) Validate() error {
	var errs []error
	at := func(path ...string) func(format string, args ...any) {
		return func(format string, args ...any) {
			errs = append(errs, c.origin.fault(fmt.Sprintf(format, args...), path...))
		}
	}
	if _, port, err := net.SplitHostPort(c.Listen); err != nil {
		at("listen")("listen %q is not host:port", c.Listen)
	} else if n, err := strconv.Atoi(port); err != nil || n < 0 || n > 65535 {
		at("listen")("listen %q has no port number", c.Listen)
	}
	if c.Username == "" || strings.ContainsAny(c.Username, ":\r\n") {
		at("username")("username must not be empty nor hold a colon or a line break")
	}
	for _, dir := range []struct{ key, path string }{{"state_dir", c.StateDir}, {"image_dir", c.ImageDir}} {
		if !filepath.IsAbs(dir.path) {
			at(dir.key)("%s %q is not an absolute path", dir.key, dir.path)
		}
	}
	switch c.Backend {
	case "local":
	case "kubernetes":
		for key, fault := range c.Kubernetes.faults(true) {
			at("kubernetes", key)("kubernetes.%s: %s", key, fault)
		}
	default:
		at("backend")("backend %q is neither local nor kubernetes", c.Backend)
	}
	if _, _, err := c.ports(); err != nil {
		at("publish", "ports")("%v", err)
	}
	if c.Publish.Host == "" {
		at("publish", "host")("publish.host must not be empty")
	}
	if c.Publish.Listen != "" && net.ParseIP(c.Publish.Listen) == nil {
		at("publish", "listen")("publish.listen %q is not an IP address", c.Publish.Listen)
	}
	for _, text := range c.Egress.Deny {
		if p, err := netip.ParsePrefix(text); err != nil || p.Addr().Is4In6() {
			at("egress", "deny")("egress.deny: %q is not a network like 10.0.0.0/8 or 2001:db8::/32", text)
		}
	}
	if c.Parallel.Creates < 1 || c.Parallel.Resets < 1 {
		at("parallel")("parallel.creates and parallel.resets must be at least 1")
	}
	if !slices.Contains([]string{"debug", "info", "warn", "error"}, c.LogLevel) {
		at("log_level")("log_level %q is none of debug, info, warn, error", c.LogLevel)
	}
	if c.DatabaseURL != "" && c.DatabaseURLFile != "" {
		at("database_url")("database_url and database_url_file exclude each other")
	} else if err := checkDatabase(c.DatabaseURL); err != nil {
		at("database_url")("database_url: %v", err)
	}
	if c.DatabaseURLFile != "" {
		if text, err := c.databaseURL(); err != nil {
			at("database_url_file")("%v", err)
		} else if err := checkDatabase(text); err != nil {
			at("database_url_file")("the URL in database_url_file: %v", err)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.Pools)) {
		floor, ceiling, keep := c.poolLimits(name)
		if floor < 0 || ceiling < 1 || floor > ceiling || keep < 0 {
			at("pools", name)("pools.%s: floor %d, ceiling %d, keep %s do not fit: 0 ≤ floor ≤ ceiling, ceiling ≥ 1, keep ≥ 0", name, floor, ceiling, keep)
		}
	}
	c.Limits.faults(at)
	if c.Audit.Keep < Duration(time.Hour) {
		at("audit", "keep")("audit.keep must be at least 1h")
	}
	c.Dashboard.faults(at)
	return errors.Join(errs...)
}

// configured loads configuration and recipes, and returns every fault of both.
func configured(cmd *cobra.Command) (Config, []catalog.Recipe, error) {
	c, err := loadConfig(cmd)
	recipes, recipesErr := loadRecipes(c)
	return c, recipes, errors.Join(err, recipesErr, c.readClientSecret())
}

// loadRecipes reads the built-in recipes and the operator's own, and checks
// that what the configuration names is there.
func loadRecipes(c Config) ([]catalog.Recipe, error) {
	var errs []error
	folders := []fs.FS{catalog.BuiltinFiles()}
	for _, dir := range c.Recipes {
		if info, err := os.Stat(dir); err != nil || !info.IsDir() {
			errs = append(errs, c.origin.fault(fmt.Sprintf("recipes: %s is not a folder", dir), "recipes"))
			continue
		}
		folders = append(folders, os.DirFS(dir))
	}
	all, err := catalog.Load(folders...)
	if err != nil {
		return nil, errors.Join(append(errs, err)...)
	}
	var names, plans []string
	for _, r := range all {
		names = append(names, r.Name)
		for _, p := range r.Offering.Plans {
			plans = append(plans, r.Name+"/"+p.Name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.Pools)) {
		if name != "default" && !slices.Contains(plans, name) {
			errs = append(errs, c.origin.fault(fmt.Sprintf("pools: there is no plan %q; there are %s", name, strings.Join(plans, ", ")), "pools", name))
		}
	}
	for _, name := range c.Offerings {
		if !slices.Contains(names, name) {
			errs = append(errs, c.origin.fault(fmt.Sprintf("offerings: there is no recipe %q; there are %s", name, strings.Join(names, ", ")), "offerings"))
		}
	}
	errs = append(errs, c.Limits.unknown(c.origin, all)...)
	return all, errors.Join(errs...)
}
