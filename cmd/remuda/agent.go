package main

import (
	"log/slog"
	"os"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/remuda/remuda/provisioner/agent"
)

// newAgent is the command that containers start as PID 1.
func newAgent() *cobra.Command {
	var egress bool
	cmd := &cobra.Command{
		Use:    "agent",
		Short:  "Run as the agent of a member (started inside containers, not by people)",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			debug.SetGCPercent(50)
			runtime.GOMAXPROCS(2)
			log := slog.New(slog.NewTextHandler(os.Stderr, nil))
			return agent.Serve(cmd.Context(), agent.Options{Dir: "/remuda/run", Logger: log, Egress: egress})
		},
	}
	cmd.Flags().BoolVar(&egress, "egress", false, "be a group's way out, in the host's network")
	return cmd
}
