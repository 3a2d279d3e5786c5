package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/remuda/remuda/broker"
	"github.com/remuda/remuda/broker/dashboard"
	"github.com/remuda/remuda/broker/osbapi"
	"github.com/remuda/remuda/provisioner"
	"github.com/remuda/remuda/store"
)

// DashboardConfig is about the pages of instances.
type DashboardConfig struct {
	Enabled      bool          `yaml:"enabled"`
	URL          string        `yaml:"url"` // of the broker, for browsers; "" is http:// and listen
	LinkLifetime Duration      `yaml:"link_lifetime"`
	OAuth2       *OAuth2Config `yaml:"oauth2"` // nil: no login, links are signed
}

// OAuth2Config is a login server, and who knows what its users may see.
type OAuth2Config struct {
	AuthorizationURL string   `yaml:"authorization_url"`
	TokenURL         string   `yaml:"token_url"`
	PermissionsURL   string   `yaml:"permissions_url"` // with {instance_id}
	ClientID         string   `yaml:"client_id"`       // {offering} in it becomes the offering's name
	ClientSecretFile string   `yaml:"client_secret_file"`
	Scopes           []string `yaml:"scopes"`
}

// minLinkLifetime leaves a platform the time to fetch an instance again.
const minLinkLifetime = Duration(time.Hour)

func (d DashboardConfig) faults(at func(path ...string) func(format string, args ...any)) {
	if d.URL != "" {
		if u, err := url.Parse(d.URL); err != nil || !webAddress(u) || u.RawQuery != "" || u.Fragment != "" {
			at("dashboard", "url")("dashboard.url %q is not an address like https://broker.example.com", d.URL)
		}
	}
	if d.LinkLifetime < minLinkLifetime {
		at("dashboard", "link_lifetime")("dashboard.link_lifetime must be at least 1h")
	}
	if d.OAuth2 == nil {
		return
	}
	for _, a := range []struct{ key, value string }{
		{"authorization_url", d.OAuth2.AuthorizationURL}, {"token_url", d.OAuth2.TokenURL}, {"permissions_url", d.OAuth2.PermissionsURL},
	} {
		if u, err := url.Parse(a.value); err != nil || !webAddress(u) {
			at("dashboard", "oauth2", a.key)("dashboard.oauth2.%s %q is not an address like https://login.example.com/…", a.key, a.value)
		}
	}
	if !strings.Contains(d.OAuth2.PermissionsURL, "{instance_id}") {
		at("dashboard", "oauth2", "permissions_url")("dashboard.oauth2.permissions_url must contain {instance_id}")
	}
	for _, a := range []struct{ key, value string }{{"client_id", d.OAuth2.ClientID}, {"client_secret_file", d.OAuth2.ClientSecretFile}} {
		if a.value == "" {
			at("dashboard", "oauth2", a.key)("dashboard.oauth2.%s must not be empty", a.key)
		}
	}
}

func webAddress(u *url.URL) bool {
	return (u.Scheme == "http" || u.Scheme == "https") && u.Host != "" && u.User == nil
}

// readClientSecret reads the secret of the OAuth client, which must be readable
// by its owner alone, see store.ReadPrivate.
func (c *Config) readClientSecret() error {
	if c.Dashboard.OAuth2 == nil || c.Dashboard.OAuth2.ClientSecretFile == "" {
		return nil
	}
	file := c.Dashboard.OAuth2.ClientSecretFile
	fault := func(format string, args ...any) error {
		return c.origin.fault("dashboard.oauth2.client_secret_file: "+fmt.Sprintf(format, args...), "dashboard", "oauth2", "client_secret_file")
	}
	text, err := store.ReadPrivate(file)
	if err != nil {
		return fault("%v", err)
	}
	if c.clientSecret = strings.TrimSpace(text); c.clientSecret == "" {
		return fault("%s is empty", file)
	}
	return nil
}

// dashboardURL is where browsers reach the broker.
func (c *Config) dashboardURL() string {
	if c.Dashboard.URL != "" {
		return c.Dashboard.URL
	}
	host, port, _ := net.SplitHostPort(c.Listen)
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = c.Publish.Host
	}
	return "http://" + net.JoinHostPort(host, port)
}

// dashboardLinks is nil when there are no dashboards.
func (p *parts) dashboardLinks() (*dashboard.Links, error) {
	if !p.config.Dashboard.Enabled {
		return nil, nil
	}
	return dashboard.NewLinks(dashboard.LinkOptions{
		Base: p.config.dashboardURL(), Keys: p.signing, Lifetime: time.Duration(p.config.Dashboard.LinkLifetime),
		Login: p.config.Dashboard.OAuth2 != nil,
	})
}

// brokerLinks keeps a nil pointer from becoming an interface that is not nil.
func brokerLinks(l *dashboard.Links) broker.Links {
	if l == nil {
		return nil
	}
	return l
}

// serveDashboards adds the pages to the API.
func serveDashboards(o *osbapi.Options, links *dashboard.Links, c Config, pool *provisioner.Pool) error {
	if links == nil {
		return nil
	}
	d := dashboard.Options{Links: links, Broker: o.Broker, Inspect: pool.Inspect, Logger: o.Logger}
	if a := c.Dashboard.OAuth2; a != nil {
		d.OAuth = &dashboard.OAuth{
			AuthorizationURL: a.AuthorizationURL, TokenURL: a.TokenURL, PermissionsURL: a.PermissionsURL,
			ClientID: a.ClientID, ClientSecret: c.clientSecret, Scopes: a.Scopes,
		}
	}
	h, err := dashboard.New(d)
	if err != nil {
		return err
	}
	b := o.Broker
	o.Dashboard = h
	o.DashboardClient = func(offering string) (osbapi.DashboardClient, bool) {
		client, ok := h.Client(offering)
		return osbapi.DashboardClient(client), ok
	}
	o.DashboardLink = func(ctx context.Context, id string) (string, error) {
		details, err := b.Brief(ctx, id)
		if err != nil {
			return "", err
		}
		return links.ForOperator(details.Instance), nil
	}
	return nil
}

func newDashboard() *cobra.Command {
	return &cobra.Command{
		Use:   "dashboard <instance>",
		Short: "Print a link to the page of a service instance; it is good for an hour",
		Args: func(cmd *cobra.Command, args []string) error {
			if err := cobra.ExactArgs(1)(cmd, args); err != nil {
				return usageError{err}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := loadConfig(cmd)
			if err != nil {
				return err
			}
			body, err := askBroker(cmd.Context(), c, "/admin/v1/instances/"+url.PathEscape(args[0])+"/dashboard")
			if err != nil {
				return err
			}
			var answer struct {
				DashboardURL string `json:"dashboard_url"`
			}
			if err := json.Unmarshal(body, &answer); err != nil {
				return fmt.Errorf("read the broker's answer: %w", err)
			}
			fmt.Fprintln(cmd.OutOrStdout(), answer.DashboardURL)
			return nil
		},
	}
}
