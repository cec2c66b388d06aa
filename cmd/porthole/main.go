// Porthole makes a port inside any process' or container's network namespace
// reachable at a local address. This package is its command line: it alone
// prints, describes errors and chooses exit codes.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/klog/v2"

	"porthole.dev/porthole/internal/safetext"
)

// Exit codes.
const (
	exitFailure = 1
	exitUsage   = 2
)

// sameSignal is the time within which two signals count as one.
const sameSignal = 300 * time.Millisecond

func main() { os.Exit(run()) }

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), endSignals()...)
	defer stop()
	// The first signal shuts down in order; with the default action restored,
	// the second kills the process. A signal that follows at once is taken for
	// the same one: timeout(1) signals its child, and then the whole group.
	defer context.AfterFunc(ctx, func() { time.Sleep(sameSignal); stop() })()

	klog.SetSlogLogger(slog.New(slog.DiscardHandler)) // client-go logs what it also returns as errors
	root := newRoot()
	// All output is made safe for terminals: much of its text comes from elsewhere.
	root.SetOut(safetext.Writer(newOutput(ctx, os.Stdout)))
	root.SetErr(safetext.Writer(newOutput(ctx, os.Stderr)))
	cmd, err := root.ExecuteContextC(ctx)
	verbose, _ := cmd.Flags().GetBool("verbose") // false for commands without the flag
	return exit(err, root.ErrOrStderr(), verbose)
}

// exit prints an error and chooses the exit code.
func exit(err error, stderr io.Writer, verbose bool) int {
	var usage usageError
	var command commandError
	code := exitFailure
	switch {
	case err == nil:
		return 0
	case errors.As(err, &command):
		if command.err == nil {
			return command.code // its own output says what went wrong
		}
		code = command.code
	case errors.As(err, &usage):
		code = exitUsage
	}
	printError(stderr, err, verbose)
	return code
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:           "porthole",
		Short:         "Reach a port inside any pod, container or network namespace at a local address",
		Version:       version(),
		SilenceErrors: true,
		SilenceUsage:  true,

		SuggestionsMinimumDistance: 2,
		Args:                       noArgs,
		RunE:                       func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetVersionTemplate("porthole {{.Version}}\n")
	root.Flags().Bool("version", false, "print the version") // defined here so that cobra does not add -v
	root.SetFlagErrorFunc(flagError)
	if strings.HasPrefix(filepath.Base(os.Args[0]), "kubectl-porthole") { // kubectl's name for its plugin
		root.Annotations = map[string]string{cobra.CommandDisplayNameAnnotation: "kubectl porthole"}
	}
	root.AddCommand(newForward(), newReverse(), newTargets(), newClean(), newNode(), newNodeDataPath(), newAgent(), newTrace(), newKuard(), newDemo(), newDemoInit(), newVersion())
	addCompletion(root)
	return root
}

// newVersion makes the command that does what --version does; kubectl has it too.
func newVersion() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "porthole %s\n", version())
			return err
		},
	}
}

// usageError marks the error of a command line that was typed wrong; its exit status is 2.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// noArgs refuses arguments. The argument of a command that has subcommands is an unknown subcommand.
func noArgs(cmd *cobra.Command, args []string) error {
	switch {
	case len(args) == 0:
		return nil
	case !cmd.HasSubCommands():
		return usageError{fmt.Errorf("%s takes no arguments, not %q", cmd.Name(), args[0])}
	}
	return unknownCommand(cmd, args)
}

// built is the version that `make build` gives the linker, as scripts/version says it.
var built string

// version returns the version that was given to the linker, or else the module's, as
// the Go toolchain stamps it.
func version() string {
	if built != "" {
		return built
	}
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "(unknown)"
	}
	return info.Main.Version
}
