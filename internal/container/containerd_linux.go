package container

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	containers "github.com/containerd/containerd/api/services/containers/v1"
	events "github.com/containerd/containerd/api/services/events/v1"
	namespaces "github.com/containerd/containerd/api/services/namespaces/v1"
	tasks "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/api/types/task"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"porthole.dev/porthole/internal/target"
)

// containerd is the engine of that name, by its own interface. A container there is what can be run, and its task is what runs.
type containerd struct {
	*runtimeConn
	namespace string // of containers that are named without one

	containers containers.ContainersClient
	tasks      tasks.TasksClient
	events     events.EventsClient
	namespaces namespaces.NamespacesClient
}

// nameLabel is where nerdctl has the names that it gives.
const nameLabel = "nerdctl/name"

// othersNamespaces hold containers that are listed under the names that people give them: those of docker and of pods.
var othersNamespaces = []string{"moby", "k8s.io"}

// newContainerd returns the engine that nerdctl and ctr would speak to.
func newContainerd() (engine, error) {
	socket, namespace, err := containerdSettings()
	if err != nil {
		return nil, &EngineError{Engine: target.Containerd, Err: err}
	}
	conn, err := newRuntimeConn(target.Containerd, socket)
	if err != nil {
		return nil, err
	}
	return &containerd{
		runtimeConn: conn, namespace: namespace,
		containers: containers.NewContainersClient(conn), tasks: tasks.NewTasksClient(conn),
		events: events.NewEventsClient(conn), namespaces: namespaces.NewNamespacesClient(conn),
	}, nil
}

// inNamespace says of which namespace a question is.
func inNamespace(ctx context.Context, namespace string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "containerd-namespace", namespace)
}

// find implements engine.
func (e *containerd) find(ctx context.Context, t target.Target) ([]found, error) {
	ctx, cancel := limited(ctx)
	defer cancel()
	t.Namespace = cmp.Or(t.Namespace, e.namespace)
	within := inNamespace(ctx, t.Namespace)
	c, err := e.container(ctx, t)
	if err != nil {
		return nil, e.explain(ctx, err)
	}
	f := found{ID: c.GetID(), Name: nameOf(c), HostNetwork: onHostNetwork(c), Runtime: runtimeOf(c)}
	answer, err := e.tasks.Get(within, &tasks.GetRequest{ContainerID: c.GetID()})
	if err != nil && status.Code(err) != codes.NotFound {
		return nil, e.explain(ctx, err)
	}
	f.State = stateOf(answer.GetProcess())
	if f.State == Running || f.State == Paused {
		if f.PID, err = pidHere(int(e.peer.Load()), int(answer.GetProcess().GetPid())); err != nil {
			return nil, &StateError{Target: t, Name: f.Name, State: f.State, Err: err}
		}
	}
	return []found{f}, nil
}

// container returns the one that a target names: by its ID, by the name that nerdctl has given it, or by the
// beginning of its ID.
func (e *containerd) container(ctx context.Context, t target.Target) (*containers.Container, error) {
	answer, err := e.containers.List(inNamespace(ctx, t.Namespace), &containers.ListContainersRequest{Filters: []string{
		fmt.Sprintf("id==%q", t.Name),
		fmt.Sprintf("labels.%q==%q", nameLabel, t.Name),
		fmt.Sprintf("id~=%q", "^"+regexp.QuoteMeta(t.Name)),
	}})
	if err != nil {
		return nil, err
	}
	all := answer.GetContainers()
	for _, is := range []func(*containers.Container) bool{
		func(c *containers.Container) bool { return c.GetID() == t.Name },
		func(c *containers.Container) bool { return c.GetLabels()[nameLabel] == t.Name },
	} {
		if i := slices.IndexFunc(all, is); i >= 0 {
			return all[i], nil
		}
	}
	switch len(all) {
	case 0:
		return nil, &NotFoundError{Target: t, Similar: e.elsewhere(ctx, t)}
	case 1:
		return all[0], nil
	}
	ambiguous := &AmbiguousError{Target: t}
	for _, c := range all {
		ambiguous.Matches = append(ambiguous.Matches, shortMatch(nameOf(c), c.GetID(), t.Name))
	}
	return nil, ambiguous
}

// elsewhere returns the targets that have the name in other namespaces.
func (e *containerd) elsewhere(ctx context.Context, t target.Target) (similar []string) {
	answer, err := e.namespaces.List(ctx, &namespaces.ListNamespacesRequest{})
	if err != nil {
		return nil
	}
	for _, n := range answer.GetNamespaces() {
		list, err := e.containers.List(inNamespace(ctx, n.GetName()), &containers.ListContainersRequest{Filters: []string{
			fmt.Sprintf("id==%q", t.Name), fmt.Sprintf("labels.%q==%q", nameLabel, t.Name),
		}})
		if err == nil && len(list.GetContainers()) > 0 && n.GetName() != t.Namespace {
			similar = append(similar, target.Target{Scheme: t.Scheme, Namespace: n.GetName(), Name: t.Name}.String())
		}
	}
	return similar
}

// watch implements engine.
func (e *containerd) watch(ctx context.Context, changed func()) error {
	stream, err := e.events.Subscribe(ctx, &events.SubscribeRequest{Filters: []string{`topic~="^/(containers|tasks)/"`}})
	if err != nil {
		return e.explain(ctx, err)
	}
	for changed(); ; changed() {
		for {
			event, err := stream.Recv()
			if err != nil {
				return e.explain(ctx, err)
			}
			if !strings.HasPrefix(event.GetTopic(), "/tasks/exec-") { // probes of Kubernetes
				break
			}
		}
	}
}

// list implements engine.
func (e *containerd) list(ctx context.Context) (all []Listed, err error) {
	ctx, cancel := limited(ctx)
	defer cancel()
	answer, err := e.namespaces.List(ctx, &namespaces.ListNamespacesRequest{})
	if err != nil {
		return nil, e.explain(ctx, err)
	}
	for _, n := range answer.GetNamespaces() {
		if slices.Contains(othersNamespaces, n.GetName()) {
			continue
		}
		some, err := e.listNamespace(inNamespace(ctx, n.GetName()), n.GetName())
		if err != nil {
			return nil, e.explain(ctx, err)
		}
		all = append(all, some...)
	}
	return all, nil
}

func (e *containerd) listNamespace(ctx context.Context, namespace string) (all []Listed, err error) {
	list, err := e.containers.List(ctx, &containers.ListContainersRequest{})
	if err != nil {
		return nil, err
	}
	running, err := e.tasks.List(ctx, &tasks.ListTasksRequest{})
	if err != nil {
		return nil, err
	}
	processes := map[string]*task.Process{}
	for _, p := range running.GetTasks() {
		processes[cmp.Or(p.GetContainerID(), p.GetID())] = p // of a list, the ID is the container's
	}
	if namespace == e.namespace {
		namespace = ""
	}
	for _, c := range list.GetContainers() {
		t := target.Target{Scheme: target.Containerd, Namespace: namespace, Name: cmp.Or(c.GetLabels()[nameLabel], c.GetID())}
		all = append(all, Listed{Target: t, ID: c.GetID(), Name: nameOf(c), Image: c.GetImage(), State: stateOf(processes[c.GetID()])})
	}
	return all, nil
}

// nameOf returns the name that a person knows a container by: the one that nerdctl has given it, or prints for one of a pod.
func nameOf(c *containers.Container) string {
	labels := c.GetLabels()
	pod := path.Join(labels["io.kubernetes.pod.namespace"], labels["io.kubernetes.pod.name"], labels["io.kubernetes.container.name"])
	if labels[nameLabel] == "" && pod != "" {
		return "k8s://" + pod
	}
	return cmp.Or(labels[nameLabel], c.GetID())
}

// stateOf returns the state of a container whose task is p, or that has none.
func stateOf(p *task.Process) State {
	switch {
	case p == nil:
		return NoTask
	case p.GetStatus() == task.Status_CREATED:
		return Created
	case p.GetStatus() == task.Status_RUNNING:
		return Running
	case p.GetStatus() == task.Status_PAUSED, p.GetStatus() == task.Status_PAUSING:
		return Paused
	}
	return Exited
}

// onHostNetwork reports whether the container's specification (OCI runtime specification, config-linux.md) has no
// network namespace.
func onHostNetwork(c *containers.Container) bool {
	var spec struct {
		Linux *struct {
			Namespaces []struct {
				Type string `json:"type"`
			} `json:"namespaces"`
		} `json:"linux"`
	}
	if json.Unmarshal(c.GetSpec().GetValue(), &spec) != nil || spec.Linux == nil {
		return false
	}
	for _, n := range spec.Linux.Namespaces {
		if n.Type == "network" {
			return false
		}
	}
	return true
}

// runtimeOf returns the name of what runs the container: of a program in place of runc, if there is one.
func runtimeOf(c *containers.Container) string {
	var runc options.Options
	if c.GetRuntime().GetOptions().MessageIs(&runc) && c.GetRuntime().GetOptions().UnmarshalTo(&runc) == nil && runc.GetBinaryName() != "" {
		return filepath.Base(runc.GetBinaryName())
	}
	return c.GetRuntime().GetName()
}
