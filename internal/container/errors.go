package container

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
	"time"

	"porthole.dev/porthole/internal/target"
)

// The errors that callers tell apart with errors.Is.
var (
	ErrNoContainer = errors.New("no such container")          // *NotFoundError
	ErrAmbiguous   = errors.New("several containers have it") // *AmbiguousError
	ErrNotRunning  = errors.New("is not running")             // *StateError, and so are the next five
	ErrEnded       = errors.New("has ended")
	ErrRemoved     = errors.New("was removed")
	ErrElsewhere   = errors.New("its process is not on this machine")
	ErrNoNetwork   = errors.New("the runtime does not tell where its network is")
	ErrOwnNetwork  = errors.New("its runtime does not use the kernel's network")
	ErrHostNetwork = errors.New("it uses the host's network: its ports are the host's") // of a route.Carried

	// The errors of an engine are *EngineError.
	ErrNoEngine         = errors.New("is not running")
	ErrNoAnswer         = errors.New("does not answer")
	ErrNoInterface      = errors.New("what listens there does not serve this interface")
	ErrEnginePermission = errors.New("permission denied: this user may not use its socket")
	ErrEngineTooOld     = errors.New("too old")
	ErrNoContext        = errors.New("no such context")
	ErrContextUnread    = errors.New("the context cannot be used")
	ErrEndpoint         = errors.New("want unix:///PATH or /PATH") // of containerd and CRI
	ErrUnsupported      = errors.New("containers of this engine need Linux")
	ErrLongAnswer       = errors.New("the engine's answer is too long")
)

// EngineError is a failure of an engine, or of the way to it.
type EngineError struct {
	Engine  target.Scheme
	Address string // such as unix:///var/run/docker.sock; "" if it is not known
	Group   string // of ErrEnginePermission: whose members may; "" if there is none
	Err     error
}

func (e *EngineError) Error() string {
	what := string(e.Engine)
	if e.Engine == target.CRI {
		what = "container runtime"
	}
	if e.Address != "" {
		what += " at " + e.Address
	}
	if errors.Is(e.Err, ErrNoEngine) || errors.Is(e.Err, ErrNoAnswer) {
		return what + " " + e.Err.Error()
	}
	return fmt.Sprintf("%s: %v", what, e.Err)
}

// Unwrap returns Err.
func (e *EngineError) Unwrap() error { return e.Err }

// NotFoundError says that an engine has no container, or no service, of a name.
type NotFoundError struct {
	Target  target.Target
	Context string   // of the engine, where one was named
	Similar []string // names that the engine has, and that are like it
}

func (e *NotFoundError) Error() string {
	if project, service, ok := e.Target.Compose(); ok {
		return fmt.Sprintf("no container of service %s in project %s", service, project)
	}
	return fmt.Sprintf("no such %s: %s", kind(e.Target), e.Target.Name)
}

// Unwrap returns ErrNoContainer.
func (e *NotFoundError) Unwrap() error { return ErrNoContainer }

// PodContainerError says that no container of a name runs in a pod. It is an ErrNoContainer.
type PodContainerError struct {
	Name    string
	Running []string // the names of those that run
}

func (e *PodContainerError) Error() string {
	return fmt.Sprintf("the pod has no running container %s, but %s", e.Name, cmp.Or(strings.Join(e.Running, ", "), "none"))
}

// Unwrap returns ErrNoContainer.
func (e *PodContainerError) Unwrap() error { return ErrNoContainer }

// AmbiguousError says that several containers' IDs begin as a name does.
type AmbiguousError struct {
	Target  target.Target
	Matches []string // "NAME (the beginning of its ID)"
	Pods    bool     // they are pods of that name in several namespaces
}

func (e *AmbiguousError) Error() string {
	if e.Pods {
		return fmt.Sprintf("several pods are called %s: %s", e.Target.Name, strings.Join(e.Matches, ", "))
	}
	return fmt.Sprintf("the IDs of several containers begin with %s: %s", e.Target.Name, strings.Join(e.Matches, ", "))
}

// Unwrap returns ErrAmbiguous.
func (e *AmbiguousError) Unwrap() error { return ErrAmbiguous }

// StateError says that a container is there and cannot be reached.
type StateError struct {
	Target  target.Target
	Context string // of the engine, where one was named
	Name    string
	State   State
	Err     error
}

func (e *StateError) Error() string {
	what := kind(e.Target) + " " + e.Name
	switch {
	case errors.Is(e.Err, ErrNotRunning):
		return what + " " + e.State.predicate()
	case errors.Is(e.Err, ErrEnded), errors.Is(e.Err, ErrRemoved):
		return what + " " + e.Err.Error()
	}
	return fmt.Sprintf("%s: %v", what, e.Err)
}

// predicate says of a container in this state why nothing in it can be reached.
func (s State) predicate() string {
	switch s {
	case Created:
		return "has never been started"
	case Paused, Restarting, Stopping, Dead:
		return "is " + string(s)
	case Removing:
		return "is being removed"
	case NoTask:
		return "is not running (it has no task)"
	}
	return fmt.Sprintf("is not running (%s)", s)
}

// Unwrap returns Err.
func (e *StateError) Unwrap() error { return e.Err }

// kind is what a target's name is one of.
func kind(t target.Target) string {
	if t.Scheme == target.CRI {
		return "pod"
	}
	return "container"
}

// WaitError says that a connection has waited for a container as long as it may.
type WaitError struct {
	Waited time.Duration
	Err    error // why there was none
}

func (e *WaitError) Error() string { return fmt.Sprintf("waited %v in vain: %v", e.Waited, e.Err) }

// Unwrap returns Err.
func (e *WaitError) Unwrap() error { return e.Err }
