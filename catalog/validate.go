package catalog

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"path"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
	"golang.org/x/mod/module"
	"golang.org/x/mod/semver"
)

// Least sizes of a member: below them the agent alone does not fit.
const (
	leastCPU    = 0.01
	leastMemory = 16 * MiB
	leastDisk   = 32 * MiB
	mostMembers = 64 // of one role
	mostPorts   = 64 // of one endpoint
)

var (
	recipeName   = regexp.MustCompile(`^[a-z][a-z0-9-]{0,31}$`)
	shortName    = regexp.MustCompile(`^[a-z][a-z0-9-]{0,15}$`)
	endpointName = regexp.MustCompile(`^[a-z][a-z0-9_]{0,15}$`)
	planName     = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{0,31}$`)
	userName     = regexp.MustCompile(`^[a-z_][a-z0-9_-]{0,31}$`)
	variableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,63}$`)
	guid         = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)
	packageName  = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]+(\|[a-z0-9][a-z0-9+.-]+)*$`)
	programName  = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,63}$`)
	goPackage    = regexp.MustCompile(`^\./[A-Za-z0-9._~-]+(/[A-Za-z0-9._~-]+)*$`)
	fileMode     = regexp.MustCompile(`^[0-7]{3,4}$`)
	signals      = []string{"TERM", "INT", "QUIT", "HUP", "USR1", "USR2", "KILL"}
	capabilities = []string{"SYS_CHROOT"}
	requirements = []string{"syslog_drain", "route_forwarding", "volume_mount"}
)

// checker collects the faults of one recipe.
type checker struct {
	file   string
	root   *yaml.Node
	recipe *Recipe
	faults Faults
}

func (c *checker) fault(at place, format string, args ...any) {
	c.faults = append(c.faults, Fault{c.file, line(c.root, at), fmt.Sprintf(format, args...)})
}

// want reports a fault unless ok.
func (c *checker) want(ok bool, at place, format string, args ...any) {
	if !ok {
		c.fault(at, format, args...)
	}
}

func (c *checker) check() {
	r := c.recipe
	c.want(recipeName.MatchString(r.Name), place{"name"}, "the name %q does not fit %s", r.Name, recipeName)
	c.want(semver.IsValid("v"+r.Version) && strings.Count(r.Version, ".") >= 2, place{"version"}, "the version %q is not a semantic version like 1.0.0", r.Version)
	for i, p := range r.Packages {
		c.want(packageName.MatchString(p), place{"packages", i}, "%q is not a package name, nor several with | between them", p)
	}
	c.goPrograms()
	c.variables(r.Environment, place{"environment"})
	c.want(len(r.Roles) > 0, place{"roles"}, "a recipe needs at least one role")
	seen := map[string]bool{}
	for i, role := range r.Roles {
		c.want(!seen[role.Name], place{"roles", i, "name"}, "the role %q is there twice", role.Name)
		seen[role.Name] = true
		c.role(role, place{"roles", i})
	}
	c.want(r.Leader == "" || seen[r.Leader], place{"leader"}, "the leader %q is not one of the roles", r.Leader)
	c.endpoints()
	for _, hook := range []struct {
		name    string
		program *Program
	}{{"provision", r.Provision}, {"bind", r.Bind}, {"unbind", r.Unbind}} {
		c.program(hook.program, place{hook.name}, c.hookScope(hook.name))
	}
	c.want((r.Bind == nil) == (r.Unbind == nil), place{}, "bind and unbind belong together: give both or none")
	for key, text := range r.Credentials {
		c.want(key != "", place{"credentials"}, "a credential needs a name")
		c.template(text, place{"credentials", key}, c.credentialScope())
	}
	c.access()
	c.offering(r.Offering)
}

func (c *checker) goPrograms() {
	names := map[string]bool{}
	for i, p := range c.recipe.GoPrograms {
		at := place{"go_programs", i}
		c.want(module.CheckPath(p.Module) == nil, at.at("module"), "%q is not the path of a Go module", p.Module)
		c.want(semver.Canonical(p.Version) == strings.TrimSuffix(p.Version, "+incompatible") && p.Version != "", at.at("version"), "%q is not a module's version like v1.2.3", p.Version)
		c.want(p.Package == "" || p.Package == "." || goPackage.MatchString(p.Package) && !strings.Contains(p.Package, ".."), at.at("package"), "%q is not a package within the module like ./cmd/server", p.Package)
		c.want(programName.MatchString(p.Name), at.at("name"), "the program's name %q does not fit %s", p.Name, programName)
		c.want(!names[p.Name], at.at("name"), "the program %q is there twice", p.Name)
		names[p.Name] = true
		sum, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(p.Sum, "h1:"))
		c.want(strings.HasPrefix(p.Sum, "h1:") && err == nil && len(sum) == 32, at.at("sum"), "the program %s needs the module's sum as in go.sum, h1:…; %q is none", p.Name, p.Sum)
	}
}

// access checks what a binding has besides credentials, and that the offering
// asks for the permission that it needs.
func (c *checker) access() {
	r, s := c.recipe, c.credentialScope()
	c.template(r.SyslogDrainURL, place{"syslog_drain_url"}, s)
	c.template(r.RouteServiceURL, place{"route_service_url"}, s)
	for i, v := range r.VolumeMounts {
		at := place{"volume_mounts", i}
		for name, text := range map[string]string{"driver": v.Driver, "container_dir": v.ContainerDir, "mode": v.Mode, "volume_id": v.VolumeID} {
			c.want(strings.TrimSpace(text) != "", at.at(name), "a volume mount needs a %s", name)
			c.template(text, at.at(name), s)
		}
		for name, text := range v.MountConfig {
			c.template(text, at.at("mount_config", name), s)
		}
	}
	for _, kind := range []struct {
		there            bool
		name, permission string
	}{
		{r.SyslogDrainURL != "", "syslog_drain_url", "syslog_drain"},
		{r.RouteServiceURL != "", "route_service_url", "route_forwarding"},
		{len(r.VolumeMounts) > 0, "volume_mounts", "volume_mount"},
	} {
		required := slices.Contains(r.Offering.Requires, kind.permission)
		c.want(!kind.there || required, place{kind.name}, "a recipe with %s needs offering.requires: [%s]", kind.name, kind.permission)
		c.want(kind.there || !required, place{"offering", "requires"}, "an offering that requires %s needs %s", kind.permission, kind.name)
	}
	for _, p := range []struct {
		name    string
		program *Program
	}{{"provision", r.Provision}, {"unbind", r.Unbind}} {
		c.want(p.program == nil || len(p.program.Output) == 0, place{p.name, "output"}, "only bind gives something back")
	}
}

// variables checks the names of an environment.
func (c *checker) variables(env map[string]string, at place) {
	for name, value := range env {
		c.want(variableName.MatchString(name) && name != "MEMBER_SECRET", at.at(name), "%q cannot be the name of an environment variable", name)
		c.want(!strings.ContainsRune(value, 0), at.at(name), "the variable %s has a zero byte", name)
	}
}

func (c *checker) role(role Role, at place) {
	c.want(shortName.MatchString(role.Name), at.at("name"), "the role's name %q does not fit %s", role.Name, shortName)
	if role.EgressPort != 0 {
		c.egress(role, at)
		return
	}
	c.want(userName.MatchString(role.User), at.at("user"), "the role %s needs a user, a name as in passwd; %q is none", role.Name, role.User)
	for i, capability := range role.Capabilities {
		c.want(slices.Contains(capabilities, capability), at.at("capabilities", i), "the capability %q is none of %s", capability, strings.Join(capabilities, ", "))
	}
	c.paths(role.Paths, at.at("paths"))
	c.program(role.Template, at.at("template"), scope{what: "a template program"})
	start := c.startScope()
	for file, text := range role.Files {
		c.want(strings.HasPrefix(file, "/run/") && path.Clean(file) == file, at.at("files", file), "the file %q has to be a clean path below /run", file)
		c.template(text, at.at("files", file), start)
	}
	c.program(role.Prepare, at.at("prepare"), start)
	c.program(role.Ready, at.at("ready"), start)
	c.want(len(role.Processes) > 0, at.at("processes"), "the role %s needs at least one process", role.Name)
	seen := map[string]bool{}
	for i, p := range role.Processes {
		here := at.at("processes", i)
		c.want(shortName.MatchString(p.Name), here.at("name"), "the process's name %q does not fit %s", p.Name, shortName)
		c.want(!seen[p.Name], here.at("name"), "the process %q is there twice", p.Name)
		seen[p.Name] = true
		c.want(p.User == "" || userName.MatchString(p.User), here.at("user"), "%q is not the name of a user", p.User)
		c.want(p.Stop == "" || slices.Contains(signals, p.Stop), here.at("stop"), "the signal %q is none of %s", p.Stop, strings.Join(signals, ", "))
		c.command(p.Command, here.at("command"))
		for n, word := range p.Command {
			c.template(word, here.at("command", n), start)
		}
	}
	for i, port := range role.Ports {
		c.want(port >= 1 && port <= 65535, at.at("ports", i), "the port %d is not between 1 and 65535", port)
	}
}

// egress checks the role that is the way out.
func (c *checker) egress(role Role, at place) {
	c.want(role.EgressPort >= 1 && role.EgressPort <= 65535, at.at("egress_port"), "the port %d is not between 1 and 65535", role.EgressPort)
	if len(role.Processes) == 0 {
		role.Processes = nil // an empty list is none
	}
	alone := reflect.DeepEqual(role, Role{Name: role.Name, EgressPort: role.EgressPort})
	c.want(alone, at, "the role %s has an egress_port, so it can have nothing else: its member is the agent alone", role.Name)
	others := 0
	for _, r := range c.recipe.Roles {
		if r.EgressPort != 0 {
			others++
		}
	}
	c.want(others == 1, at.at("egress_port"), "at most one role can have an egress_port")
	leads := c.recipe.Leader == role.Name || c.recipe.Leader == "" && c.recipe.Roles[0].Name == role.Name
	c.want(!leads, at.at("egress_port"), "the role %s has an egress_port, so it cannot lead", role.Name)
	for _, p := range c.recipe.Offering.Plans {
		c.want(p.Members[role.Name].Count <= 1, at.at("egress_port"), "the plan %q has more than one member of the role %s; an egress is one", p.Name, role.Name)
	}
	for _, r := range c.recipe.Roles {
		c.want(!slices.Contains(r.Ports, role.EgressPort), at.at("egress_port"), "the port %d is one of the role %s", role.EgressPort, r.Name)
	}
	for _, e := range c.recipe.Endpoints {
		c.want(e.Port != role.EgressPort, at.at("egress_port"), "the port %d is one of the endpoint %s", role.EgressPort, e.Name)
	}
}

// forbidden are places that belong to the image, the kernel or the agent.
var forbidden = []string{"/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/proc", "/remuda", "/run", "/sbin", "/sys", "/tmp", "/usr"}

func (c *checker) paths(paths []Path, at place) {
	for i, p := range paths {
		here := at.at(i, "path")
		switch {
		case !strings.HasPrefix(p.Path, "/") || path.Clean(p.Path) != p.Path || strings.ContainsAny(p.Path, "\x00\n,:\\ "):
			c.fault(here, "the path %q is not an absolute, clean path without spaces, commas, colons and backslashes", p.Path)
		case p.Path == "/" || p.Path == "/var" || p.Path == "/var/lib":
			c.fault(here, "the path %s is too much: it has files of the image", p.Path)
		case slices.ContainsFunc(forbidden, func(f string) bool { return within(p.Path, f) }):
			c.fault(here, "the path %s is in a place that belongs to the image or the system", p.Path)
		}
		for j, other := range paths[:i] {
			c.want(!within(p.Path, other.Path) && !within(other.Path, p.Path), here, "the path %s overlaps with the path %s of line %d", p.Path, other.Path, line(c.root, at.at(j, "path")))
		}
		c.want(p.User == "" || userName.MatchString(p.User), at.at(i, "user"), "%q is not the name of a user", p.User)
		c.want(p.Mode == "" || fileMode.MatchString(p.Mode), at.at(i, "mode"), "the mode %q is not octal like \"0750\"; quote it", p.Mode)
	}
}

// within says whether p is dir or something below it.
func within(p, dir string) bool { return p == dir || strings.HasPrefix(p, dir+"/") }

func (c *checker) command(words []string, at place) {
	c.want(len(words) > 0 && strings.TrimSpace(words[0]) != "", at, "the command is empty")
	if len(words) > 0 && strings.HasPrefix(words[0], "/") {
		c.want(path.Clean(words[0]) == words[0], at.at(0), "the program %q is not a clean path", words[0])
	}
	for i, word := range words {
		c.want(!strings.ContainsRune(word, 0), at.at(i), "a word of the command has a zero byte")
	}
}

func (c *checker) program(p *Program, at place, s scope) {
	if p == nil {
		return
	}
	c.want(p.User == "" || userName.MatchString(p.User), at.at("user"), "%q is not the name of a user", p.User)
	c.command(p.Command, at.at("command"))
	c.variables(p.Env, at.at("env"))
	for name, text := range p.Env {
		c.template(text, at.at("env", name), s)
	}
	c.template(p.Stdin, at.at("stdin"), s)
	for i, name := range p.Output {
		c.want(endpointName.MatchString(name), at.at("output", i), "the output's name %q does not fit %s", name, endpointName)
	}
	c.want(p.TimeoutSeconds >= 0 && p.TimeoutSeconds <= 3600, at.at("timeout_seconds"), "the timeout of %d seconds is not between 1 and 3600", p.TimeoutSeconds)
}

func (c *checker) endpoints() {
	names, ports := map[string]bool{}, map[int]bool{}
	for i, e := range c.recipe.Endpoints {
		at := place{"endpoints", i}
		c.want(endpointName.MatchString(e.Name), at.at("name"), "the endpoint's name %q does not fit %s", e.Name, endpointName)
		c.want(!names[e.Name], at.at("name"), "the endpoint %q is there twice", e.Name)
		names[e.Name] = true
		switch {
		case e.Port != 0 && e.Count != 0:
			c.fault(at, "the endpoint %s has a port and a count; give one of them", e.Name)
		case e.Count != 0:
			c.want(e.Count >= 1 && e.Count <= mostPorts, at.at("count"), "the count %d is not between 1 and %d", e.Count, mostPorts)
		default:
			c.want(e.Port >= 1 && e.Port <= 65535, at.at("port"), "the port %d is not between 1 and 65535", e.Port)
			c.want(!ports[e.Port] || e.Port == 0, at.at("port"), "the port %d is there twice", e.Port)
			ports[e.Port] = true
		}
	}
}

func (c *checker) offering(o Offering) {
	at := place{"offering"}
	c.want(guid.MatchString(o.ID), at.at("id"), "the offering needs an id, a random UUID in small letters that never changes; %q is none", o.ID)
	c.want(strings.TrimSpace(o.Description) != "", at.at("description"), "the offering needs a description")
	for i, requirement := range o.Requires {
		c.want(slices.Contains(requirements, requirement), at.at("requires", i), "%q is none of %s", requirement, strings.Join(requirements, ", "))
	}
	c.plainData(o.Metadata, at.at("metadata"))
	c.schema(o.ProvisionSchema, at.at("provision_schema"))
	c.schema(o.BindSchema, at.at("bind_schema"))
	c.want(len(o.Plans) > 0, at.at("plans"), "the offering needs at least one plan")
	names, ids := map[string]bool{}, map[string]bool{o.ID: o.ID != ""}
	for i, p := range o.Plans {
		here := at.at("plans", i)
		c.want(planName.MatchString(p.Name), here.at("name"), "the plan's name %q does not fit %s", p.Name, planName)
		c.want(!names[p.Name], here.at("name"), "the plan %q is there twice", p.Name)
		c.want(guid.MatchString(p.ID), here.at("id"), "the plan needs an id, a random UUID in small letters that never changes; %q is none", p.ID)
		c.want(!ids[p.ID], here.at("id"), "the id %s is used twice", p.ID)
		names[p.Name], ids[p.ID] = true, true
		c.want(strings.TrimSpace(p.Description) != "", here.at("description"), "the plan %s needs a description", strconv.Quote(p.Name))
		c.plainData(p.Metadata, here.at("metadata"))
		c.variables(p.Environment, here.at("environment"))
		c.want(p.MaximumPollingDuration >= 0, here.at("maximum_polling_duration"), "a duration cannot be negative")
		c.want(p.BindingLifetimeSeconds >= 0, here.at("binding_lifetime_seconds"), "a duration cannot be negative")
		c.sizes(p, here)
	}
}

func (c *checker) sizes(p Plan, at place) {
	for _, role := range c.recipe.Roles {
		size, ok := p.Members[role.Name]
		here := at.at("members", role.Name)
		if !ok {
			c.fault(here, "the plan %q gives no size for the role %s", p.Name, role.Name)
			continue
		}
		c.want(size.Count >= 0 && size.Count <= mostMembers, here.at("count"), "the count %d is not between 1 and %d", size.Count, mostMembers)
		c.want(size.CPU >= leastCPU && size.CPU <= 1024, here.at("cpu"), "%v CPU cores are not between %v and 1024", size.CPU, leastCPU)
		c.want(size.Memory >= leastMemory, here.at("memory"), "the memory %s is less than %s", size.Memory, leastMemory)
		c.want(size.Disk >= leastDisk, here.at("disk"), "the disk %s is less than %s", size.Disk, leastDisk)
	}
	for name := range p.Members {
		known := slices.ContainsFunc(c.recipe.Roles, func(r Role) bool { return r.Name == name })
		c.want(known, at.at("members", name), "the plan %q gives a size for %q, which is not a role", p.Name, name)
	}
}

// plainData makes sure that free-form YAML can be given out as JSON.
func (c *checker) plainData(data map[string]any, at place) {
	if _, err := json.Marshal(data); err != nil {
		c.fault(at, "this cannot be written as JSON: keys have to be texts, numbers finite")
	}
}
