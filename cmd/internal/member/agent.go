// Package member is the commands that run inside members: the agent, and what a recipe runs
// beside its server.
package member

import (
	"log/slog"
	"os"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/remuda/remuda/provisioner/agent"
)

// Commands are all of them.
func Commands() []*cobra.Command { return []*cobra.Command{newAgent(), newDrain(), newNFS()} }

// newAgent is the command that containers start as PID 1.
func newAgent() *cobra.Command {
	var egress, layout bool
	var listen, oneUser string
	cmd := &cobra.Command{
		Use:    "agent",
		Short:  "Run as the agent of a member (started inside containers, not by people)",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			debug.SetGCPercent(50)
			runtime.GOMAXPROCS(2)
			log := slog.New(slog.NewTextHandler(os.Stderr, nil))
			opts := agent.Options{Dir: "/remuda/run", Logger: log, Egress: egress, Listen: listen, OneUser: oneUser}
			if layout || listen != "" {
				var err error
				if opts, err = agent.FromEnvironment(opts); err != nil {
					return err
				}
			}
			if layout {
				return agent.Layout(opts.Places, oneUser)
			}
			return agent.Serve(cmd.Context(), opts)
		},
	}
	cmd.Flags().BoolVar(&egress, "egress", false, "be a group's way out, in the host's network")
	cmd.Flags().BoolVar(&layout, "layout", false, "make the places of a pod in its volumes, and end")
	cmd.Flags().StringVar(&oneUser, "one-user", "", "let everything run as the agent's own user, whom servers know by this `name`")
	cmd.Flags().StringVar(&listen, "listen", "", "serve in a pod at this address, with the identity and places of the environment")
	return cmd
}
