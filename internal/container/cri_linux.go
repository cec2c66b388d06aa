package container

import (
	"cmp"
	"context"
	"errors"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"porthole.dev/porthole/internal/cri"
	"porthole.dev/porthole/internal/pipe"
	"porthole.dev/porthole/internal/target"
)

// pods is the engine of the pods of this node: their container runtime, by the interface that the kubelet uses.
type pods struct {
	endpoints []string // to be tried in this order

	mu   sync.Mutex
	conn *podRuntime // nil until one has answered
}

// podRuntime is the connection to a runtime that has answered.
type podRuntime struct {
	*runtimeConn
	client    runtime.RuntimeServiceClient
	hasEvents bool
}

// newCRI returns the engine that crictl would speak to.
func newCRI() (engine, error) {
	endpoints, err := criEndpoints()
	if err != nil {
		return nil, &EngineError{Engine: target.CRI, Err: err}
	}
	return &pods{endpoints: endpoints}, nil
}

// Close implements engine.
func (p *pods) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.conn == nil {
		return nil
	}
	return p.conn.Close()
}

// runtime returns the connection to the first runtime that answers. Of several errors the first one that is not about
// a missing socket is told.
func (p *pods) runtime(ctx context.Context) (*podRuntime, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.conn != nil {
		return p.conn, nil
	}
	var first, telling error
	for _, path := range p.endpoints {
		r, err := newPodRuntime(ctx, path)
		if err == nil {
			p.conn = r
			return r, nil
		}
		first = cmp.Or(first, err)
		if !errors.Is(err, ErrNoEngine) {
			telling = cmp.Or(telling, err)
		}
	}
	return nil, cmp.Or(telling, first)
}

// newPodRuntime connects to the runtime at a socket and asks who it is. Errors: *EngineError.
func newPodRuntime(ctx context.Context, path string) (*podRuntime, error) {
	conn, err := newRuntimeConn(target.CRI, path)
	if err != nil {
		return nil, err
	}
	r := &podRuntime{runtimeConn: conn, client: runtime.NewRuntimeServiceClient(conn)}
	version, err := r.client.Version(ctx, &runtime.VersionRequest{})
	if err != nil {
		_ = conn.Close()
		return nil, r.explain(ctx, err)
	}
	r.hasEvents = sharesEvents(version.GetRuntimeName(), version.GetRuntimeVersion())
	return r, nil
}

// sharesEvents reports whether a runtime tells its events to everybody who asks. containerd before 2.0 and
// some versions of CRI-O tell each event to one client alone, and the kubelet may want it.
func sharesEvents(name, version string) bool {
	major, _, _ := strings.Cut(strings.TrimPrefix(version, "v"), ".")
	number, err := strconv.Atoi(major)
	return name == "containerd" && err == nil && number >= 2
}

// find implements engine.
func (p *pods) find(ctx context.Context, t target.Target) ([]found, error) {
	ctx, cancel := limited(ctx)
	defer cancel()
	r, err := p.runtime(ctx)
	if err != nil {
		return nil, err
	}
	list, err := r.client.ListPodSandbox(ctx, &runtime.ListPodSandboxRequest{})
	if err != nil {
		return nil, r.explain(ctx, err)
	}
	chosen, err := choose(list.GetItems(), t)
	if err != nil {
		return nil, err
	}
	f, err := r.describe(ctx, chosen)
	if status.Code(err) == codes.NotFound { // removed meanwhile
		err = &NotFoundError{Target: t}
	}
	if err != nil {
		return nil, r.explain(ctx, err)
	}
	return []found{f}, nil
}

// choose returns the sandbox that a target names: of a pod the one that is ready, or was made last, or the one
// whose ID begins so.
func choose(all []*runtime.PodSandbox, t target.Target) (*runtime.PodSandbox, error) {
	var named, similar []*runtime.PodSandbox
	for _, s := range all {
		m := s.GetMetadata()
		switch {
		case m.GetName() == t.Name && (t.Namespace == "" || m.GetNamespace() == t.Namespace):
			named = append(named, s)
		case m.GetName() == t.Name:
			similar = append(similar, s)
		}
	}
	pods := len(named) > 0
	if !pods && t.Namespace == "" {
		named = slices.DeleteFunc(slices.Clone(all), func(s *runtime.PodSandbox) bool { return !strings.HasPrefix(s.GetId(), t.Name) })
	}
	if len(named) == 0 {
		return nil, &NotFoundError{Target: t, Similar: podTargets(similar)}
	}
	best := slices.MaxFunc(named, func(a, b *runtime.PodSandbox) int {
		return cmp.Or(-cmp.Compare(a.GetState(), b.GetState()), cmp.Compare(a.GetCreatedAt(), b.GetCreatedAt())) // ready is the least
	})
	if slices.ContainsFunc(named, func(s *runtime.PodSandbox) bool { return podName(s) != podName(best) }) {
		ambiguous := &AmbiguousError{Target: t, Pods: pods}
		for _, s := range named {
			ambiguous.Matches = append(ambiguous.Matches, shortMatch(podName(s), s.GetId(), t.Name))
		}
		slices.Sort(ambiguous.Matches)
		return nil, ambiguous
	}
	return best, nil
}

// podName returns NAMESPACE/NAME of a pod.
func podName(s *runtime.PodSandbox) string {
	return s.GetMetadata().GetNamespace() + "/" + s.GetMetadata().GetName()
}

// podTargets are the targets that name some pods.
func podTargets(all []*runtime.PodSandbox) (targets []string) {
	for _, s := range all {
		targets = append(targets, podTarget(s).String())
	}
	slices.Sort(targets)
	return slices.Compact(targets)
}

func podTarget(s *runtime.PodSandbox) target.Target {
	return target.Target{Scheme: target.CRI, Namespace: s.GetMetadata().GetNamespace(), Name: s.GetMetadata().GetName()}
}

// describe asks for all that is to be known of a sandbox.
func (r *podRuntime) describe(ctx context.Context, chosen *runtime.PodSandbox) (found, error) {
	s, err := cri.QuerySandbox(ctx, r.client, chosen.GetId())
	if err != nil {
		return found{}, err
	}
	f := found{ID: s.ID, Name: podName(chosen), State: podState(s.Ready), HostNetwork: s.HostNetwork, Runtime: s.Handler}
	if !s.Ready {
		return f, nil
	}
	if s.OwnKernel {
		return found{}, &StateError{Target: podTarget(chosen), Name: f.Name, State: f.State, Err: ErrOwnNetwork}
	}
	told := s.NetNS(ctx, r.client)
	f.NetNS = told.Path
	if told.PID != 0 {
		f.PID, err = pidHere(int(r.peer.Load()), told.PID)
	}
	if f.PID == 0 && f.NetNS == "" {
		return found{}, &StateError{Target: podTarget(chosen), Name: f.Name, State: f.State, Err: cmp.Or(err, ErrNoNetwork)}
	}
	f.dialUnix = func(ctx context.Context, container string, to target.Address) (pipe.Conn, error) {
		return r.dialUnix(ctx, s.ID, container, to)
	}
	return f, nil
}

func podState(ready bool) State {
	if ready {
		return Running
	}
	return NotReady
}

// watch implements engine. Where there are no events, whoever waits for a pod looks again and again anyway.
func (p *pods) watch(ctx context.Context, changed func()) error {
	r, err := p.runtime(ctx)
	if err != nil {
		return err
	}
	changed()
	if r.hasEvents {
		stream, err := r.client.GetContainerEvents(ctx, &runtime.GetEventsRequest{})
		for err == nil {
			if _, err = stream.Recv(); err == nil {
				changed()
			}
		}
		if status.Code(err) != codes.Unimplemented {
			return r.explain(ctx, err)
		}
	}
	<-ctx.Done()
	return ctx.Err()
}

// list implements engine. Docker's own containerd, which serves no pods, is at the usual path too, and has none.
func (p *pods) list(ctx context.Context) (all []Listed, err error) {
	ctx, cancel := limited(ctx)
	defer cancel()
	r, err := p.runtime(ctx)
	if errors.Is(err, ErrNoInterface) && len(p.endpoints) > 1 { // nobody has named it
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	answer, err := r.client.ListPodSandbox(ctx, &runtime.ListPodSandboxRequest{})
	if err != nil {
		return nil, r.explain(ctx, err)
	}
	for _, s := range answer.GetItems() {
		if best, err := choose(answer.GetItems(), podTarget(s)); err != nil || best != s {
			continue // one before the pod's last
		}
		ready := s.GetState() == runtime.PodSandboxState_SANDBOX_READY
		all = append(all, Listed{Target: podTarget(s), ID: s.GetId(), Name: podName(s), State: podState(ready)})
	}
	return all, nil
}

// dialUnix connects to the Unix socket at a path of one of a pod's containers: the one of that name, or else the first
// that has something there, in the order in which they were made.
func (r *podRuntime) dialUnix(ctx context.Context, sandbox, container string, to target.Address) (pipe.Conn, error) {
	all, err := r.running(ctx, sandbox, container)
	if err != nil {
		return nil, err
	}
	err = &net.OpError{Op: "connect", Net: "unix", Addr: &net.UnixAddr{Name: to.Path, Net: "unix"}, Err: syscall.ENOENT}
	for _, c := range all {
		conn, failed := dialIn(ctx, c, to)
		if failed == nil || !isMissing(failed) {
			return conn, failed
		}
		err = failed
	}
	return nil, err
}

func dialIn(ctx context.Context, c found, to target.Address) (pipe.Conn, error) {
	opened, err := openNative(ctx, c)
	if err != nil {
		return nil, err
	}
	defer opened.Close()
	return opened.Dial(ctx, to)
}

// isMissing reports whether another container may have what was not found in one.
func isMissing(err error) bool {
	return errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) || errors.Is(err, ErrEnded)
}

// running returns a pod's containers that run, or the one of a name. Errors: *NotFoundError, *EngineError.
func (r *podRuntime) running(ctx context.Context, sandbox, only string) (all []found, err error) {
	ctx, cancel := limited(ctx)
	defer cancel()
	list, err := cri.RunningContainers(ctx, r.client, sandbox)
	if err != nil {
		return nil, r.explain(ctx, err)
	}
	var names []string
	for _, c := range list {
		name := c.GetMetadata().GetName()
		names = append(names, name)
		if only != "" && name != only {
			continue
		}
		answer, err := r.client.ContainerStatus(ctx, &runtime.ContainerStatusRequest{ContainerId: c.GetId(), Verbose: true})
		if status.Code(err) == codes.NotFound {
			continue
		}
		if err != nil {
			return nil, r.explain(ctx, err)
		}
		pid, err := pidHere(int(r.peer.Load()), cri.ParseInfo(answer.GetInfo()).PID)
		if err != nil {
			return nil, err
		}
		all = append(all, found{ID: c.GetId(), Name: name, State: Running, PID: pid})
	}
	if len(all) == 0 && only != "" {
		return nil, &PodContainerError{Name: only, Running: names}
	}
	return all, nil
}
