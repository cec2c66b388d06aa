// Porthole makes a port inside any process' or container's network namespace
// reachable at a local address. This package is its command line: it alone
// prints, turns errors into words and chooses exit codes.
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
	root := newRoot()
	cmd, err := root.ExecuteContextC(ctx)
	verbose, _ := cmd.Flags().GetBool("verbose") // of those that have it
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
			return command.code // it has spoken for itself
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
		Short:         "A port inside any pod, container or network namespace, at a local address",
		Version:       version(),
		SilenceErrors: true,
		SilenceUsage:  true,

		SuggestionsMinimumDistance: 2,
		Args:                       noArgs,
		RunE:                       func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	// Whatever a command prints goes through here: others choose most of the words.
	root.SetOut(safetext.Writer(os.Stdout))
	root.SetErr(safetext.Writer(os.Stderr))
	root.SetVersionTemplate("porthole {{.Version}}\n")
	root.Flags().Bool("version", false, "print the version") // without cobra's -v for it
	root.SetFlagErrorFunc(flagError)
	if strings.HasPrefix(filepath.Base(os.Args[0]), "kubectl-porthole") { // kubectl's name for its plugin
		root.Annotations = map[string]string{cobra.CommandDisplayNameAnnotation: "kubectl porthole"}
	}
	root.AddCommand(newForward(), newNode(), newNodeDataPath(), newTrace(), newKuard(), newDemo(), newDemoInit(), newVersion())
	root.InitDefaultCompletionCmd()
	withoutBashCompletion(root)
	return root
}

// newVersion is what --version is, for those who know it from kubectl.
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

// usageError is a command line that was typed wrong, as against one that failed.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// noArgs refuses arguments; to a command that has subcommands they are one that nobody knows.
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
