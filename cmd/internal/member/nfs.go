package member

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime/debug"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/remuda/remuda/nfs"
)

// newNFS is the commands of members that serve files.
func newNFS() *cobra.Command {
	cmd := &cobra.Command{
		Use:    "nfs",
		Short:  "Serve files over NFS (started inside containers, not by people)",
		Hidden: true,
	}
	cmd.AddCommand(newNFSServe(), newNFSChange("bind", "Give a login an export: login, token, RO or RW, uid and gid on standard input"),
		newNFSChange("unbind", "Take a login's export away: login and - on standard input"))
	return cmd
}

func newNFSServe() *cobra.Command {
	o := nfs.DefaultOptions()
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Serve a folder",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			debug.SetGCPercent(50)
			o.Logger = slog.New(slog.NewTextHandler(os.Stderr, nil))
			return nfs.Serve(cmd.Context(), o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.Address, "address", "127.0.0.1:2049", "`address` to listen at")
	f.StringVar(&o.Data, "data", "", "`folder` with the files")
	f.StringVar(&o.State, "state", "", "`folder` for exports")
	f.StringVar(&o.Control, "control", "", "`socket` for orders")
	f.IntVar(&o.Connections, "connections", o.Connections, "connections at once")
	f.IntVar(&o.MaxFiles, "max-files", o.MaxFiles, "files and folders")
	f.IntVar(&o.Memory, "memory", o.Memory, "`bytes` of requests at once, and as many of answers")
	f.IntVar(&o.Clients, "clients", o.Clients, "machines with something open at once")
	f.IntVar(&o.Opens, "opens", o.Opens, "files that are open at once")
	f.IntVar(&o.Locks, "locks", o.Locks, "ranges that are locked at once")
	for _, name := range []string{"data", "state", "control"} {
		_ = cmd.MarkFlagRequired(name)
	}
	return cmd
}

func newNFSChange(use, short string) *cobra.Command {
	var control string
	cmd := &cobra.Command{
		Use:   use,
		Short: short,
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			text, err := io.ReadAll(io.LimitReader(cmd.InOrStdin(), 4<<10))
			if err != nil {
				return err
			}
			o, err := parseOrder(use, string(text))
			if err != nil {
				return err
			}
			return nfs.Change(cmd.Context(), control, o)
		},
	}
	cmd.Flags().StringVar(&control, "control", "", "`socket` of the server")
	_ = cmd.MarkFlagRequired("control")
	return cmd
}

// parseOrder never says in an error what the text is: there is a secret in it.
func parseOrder(use, text string) (o nfs.Order, err error) {
	words := strings.Fields(text)
	if use == "unbind" {
		if len(words) != 2 || words[1] != "-" {
			return o, fmt.Errorf("%s needs a login and - on standard input", use)
		}
		return nfs.Order{Login: words[0]}, nil
	}
	if len(words) != 5 || words[2] != "RO" && words[2] != "RW" {
		return o, fmt.Errorf("%s needs a login, a token, RO or RW, a user and a group on standard input", use)
	}
	uid, err1 := strconv.ParseUint(words[3], 10, 16)
	gid, err2 := strconv.ParseUint(words[4], 10, 16)
	if err1 != nil || err2 != nil {
		return o, fmt.Errorf("%s needs a user and a group that are numbers", use)
	}
	return nfs.Order{Login: words[0], Token: words[1], Write: words[2] == "RW", UID: uint32(uid), GID: uint32(gid)}, nil
}
