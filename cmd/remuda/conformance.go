package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/remuda/remuda/conformance"
)

func newConformance() *cobra.Command {
	var o conformance.Options
	var output, parameters, bindParameters string
	cmd := &cobra.Command{
		Use:   "conformance --url URL --username NAME",
		Short: "Check any Open Service Broker against the specification, 2.13 to 2.17",
		Long: `Calls a broker as a platform would, well and badly, and shows for each rule of the
Open Service Broker specification whether it holds:

  PASS  it holds                   FAIL  a MUST does not hold
  SKIP  the catalog has no such    WARN  a SHOULD does not hold; --strict makes it a FAIL

It makes a few instances of one plan, with bindings, and deletes all again, also
after failures and Ctrl-C. Their ids begin with "` + conformance.IDPrefix + `". Real instances can cost
money: choose the plan with --service and --plan.

Give the password in REMUDA_PASSWORD. What flags have, --password too, can be seen by
all users of the machine while the command runs. No password, no credentials and no
parameters that you give are printed.

The exit code is 0 when no rule failed, 1 when one did or much could not be looked
at, 2 for a wrong command line.`,
		Example: `  REMUDA_PASSWORD=... remuda conformance --url https://broker.example.com --username admin
  remuda conformance --url http://127.0.0.1:8080 --username admin --service mysql --plan small -o junit > report.xml`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			write, ok := reportWriters[output]
			if !ok {
				return usageError{fmt.Errorf("output %q is none of text, json and junit", output)}
			}
			for _, p := range []struct {
				name, text string
				to         *map[string]any
			}{{"parameters", parameters, &o.Parameters}, {"bind-parameters", bindParameters, &o.BindParameters}} {
				if err := readParameters(p.text, p.to); err != nil {
					return usageError{fmt.Errorf("--%s: %w", p.name, err)}
				}
			}
			loginFromEnvironment(cmd, &o)
			return checkBroker(cmd, o, write)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.URL, "url", "", "`URL` of the broker, without /v2")
	f.StringVar(&o.Username, "username", "", "user `name` (default $REMUDA_USERNAME); with no login at all the rules of logins are skipped")
	f.StringVar(&o.Password, "password", "", "`password` (default $REMUDA_PASSWORD, which others cannot see)")
	f.StringVar(&o.Version, "api-version", "2.17", "`version` of the specification, 2.13 to 2.17")
	f.StringVar(&o.Service, "service", "", "name or id of the `offering` (default the first with a bindable plan)")
	f.StringVar(&o.Plan, "plan", "", "name or id of the `plan` (default the first)")
	f.StringVar(&o.UpdatePlan, "update-plan", "", "name or id of the `plan` to change to (default another of the offering, if the broker allows it)")
	f.StringVar(&parameters, "parameters", "", "`JSON` object with parameters of provisions")
	f.StringVar(&bindParameters, "bind-parameters", "", "`JSON` object with parameters of binds")
	f.StringVar(&o.AppGUID, "app-guid", "", "`GUID` of the application to bind (default a random one)")
	f.StringVar(&o.Route, "route", "", "`route` to bind to offerings that forward routes (default one below example.com)")
	f.DurationVar(&o.Timeout, "timeout", 10*time.Minute, "of each asynchronous operation; a plan's maximum_polling_duration can shorten it")
	f.BoolVar(&o.Insecure, "insecure", false, "do not verify the broker's certificate")
	f.BoolVar(&o.Strict, "strict", false, "a SHOULD that does not hold fails, too")
	f.StringVarP(&output, "output", "o", "text", "text, json or junit")
	return cmd
}

var reportWriters = map[string]func(*conformance.Report, io.Writer) error{
	"text": (*conformance.Report).WriteText, "json": (*conformance.Report).WriteJSON, "junit": (*conformance.Report).WriteJUnit,
}

// readParameters decodes a JSON object. The text may hold secrets, so no error
// shows it.
func readParameters(text string, to *map[string]any) error {
	if text == "" {
		return nil
	}
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	if err := d.Decode(to); err != nil || *to == nil {
		return errors.New("it must be a JSON object")
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the JSON object")
	}
	return nil
}

func loginFromEnvironment(cmd *cobra.Command, o *conformance.Options) {
	if !cmd.Flags().Changed("username") {
		o.Username = os.Getenv("REMUDA_USERNAME")
	}
	if !cmd.Flags().Changed("password") {
		o.Password = os.Getenv("REMUDA_PASSWORD")
	}
}

// checkBroker runs the check and writes the report. What is going on is told on
// stderr.
func checkBroker(cmd *cobra.Command, o conformance.Options, write func(*conformance.Report, io.Writer) error) error {
	ctx := cmd.Context()
	// A second Ctrl-C does not wait for the clean-up.
	defer context.AfterFunc(ctx, func() { signal.Reset(os.Interrupt) })()
	o.Progress = func(area string) {
		if ctx.Err() != nil {
			area = "interrupted, " + area + " (Ctrl-C again leaves what was made)"
		}
		fmt.Fprintf(cmd.ErrOrStderr(), "%s …\n", area)
	}
	report, err := conformance.Run(ctx, o)
	if err != nil {
		return usageError{err}
	}
	if err := write(report, cmd.OutOrStdout()); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	switch {
	case report.Failed():
		return fmt.Errorf("%d rules failed", report.Count(conformance.Fail))
	case report.Incomplete != "":
		return errors.New(report.Incomplete)
	}
	return nil
}
