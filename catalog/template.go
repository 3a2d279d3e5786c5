package catalog

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"strconv"
	"strings"
	"text/template"
)

// functions are what templates may call besides those of text/template.
//
//	sqlstr  a string as an SQL literal: 'it''s'; a backslash is refused, because servers disagree on it
//	shq     a string as one word for a POSIX shell
//	json    a value as JSON
//	add, sub, mul, div, min, max   whole numbers
var functions = template.FuncMap{
	"sqlstr": sqlString,
	"shq":    shellWord,
	"json": func(v any) (string, error) {
		b, err := json.Marshal(v)
		return string(b), err
	},
	"add": func(a, b int) int { return a + b },
	"sub": func(a, b int) int { return a - b },
	"mul": func(a, b int) int { return a * b },
	"div": func(a, b int) (int, error) {
		if b == 0 {
			return 0, fmt.Errorf("division by zero")
		}
		return a / b, nil
	},
	"min": func(a, b int) int { return min(a, b) },
	"max": func(a, b int) int { return max(a, b) },
}

func sqlString(v any) (string, error) {
	s := fmt.Sprint(v)
	if strings.ContainsAny(s, "\\\x00") {
		return "", fmt.Errorf("a backslash or a zero byte cannot be in an SQL text")
	}
	return "'" + strings.ReplaceAll(s, "'", "''") + "'", nil
}

func shellWord(v any) (string, error) {
	s := fmt.Sprint(v)
	if strings.ContainsRune(s, 0) {
		return "", fmt.Errorf("a zero byte cannot be in a word of a shell")
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'", nil
}

func parseTemplate(text string) (*template.Template, error) {
	return template.New("").Funcs(functions).Option("missingkey=error").Parse(text)
}

// Render fills in one template. An unknown value is an error, which never
// contains values: they may be secret.
func Render(text string, values map[string]any) (string, error) {
	if !strings.Contains(text, "{{") {
		return text, nil
	}
	t, err := parseTemplate(text)
	if err != nil {
		return "", fmt.Errorf("parse template: %w", err)
	}
	var out strings.Builder
	if err := t.Execute(&out, values); err != nil {
		return "", fmt.Errorf("render template: %w", err)
	}
	return out.String(), nil
}

// RenderAll renders the values of a map: files, environments.
func RenderAll(texts map[string]string, values map[string]any) (map[string]string, error) {
	out := make(map[string]string, len(texts))
	for key, text := range texts {
		s, err := Render(text, values)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", key, err)
		}
		out[key] = s
	}
	return out, nil
}

// RenderCommand renders the words of a process's command.
func RenderCommand(words []string, values map[string]any) ([]string, error) {
	out := make([]string, len(words))
	for i, word := range words {
		s, err := Render(word, values)
		if err != nil {
			return nil, fmt.Errorf("word %d of the command: %w", i+1, err)
		}
		out[i] = s
	}
	return out, nil
}

// RenderProgram fills in a program's environment and input. The command is
// taken as it is.
func RenderProgram(p Program, values map[string]any) (Program, error) {
	env, err := RenderAll(p.Env, values)
	if err != nil {
		return Program{}, fmt.Errorf("environment: %w", err)
	}
	if p.Stdin, err = Render(p.Stdin, values); err != nil {
		return Program{}, fmt.Errorf("standard input: %w", err)
	}
	if p.Env != nil {
		p.Env = env
	}
	return p, nil
}

// Access is what a binding gives to its application, rendered.
type Access struct {
	Credentials     map[string]any `json:"credentials,omitempty"`
	SyslogDrainURL  string         `json:"syslog_drain_url,omitempty"`
	RouteServiceURL string         `json:"route_service_url,omitempty"`
	VolumeMounts    []VolumeMount  `json:"volume_mounts,omitempty"`
}

// RenderAccess renders all that a binding has with CredentialValues.
func (r Recipe) RenderAccess(values map[string]any) (a Access, err error) {
	if a.Credentials, err = r.RenderCredentials(values); err != nil {
		return Access{}, err
	}
	for _, text := range []struct {
		name string
		from string
		to   *string
	}{{"syslog_drain_url", r.SyslogDrainURL, &a.SyslogDrainURL}, {"route_service_url", r.RouteServiceURL, &a.RouteServiceURL}} {
		s, err := Render(text.from, values)
		if err != nil {
			return Access{}, fmt.Errorf("%s: %w", text.name, err)
		}
		*text.to = strings.TrimSpace(s)
	}
	for i, v := range r.VolumeMounts {
		m, err := v.render(values)
		if err != nil {
			return Access{}, fmt.Errorf("volume mount %d: %w", i+1, err)
		}
		a.VolumeMounts = append(a.VolumeMounts, m)
	}
	return a, nil
}

func (v VolumeMount) render(values map[string]any) (m VolumeMount, err error) {
	for _, text := range []struct {
		from string
		to   *string
	}{{v.Driver, &m.Driver}, {v.ContainerDir, &m.ContainerDir}, {v.Mode, &m.Mode}, {v.VolumeID, &m.VolumeID}} {
		if *text.to, err = Render(text.from, values); err != nil {
			return m, err
		}
	}
	if m.Mode != "r" && m.Mode != "rw" {
		return m, fmt.Errorf("mode is neither r nor rw")
	}
	m.MountConfig, err = RenderAll(v.MountConfig, values)
	maps.DeleteFunc(m.MountConfig, func(_, text string) bool { return text == "" })
	return m, err
}

var digits = regexp.MustCompile(`^(0|[1-9][0-9]{0,8})$`)

// RenderCredentials makes a binding's credentials object. Ports become numbers.
func (r Recipe) RenderCredentials(values map[string]any) (map[string]any, error) {
	out := make(map[string]any, len(r.Credentials))
	for key, text := range r.Credentials {
		s, err := Render(text, values)
		if err != nil {
			return nil, fmt.Errorf("credential %q: %w", key, err)
		}
		out[key] = s
		if (key == "port" || strings.HasSuffix(key, "_port")) && digits.MatchString(s) {
			n, _ := strconv.Atoi(s)
			out[key] = n
		}
	}
	return out, nil
}
