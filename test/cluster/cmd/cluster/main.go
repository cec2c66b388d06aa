// Command cluster builds, starts, shows and ends a real Kubernetes of one node on this machine.
// It must not know how: the package cluster does.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"text/tabwriter"
	"time"

	"porthole.dev/porthole/test/cluster"
)

const usage = `usage: cluster [flags] command

  build   compile the components, and install runc and the CNI plugins
  up      start the cluster, again if it runs already; builds first
  down    end it and leave nothing behind
  status  show the components
  env     print the shell lines that point kubectl at it
  import IMAGE BINARY [ARGS ...]
          make an image of a static binary, known by that name
  runtime [ENDPOINT]
          start the kubelet again with another CRI socket, or containerd's

flags:
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("cluster", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() { fmt.Fprint(stderr, usage); flags.PrintDefaults() }
	options := cluster.Options{Log: slog.New(slog.NewTextHandler(stderr, nil))}
	flags.StringVar(&options.Dir, "dir", "", "folder of binaries, logs and state (default .cache/cluster at the repository's root)")
	flags.StringVar(&options.RuntimeEndpoint, "runtime-endpoint", "", "CRI socket for the kubelet, as unix:// URL (default containerd's)")
	flags.BoolVar(&options.NoInstall, "no-install", false, "do not install missing Debian packages")
	if err := flags.Parse(args); err != nil {
		return err
	}
	switch flags.Arg(0) {
	case "build":
		return cluster.Build(ctx, options)
	case "up":
		return up(ctx, options)
	case "down":
		return cluster.Down(ctx, options)
	case "status":
		return status(ctx, options.Dir, stdout)
	case "env":
		return env(options.Dir, stdout)
	case "import":
		return importImage(ctx, options.Dir, flags.Args()[1:])
	case "runtime":
		return setRuntime(ctx, options.Dir, flags.Arg(1))
	}
	flags.Usage()
	return fmt.Errorf("unknown command %q", flags.Arg(0))
}

func up(ctx context.Context, options cluster.Options) error {
	_, err := cluster.Start(ctx, options)
	return err
}

func status(ctx context.Context, dir string, stdout io.Writer) error {
	c, err := cluster.Open(dir)
	if err != nil {
		return err
	}
	table := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "COMPONENT\tPID\tLOG")
	for _, s := range c.Status() {
		fmt.Fprintf(table, "%s\t%d\t%s\n", s.Component, s.PID, s.Log)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := c.WaitReady(ctx); err != nil {
		return fmt.Errorf("not ready: %w", err)
	}
	fmt.Fprintln(stdout, "ready")
	return nil
}

func importImage(ctx context.Context, dir string, args []string) error {
	if len(args) < 2 {
		return errors.New("import: want an image's name and a binary")
	}
	c, err := cluster.Open(dir)
	if err != nil {
		return err
	}
	return c.ImportImage(ctx, args[0], args[1], args[2:]...)
}

func setRuntime(ctx context.Context, dir, endpoint string) error {
	c, err := cluster.Open(dir)
	if err != nil {
		return err
	}
	return c.SetRuntimeEndpoint(ctx, endpoint)
}

func env(dir string, stdout io.Writer) error {
	c, err := cluster.Open(dir)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(stdout, "export KUBECONFIG=%s\n", c.Kubeconfig())
	return err
}
