package kube

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"porthole.dev/porthole/internal/backoff"
	"porthole.dev/porthole/internal/pinned"
	"porthole.dev/porthole/internal/pipe"
	"porthole.dev/porthole/internal/portforward"
	"porthole.dev/porthole/internal/route"
	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/tunnel"
)

const (
	// agentStartLimit is how long an agent's container may take until it runs, its image included.
	agentStartLimit = 5 * time.Minute
	// maxPorts is how many ports are tried for an agent: each taken one costs a container.
	maxPorts = 3
	// maxAgents is how many containers of one kind a pod gets at most. They cannot be removed.
	maxAgents = 16
)

// podAgent is the agent in one pod, for one Route: an ephemeral container that is found, or else
// started, when a connection needs it.
type podAgent struct {
	route  *Route
	pod    string
	client *portforward.Client // which reaches its port, and nothing else
	tunnel *agentTunnel

	mu      sync.Mutex
	version string       // of the agent
	running runningAgent // the last one that was found or started
	told    string       // the container that the last event was about
	state   error        // why it does not run yet, or nil
}

// runningAgent is an ephemeral container with an agent.
type runningAgent struct {
	agentArgs
	name    string           // of the container
	found   bool             // it was there already
	theirs  pinned.PublicKey // the agent's key; zero if its log cannot be read
	unread  error            // why not
	strange string           // a container with an agent of another key, if the user's is new
}

// newPodAgent has neither looked for the agent nor started it.
func (r *Route) newPodAgent(pod string, client *portforward.Client) *podAgent {
	a := &podAgent{route: r, pod: pod, client: client}
	a.tunnel = (&agentTunnel{reach: a.reach, config: r.Agents, silence: agentSilence(r.Silence), greeted: a.greeted}).init()
	return a
}

// agentSilence returns a Route's Silence, of which 0 is the default and less is for ever, as an
// agentTunnel has it.
func agentSilence(silence time.Duration) time.Duration {
	return max(cmp.Or(silence, defaultAgentSilence), 0)
}

const defaultAgentSilence = 30 * time.Second

// dial opens a connection through the agent, which it finds or starts.
// Errors: *AgentError, *ForbiddenError, *ContainerError, and the context's.
func (a *podAgent) dial(ctx context.Context, to target.Address) (pipe.Conn, error) {
	client, err := a.start(ctx, to)
	if err != nil {
		return nil, err
	}
	if err := awaitSign(ctx, client); err != nil {
		return nil, a.failure(ctx, err)
	}
	conn, err := client.Dial(to)
	if err != nil { // the tunnel was lost just now
		return nil, a.failure(ctx, err)
	}
	return conn, nil
}

// awaitSign waits while a tunnel brings nothing, not even answers to pings: a connection that is
// opened then is lost with the tunnel, if that is lost.
func awaitSign(ctx context.Context, client *tunnel.Client) error {
	for time.Since(client.LastRead()) > agentPing+agentPing/2 {
		if err := client.Err(); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return errSilent
		}
		backoff.Sleep(ctx, listenPause, nil)
	}
	return nil
}

// start has the agent running, and tells once that connections to an address go through it.
func (a *podAgent) start(ctx context.Context, to target.Address) (*tunnel.Client, error) {
	if a == nil { // the route is closed
		return nil, net.ErrClosed
	}
	if _, err := a.route.Agents.key(); err != nil { // read once: it stays like that
		return nil, &AgentError{Pod: a.pod, Err: err, Final: true}
	}
	client, err := a.tunnel.shared.Client(ctx)
	if err != nil {
		return nil, a.failure(ctx, err)
	}
	a.tell(to)
	return client, nil
}

// waiting is why the agent does not run yet.
func (a *podAgent) waiting() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.state == nil {
		return &AgentError{Pod: a.pod, Err: errors.New("it is being looked for")}
	}
	return a.state
}

// greeted is agentTunnel's.
func (a *podAgent) greeted(version string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.version = version
}

// failure is why there is no agent. If time is up, that is what it waits for.
func (a *podAgent) failure(ctx context.Context, err error) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	var forbidden *ForbiddenError
	var container *ContainerError
	var agent *AgentError
	switch {
	case ctx.Err() != nil && a.state != nil:
		err = a.state
	case errors.As(err, &forbidden):
		return fmt.Errorf("agent in pod %s: %w", a.pod, err)
	case errors.As(err, &container), errors.As(err, &agent), errors.Is(err, context.Canceled):
		return err
	}
	return &AgentError{Pod: a.pod, Container: a.running.name, Err: err}
}

// reach is agentTunnel's: it finds or starts the agent, and connects to its port.
func (a *podAgent) reach(ctx context.Context) (net.Conn, pinned.PublicKey, error) {
	limited, cancel := context.WithTimeoutCause(ctx, agentStartLimit, errAgentSlow)
	defer cancel()
	warm := make(chan struct{})
	go func() { // the tunnel comes up while the agent is looked for
		defer close(warm)
		_ = a.client.Connect(limited)
	}()
	found, err := a.find(limited)
	if err == nil {
		a.mu.Lock()
		a.running, a.state = found, nil
		a.mu.Unlock()
	}
	if err != nil {
		cancel()
	}
	<-warm
	if err != nil {
		return nil, pinned.PublicKey{}, err
	}
	connecting, stop := context.WithTimeout(ctx, attemptLimit)
	defer stop()
	conn, err := a.client.Dial(connecting, target.TCPPort(found.port))
	if err != nil {
		return nil, pinned.PublicKey{}, a.route.Cluster.requestError(ctx, err, portForwardTo(a.route.Namespace, a.pod))
	}
	return conn.(net.Conn), found.theirs, nil
}

// find finds the agent, or starts one, and waits until it runs.
func (a *podAgent) find(ctx context.Context) (runningAgent, error) {
	c, r := a.route.Cluster, a.route
	key, err := r.Agents.key()
	if err != nil {
		return runningAgent{}, err
	}
	for tried := 1; ; tried++ {
		var pod corev1.Pod
		if err := c.get(ctx, podResource(), r.Namespace, a.pod, &pod); err != nil {
			return runningAgent{}, err
		}
		wanted, err := r.wantedAgent(&pod, key.Public())
		if err != nil {
			return runningAgent{}, err
		}
		found, ok := wanted.in(&pod)
		if !ok {
			if found, err = a.add(ctx, &pod, wanted); err != nil {
				return runningAgent{}, err
			}
		}
		if found, err = a.await(ctx, &pod, found); err == nil {
			if r.Agents.made {
				found.strange = wanted.strangerIn(&pod)
			}
			return found, nil
		}
		if !errors.Is(err, errPortTaken) || tried == maxPorts {
			return runningAgent{}, err
		}
	}
}

// add adds the wanted container to the pod, or finds the one that somebody has added meanwhile.
func (a *podAgent) add(ctx context.Context, pod *corev1.Pod, wanted wantedAgent) (runningAgent, error) {
	r := a.route
	container, args, err := wanted.container(pod)
	if err != nil {
		return runningAgent{}, err
	}
	err = r.Cluster.addEphemeral(ctx, pod, container)
	if apierrors.IsConflict(err) || apierrors.IsInvalid(err) { // perhaps its name was taken just now
		var now corev1.Pod
		if again := r.Cluster.get(ctx, podResource(), r.Namespace, a.pod, &now); again != nil {
			return runningAgent{}, again
		}
		if found, ok := wanted.in(&now); ok {
			return found, nil
		}
	}
	if err != nil {
		return runningAgent{}, a.notAdded(err)
	}
	return runningAgent{agentArgs: args, name: container.Name}, nil
}

// notAdded is why the API server refuses an ephemeral container.
func (a *podAgent) notAdded(err error) error {
	var forbidden *ForbiddenError
	switch {
	case errors.As(err, &forbidden):
		return err
	case apierrors.IsNotFound(err):
		return &AgentError{Pod: a.pod, Err: fmt.Errorf("%w: %w", ErrNoEphemeral, err)}
	}
	return &AgentError{Pod: a.pod, Err: err, Final: errors.Is(err, ErrAdmission) || apierrors.IsInvalid(err)}
}

// await waits until the container runs, and reads its key.
func (a *podAgent) await(ctx context.Context, pod *corev1.Pod, found runningAgent) (runningAgent, error) {
	starting, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	a.route.work.Go(func() {
		if err := a.route.Cluster.awaitFailure(starting, pod, found.name); err != nil {
			stop(err)
		}
	})
	err := a.route.Cluster.awaitPod(starting, pod, func(now *corev1.Pod) (bool, error) {
		running, err := agentRuns(now, found.name)
		a.mu.Lock()
		defer a.mu.Unlock()
		a.running, a.state = found, running
		return running == nil, err
	})
	if err != nil {
		return found, err
	}
	stop(nil)
	found.theirs, found.unread = a.route.Cluster.agentKey(ctx, a.route.Namespace, a.pod, found.name)
	var forbidden *ForbiddenError
	if found.unread != nil && !errors.As(found.unread, &forbidden) {
		return found, &AgentError{Pod: a.pod, Container: found.name, Err: fmt.Errorf("read its key: %w", found.unread)}
	}
	return found, nil
}

// tell tells, once for each container, that connections go through the agent.
func (a *podAgent) tell(needed target.Address) {
	a.mu.Lock()
	found, version := a.running, a.version
	again := a.told == found.name
	a.told = found.name
	a.mu.Unlock()
	if again {
		return
	}
	agents := a.route.Agents
	e := route.Event{Kind: route.Carried, Via: target.ViaAgent, Pod: a.pod, Container: found.name, Found: found.found, Remote: needed, Err: found.unread}
	if version != agents.Version {
		e.Version = version
	}
	if found.strange != "" && e.Err == nil {
		e.Err = &LostKeyError{Pod: a.pod, Container: found.strange, File: agents.KeyFile}
	}
	a.route.emit(e)
}
