//go:build !unix

package main

import "os"

// passedSignals are handed on to a command.
var passedSignals = []os.Signal{os.Interrupt}

// fromTerminal is always true: a console's Ctrl-C goes to all of its processes.
func fromTerminal(os.Signal) bool { return true }
