package catalog_test

import (
	"encoding/json"
	"errors"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/remuda/remuda/catalog"
)

// example is a small recipe that is right.
func example(t testing.TB) string {
	t.Helper()
	text, err := os.ReadFile("testdata/memcached.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestParseExample(t *testing.T) {
	r, err := catalog.Parse("memcached.yaml", []byte(example(t)))
	if err != nil {
		t.Fatal(err)
	}
	if got := r.Offering.Plans[0].Members["server"].Memory; got != 128*catalog.MiB {
		t.Errorf("memory is %s", got)
	}
}

func TestParseFaults(t *testing.T) {
	replace := func(pairs ...string) func(string) string {
		return func(s string) string {
			for i := 0; i < len(pairs); i += 2 {
				if !strings.Contains(s, pairs[i]) {
					t.Fatalf("the example has no %q", pairs[i])
				}
				s = strings.Replace(s, pairs[i], pairs[i+1], 1)
			}
			return s
		}
	}
	tests := map[string]struct {
		change func(string) string
		want   []string // in the order of the lines
	}{
		"empty":                  {func(string) string { return "" }, []string{"x.yaml: the file is empty"}},
		"not YAML":               {func(string) string { return "a: [" }, []string{"x.yaml:1:"}},
		"not a map":              {func(string) string { return "- a" }, []string{"x.yaml:1: a recipe is a map"}},
		"not UTF-8":              {func(string) string { return "\xff" }, []string{"not UTF-8"}},
		"two documents":          {func(s string) string { return s + "\n---\na: 1\n" }, []string{"more than one YAML document"}},
		"unknown keys":           {replace("version: 1.0.0", "version: 1.0.0\ncolour: red", "port: 11211", "port: 11211\n    speed: 3"), []string{`x.yaml:10: unknown key "colour"`, `unknown key "speed"`}},
		"wrong kinds":            {replace("port: 11211", "port: many"), []string{"expected is a whole number"}},
		"key twice":              {replace("version: 1.0.0", "version: 1.0.0\nversion: 1.0.1"), []string{"already defined"}},
		"name":                   {replace("name: memcached", "name: Mem/cached"), []string{`x.yaml:8: the name "Mem/cached" does not fit`}},
		"version":                {replace("version: 1.0.0", "version: one"), []string{"x.yaml:9: the version"}},
		"size":                   {replace("memory: 128MiB", "memory: 128MB"), []string{`"128MB" is not a size`}},
		"too small":              {replace("memory: 128MiB", "memory: 1MiB", "disk: 32MiB", "disk: 1MiB", "cpu: 0.5", "cpu: 0"), []string{"CPU cores", "less than 16MiB", "less than 32MiB"}},
		"role without size":      {replace("        server: {", "        other: {"), []string{"gives no size for the role server", `"other", which is not a role`}},
		"id":                     {replace("f71a4546-7ebf-4abf-80a4-eb99e0286a8e", "4ef13921-fac0-467e-966e-955d9a302cff"), []string{"is used twice"}},
		"no id":                  {replace("id: f71a4546-7ebf-4abf-80a4-eb99e0286a8e", "id: one"), []string{"random UUID"}},
		"relative path":          {replace("path: /data", "path: data"), []string{"not an absolute"}},
		"path above":             {replace("path: /data", "path: /data/../etc"), []string{"not an absolute, clean path"}},
		"path of the system":     {replace("path: /data", "path: /proc/x"), []string{"belongs to the image or the system"}},
		"root path":              {replace("path: /data", "path: /"), []string{"it has files of the image"}},
		"overlap":                {replace("- path: /data", "- path: /data\n      - path: /data/x"), []string{"overlaps with the path /data of line"}},
		"user":                   {replace("user: memcache", "user: 0 0"), []string{"is none"}},
		"capability":             {replace("user: memcache", "user: memcache\n    capabilities: [SYS_ADMIN]"), []string{"is none of SYS_CHROOT"}},
		"empty command":          {replace("command: [/bin/sh, -euc, \"umask 077; : >/data/users\"]", "command: []"), []string{"the command is empty"}},
		"port":                   {replace("port: 11211", "port: 70000"), []string{"not between 1 and 65535"}},
		"port and count":         {replace("port: 11211", "port: 11211\n    count: 2"), []string{"has a port and a count"}},
		"template syntax":        {replace(`"{{.username}}\n"`, `"{{.username}\n"`), []string{"the template is wrong"}},
		"unknown value":          {replace(`"{{.username}}\n"`, `"{{.user}}\n"`), []string{"unbind has no value .user; there are instance"}},
		"unknown endpoint":       {replace("{{.ports.memcached}}", "{{.ports.redis}}"), []string{"there is no .ports.redis; known are memcached"}},
		"value of a start":       {replace("{{div .memory_mib 2}}", "{{.password}}"), []string{"a start has no value .password"}},
		"template in a template": {replace("user: memcache\n", "user: memcache\n    template: {command: [a], stdin: '{{.cpu}}'}\n", "    template:\n      command: [/bin/sh, -euc, \"umask 077; : >/data/users\"]\n", ""), []string{"has no values"}},
		"whole dot":              {replace(`"{{.username}}\n"`, `"{{.}}\n"`), []string{"lone dot"}},
		"dollar in with":         {replace(`"{{.username}}\n"`, `"{{with .username}}{{$.x}}{{end}}\n"`), []string{"has no value .x"}},
		"all parameters":         {replace(`"{{.username}}\n"`, `"{{.parameters}}\n"`), []string{"one by one"}},
		"unknown parameter":      {replace(`"{{.username}}\n"`, `"{{with index .parameters \"a\"}}{{.}}{{end}}\n"`), []string{"not a property of the schema"}},
		"signal":                 {replace("- name: memcached\n        command", "- name: memcached\n        stop: NOW\n        command"), []string{`the signal "NOW"`}},
		"file":                   {replace("user: memcache\n", "user: memcache\n    files: {/etc/passwd: x}\n"), []string{"below /run"}},
		"requires":               {replace("tags:", "requires: [gold]\n  tags:"), []string{`"gold" is none of`}},
		"one hook":               {replace("unbind:", "provision:"), []string{"bind and unbind belong together"}},
		"schema":                 {replace("  plans:", "  bind_schema: {type: object}\n  plans:"), []string{`needs "$schema"`}},
		"reference": {replace("  plans:", "  bind_schema: {$schema: 'http://json-schema.org/draft-07/schema#', type: object, properties: {a: {$ref: 'file:///etc/passwd'}}}\n  plans:"),
			[]string{"leaves the schema"}},
		"broken schema": {replace("  plans:", "  bind_schema: {$schema: 'http://json-schema.org/draft-07/schema#', type: objekt}\n  plans:"), []string{"the schema is wrong"}},
		"open parameter": {replace("  plans:", "  bind_schema: {$schema: 'http://json-schema.org/draft-07/schema#', type: object, properties: {a: {type: string}}}\n  plans:",
			`stdin: "{{.username}}\n"`, `stdin: "{{with index .parameters \"a\"}}{{.}}{{end}}\n"`), []string{"lets any text through"}},
		"open items": {replace("  plans:", "  bind_schema: {$schema: 'http://json-schema.org/draft-07/schema#', type: object, properties: {a: {type: array, items: {type: string}}}}\n  plans:",
			`stdin: "{{.username}}\n"`, `stdin: "{{range index .parameters \"a\"}}{{.}}{{end}}\n"`), []string{"lets any text through"}},
		"egress that leads": {replace("    user: memcache\n", "    egress_port: 3128\n"), []string{"can have nothing else", "cannot lead"}},
		"two egresses": {replace("roles:", "roles:\n  - {name: one, egress_port: 1}\n  - {name: two, egress_port: 70000}", "        server: {", "        one: {count: 2, cpu: 1, memory: 64MiB, disk: 32MiB}\n        two: {cpu: 1, memory: 64MiB, disk: 32MiB}\n        server: {", "name: memcached\n", "name: memcached\nleader: server\n"),
			[]string{"at most one", "more than one member", "not between 1", "at most one"}},
		"egress at a port that is used": {replace("roles:", "roles:\n  - {name: out, egress_port: 11211}", "        server: {", "        out: {cpu: 1, memory: 64MiB, disk: 32MiB}\n        server: {", "name: memcached\n", "name: memcached\nleader: server\n"),
			[]string{"one of the endpoint memcached"}},
		"Go programs": {replace("roles:", "go_programs:\n  - {module: 'x y', version: latest, package: ../x, name: a/b, sum: h1:AAAA}\nroles:"),
			[]string{"not the path of a Go module", "not a module's version", "not a package within", "does not fit", "needs the module's sum"}},
		"Go program twice": {replace("roles:", "go_programs: [&p {module: example.com/p, version: v1.2.3, package: ./cmd/p, name: p, sum: 'h1:GlM6ZYEE1p6hh1xTSQnLVHWnmWmlbgqa4EyBxBSm1/k='}, *p]\nroles:"),
			[]string{"the program \"p\" is there twice"}},
		"secret variable": {replace("roles:", "environment: {MEMBER_SECRET: x}\nroles:"), []string{"cannot be the name"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := catalog.Parse("x.yaml", []byte(test.change(example(t))))
			var faults catalog.Faults
			if !errors.As(err, &faults) {
				t.Fatalf("error is %v", err)
			}
			if len(faults) != len(test.want) {
				t.Fatalf("%d faults instead of %d:\n%v", len(faults), len(test.want), err)
			}
			for i, want := range test.want {
				if !strings.Contains(faults[i].Error(), want) {
					t.Errorf("fault %q does not say %q", faults[i], want)
				}
			}
		})
	}
}

func TestLoadFindsWhatIsUsedTwice(t *testing.T) {
	text := example(t)
	folder := fstest.MapFS{"a.yaml": {Data: []byte(text)}, "b.yml": {Data: []byte(text)}, "notes.txt": {Data: []byte("x")}}
	_, err := catalog.Load(folder)
	var faults catalog.Faults
	if !errors.As(err, &faults) || len(faults) != 3 || !strings.HasPrefix(err.Error(), `b.yml:8: the name "memcached" is already used in a.yaml`) {
		t.Errorf("error is %v", err)
	}
	builtin, err := catalog.Builtin()
	if err != nil {
		t.Fatal(err)
	}
	recipes, err := catalog.Load(catalog.BuiltinFiles(), fstest.MapFS{"a.yaml": {Data: []byte(text)}})
	if err != nil || len(recipes) != len(builtin)+1 || recipes[0].Name != "ftp" {
		t.Errorf("%d recipes, %v", len(recipes), err)
	}
}

func TestBuiltinCredentials(t *testing.T) {
	recipes, err := catalog.Builtin()
	if err != nil {
		t.Fatal(err)
	}
	ports := map[string]any{"mysql": 4001, "postgresql": 4002, "redis": 4003, "ftp": 4004, "passive": 4010, "site": 4005, "upload": 4006, "tcp": 4007, "tls": 4008, "https": 4009}
	values := map[string]any{
		"instance": "i", "binding": "b", "username": "u123", "password": "pw", "number": 1, "parameters": map[string]any{}, "host": "h.example", "ports": ports,
		"output": map[string]string{"ca_certificate": "c"},
	}
	want := map[string]string{
		"mysql": "mysql://u123:pw@h.example:4001/app", "postgresql": "postgresql://u123:pw@h.example:4002/app", "redis": "redis://u123:pw@h.example:4003/0",
		"ftp": "ftp://u123:pw@h.example:4004/", "http": "http://h.example:4005/", "syslog": "https://u123:pw@h.example:4009/select/logsql/query",
	}
	for _, r := range recipes {
		if want[r.Name] == "" { // no login; has a test of its own
			continue
		}
		c, err := r.RenderCredentials(values)
		if err != nil {
			t.Errorf("%s: %v", r.Name, err)
			continue
		}
		if c["uri"] != want[r.Name] || c["hostname"] != "h.example" || c["username"] != "u123" || c["password"] != "pw" {
			t.Errorf("%s: %v", r.Name, c)
		}
		if _, ok := c["port"].(int); !ok {
			t.Errorf("%s: the port is a %T", r.Name, c["port"])
		}
		if len(r.Offering.Plans) != 2 || r.Offering.Plans[0].Name != "small" || r.Offering.Plans[1].Name != "medium" {
			t.Errorf("%s has other plans", r.Name)
		}
	}
}

// What Cloud Foundry's NFS driver takes has no port in it where that is the one of NFS.
func TestBuiltinVolumeMounts(t *testing.T) {
	recipes, err := catalog.Builtin()
	if err != nil {
		t.Fatal(err)
	}
	r := recipes[slices.IndexFunc(recipes, func(r catalog.Recipe) bool { return r.Name == "volume" })]
	for port, source := range map[int]string{2049: "nfs://h.example/token", 20001: "nfs://h.example:20001/token"} {
		values := map[string]any{"instance": "i", "binding": "b", "username": "u", "password": "token", "number": 1, "host": "h.example",
			"parameters": map[string]any{}, "ports": map[string]int{"nfs": port}, "output": map[string]string{}, "route": map[string]any{}}
		a, err := r.RenderAccess(values)
		if err != nil || len(a.VolumeMounts) != 1 {
			t.Fatalf("%+v, %v", a, err)
		}
		want := map[string]string{"source": source, "version": "4.0", "uid": "2000", "gid": "2000"}
		if got := a.VolumeMounts[0]; !reflect.DeepEqual(got.MountConfig, want) || got.Mode != "rw" || got.ContainerDir != "/var/vcap/data/i" {
			t.Errorf("the volume mount is %+v", got)
		}
	}
}

func TestRender(t *testing.T) {
	tests := []struct{ text, want string }{
		{`{{sqlstr .a}}`, `'it''s'`}, {`{{shq .a}}`, `'it'\''s'`}, {`{{json .a}}`, `"it's"`},
		{`{{add 1 2}} {{sub 3 1}} {{mul 2 3}} {{div 7 2}} {{min 1 2}} {{max 1 2}}`, `3 2 6 3 1 2`},
		{`{{with index .m "none"}}x{{end}}`, ``}, {`plain`, `plain`},
	}
	for _, test := range tests {
		got, err := catalog.Render(test.text, map[string]any{"a": "it's", "m": map[string]any{}})
		if err != nil || got != test.want {
			t.Errorf("%s gives %q, %v", test.text, got, err)
		}
	}
	for _, text := range []string{"{{.none}}", "{{.m.none}}", "{{", "{{div 1 0}}", `{{sqlstr "a\\b"}}`} {
		if got, err := catalog.Render(text, map[string]any{"m": map[string]any{}}); err == nil {
			t.Errorf("%s gives %q", text, got)
		}
	}
}

func TestBytes(t *testing.T) {
	for text, want := range map[string]catalog.Bytes{"1KiB": 1 << 10, "256MiB": 256 << 20, "1.5GiB": 3 << 29, "2TiB": 2 << 40} {
		if got, err := catalog.ParseBytes(text); err != nil || got != want {
			t.Errorf("%s is %d, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "1", "1MB", "-1MiB", "1 MiB", "1e9GiB", "9999999999TiB", "0x1MiB"} {
		if got, err := catalog.ParseBytes(text); err == nil {
			t.Errorf("%q is %d", text, got)
		}
	}
	raw, err := json.Marshal(256 * catalog.MiB)
	var back catalog.Bytes
	if err != nil || string(raw) != "268435456" || json.Unmarshal(raw, &back) != nil || back != 256*catalog.MiB {
		t.Errorf("JSON is %s, %v", raw, err)
	}
}

func TestParameterValidator(t *testing.T) {
	var schema map[string]any
	err := json.Unmarshal([]byte(`{"$schema":"https://json-schema.org/draft/2020-12/schema","type":"object","additionalProperties":false,"required":["size"],
		"properties":{"size":{"type":"integer","minimum":1,"maximum":9},"mode":{"enum":["a","b"]},"name":{"type":"string","pattern":"^[a-z]+$"},"o":{"type":"object","properties":{"x":{"type":"boolean"}}}}}`), &schema)
	if err != nil {
		t.Fatal(err)
	}
	v, err := catalog.NewParameterValidator(schema)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := v.Validate([]byte(`{"size":3,"mode":"a"}`)); err != nil || got["mode"] != "a" {
		t.Errorf("%v, %v", got, err)
	}
	for raw, want := range map[string]string{
		``: "size", `[]`: "object", `{`: "not valid JSON", `{"size":"x"}`: "size", `{"size":1,"mode":"c"}`: `must be one of "a","b"`, `{"size":1,"name":"A;b"}`: "must fit the pattern",
		`{"size":1,"evil":1}`: `unknown "evil"`, `{"size":10}`: "size", `{"size":1,"o":{"x":1}}`: "o.x", `{"size":1,"` + strings.Repeat("x", 9999) + `":1}`: "unknown",
	} {
		_, err := v.Validate([]byte(raw))
		var wrong *catalog.ParameterError
		if !errors.As(err, &wrong) || !strings.Contains(err.Error(), want) || len(err.Error()) > 2000 {
			t.Errorf("%.60s: %v", raw, err)
		}
	}
	none, err := catalog.NewParameterValidator(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, raw := range []string{``, `null`, `{}`, ` {} `} {
		if _, err := none.Validate([]byte(raw)); err != nil {
			t.Errorf("%q: %v", raw, err)
		}
	}
	if _, err := none.Validate([]byte(`{"a":1}`)); err == nil {
		t.Error("parameters are accepted without a schema")
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(example(f)))
	f.Add([]byte("a: &a [*a]"))
	f.Add([]byte("name: x\nroles: [{paths: [{path: /}]}]"))
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := catalog.Parse("x.yaml", text)
		if err != nil {
			var faults catalog.Faults
			if !errors.As(err, &faults) {
				t.Errorf("error is a %T", err)
			}
			return
		}
		if _, err := r.CanonicalJSON(); err != nil {
			t.Error(err)
		}
	})
}

func FuzzParameters(f *testing.F) {
	recipes, err := catalog.Builtin()
	if err != nil {
		f.Fatal(err)
	}
	redis := slices.IndexFunc(recipes, func(r catalog.Recipe) bool { return r.Name == "redis" })
	v, err := catalog.NewParameterValidator(recipes[redis].Offering.ProvisionSchema)
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(`{"maxmemory_policy":"noeviction"}`))
	f.Add([]byte(`{"a":[[[[1e999]]]]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		var wrong *catalog.ParameterError
		if _, err := v.Validate(raw); err != nil && !errors.As(err, &wrong) {
			t.Errorf("error is a %T", err)
		}
	})
}
