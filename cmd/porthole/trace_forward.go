package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"porthole.dev/porthole/internal/node"
)

const traceForwardLong = `Show the forwards of this host's porthole node as they end: when, to which pod and
port, for whom, how much went which way, for how long, and how they ended.

CLIENT is what the requests say of where they come from, as far as the API server
passes it on: of several addresses the first. RESULT is ok, refused, reset,
denied, no_sandbox, timeout, lost (the client went away) or failed. With -o json
there is an object for each beginning and end, with more in it.`

func newTraceForward() *cobra.Command {
	events, output := node.DefaultEvents, "text"
	cmd := &cobra.Command{
		Use:   "forward",
		Short: "Show the forwards of this host's porthole node",
		Long:  traceForwardLong,
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch output {
			case "text":
				return traceForwardText(cmd.Context(), events, cmd.OutOrStdout(), cmd.ErrOrStderr())
			case "json":
				return traceForwardJSON(cmd.Context(), events, cmd.OutOrStdout())
			}
			return usageError{fmt.Errorf("trace forward: unknown output %q, want text or json", output)}
		},
	}
	cmd.Flags().StringVar(&events, "events", events, "the node's socket of events")
	cmd.Flags().StringVarP(&output, "output", "o", output, "text, or json for one event a line")
	return cmd
}

// forwardColumns are as wide as what mostly stands in them.
const forwardColumns = "%-12s %-40s %-5s %-15s %10s %10s %-10s %s\n"

func traceForwardText(ctx context.Context, events string, out, errs io.Writer) error {
	return node.Follow(ctx, events, func(r node.Record) (err error) {
		if r.Lost > 0 {
			fmt.Fprintf(errs, "porthole: %d events were not read in time and are lost\n", r.Lost)
		}
		switch r.Event {
		case node.EventFollowing:
			_, err = fmt.Fprintf(out, forwardColumns, "TIME", "NAMESPACE/POD", "PORT", "CLIENT", "SENT", "RECEIVED", "DURATION", "RESULT")
		case node.EventClosed, node.EventFailed:
			_, err = io.WriteString(out, forwardLine(r))
		}
		return err
	})
}

// forwardLine is a line of the table.
func forwardLine(r node.Record) string {
	duration := time.Duration(r.Seconds * float64(time.Second))
	return fmt.Sprintf(forwardColumns, r.Time.Local().Format("15:04:05.000"), printable(r.Namespace+"/"+r.Pod),
		strconv.Itoa(int(r.Port)), printable(origin(r.Client)), strconv.FormatInt(r.Sent, 10), strconv.FormatInt(r.Received, 10),
		rounded(duration).String(), r.Result)
}

// origin is the first address of a client's X-Forwarded-For. The proxies behind it
// have no room in a column.
func origin(client string) string {
	first, _, _ := strings.Cut(client, ",")
	return strings.TrimSpace(first)
}

// rounded leaves three or four digits of a duration, and nothing below microseconds.
func rounded(d time.Duration) time.Duration {
	unit := time.Microsecond
	for d >= 10_000*unit {
		unit *= 10
	}
	return d.Round(unit)
}

// printable quotes what a terminal might take for a command: clients choose it.
func printable(s string) string {
	quoted := strconv.Quote(s)
	if s == "" {
		return "-"
	}
	if quoted[1:len(quoted)-1] == s {
		return s
	}
	return quoted
}

func traceForwardJSON(ctx context.Context, events string, out io.Writer) error {
	lines := json.NewEncoder(out)
	return node.Follow(ctx, events, func(r node.Record) error {
		if err := lines.Encode(r); err != nil {
			return errors.Join(errors.New("write event"), err)
		}
		return nil
	})
}
