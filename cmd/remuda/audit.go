package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/remuda/remuda/store"
)

// auditPageSize is how many records one request asks for.
const auditPageSize = 500

// auditOptions are the flags of remuda audit.
type auditOptions struct {
	instance, since, output string
	limit                   int
	verify                  bool
}

func newAudit() *cobra.Command {
	var o auditOptions
	cmd := &cobra.Command{
		Use:   "audit",
		Short: "Show who changed what, the newest first; --verify checks that nothing of it was changed",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			query, err := o.query(time.Now())
			if err != nil {
				return usageError{err}
			}
			c, err := loadConfig(cmd)
			if err != nil {
				return err
			}
			if o.verify {
				return verifyAudit(cmd.Context(), c, cmd.OutOrStdout())
			}
			records, err := readAudit(cmd.Context(), c, query, o.limit)
			if err != nil {
				return err
			}
			if o.output == "json" {
				e := json.NewEncoder(cmd.OutOrStdout())
				e.SetEscapeHTML(false)
				return e.Encode(map[string]any{"audit": records})
			}
			return auditTable(cmd.OutOrStdout(), records)
		},
	}
	cmd.Flags().StringVar(&o.instance, "instance", "", "only what concerns this service instance")
	cmd.Flags().StringVar(&o.since, "since", "", "only from then on: a time like 2026-01-31T12:00:00Z, or a duration ago like 24h")
	cmd.Flags().IntVar(&o.limit, "limit", 50, "how many records at most")
	cmd.Flags().StringVarP(&o.output, "output", "o", "table", "table or json")
	cmd.Flags().BoolVar(&o.verify, "verify", false, "check the chain of all records instead of showing them")
	return cmd
}

func (o auditOptions) query(now time.Time) (url.Values, error) {
	q := url.Values{}
	switch {
	case o.output != "table" && o.output != "json":
		return nil, fmt.Errorf("output %q is neither table nor json", o.output)
	case o.limit < 1:
		return nil, errors.New("limit must be at least 1")
	case o.verify && (o.instance != "" || o.since != ""):
		return nil, errors.New("--verify checks all records: leave --instance and --since out")
	}
	if o.instance != "" {
		q.Set("instance", o.instance)
	}
	if o.since != "" {
		at, err := time.Parse(time.RFC3339, o.since)
		if ago, durationErr := time.ParseDuration(o.since); durationErr == nil {
			at, err = now.Add(-ago), nil
		}
		if err != nil {
			return nil, fmt.Errorf("since %q is neither a time like 2026-01-31T12:00:00Z nor a duration like 24h", o.since)
		}
		q.Set("since", at.UTC().Format(time.RFC3339))
	}
	return q, nil
}

// eachAudit reads records page by page, the newest first, until there is none
// or f says that it has enough.
func eachAudit(ctx context.Context, c Config, query url.Values, f func(store.AuditRecord) (more bool, err error)) error {
	query.Set("limit", strconv.Itoa(auditPageSize))
	for {
		body, err := askBroker(ctx, c, "/admin/v1/audit?"+query.Encode())
		if err != nil {
			return err
		}
		var page struct {
			Audit []store.AuditRecord `json:"audit"`
			Next  int64               `json:"next"`
		}
		if err := json.Unmarshal(body, &page); err != nil {
			return fmt.Errorf("read the broker's answer: %w", err)
		}
		for _, r := range page.Audit {
			if more, err := f(r); err != nil || !more {
				return err
			}
		}
		if page.Next == 0 {
			return nil
		}
		query.Set("before", strconv.FormatInt(page.Next, 10))
	}
}

func readAudit(ctx context.Context, c Config, query url.Values, limit int) ([]store.AuditRecord, error) {
	records := []store.AuditRecord{}
	err := eachAudit(ctx, c, query, func(r store.AuditRecord) (bool, error) {
		records = append(records, r)
		return len(records) < limit, nil
	})
	return records, err
}

func verifyAudit(ctx context.Context, c Config, stdout io.Writer) error {
	var v store.AuditVerifier
	err := eachAudit(ctx, c, url.Values{}, func(r store.AuditRecord) (bool, error) { return true, v.Check(r) })
	if err != nil {
		return err
	}
	if v.Newest.Seq == 0 {
		fmt.Fprintln(stdout, "there are no audit records")
		return nil
	}
	fmt.Fprintf(stdout, "audit records %d to %d are as they were written; the newest is from %s and has the hash\n%s\n",
		v.Oldest.Seq, v.Newest.Seq, v.Newest.Time.Format(time.RFC3339), v.Newest.Hash)
	return nil
}

func auditTable(w io.Writer, records []store.AuditRecord) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "SEQ\tTIME\tOPERATION\tINSTANCE\tBINDING\tSTATUS\tRESULT\tCODE\tUSER\tFROM\tFOR")
	for _, r := range records {
		status := ""
		if r.Status != 0 {
			status = itoa(r.Status)
		}
		row := []string{strconv.FormatInt(r.Seq, 10), r.Time.Format(time.RFC3339), r.Operation, r.InstanceID, r.BindingID,
			status, r.Result, r.Code, r.User, r.Address, person(r)}
		for i, cell := range row {
			row[i] = printable(cell)
		}
		fmt.Fprintln(table, strings.Join(row, "\t"))
	}
	return table.Flush()
}

// person names who stands behind a request, as far as the platform says.
func person(r store.AuditRecord) string {
	var members map[string]any
	_ = json.Unmarshal(r.Identity, &members)
	for _, key := range []string{"username", "user_name", "email", "user_id", "uid"} {
		if name, ok := members[key].(string); ok && name != "" {
			return r.Platform + ":" + name
		}
	}
	return r.Platform
}

// printable keeps what clients chose from moving a terminal's cursor.
func printable(s string) string {
	if s == "" {
		return "-"
	}
	if quoted := strconv.QuoteToGraphic(s); quoted != `"`+s+`"` {
		return quoted
	}
	return s
}
