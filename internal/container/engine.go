package container

import (
	"context"
	"time"

	"porthole.dev/porthole/internal/netns"
	"porthole.dev/porthole/internal/pipe"
	"porthole.dev/porthole/internal/target"
)

// engine is what runs containers: docker, podman, containerd, or a runtime of Kubernetes by its own interface. It is called from
// many goroutines at once.
type engine interface {
	// find returns the container that a target names, or, of a service, all its containers, also those that do not
	// run: at least one. Errors: *NotFoundError, *AmbiguousError, *EngineError.
	find(ctx context.Context, t target.Target) ([]found, error)
	// watch calls changed once it follows the engine's events, and whenever containers may have changed, one call at a
	// time, until ctx ends or the engine is lost, which is the error.
	watch(ctx context.Context, changed func()) error
	// list returns all containers, also those that do not run. Errors: *EngineError.
	list(ctx context.Context) ([]Listed, error)
	Close() error
}

// State is what a container does, in the engine's own word.
type State string

// The states that are told apart. Others are no more than not running.
const (
	Created    State = "created" // made, and never started
	Running    State = "running"
	Paused     State = "paused"
	Restarting State = "restarting" // it has ended, and the engine will start it again
	Exited     State = "exited"
	Stopping   State = "stopping"       // of podman
	Removing   State = "removing"       // of docker and podman
	Dead       State = "dead"           // of docker: its removal has failed
	NoTask     State = "without a task" // of containerd, where starting a container makes one
	NotReady   State = "not ready"      // of a pod, as crictl has it
)

// found is a container as its engine describes it.
type found struct {
	ID    string // in full
	Name  string // that a person would call it by
	State State
	// PID is the number of its first process on the engine's machine, and Started is when that began, by the engine's clock; 0
	// and the zero value if it does not run.
	PID     int
	Started time.Time
	// Near means that the engine listens at a Unix socket of this machine, as one here does. Numbers and times of processes
	// of another machine may be those of any process here.
	Near bool
	// HostNetwork means that it has no network of its own, but its host's.
	HostNetwork bool
	// Runtime is what runs it, such as runc; "" if the engine does not tell.
	Runtime string
	// NetNS is the path that its network namespace is bound to, for where there is no process to be found; "" for none.
	NetNS string
	// dialUnix connects to a Unix socket of a pod, in whichever of its containers, or in one alone; nil where PID's root has it.
	dialUnix func(ctx context.Context, container string, to target.Address) (pipe.Conn, error)
	// container is the name of the one of the pod's containers whose Unix sockets are meant; "" for all.
	container string
}

// same reports whether two are one container, with one first process.
func (c found) same(other found) bool {
	return c.ID == other.ID && c.PID == other.PID && c.Started.Equal(other.Started)
}

// Listed is a container for a list of what can be forwarded to.
type Listed struct {
	Target    target.Target // that names it, by its own name
	ID        string        // in full
	Name      string
	Image     string
	State     State
	Published []Published
	// Service is the one of Compose that it belongs to, which is a target, too; the zero value for none.
	Service target.Target

	helper bool // it is one of porthole's own, which carry connections
	// process is what the engine's list tells of its first process; PID is 0 where it tells nothing of that.
	process found

	// Set by List alone. Listening is what listens inside, nil where it cannot be seen, for which Unseen may be the reason.
	// HostNetwork means that it is this host's network: nothing of that is listed.
	Listening   []target.Socket
	Unseen      error
	HostNetwork bool
	network     netns.ID // that Listening is of
}

// Published is a port of a container that the engine has made reachable on its host.
type Published struct {
	Network target.Network // TCP or UDP
	Port    uint16         // in the container
	Address string         // on the host: an IP address, "" for all
	Host    uint16         // the port there
}

// shortMatch is a container among several whose IDs begin as text: its name, and its ID as far as it takes to tell.
func shortMatch(name, id, text string) string {
	return name + " (" + id[:min(len(id), max(12, len(text)+1))] + ")"
}
