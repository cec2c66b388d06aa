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
	"porthole.dev/porthole/internal/safetext"
)

const traceForwardLong = `Show the forwards of this host's porthole node as they end: when, to which pod and
port or Unix socket, for whom, how much went which way, for how long, and how they ended.

CLIENT is what the requests say of where they come from, as far as the API server
passes it on: of several addresses the first. RESULT is ok, refused, reset,
denied, no_sandbox, timeout, lost (the client went away) or failed. With -o json
there is an object for each beginning and end, with more in it. When the node
ends, its successor is waited for and followed.`

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
				return traceForwardJSON(cmd.Context(), events, cmd.OutOrStdout(), cmd.ErrOrStderr())
			}
			return usageError{fmt.Errorf("trace forward: unknown output %q, want text or json", output)}
		},
	}
	cmd.Flags().StringVar(&events, "events", events, "the node's socket of events")
	cmd.Flags().StringVarP(&output, "output", "o", output, "text, or json for one event a line")
	return cmd
}

// forwardColumns are as wide as most of their values.
const forwardColumns = "%-12s %-40s %-5s %-15s %10s %10s %-10s %s\n"

func traceForwardText(ctx context.Context, events string, out, errs io.Writer) error {
	begun := false
	return follow(ctx, events, errs, func(r node.Record) (err error) {
		if r.Lost > 0 {
			fmt.Fprintf(errs, "porthole: %d events were not read in time and are lost\n", r.Lost)
		}
		switch r.Event {
		case node.EventFollowing:
			if begun {
				break // printed for an earlier node
			}
			begun = true
			_, err = fmt.Fprintf(out, forwardColumns, "TIME", "NAMESPACE/POD", "PORT", "CLIENT", "SENT", "RECEIVED", "DURATION", "RESULT")
		case node.EventClosed, node.EventFailed:
			_, err = io.WriteString(out, forwardLine(r))
		}
		return err
	})
}

// followPause is between two attempts to find a node that has ended.
const followPause = 500 * time.Millisecond

// follow calls node.Follow again when the node has ended and another one has started. A
// node must be running at first.
func follow(ctx context.Context, events string, errs io.Writer, each func(node.Record) error) error {
	began, waiting := false, false
	for {
		err := node.Follow(ctx, events, func(r node.Record) error {
			if r.Event == node.EventFollowing {
				if waiting {
					fmt.Fprintln(errs, "porthole: the node is back")
				}
				began, waiting = true, false
			}
			return each(r)
		})
		if ctx.Err() != nil || !began || !errors.Is(err, node.ErrNoNode) {
			return err
		}
		if !waiting {
			fmt.Fprintln(errs, "porthole: the node has ended, waiting for it to come back")
		}
		waiting = true
		select {
		case <-time.After(followPause):
		case <-ctx.Done():
			return nil
		}
	}
}

// forwardLine formats a line of the table.
func forwardLine(r node.Record) string {
	duration := time.Duration(r.Seconds * float64(time.Second))
	return fmt.Sprintf(forwardColumns, r.Time.Local().Format("15:04:05.000"), cell(r.Namespace+"/"+r.Pod),
		cell(r.To()), cell(origin(r.Client)), strconv.FormatInt(r.Sent, 10), strconv.FormatInt(r.Received, 10),
		rounded(duration).String(), cell(r.Result))
}

// origin returns the first address of a client's X-Forwarded-For. A column has no room
// for the proxies that follow.
func origin(client string) string {
	first, _, _ := strings.Cut(client, ",")
	return strings.TrimSpace(first)
}

// rounded rounds a duration to three or four digits, or to microseconds.
func rounded(d time.Duration) time.Duration {
	unit := time.Microsecond
	for d >= 10_000*unit {
		unit *= 10
	}
	return d.Round(unit)
}

// cell returns the text of a column: one word, whatever a client has sent.
func cell(s string) string {
	if s == "" {
		return "-"
	}
	return safetext.Quote(s)
}

func traceForwardJSON(ctx context.Context, events string, out, errs io.Writer) error {
	lines := json.NewEncoder(out)
	return follow(ctx, events, errs, func(r node.Record) error {
		if err := lines.Encode(r); err != nil {
			return errors.Join(errors.New("write event"), err)
		}
		return nil
	})
}
