package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/remuda/remuda/broker"
	"github.com/remuda/remuda/broker/osbapi"
	"github.com/remuda/remuda/catalog"
	"github.com/remuda/remuda/provisioner"
)

func newServe() *cobra.Command {
	return &cobra.Command{
		Use:   "serve",
		Short: "Run the broker in the foreground until SIGTERM; claimed groups go on running",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, recipes, err := configured(cmd)
			if err != nil {
				return err
			}
			return serve(cmd.Context(), c, recipes, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
}

// serve is the broker: it returns when ctx ends and everything it started has
// stopped, leaving groups as they are.
func serve(ctx context.Context, c Config, recipes []catalog.Recipe, stdout, stderr io.Writer) error {
	log := newLogger(c.LogLevel, stderr)
	p, err := assemble(ctx, c, recipes, log, stdout)
	if err != nil {
		return err
	}
	defer p.store.Close()
	password, source, err := c.secret(true)
	if err != nil {
		return err
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	metrics := newPoolMetrics(registry)
	pool, err := p.newPool(log, metrics)
	if err != nil {
		return err
	}
	registry.MustRegister(levelCollector{pool.Levels})
	links, err := p.dashboardLinks()
	if err != nil {
		return err
	}
	b, err := broker.New(broker.Options{
		Store: p.store, Cluster: p.cluster, Groups: timedGroups{pool, metrics}, Catalog: p.recipes, Sealer: p.sealer, Logger: log,
		Limits: c.Limits.forBroker(), AuditKeep: time.Duration(c.Audit.Keep), Links: brokerLinks(links),
		OperationMemory: time.Duration(c.OperationMemory), ProvisionTimeout: time.Duration(c.ProvisionTimeout),
	})
	if err != nil {
		return err
	}
	o := osbapi.Options{
		Broker: b, Username: c.Username, Password: password, Logger: log, Registry: registry,
		Ready:  func() error { return p.ready(pool) },
		Pools:  func(context.Context) ([]osbapi.Pool, error) { return poolView(pool.Levels()), nil },
		Groups: func(ctx context.Context) ([]osbapi.Group, error) { return groupView(ctx, pool) },
	}
	if err := serveDashboards(&o, links, c, pool); err != nil {
		return err
	}
	api, err := osbapi.New(o)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	return runAll(ctx, p.home, pool, b, api, listener, func() { banner(stdout, listener.Addr().String(), c, source) })
}

// runAll starts pool, broker and server in the order that a crash needs: former
// tenants are cut off before anybody is served.
func runAll(ctx context.Context, h *home, pool *provisioner.Pool, b *broker.Broker, api http.Handler, l net.Listener, started func()) error {
	g, ctx := errgroup.WithContext(ctx)
	if h.run != nil {
		g.Go(func() error { return h.run(ctx) })
	}
	g.Go(func() error { return pool.Run(ctx) })
	g.Go(func() error {
		defer l.Close()
		select {
		case <-pool.Ready():
		case <-ctx.Done():
			return nil
		}
		g.Go(func() error { return b.Run(ctx) })
		server := osbapi.NewServer(api)
		g.Go(func() error {
			<-ctx.Done()
			bound, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
			defer cancel()
			return server.Shutdown(bound)
		})
		started()
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve: %w", err)
		}
		return nil
	})
	return g.Wait()
}

func banner(w io.Writer, addr string, c Config, passwordSource string) {
	show := `"$REMUDA_PASSWORD"`
	where := "the one in REMUDA_PASSWORD"
	if passwordSource != "REMUDA_PASSWORD" {
		show = fmt.Sprintf(`"$(cat %s)"`, passwordSource)
		where = "in " + passwordSource
	}
	fmt.Fprintf(w, `
remuda %s listens on http://%s
  user      %s
  password  %s
  state     %s

See the catalog:
  curl -s -u %s:%s -H 'X-Broker-API-Version: 2.17' http://%s/v2/catalog

SIGTERM or Ctrl-C stops the broker; claimed groups go on running.
`, version, addr, c.Username, where, c.StateDir, c.Username, show, addr)
}

// lockDown makes the state folder root's alone.
func lockDown(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make state folder: %w", err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return fmt.Errorf("protect state folder: %w", err)
	}
	return nil
}
