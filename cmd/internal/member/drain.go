package member

import (
	"log/slog"
	"os"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/remuda/remuda/drain"
)

// newDrain is the command that members of log servers run beside them.
func newDrain() *cobra.Command {
	var o drain.Options
	cmd := &cobra.Command{
		Use:    "drain",
		Short:  "Stand in front of a log server (started inside containers, not by people)",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			debug.SetGCPercent(50)
			o.Logger = slog.New(slog.NewTextHandler(os.Stderr, nil))
			return drain.Serve(cmd.Context(), o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.TCP, "tcp", "127.0.0.1:5140", "`address` for syslog over TCP")
	f.StringVar(&o.TLS, "tls", "127.0.0.1:6514", "`address` for syslog over TLS")
	f.StringVar(&o.HTTPS, "https", "127.0.0.1:8443", "`address` for HTTPS")
	f.StringVar(&o.Certificate, "certificate", "", "`file` with the certificate")
	f.StringVar(&o.Key, "key", "", "`file` with its key")
	f.StringVar(&o.Users, "users", "", "`file` with logins")
	f.StringVar(&o.Syslog, "syslog", "127.0.0.1:9429", "`address` of the log server for syslog over TCP")
	f.StringVar(&o.Search, "search", "127.0.0.1:9428", "`address` of the log server for HTTP")
	f.StringVar(&o.Data, "data", "/", "`folder` on the log server's disk")
	f.Uint64Var(&o.MinFree, "min-free", 0, "with fewer `bytes` free on the disk nothing is taken")
	f.IntVar(&o.Streams, "streams", 64, "connections with syslog at once")
	f.IntVar(&o.Requests, "requests", 16, "requests with messages at once")
	f.IntVar(&o.Clients, "clients", 256, "connections with HTTPS at once")
	return cmd
}
