// Package demo puts the demo application into a pod-like sandbox on this
// machine: namespaces of its own, an address on a bridge, a cluster's DNS.
// It must not know how the pod is reached: forwarding to it is its caller's.
package demo

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strconv"
)

// InitCommand is the hidden subcommand that the program must answer by
// calling [Init] and nothing else.
const InitCommand = "demo-init"

var (
	// ErrRunning means that another demo holds the state directory; the
	// wrapping error names its process.
	ErrRunning = errors.New("a demo is already running")

	// ErrUserNamespaces means that an ordinary user may not make user namespaces here: see SettingError.
	ErrUserNamespaces = errors.New("the demo may not make a user namespace")

	// ErrBridgeExists means that the bridge's name is taken by a link that no
	// demo in this StateDir has recorded as its own.
	ErrBridgeExists = errors.New("the bridge's name is taken")

	// ErrStateDir means that others can write to the StateDir, or own it.
	ErrStateDir = errors.New("it is not a directory that this user alone can write to")

	// ErrUnsupported means that this system has no namespaces.
	ErrUnsupported = errors.New("the demo needs Linux: a pod is made of its namespaces")
)

// SettingError is an ErrUserNamespaces that knows which setting of the kernel forbids it.
type SettingError struct {
	Setting string // as sysctl(8) names it
	Value   string // that it has
	Err     error  // what failed
}

func (e *SettingError) Error() string {
	return fmt.Sprintf("%v: %s is %s: %v", ErrUserNamespaces, e.Setting, e.Value, e.Err)
}

// Unwrap returns ErrUserNamespaces and what failed.
func (e *SettingError) Unwrap() []error { return []error{ErrUserNamespaces, e.Err} }

// Config says what runs in the pod and where the demo keeps its state.
// The zero value is the demo as `porthole demo` shows it.
type Config struct {
	// Exe is the program that is the pod's init and its application.
	// "" is the running program itself, even when its file was replaced.
	Exe string

	// Args follow the program's name when it becomes the application.
	// nil is "kuard --address 127.0.0.1:PORT".
	Args []string

	// Port is where the application listens inside the pod; Start returns
	// once it does. 0 is 8080.
	Port uint16

	// Stdout and Stderr receive what the application prints; nil discards
	// it. They are written to by one goroutine each, until [Pod.Done].
	Stdout, Stderr io.Writer

	// StateDir holds the lock and the record of what is running.
	// "" is /run/porthole, or for an ordinary user porthole-demo-UID in the folder for temporary files.
	StateDir string

	// Bridge names the bridge, at most 14 bytes; its veth has one more.
	// "" is porthole0. Two demos at once need a name and a StateDir each.
	Bridge string

	// Log receives what happens; nil discards it.
	Log *slog.Logger
}

func (c Config) withDefaults() Config {
	if c.Exe == "" {
		c.Exe = "/proc/self/exe"
	}
	if c.Port == 0 {
		c.Port = 8080
	}
	if c.Args == nil {
		c.Args = []string{"kuard", "--address", net.JoinHostPort("127.0.0.1", strconv.Itoa(int(c.Port)))}
	}
	if c.StateDir == "" {
		c.StateDir = defaultStateDir()
	}
	if c.Bridge == "" {
		c.Bridge = "porthole0"
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}
