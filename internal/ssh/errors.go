package ssh

import (
	"cmp"
	"fmt"
	"strings"

	"porthole.dev/porthole/internal/target"
)

// HostError is a failure at another host, or of the tunnel to it.
type HostError struct {
	Host target.Host
	Err  error
}

func (e *HostError) Error() string { return fmt.Sprintf("%s: %v", e.Host, e.Err) }

// Unwrap returns Err.
func (e *HostError) Unwrap() error { return e.Err }

func (h *host) failure(err error) error { return &HostError{h.name, err} }

// The exit statuses that tell what has failed.
const (
	statusSSH         = 255 // ssh itself (ssh(1))
	statusNotFound    = 127 // the shell: no such program
	statusNotRunnable = 126 // the shell: it cannot be executed
)

// Error means that there was no greeting of an agent, or no answer of another command: ssh has ended, or something else came.
type Error struct {
	Host    target.Host
	Command string // of Dial: the program that should run there; "" is the agent
	Status  int    // ssh's exit status, which is the remote command's unless it is 255
	Output  string // the last that ssh printed, which the other host may have chosen
	Err     error
}

func (e *Error) Error() string {
	line := e.Output
	if i := strings.LastIndexByte(line, '\n'); i >= 0 {
		line = line[i+1:]
	}
	what := cmp.Or(e.Command, "the agent") + " has not started"
	if e.Status == statusSSH {
		what = "ssh failed"
	}
	if line == "" {
		return fmt.Sprintf("%s: %s: exit status %d", e.Host, what, e.Status)
	}
	return fmt.Sprintf("%s: %s: %s", e.Host, what, line)
}

// Unwrap returns Err.
func (e *Error) Unwrap() error { return e.Err }

// Missing reports whether the other host has no such program.
func (e *Error) Missing() bool { return e.Status == statusNotFound || e.Status == statusNotRunnable }
