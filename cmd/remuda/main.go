// Command remuda is an Open Service Broker for middleware that hands out warm,
// reusable container groups: the broker, and the tools for operators. It is the agent of
// members too, where there is no remuda-agent beside it.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/remuda/remuda/cmd/internal/member"
)

// version is set at build time.
var version = "dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run is main without the process: tests call it too.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	var usage usageError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &usage):
		fmt.Fprintf(stderr, "remuda: %v\nRun 'remuda help' for what there is.\n", err)
		return 2
	default:
		fmt.Fprintf(stderr, "remuda: %v\n", err)
		return 1
	}
}

// usageError is a fault in the command line itself.
type usageError struct{ error }

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "remuda",
		Short: "Open Service Broker with warm, reusable container groups",
		Long: `remuda hands out real servers (MySQL, PostgreSQL, Redis, FTP, HTTP, log drains,
route services, volumes, and what you add with one YAML file) from warm container
groups, through the Open Service Broker API, and wipes a group for the next tenant
instead of making a new one.

Settings come from a YAML file (--config or REMUDA_CONFIG; see
manifests/remuda.yaml for every key) and from the environment, which wins:
  REMUDA_LISTEN, REMUDA_USERNAME, REMUDA_PASSWORD, REMUDA_STATE_DIR,
  REMUDA_IMAGE_DIR, REMUDA_CONFIG, REMUDA_DATABASE_URL (sqlite:///file, or
  postgres://user@host/database), REMUDA_DATABASE_URL_FILE (a file with that URL)`,
		Version:       version,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.PersistentFlags().String("config", "", "YAML `file` with settings (default $REMUDA_CONFIG)")
	root.AddCommand(newServe(), newController(), newPools(), newGroups(), newInstances(), newAudit(), newDashboard(), newImage(), newCheck(), newConformance())
	root.AddCommand(member.Commands()...)
	return root
}
