package catalog

import (
	"encoding/json"
	"fmt"
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
