package container

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"porthole.dev/porthole/internal/spelling"
	"porthole.dev/porthole/internal/ssh"
	"porthole.dev/porthole/internal/target"
)

// docker is an engine that speaks Docker's API: Docker's own, and podman's.
type docker struct {
	scheme  target.Scheme
	context string // that was named; "" for the current one
	host    string // such as unix:///var/run/docker.sock
	client  *client.Client
	way     engineTransport // of client
	spoken  atomic.Bool     // the version of the API is agreed upon
}

// Labels of Compose's containers. podman-compose gives them too.
const (
	projectLabel = "com.docker.compose.project"
	serviceLabel = "com.docker.compose.service"
	oneOffLabel  = "com.docker.compose.oneoff" // "True" for one of `docker compose run`
)

// newDocker returns the engine of one of docker's contexts; "" is the current one.
func newDocker(name string) (engine, error) { return newDockerAt(target.Docker, name, dockerHost) }

// newPodman returns the engine of one of podman's connections; "" is the current one.
func newPodman(name string) (engine, error) { return newDockerAt(target.Podman, name, podmanHost) }

// newDockerAt returns an engine that speaks Docker's API, which host finds.
func newDockerAt(scheme target.Scheme, name string, find func(string) (engineHost, error)) (engine, error) {
	host, err := find(name)
	if err != nil {
		return nil, &EngineError{Engine: scheme, Err: err}
	}
	d := &docker{scheme: scheme, context: name, host: withoutPassword(host.url)}
	if d.way, err = host.transport(scheme); err != nil {
		return nil, d.failure(err)
	}
	options := []client.Opt{
		client.WithHost(host.address()), client.WithHTTPClient(&http.Client{Transport: d.way, CheckRedirect: client.CheckRedirect}),
	}
	if host.tls != nil {
		options = append(options, client.WithScheme("https"))
	}
	if scheme == target.Docker {
		options = append(options, client.WithAPIVersionFromEnv())
	}
	if d.client, err = client.New(options...); err != nil {
		return nil, d.failure(fmt.Errorf("%w: %w", ErrContextUnread, err))
	}
	return d, nil
}

// Close implements engine.
func (d *docker) Close() error {
	d.way.CloseIdleConnections()
	return nil
}

// near reports whether the engine is on this machine, as far as its address tells.
func (d *docker) near() bool { return strings.HasPrefix(d.host, "unix://") }

func (d *docker) failure(err error) error {
	return &EngineError{Engine: d.scheme, Address: d.host, Err: err}
}

// explain says why the engine did not answer. The client hides the cause of a connection that fails, so it is tried once more.
func (d *docker) explain(ctx context.Context, err error) error {
	e := &EngineError{Engine: d.scheme, Address: d.host, Err: err}
	var host *ssh.HostError
	var command *ssh.Error
	switch {
	case errors.Is(context.Cause(ctx), ErrNoAnswer):
		e.Err = ErrNoAnswer
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.As(err, &host):
		e.Err = host
	case errors.As(err, &command):
		e.Err = command
	case client.IsErrConnectionFailed(err):
		conn, cause := d.way.dial(ctx)
		if cause == nil {
			conn.Close()
			return e
		}
		e.Err = cause
		if errors.Is(cause, syscall.EACCES) || errors.Is(cause, syscall.EPERM) {
			e.Err, e.Group = ErrEnginePermission, groupOf(d.host)
		} else if errors.Is(cause, os.ErrNotExist) || errors.Is(cause, syscall.ECONNREFUSED) {
			e.Err = ErrNoEngine
		}
	}
	return e
}

// greet agrees upon a version of the API, once.
func (d *docker) greet(ctx context.Context) error {
	if d.spoken.Load() {
		return nil
	}
	answer, err := d.client.Ping(ctx, client.PingOptions{NegotiateAPIVersion: true})
	switch {
	case err != nil && answer.APIVersion != "" && cerrdefs.IsInvalidArgument(err):
		return d.failure(fmt.Errorf("its API %s is %w: porthole needs %s", answer.APIVersion, ErrEngineTooOld, client.MinAPIVersion))
	case err != nil:
		return d.explain(ctx, err)
	}
	d.spoken.Store(true)
	return nil
}

// find implements engine.
func (d *docker) find(ctx context.Context, t target.Target) ([]found, error) {
	if err := d.greet(ctx); err != nil {
		return nil, err
	}
	if _, _, ok := t.Compose(); ok {
		return d.findService(ctx, t)
	}
	c, err := d.inspect(ctx, t.Name)
	switch {
	case err == nil:
		return []found{c}, nil
	case client.IsErrConnectionFailed(err), ctx.Err() != nil:
		return nil, d.explain(ctx, err)
	}
	return nil, d.notFound(ctx, t, err)
}

// notFound says why there is no container of a name: because there are several, or none.
func (d *docker) notFound(ctx context.Context, t target.Target, err error) error {
	all, listErr := d.list(ctx)
	if listErr != nil {
		return listErr
	}
	ambiguous := &AmbiguousError{Target: t}
	for _, c := range all {
		if strings.HasPrefix(c.ID, t.Name) {
			ambiguous.Matches = append(ambiguous.Matches, shortMatch(c.Name, c.ID, t.Name))
		}
	}
	switch {
	case len(ambiguous.Matches) > 1:
		return ambiguous
	case cerrdefs.IsNotFound(err):
		return &NotFoundError{Target: t, Context: d.context, Similar: similar(t, all)}
	}
	return d.failure(err)
}

// similar returns what may be meant by a name that no container, or no service of Compose, has: the services of that name, or of
// a project of that name, or else the name that is spelled most like it.
func similar(t target.Target, all []Listed) (meant []string) {
	_, _, isService := t.Compose()
	var known []string
	for _, c := range all {
		project, service, _ := c.Service.Compose()
		if (service == t.Name || project == t.Name) && !slices.Contains(meant, c.Service.Name) {
			meant = append(meant, c.Service.Name)
		}
		switch {
		case isService:
			known = append(known, c.Service.Name)
		case !c.helper:
			known = append(known, c.Name)
		}
	}
	if near, ok := spelling.Nearest(t.Name, known); ok && meant == nil {
		meant = []string{near}
	}
	return meant
}

// serviceOf returns the service of Compose that a container's labels name, which anybody may have given it; the zero value for none.
// What `docker compose run` has started is none of its service's containers.
func (d *docker) serviceOf(labels map[string]string) (service target.Target) {
	if labels[serviceLabel] != "" && labels[oneOffLabel] != "True" {
		service, _ = target.Parse(string(d.scheme) + "://" + labels[projectLabel] + "/" + labels[serviceLabel])
	}
	return service
}

// findService returns the containers of a service of Compose.
func (d *docker) findService(ctx context.Context, t target.Target) (all []found, err error) {
	project, service, _ := t.Compose()
	filters := client.Filters{}.Add("label", projectLabel+"="+project, serviceLabel+"="+service)
	listed, err := d.client.ContainerList(ctx, client.ContainerListOptions{All: true, Filters: filters})
	if err != nil {
		return nil, d.explain(ctx, err)
	}
	for _, summary := range listed.Items {
		if d.serviceOf(summary.Labels) != t {
			continue
		}
		c, err := d.inspect(ctx, summary.ID)
		if err == nil {
			all = append(all, c)
		} else if !cerrdefs.IsNotFound(err) { // it was removed meanwhile
			return nil, d.explain(ctx, err)
		}
	}
	if len(all) == 0 {
		return nil, d.notFound(ctx, t, cerrdefs.ErrNotFound)
	}
	slices.SortFunc(all, func(a, b found) int { return cmp.Compare(a.Name, b.Name) })
	return all, nil
}

// errNoID means that an engine's answer has no ID of a container. By any other word in the name of its cgroup, a process of this
// machine would be taken for the container's.
var errNoID = errors.New("it answers with an ID of a container that is none")

// inspect asks for one container.
func (d *docker) inspect(ctx context.Context, name string) (found, error) {
	answer, err := d.client.ContainerInspect(ctx, name, client.ContainerInspectOptions{})
	if err != nil {
		return found{}, err
	}
	c := answer.Container
	if c.ID == "" || longID(c.ID) != c.ID {
		return found{}, fmt.Errorf("%w: %.80q", errNoID, c.ID)
	}
	f := found{ID: c.ID, Name: strings.TrimPrefix(c.Name, "/"), Near: d.near()}
	if c.State != nil {
		f.State, f.PID = State(c.State.Status), max(c.State.Pid, 0)
		f.Started, _ = time.Parse(time.RFC3339Nano, c.State.StartedAt)
	}
	if c.HostConfig != nil {
		f.HostNetwork, f.Runtime = c.HostConfig.NetworkMode.IsHost(), c.HostConfig.Runtime
	}
	return f, nil
}

// list implements engine.
func (d *docker) list(ctx context.Context) (all []Listed, err error) {
	if err := d.greet(ctx); err != nil {
		return nil, err
	}
	if d.scheme == target.Podman {
		return d.listPodman(ctx)
	}
	answer, err := d.client.ContainerList(ctx, client.ContainerListOptions{All: true})
	if err != nil {
		return nil, d.explain(ctx, err)
	}
	for _, c := range answer.Items {
		all = append(all, d.listed(c))
	}
	return all, nil
}

// named is a container for a list, of which no more is known.
func (d *docker) named(id string, names []string, labels map[string]string) Listed {
	l := Listed{ID: id, Name: id, Service: d.serviceOf(labels)}
	if len(names) > 0 {
		l.Name = strings.TrimPrefix(names[0], "/")
	}
	l.Target = target.Target{Scheme: d.scheme, Name: l.Name}
	_, l.helper = labels[helperLabel]
	return l
}

func (d *docker) listed(c container.Summary) Listed {
	l := d.named(c.ID, c.Names, c.Labels)
	l.Image, l.State, l.HostNetwork = c.Image, State(c.State), c.HostConfig.NetworkMode == "host"
	for _, p := range c.Ports {
		network, ok := target.ParseNetwork(p.Type) // or sctp
		if p.PublicPort == 0 || !ok {
			continue
		}
		published := Published{Network: network, Port: p.PrivatePort, Host: p.PublicPort}
		if p.IP.IsValid() && !p.IP.IsUnspecified() {
			published.Address = p.IP.String()
		}
		l.Published = append(l.Published, published)
	}
	return l
}

// changes are the events after which a container may be another one, or run or not. Podman has words of its own for some.
var changes = []string{"create", "start", "restart", "die", "died", "stop", "kill", "pause", "unpause", "destroy", "remove", "rename", "cleanup"}

// watch implements engine.
func (d *docker) watch(ctx context.Context, changed func()) error {
	events := d.client.Events(ctx, client.EventsListOptions{Filters: client.Filters{}.Add("type", "container")})
	select {
	case err := <-events.Err:
		return d.explain(ctx, err)
	default:
		changed()
	}
	for {
		select {
		case e := <-events.Messages:
			if slices.Contains(changes, string(e.Action)) {
				changed()
			}
		case err := <-events.Err:
			return d.explain(ctx, err)
		}
	}
}
