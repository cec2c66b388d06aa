//go:build unix

package main

import (
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// endSignals are the signals that shut down in order. Under nohup(1), SIGHUP is ignored and stays so.
func endSignals() []os.Signal {
	return withHangup(syscall.SIGINT, syscall.SIGTERM, syscall.SIGQUIT)
}

// passedSignals are passed on to a command.
func passedSignals() []os.Signal {
	return withHangup(syscall.SIGINT, syscall.SIGTERM, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGWINCH)
}

func withHangup(signals ...os.Signal) []os.Signal {
	if signal.Ignored(syscall.SIGHUP) {
		return signals
	}
	return append(signals, syscall.SIGHUP)
}

// survivePipes makes a write to a pipe that nobody reads fail, instead of killing the process.
func survivePipes() {
	// Not signal.Ignore: a command would inherit that.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
}

// fromTerminal reports whether a signal is one that the terminal sends to all
// of its foreground processes, so that the command has received it already.
func fromTerminal(s os.Signal) bool {
	if s != syscall.SIGINT && s != syscall.SIGQUIT && s != syscall.SIGWINCH {
		return false
	}
	foreground, err := unix.IoctlGetInt(int(os.Stdin.Fd()), unix.TIOCGPGRP)
	return err == nil && foreground == unix.Getpgrp()
}
