package dashboard

import (
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"

	"github.com/remuda/remuda/broker"
	"github.com/remuda/remuda/provisioner"
	"github.com/remuda/remuda/store"
)

//go:embed templates/*.html
var templateFiles embed.FS

//go:embed templates/style.css
var style string

// templates get the style sheet as it is: the policy names its hash.
var templates = template.Must(template.New("").Funcs(template.FuncMap{
	"style": func() template.CSS { return template.CSS(style) },
	"time":  func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05") },
	"iso":   func(t time.Time) string { return t.UTC().Format(time.RFC3339) },
}).ParseFS(templateFiles, "templates/*.html"))

// contentSecurityPolicy allows the style sheet inside of pages and nothing else.
var contentSecurityPolicy = func() string {
	sum := sha256.Sum256([]byte(style))
	return fmt.Sprintf("default-src 'none'; style-src 'sha256-%s'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
		base64.StdEncoding.EncodeToString(sum[:]))
}()

// message is a page that says only what is wrong.
type message struct {
	Title string
	Text  string
	Help  []string
}

// view is what the page shows.
type view struct {
	broker.Details
	State     badge
	Notice    string // what the owner should know; "" when all is well
	Addresses []address
	Members   []member
	Blind     bool // members could not be looked at
	Now       time.Time
}

// badge is a word with a colour that says the same.
type badge struct {
	Word string
	Kind string // good, busy or bad
}

// address is an endpoint in words.
type address struct{ Name, Text string }

// member is one member in words.
type member struct {
	Name   string
	Role   string
	Health badge
	Reason string
	Since  time.Time
	Usage  []usage
	Log    string
}

// usage is one bar.
type usage struct {
	Name    string
	Text    string // "48 MiB of 64 MiB"
	Known   bool
	Percent int    // 0 to 100
	Kind    string // good, busy from 75 %, bad from 90 %
}

func newView(d broker.Details, seen provisioner.Inspection, now time.Time) view {
	v := view{Details: d, State: stateBadge(string(d.Instance.State)), Now: now, Notice: d.Failure}
	switch {
	case d.Instance.State == store.InstanceFailed && v.Notice == "":
		v.Notice = "The creation of the service instance failed. Delete it and try again."
	case d.Instance.State == store.InstanceCreating && v.Notice == "":
		v.Notice = "The service instance is being created."
	}
	for _, e := range d.Endpoints {
		a := address{e.Name, net.JoinHostPort(e.Host, strconv.Itoa(e.Port))}
		if e.Count > 1 {
			a.Text += fmt.Sprintf("–%d", e.Port+e.Count-1)
		}
		v.Addresses = append(v.Addresses, a)
	}
	for _, m := range seen.Members {
		v.Members = append(v.Members, newMember(m))
	}
	return v
}

func newMember(m provisioner.MemberInspection) member {
	out := member{Name: m.Name, Role: m.Role, Health: badge{"healthy", "good"}, Since: m.StartedAt, Log: m.Log}
	if !m.Healthy {
		out.Health, out.Reason = badge{"unwell", "bad"}, m.Reason
	}
	out.Usage = []usage{
		newUsage("Memory", m.Memory, bytesText),
		newUsage("CPU cores", m.CPU, coresText),
		newUsage("Disk", m.Disk, bytesText),
	}
	return out
}

func newUsage(name string, u provisioner.Usage, text func(int64) string) usage {
	if u.Used < 0 || u.Limit <= 0 {
		return usage{Name: name, Text: "unknown"}
	}
	out := usage{Name: name, Known: true, Text: text(u.Used) + " of " + text(u.Limit), Kind: "good"}
	out.Percent = int(min(100*u.Used/u.Limit, 100))
	switch {
	case out.Percent >= 90:
		out.Kind = "bad"
	case out.Percent >= 75:
		out.Kind = "busy"
	}
	return out
}

func bytesText(n int64) string {
	return strings.Replace(units.CustomSize("%.3g %s", float64(n), 1024, []string{"B", "KiB", "MiB", "GiB", "TiB"}), "e+03", "000", 1)
}

func coresText(thousandths int64) string {
	if thousandths%10 == 0 {
		return strconv.FormatFloat(float64(thousandths)/1000, 'f', -1, 64)
	}
	return strconv.FormatFloat(float64(thousandths)/1000, 'f', 2, 64)
}

// stateBadge gives states and results of operations their colour.
func stateBadge(word string) badge {
	switch word {
	case "ready", "created", "deleted", "updated", "succeeded", "unchanged":
		return badge{word, "good"}
	case "failed", "refused":
		return badge{word, "bad"}
	}
	return badge{word, "busy"}
}

// Badge is for templates.
func (v view) Badge(word string) badge { return stateBadge(word) }

// Word is a binding's state as text; States are strings of their own kind.
func (v view) Word(state store.BindingState) string { return string(state) }
