package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/remuda/remuda/broker/osbapi"
	"github.com/remuda/remuda/provisioner"
	"github.com/remuda/remuda/store"
)

func newPools() *cobra.Command {
	return listCommand("pools", "Show the pools: warm, claimed and other groups of each plan",
		[]string{"OFFERING", "PLAN", "WARM", "CLAIMED", "CREATING", "RESETTING", "FLOOR", "TARGET", "CEILING", "TROUBLE"},
		func(p osbapi.Pool) []string {
			return []string{p.Offering, p.Plan, itoa(p.Warm), itoa(p.Claimed), itoa(p.Creating), itoa(p.Resetting), itoa(p.Floor), itoa(p.Target), itoa(p.Ceiling), oneLine(p.Trouble)}
		})
}

func newInstances() *cobra.Command {
	return listCommand("instances", "Show the service instances",
		[]string{"ID", "OFFERING", "PLAN", "STATE", "GROUP", "ADDRESS", "BINDINGS", "CREATED"},
		func(i osbapi.Instance) []string {
			return []string{i.ID, i.Offering, i.Plan, i.State, i.Group, i.Address, itoa(i.Bindings), i.CreatedAt.Format(time.RFC3339)}
		})
}

func newGroups() *cobra.Command {
	groups := listCommand("groups", "Show the container groups; 'remuda groups close --all' removes them",
		[]string{"ID", "OFFERING", "PLAN", "STATE", "GEN", "INSTANCE", "ADDRESS", "PIDS", "HEALTHY"},
		func(g osbapi.Group) []string {
			var pids []string
			healthy := "yes"
			for _, m := range g.Members {
				pids = append(pids, itoa(m.PID))
				if !m.Healthy {
					healthy = "no"
				}
			}
			return []string{g.ID, g.Offering, g.Plan, g.State, itoa(g.Generation), g.InstanceID, g.Address, strings.Join(pids, ","), healthy}
		})
	var all bool
	closing := &cobra.Command{
		Use:   "close --all",
		Short: "Remove every group of this broker and all that belongs to it (the broker must be stopped; instances and their data are lost)",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !all {
				return usageError{errors.New("say --all: groups are closed all together")}
			}
			c, err := loadConfig(cmd)
			if err != nil {
				return err
			}
			return closeAll(cmd.Context(), c, cmd.OutOrStdout())
		},
	}
	closing.Flags().BoolVar(&all, "all", false, "close all groups")
	groups.AddCommand(closing)
	return groups
}

func newCheck() *cobra.Command {
	return &cobra.Command{
		Use:   "check",
		Short: "Check configuration and recipes without starting anything",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, recipes, err := configured(cmd)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "configuration and %d recipes are good\n", len(recipes))
			return nil
		},
	}
}

// closeAll removes everything of this broker from the host. What the store
// says of instances goes too, since nothing can serve them any more.
func closeAll(ctx context.Context, c Config, stdout io.Writer) error {
	if _, err := os.Stat(c.StateDir); errors.Is(err, os.ErrNotExist) {
		fmt.Fprintf(stdout, "%s does not exist: nothing to remove\n", c.StateDir)
		return nil
	}
	p, err := openHost(ctx, c, slog.New(slog.DiscardHandler), stdout)
	if err != nil {
		return err
	}
	defer p.store.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if p.home.run != nil {
		go func() { _ = p.home.run(ctx) }()
	}
	groups, err := p.home.List(ctx)
	if err != nil {
		return err
	}
	pool, err := provisioner.New(provisioner.Options{Store: p.store, Backend: p.home.Backend})
	if err != nil {
		return err
	}
	if err := pool.CloseAll(ctx); err != nil {
		return err
	}
	if err := p.home.purge(); err != nil {
		return err
	}
	gone, err := forgetTenants(ctx, p.store)
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "closed %d groups, forgot %d instances\n", len(groups), gone)
	return nil
}

// forgetTenants removes all instances and bindings, and ends their operations.
func forgetTenants(ctx context.Context, s store.Store) (instances int, err error) {
	err = s.Update(ctx, func(tx store.Tx) error {
		instances = 0
		all, err := tx.Instances().List()
		if err != nil {
			return err
		}
		for _, i := range all {
			bindings, err := tx.Bindings().Of(i.ID)
			if err != nil {
				return err
			}
			for _, b := range bindings {
				if err := tx.Bindings().Delete(b.ID); err != nil {
					return err
				}
			}
			if err := tx.Instances().Delete(i.ID); err != nil {
				return err
			}
			instances++
		}
		running, err := tx.Operations().Running()
		if err != nil {
			return err
		}
		if _, err := tx.Audit().Append(store.AuditRecord{Time: time.Now(), Operation: "close_all", Result: "succeeded"}); err != nil {
			return err
		}
		for _, op := range running {
			op.State, op.Description, op.FinishedAt = store.OpFailed, "The broker's groups were removed by its operator.", time.Now().UTC()
			if err := tx.Operations().Put(op); err != nil {
				return err
			}
		}
		return nil
	})
	return instances, err
}

// listCommand asks the running broker for a list and shows it as a table or as
// the JSON that the broker gave.
func listCommand[T any](name, short string, header []string, row func(T) []string) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   name,
		Short: short,
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "table" && output != "json" {
				return usageError{fmt.Errorf("output %q is neither table nor json", output)}
			}
			c, err := loadConfig(cmd)
			if err != nil {
				return err
			}
			body, err := askBroker(cmd.Context(), c, "/admin/v1/"+name)
			if err != nil {
				return err
			}
			if output == "json" {
				_, err := cmd.OutOrStdout().Write(body)
				return err
			}
			var answer map[string][]T
			if err := json.Unmarshal(body, &answer); err != nil {
				return fmt.Errorf("read the broker's answer: %w", err)
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, strings.Join(header, "\t"))
			for _, item := range answer[name] {
				fmt.Fprintln(w, strings.Join(row(item), "\t"))
			}
			return w.Flush()
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "table", "table or json")
	return cmd
}

// oneLine makes a text fit for the last column of a table.
func oneLine(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > 300 {
		s = strings.ToValidUTF8(s[:300], "") + "…"
	}
	return s
}

// askBroker calls the running broker of this configuration.
func askBroker(ctx context.Context, c Config, path string) ([]byte, error) {
	password, _, err := c.secret(false)
	if err != nil {
		return nil, err
	}
	host, port, err := net.SplitHostPort(c.Listen)
	if err != nil {
		return nil, err
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+net.JoinHostPort(host, port)+path, nil)
	if err != nil {
		return nil, err
	}
	req.SetBasicAuth(c.Username, password)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask the broker (is it running?): %w", err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 256<<20))
	if err != nil {
		return nil, fmt.Errorf("read the broker's answer: %w", err)
	}
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the broker answered %s: %s", res.Status, strings.TrimSpace(string(body)))
	}
	return body, nil
}

func itoa(n int) string { return strconv.Itoa(n) }
