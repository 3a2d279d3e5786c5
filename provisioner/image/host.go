package image

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// system is what os-release says of this host.
type system struct{ ID, Version, Codename, Pretty string }

func readSystem(file string) (system, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return system{}, fmt.Errorf("%w: what system this is cannot be read: %w", ErrPrerequisite, err)
	}
	values := map[string]string{}
	for _, line := range strings.Split(string(text), "\n") {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			values[key] = strings.Trim(value, `"'`)
		}
	}
	s := system{ID: values["ID"], Version: values["VERSION_ID"], Codename: values["VERSION_CODENAME"], Pretty: values["PRETTY_NAME"]}
	like := strings.Fields(s.ID + " " + values["ID_LIKE"])
	if !slices.Contains(like, "debian") && !slices.Contains(like, "ubuntu") || s.Codename == "" {
		return system{}, fmt.Errorf("%w: the root file system is made from the packages of Debian or Ubuntu, and this is %q", ErrPrerequisite, s.Pretty)
	}
	return s, nil
}

// source is a file for mmdebstrap with package sources of one format.
type source struct{ ext, text string }

// hostSources collects the host's own package sources for its release, as they
// stand, with their keys: one-line entries and deb822 stanzas. Sources for
// something else than the release (other vendors) are left out: the image needs
// nothing of them, and one that fails would spoil the build.
func hostSources(etcApt, codename string) ([]source, error) {
	files, err := filepath.Glob(filepath.Join(etcApt, "sources.list.d", "*"))
	if err != nil {
		return nil, err
	}
	files = append([]string{filepath.Join(etcApt, "sources.list")}, files...)
	var lines, stanzas []string
	for _, file := range files {
		text, err := os.ReadFile(file)
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read package sources: %w", err)
		}
		switch filepath.Ext(file) {
		case ".list":
			lines = append(lines, oneLineSources(string(text), codename)...)
		case ".sources":
			stanzas = append(stanzas, stanzaSources(string(text), codename)...)
		}
	}
	var out []source
	if len(stanzas) > 0 {
		out = append(out, source{".sources", strings.Join(stanzas, "\n\n") + "\n"})
	}
	if len(lines) > 0 {
		out = append(out, source{".list", strings.Join(lines, "\n") + "\n"})
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%w: %s has no package source for the release %s", ErrPrerequisite, etcApt, codename)
	}
	return out, nil
}

// ofRelease says whether a suite belongs to the release: "bookworm", "bookworm-updates", "stable".
func ofRelease(suite, codename string) bool {
	suite, _, _ = strings.Cut(suite, "/")
	for _, s := range []string{codename, "stable", "oldstable", "testing", "unstable", "sid"} {
		if suite == s || strings.HasPrefix(suite, s+"-") && !strings.Contains(suite, "backports") {
			return true
		}
	}
	return false
}

var oneLine = regexp.MustCompile(`^deb\s+(\[[^\]]*\]\s+)?(\S+)\s+(\S+)(\s+\S+)*$`)

func oneLineSources(text, codename string) []string {
	var out []string
	for _, line := range strings.Split(text, "\n") {
		line, _, _ = strings.Cut(line, "#")
		line = strings.TrimSpace(line)
		m := oneLine.FindStringSubmatch(line)
		if m != nil && ofRelease(m[3], codename) && !strings.HasPrefix(m[2], "cdrom:") {
			out = append(out, line)
		}
	}
	return out
}

func stanzaSources(text, codename string) []string {
	var out []string
	for _, stanza := range regexp.MustCompile(`\n[ \t]*\n`).Split(text, -1) {
		var kept []string
		fields := map[string]string{}
		key := ""
		for _, line := range strings.Split(stanza, "\n") {
			if strings.HasPrefix(line, "#") || strings.TrimSpace(line) == "" {
				continue
			}
			kept = append(kept, line)
			if line[0] == ' ' || line[0] == '\t' {
				fields[key] += " " + strings.TrimSpace(line)
			} else if k, v, ok := strings.Cut(line, ":"); ok {
				key = strings.ToLower(k)
				fields[key] = strings.TrimSpace(v)
			}
		}
		suites := strings.Fields(fields["suites"])
		other := slices.ContainsFunc(suites, func(s string) bool { return !ofRelease(s, codename) })
		binary := slices.Contains(strings.Fields(fields["types"]), "deb")
		if len(suites) > 0 && !other && binary && !strings.EqualFold(fields["enabled"], "no") {
			out = append(out, strings.Join(kept, "\n"))
		}
	}
	return out
}

// aptOption matches the settings that decide how this host reaches its archive.
var aptOption = regexp.MustCompile(`^Acquire::((http|https)::.+|Check-Valid-Until|Check-Date|ForceIPv4|ForceIPv6) ".+";$`)

func hostAptOptions(ctx context.Context) []string {
	out, err := exec.CommandContext(ctx, "apt-config", "dump").Output()
	if err != nil {
		return nil // the archive may well be reached without
	}
	var options []string
	for _, line := range strings.Split(string(out), "\n") {
		if aptOption.MatchString(line) && !strings.HasPrefix(line, "Acquire::http::User-Agent") {
			options = append(options, strings.TrimSuffix(line, ";"))
		}
	}
	return options
}

// resolvePackages takes, where there are several names, the first that the
// host's package archive knows.
func resolvePackages(ctx context.Context, packages []string) ([]string, error) {
	var out []string
	for _, names := range packages {
		choices := strings.Split(names, "|")
		if len(choices) == 1 {
			out = append(out, names)
			continue
		}
		found := ""
		for _, name := range choices {
			if found = name; known(ctx, name) {
				break
			}
			found = ""
		}
		if found == "" {
			return nil, fmt.Errorf("%w: the package archive knows none of %s; is its list up to date (apt-get update)?", ErrPrerequisite, strings.Join(choices, ", "))
		}
		out = append(out, found)
	}
	return sorted(out), nil
}

func known(ctx context.Context, name string) bool {
	out, err := exec.CommandContext(ctx, "apt-cache", "show", "--no-all-versions", "--", name).Output()
	return err == nil && strings.Contains(string(out), "\nFilename:")
}
