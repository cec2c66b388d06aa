//go:build !unix

package main

import (
	"os"
	"syscall"
)

// endSignals are the signals that shut down in order. A console that closes sends SIGTERM.
func endSignals() []os.Signal { return []os.Signal{os.Interrupt, syscall.SIGTERM} }

// passedSignals are passed on to a command.
func passedSignals() []os.Signal { return []os.Signal{os.Interrupt} }

// survivePipes has nothing to do: there is no SIGPIPE.
func survivePipes() {}

// fromTerminal is always true: a console's Ctrl-C goes to all of its processes.
func fromTerminal(os.Signal) bool { return true }
