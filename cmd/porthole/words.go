package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"

	"porthole.dev/porthole/internal/demo"
	"porthole.dev/porthole/internal/forward"
	"porthole.dev/porthole/internal/netns"
	"porthole.dev/porthole/internal/target"
)

// printError prints an error as one line, with the next step to take.
func printError(w io.Writer, err error) { fmt.Fprintln(w, "porthole: "+words(err)) }

// words is an error as a person reads it.
func words(err error) string {
	text := strings.ReplaceAll(err.Error(), "\n", "; ")
	if h := hint(err); h != "" {
		text += " (hint: " + h + ")"
	}
	return text
}

// hints are the next steps, by the error that they follow; the first match counts.
var hints = []struct {
	err  error
	hint string
}{
	{target.ErrUnknown, "a target is pid://NUMBER, netns://NAME or netns:///PATH"},
	{target.ErrPort, "ports are REMOTE, LOCAL:REMOTE, :REMOTE for any free local port, or ADDRESS:LOCAL:REMOTE, with numbers from 1 to 65535"},
	{target.ErrAddress, "for example --address 127.0.0.1, --address ::1, --address 0.0.0.0"},
	{netns.ErrNoProcess, "`ps -e` lists processes"},
	{netns.ErrNotExist, "`ip netns` lists those that have names, `lsns -t net` those of processes"},
	{netns.ErrExited, "start it again and forward to its new process, or give its namespace a name: `ip netns attach NAME PID`"},
	{netns.ErrNotNamespace, "a namespace's file is bound in /run/netns, or is /proc/PID/ns/net"},
	{netns.ErrPermission, "it takes CAP_SYS_ADMIN over the namespace: run porthole with sudo, and outside of any container"},
	{netns.ErrUnsupported, "run porthole on the Linux host of the process"},
	{forward.ErrTwice, "give each forward a local port of its own, or `:REMOTE` for any free one"},
	{demo.ErrNotRoot, "run it with sudo"},
	{demo.ErrUnsupported, "run it on Linux; `porthole kuard` alone serves the same page anywhere"},
	{demo.ErrBridgeExists, "if nothing needs it: `ip link del porthole0`"},
	{demo.ErrRunning, "end that one first; one machine has one demo"},
	{syscall.EADDRINUSE, "`ss -ltnp` shows who listens; take another local port, or `:REMOTE` for any free one"},
	{syscall.EADDRNOTAVAIL, "`ip addr` lists this machine's addresses"},
	{syscall.EACCES, "ports below 1024 are for root: take a higher one, or run it with sudo"},
	{syscall.ECONNREFUSED, "nothing listens on that port there; `nsenter -t PID -n ss -ltn` shows what does"},
	{syscall.ENETUNREACH, "the loopback interface there is down: `nsenter -t PID -n ip link set lo up`"},
}

func hint(err error) string {
	var usage usageError
	for _, h := range hints {
		if errors.Is(err, h.err) {
			return h.hint
		}
	}
	if errors.As(err, &usage) {
		return "--help shows the usage"
	}
	return ""
}
