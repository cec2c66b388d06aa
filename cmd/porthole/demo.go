package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"syscall"

	"github.com/spf13/cobra"

	"porthole.dev/porthole/internal/container"
	"porthole.dev/porthole/internal/demo"
	"porthole.dev/porthole/internal/forward"
	"porthole.dev/porthole/internal/route"
	"porthole.dev/porthole/internal/safetext"
	"porthole.dev/porthole/internal/session"
	"porthole.dev/porthole/internal/target"
)

// demoPort is where kuard listens inside its pod.
const demoPort = 8080

var errDemoPort = errors.New("the demo's port is taken")

func newDemo() *cobra.Command {
	local := uint16(8080)
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Start a pod-like sandbox on this machine and forward a port to it",
		Long: `Start the demo application in a pod-like sandbox of its own on this machine, and
forward a local port to it. The application listens on 127.0.0.1 inside its
network namespace, so that only a forwarder can reach it. Ctrl-C takes
everything down again. An ordinary user's sandbox is in a user namespace, where the
kernel allows those; root's also has a bridge, an address and a cluster's DNS.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runDemo(cmd, local) },
	}
	cmd.Flags().Uint16Var(&local, "port", local, "local port to forward from, 0 for any free one")
	return cmd
}

// newDemoInit is what the sandbox's first process runs.
func newDemoInit() *cobra.Command {
	return &cobra.Command{
		Use:    demo.InitCommand,
		Hidden: true,
		Args:   noArgs,
		RunE:   func(*cobra.Command, []string) error { return demo.Init() },
	}
}

func runDemo(cmd *cobra.Command, local uint16) (err error) {
	survivePipes() // or the sandbox would be left
	ctx, stop := context.WithCancel(cmd.Context())
	defer stop()
	// The port first: there is no point in a pod that cannot be shown.
	ports := []target.Port{{Local: local, Remote: demoPort}}
	listeners, err := forward.Listen(ctx, []string{target.Localhost}, ports)
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("%w: %w", errDemoPort, err)
	}
	if err != nil {
		return err
	}
	defer forward.CloseAll(listeners)
	pod, err := demo.Start(ctx, demo.Config{
		Port:   demoPort,
		Stderr: cmd.ErrOrStderr(),
		Log:    slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, pod.Close()) }()
	introduce(cmd.OutOrStdout(), pod, listeners[0])
	p := newPrinter(cmd.OutOrStdout(), cmd.ErrOrStderr(), textStyle{})
	p.unread = stop
	defer p.close()
	s := &session.Session{
		Forwards: []target.Forward{{Target: target.Target{Scheme: target.PID, PID: pod.PID}}}, Bound: listeners,
		Openers: map[target.Scheme]route.Opener{target.PID: container.Open}, Events: p.event, Drain: drain,
	}
	return s.Run(ctx)
}

// introduce says what the demo did and what to try next.
func introduce(w io.Writer, pod *demo.Pod, l *route.Listener) {
	fmt.Fprintf(w, "kuard runs in a sandbox like a pod's: process %d, with network, mount, PID,\nUTS and IPC namespaces of its own", pod.PID)
	if pod.Bridge != "" {
		fmt.Fprintf(w, ", and the address %s on the bridge %s.\n", pod.IP, pod.Bridge)
	} else {
		fmt.Fprint(w, ", in a user namespace of your own, which takes no root.\nWith sudo it also has a bridge, an address and a cluster's DNS.\n")
	}
	fmt.Fprintf(w, `It listens on 127.0.0.1:%d inside, where only a forwarder reaches it.

Open                   http://%s
The same by hand       %s forward pid://%d :%d
`, demoPort, l.Local, asRoot(self()), pod.PID, demoPort)
	enter := "nsenter"
	if pod.Bridge == "" {
		enter = "nsenter -U --preserve-credentials"
	}
	if installed("nsenter", "ss") {
		fmt.Fprintf(w, "Look inside            %s -t %d -n ss -ltn\n", asRoot(enter), pod.PID)
	}
	if installed("curl") && pod.Bridge != "" {
		fmt.Fprintf(w, "It is not outside      curl http://%s:%d   (refused)\n", pod.IP, demoPort)
	}
	fmt.Fprint(w, "\nCtrl-C takes it all down.\n")
}

// self is how a person calls this program: by its name if the PATH leads to it, or else by its path.
func self() string {
	path, err := os.Executable()
	if err != nil {
		return "porthole"
	}
	if found, err := exec.LookPath("porthole"); err == nil && sameFile(found, path) {
		return "porthole"
	}
	return safetext.Quote(path)
}

func sameFile(a, b string) bool {
	first, err := os.Stat(a)
	if err != nil {
		return false
	}
	second, err := os.Stat(b)
	return err == nil && os.SameFile(first, second)
}

// asRoot is a command line for who is at the terminal: sudo tells whether that is not root.
func asRoot(command string) string {
	if user := os.Getenv("SUDO_UID"); user == "" || user == "0" || !installed("sudo") {
		return command
	}
	return "sudo " + command
}

func installed(commands ...string) bool {
	for _, command := range commands {
		if _, err := exec.LookPath(command); err != nil {
			return false
		}
	}
	return true
}
