// Command remuda-agent is what of remuda runs inside members: the agent, which is PID 1 of every one,
// and the drain. It is a program of its own because remuda is seven times as large and takes four
// times as much memory of its own before it does anything.
package main

import (
	"context"
	"os"

	"github.com/spf13/cobra"

	"github.com/remuda/remuda/cmd/internal/member"
)

func main() {
	root := &cobra.Command{Use: "remuda-agent", Short: "Run inside the members of container groups (not started by people)", SilenceUsage: true}
	root.AddCommand(member.Commands()...)
	if root.ExecuteContext(context.Background()) != nil {
		os.Exit(1)
	}
}
