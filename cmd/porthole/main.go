// Porthole makes a port inside any process' or container's network namespace
// reachable at a local address. This package is its command line: it alone
// prints, turns errors into words and chooses exit codes.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/klog/v2"
)

// Exit codes.
const (
	exitFailure = 1
	exitUsage   = 2
)

// sameSignal is within which a signal that comes twice counts once.
const sameSignal = 300 * time.Millisecond

func main() { os.Exit(run()) }

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), endSignals()...)
	defer stop()
	// The first signal ends the work in order; with the default action
	// restored, the second ends the process. One that follows at once is the
	// same one: timeout(1) signals its child, and then the whole group.
	defer context.AfterFunc(ctx, func() { time.Sleep(sameSignal); stop() })()

	klog.SetSlogLogger(slog.New(slog.DiscardHandler)) // client-go's; what matters comes as errors
	return exit(newRoot().ExecuteContext(ctx))
}

// exit prints an error and chooses the exit code.
func exit(err error) int {
	var usage usageError
	var command commandError
	code := exitFailure
	switch {
	case err == nil:
		return 0
	case errors.As(err, &command):
		if command.err == nil {
			return command.code // it has spoken for itself
		}
		code = command.code
	case errors.As(err, &usage):
		code = exitUsage
	}
	printError(os.Stderr, err)
	return code
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:           "porthole",
		Short:         "A port inside any pod, container or network namespace, at a local address",
		Version:       version(),
		SilenceErrors: true,
		SilenceUsage:  true,

		SuggestionsMinimumDistance: 2,
		Args:                       noArgs,
		RunE:                       func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetVersionTemplate("porthole {{.Version}}\n")
	root.Flags().Bool("version", false, "print the version") // without cobra's -v for it
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	if strings.HasPrefix(filepath.Base(os.Args[0]), "kubectl-porthole") { // kubectl's name for its plugin
		root.Annotations = map[string]string{cobra.CommandDisplayNameAnnotation: "kubectl porthole"}
	}
	root.AddCommand(newForward(), newNode(), newNodeDataPath(), newTrace(), newKuard(), newDemo(), newDemoInit())
	return root
}

// usageError is a command line that was typed wrong, as against one that failed.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// noArgs refuses arguments; to a command that has subcommands they are one that nobody knows.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if !cmd.HasSubCommands() {
		return usageError{fmt.Errorf("%s takes no arguments, not %q", cmd.Name(), args[0])}
	}
	unknown := fmt.Sprintf("unknown command %q", args[0])
	if like := cmd.SuggestionsFor(args[0]); len(like) > 0 {
		unknown += ", did you mean " + strings.Join(like, " or ") + "?"
	}
	return usageError{errors.New(unknown)}
}

// built is the version that `make build` gives the linker, as scripts/version says it.
var built string

// version is the one that was given to the linker, or else the module's, as the
// Go toolchain stamps it.
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
