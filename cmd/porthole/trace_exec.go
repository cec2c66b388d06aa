package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"path"
	"regexp"
	"time"

	"github.com/spf13/cobra"

	"porthole.dev/porthole/internal/safetext"
	"porthole.dev/porthole/internal/trace"
)

const traceExecLong = `Show which program executes which on this host, in all containers, until
interrupted: a line for each call of execve and execveat, and for each program
that the kernel starts.

  PCOMM  name of the process: the new program's, or the caller's if it failed
  PID    process
  PPID   its parent
  RET    0, or the error as a negative number: -2 is ENOENT, -13 is EACCES
  ARGS   file and arguments; what a shell would read otherwise is quoted, and
         "..." ends what is incomplete: more than 4096 bytes, or unreadable

The first line is there once everything that follows is seen. It takes root, and
Linux 5.8 with BTF.`

const traceExecExample = `  porthole trace exec -n nsenter        # who enters namespaces, and for what
  porthole trace exec -t                # with seconds since the start
  porthole trace exec -n '^(sh|bash)$'  # a regular expression
  porthole trace exec -o json`

// execTracing is one `porthole trace exec`.
type execTracing struct {
	pattern    string
	output     string
	timestamps bool

	name  *regexp.Regexp // nil for all
	start time.Time      // when tracing was in place
	out   io.Writer
}

func newTraceExec() *cobra.Command {
	t := &execTracing{output: "text"}
	cmd := &cobra.Command{
		Use:     "exec",
		Short:   "Show which program executes which on this host",
		Long:    traceExecLong,
		Example: traceExecExample,
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := t.parse(); err != nil {
				return usageError{err}
			}
			return t.run(cmd)
		},
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVarP(&t.pattern, "name", "n", "",
		"only what matches this regular expression somewhere, in the name of the process or of the file")
	flags.BoolVarP(&t.timestamps, "timestamp", "t", false, "print the seconds since the start; JSON always has the time")
	flags.StringVarP(&t.output, "output", "o", t.output, "text, or json for one object a line")
	return cmd
}

func (t *execTracing) parse() (err error) {
	if t.output != "text" && t.output != "json" {
		return fmt.Errorf("trace exec: unknown output %q, want text or json", t.output)
	}
	if t.pattern == "" {
		return nil
	}
	if t.name, err = regexp.Compile(t.pattern); err != nil {
		return fmt.Errorf("trace exec: %w", err)
	}
	return nil
}

func (t *execTracing) run(cmd *cobra.Command) error {
	t.out = cmd.OutOrStdout()
	execs := trace.Execs{
		Ready: t.header,
		Event: t.event,
		Lost: func(n uint64) {
			fmt.Fprintf(cmd.ErrOrStderr(), "porthole: %d events are lost: more came than were read in time\n", n)
		},
	}
	return execs.Run(cmd.Context())
}

func (t *execTracing) header() error {
	t.start = time.Now()
	if t.output == "json" {
		return nil
	}
	return t.columns("TIME(s)", "PCOMM", "PID", "PPID", "RET", "ARGS")
}

// event prints an event without delay: a reader may wait for it.
func (t *execTracing) event(e trace.Exec) error {
	if !t.wants(e) {
		return nil
	}
	if t.output == "json" {
		return t.object(e)
	}
	// An event from before tracing was complete gets the time 0.
	seconds := max(0, e.Time.Sub(t.start)).Seconds()
	return t.columns(fmt.Sprintf("%.3f", seconds), safetext.Quote(e.Comm), e.PID, e.PPID, e.Ret, arguments(e))
}

// wants tells whether an event is asked for. A program that could not be
// executed is known by its file's name only.
func (t *execTracing) wants(e trace.Exec) bool {
	return t.name == nil || t.name.MatchString(e.Comm) || t.name.MatchString(path.Base(e.Args[0]))
}

// arguments are what a shell reads back, with "..." where that is incomplete.
func arguments(e trace.Exec) string {
	line := safetext.QuoteAll(e.Args...)
	if e.Truncated {
		line += " ..."
	}
	return line
}

// columns prints a line as execsnoop aligns it.
func (t *execTracing) columns(seconds, comm, pid, ppid, ret any, args string) error {
	line := fmt.Sprintf("%-16v %-7v %-7v %3v %s\n", comm, pid, ppid, ret, args)
	if t.timestamps {
		line = fmt.Sprintf("%-8v %s", seconds, line)
	}
	_, err := io.WriteString(t.out, line)
	return err
}

// execEvent is an event as `-o json` prints it.
type execEvent struct {
	Time      time.Time `json:"time"`
	Comm      string    `json:"comm"`
	PID       int       `json:"pid"`
	PPID      int       `json:"ppid"`
	Ret       int       `json:"ret"`  // 0, or an errno, negated
	Args      []string  `json:"args"` // file and arguments; what is not UTF-8 is U+FFFD
	Truncated bool      `json:"truncated"`
}

func (t *execTracing) object(e trace.Exec) error {
	var line bytes.Buffer
	encoder := json.NewEncoder(&line)
	encoder.SetEscapeHTML(false) // a shell's && and > are for people to read
	if err := encoder.Encode(execEvent(e)); err != nil {
		return err
	}
	_, err := line.WriteTo(t.out)
	return err
}
