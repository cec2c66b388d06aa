package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"time"

	"porthole.dev/porthole/internal/route"
	"porthole.dev/porthole/internal/session"
	"porthole.dev/porthole/internal/target"
)

// commandError says that a command failed, or could not be started.
type commandError struct {
	code int   // to exit with
	err  error // why it could not be started; nil if it ran
}

func (e commandError) Error() string {
	if e.err != nil {
		return e.err.Error()
	}
	return fmt.Sprintf("exit status %d", e.code)
}

func (e commandError) Unwrap() error { return e.err }

// The exit statuses that shells give to commands that they cannot run.
const (
	exitNotExecutable = 126
	exitNotFound      = 127
	exitSignaled      = 128 // and the signal's number
)

// grace is how long a command may take to end after its session has ended.
const grace = 10 * time.Second

// runCommand runs a command to its end, passing on signals, and returns nil or
// a commandError. When ctx ends first, the command gets SIGTERM.
func runCommand(ctx context.Context, argv, environment []string) error {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, passedSignals()...)
	defer signal.Stop(signals)

	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), environment...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = grace
	endsWithParent(cmd)
	started, done := make(chan error), make(chan struct{})
	go holdCommand(cmd, started, done)
	if err := <-started; err != nil {
		return startError(err)
	}
	for {
		select {
		case s := <-signals:
			if !fromTerminal(s) {
				_ = cmd.Process.Signal(s)
			}
		case <-done:
			return endError(cmd.ProcessState)
		}
	}
}

// holdCommand starts a command and waits for its end, all on one thread: to the kernel
// the parent has died when the thread that forked ends (PR_SET_PDEATHSIG, prctl(2)).
func holdCommand(cmd *exec.Cmd, started chan<- error, done chan<- struct{}) {
	defer close(done)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := cmd.Start()
	started <- err
	if err == nil {
		_ = cmd.Wait() // ProcessState says how it ended
	}
}

func startError(err error) error {
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, os.ErrNotExist) {
		return commandError{exitNotFound, err}
	}
	return commandError{exitNotExecutable, err}
}

func endError(s *os.ProcessState) error {
	if w, ok := s.Sys().(syscall.WaitStatus); ok && w.Signaled() {
		return commandError{code: exitSignaled + int(w.Signal())}
	}
	if s.ExitCode() == 0 {
		return nil
	}
	return commandError{code: s.ExitCode()}
}

// environment tells a command where the ports are: PORTHOLE_ADDR and PORTHOLE_PORT for
// the first, with the remote port's number appended for each, and with the name of each
// forward of a file and of each pod that is forwarded to by itself.
func environment(all []session.State) (env []string) {
	seen := map[string]bool{}
	add := func(suffix string, l *route.Listener) {
		if seen[suffix] {
			return // the first address of each port stands for all
		}
		seen[suffix] = true
		suffix = strings.ToUpper(strings.NewReplacer("-", "_", ".", "_").Replace(suffix))
		env = append(env, fmt.Sprintf("PORTHOLE_ADDR%s=%s", suffix, bare(l.Local)))
		if l.Local.Path == "" {
			env = append(env, fmt.Sprintf("PORTHOLE_PORT%s=%d", suffix, l.Local.Port()))
		}
	}
	for _, state := range all {
		for _, l := range state.Listeners {
			add("", l)
			switch l.Remote.Network {
			case target.TCP:
				add(fmt.Sprintf("_%d", l.Remote.Port), l)
			case target.UDP:
				add(fmt.Sprintf("_%d_udp", l.Remote.Port), l)
			case target.Unix: // its path is no name for a variable
			}
			for _, name := range []string{state.Name, state.Member} {
				if name != "" {
					add("_"+name, l)
				}
			}
		}
	}
	return env
}
