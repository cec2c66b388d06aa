package node

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"math"
	"net"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"porthole.dev/porthole/internal/portforward"
	"porthole.dev/porthole/internal/tunnel"
)

// forwards answers PortForward, and reports the connections that follow.
type forwards struct {
	upstream  *upstream // the runtime
	sandboxes sandboxes
	backend   backend
	unix      *unixSockets
	policy    Policy
	server    *portforward.Server
	url       string // of server, without a path
	metrics   *forwardMetrics
	events    *events
	log       *slog.Logger
	watch     sandboxWatch
	watches   listeningWatches
}

// answer answers the CRI's PortForward.
func (f *forwards) answer(down grpc.ServerStream) error {
	var in frame
	if err := down.RecvMsg(&in); err != nil {
		return err
	}
	var request runtime.PortForwardRequest
	if err := proto.Unmarshal(in.data.Materialize(), &request); err != nil {
		in.data.Free()
		return status.Errorf(codes.InvalidArgument, "porthole node: read PortForward request: %v", err)
	}
	response, err := f.portForward(down.Context(), &request)
	if errors.Is(err, errPassThrough) {
		out, err := f.upstream.invoke(runtime.RuntimeService_PortForward_FullMethodName, down, &in)
		if err != nil {
			return err
		}
		return down.SendMsg(out)
	}
	in.data.Free()
	if err != nil {
		return err
	}
	data, err := proto.Marshal(response)
	if err != nil {
		return err
	}
	return down.SendMsg(&frame{mem.BufferSlice{mem.SliceBuffer(data)}})
}

// portForward is the CRI's PortForward: it returns the URL for one upgrade. The
// pod's namespace is entered only when a connection comes.
func (f *forwards) portForward(ctx context.Context, r *runtime.PortForwardRequest) (*runtime.PortForwardResponse, error) {
	ports, err := portsOf(r)
	if err != nil {
		return nil, err
	}
	if err := f.upstream.awaitReady(ctx); err != nil {
		return nil, err
	}
	s, err := f.sandboxes.find(ctx, r.GetPodSandboxId())
	if err == nil && s.passThrough {
		err = f.checkPassThrough(s)
	}
	switch {
	case errors.Is(err, errPassThrough):
		return nil, err
	case err != nil:
		f.log.Warn("node: port-forward refused", "sandbox", r.GetPodSandboxId(), "err", err)
		return nil, err
	}
	exists, unwatch := f.watch.add(s.netns)
	dialer := &sandboxDialer{sandbox: s, backend: f.backend, policy: f.policy, unix: f.unix, watches: &f.watches, dials: make(chan struct{}, maxUnixDials)}
	path, err := f.server.Expect(portforward.PendingUpgrade{
		Dialer:    dialer,
		Bind:      dialer.bind,
		Listening: dialer.listening,
		Pod:       s.id,
		Ports:     ports,
		Events:    func(e portforward.Event) { f.record(s, e) },
		Sandbox:   exists,
		Done:      unwatch,
	})
	if err != nil {
		unwatch()
		return nil, upgradeStatus(err)
	}
	return &runtime.PortForwardResponse{Url: f.url + path}, nil
}

// upgradeStatus is what the kubelet gets when portforward.Server.Expect has failed.
func upgradeStatus(err error) error {
	switch {
	case errors.Is(err, portforward.ErrTooManyPending):
		return status.Errorf(codes.ResourceExhausted, "porthole node: %v", err)
	case errors.Is(err, net.ErrClosed):
		return status.Error(codes.Unavailable, "porthole node: shutting down")
	}
	return status.Errorf(codes.Internal, "porthole node: %v", err)
}

// errPassThrough has PortForward passed on to the runtime.
var errPassThrough = errors.New("the pod's network is not in a namespace of the node")

// checkPassThrough returns errPassThrough, or a status if the policy cannot be enforced:
// which ports are reached through a runtime is not seen here.
func (f *forwards) checkPassThrough(s *sandbox) error {
	handler := cmp.Or(s.handler, DefaultHandler)
	byPorts := len(f.policy.Allow)+len(f.policy.Deny) > 0
	switch {
	case s.hostNetwork && f.policy.DenyHostNetwork:
		return status.Errorf(codes.PermissionDenied, "porthole node: %v", errHostNetwork)
	case !s.networkModeKnown && f.policy.DenyHostNetwork: // no namespace is entered here that could be compared
		return status.Errorf(codes.PermissionDenied, "porthole node: forwards to pods of the runtime handler %s are the runtime's, "+
			"which does not say whether the pod uses the node's network (--deny-host-network)", handler)
	case byPorts && !slices.Contains(f.sandboxes.passThrough, handler):
		return status.Errorf(codes.PermissionDenied, "porthole node: forwards to pods of the runtime handler %s are the runtime's, "+
			"where the node's policy (--allow-ports, --deny-ports) does not hold; --pass-through %s lets them be", handler, handler)
	}
	f.metrics.passed.WithLabelValues(handler).Inc()
	f.log.Info("node: port-forward passed on to the runtime", "namespace", s.namespace, "pod", s.pod, "sandbox", s.id, "handler", handler)
	return errPassThrough
}

func portsOf(r *runtime.PortForwardRequest) ([]uint16, error) {
	if r.GetPodSandboxId() == "" {
		return nil, status.Error(codes.InvalidArgument, "missing required pod_sandbox_id")
	}
	var ports []uint16
	for _, p := range r.GetPort() {
		if p < 1 || p > math.MaxUint16 {
			return nil, status.Errorf(codes.InvalidArgument, "invalid port %d", p)
		}
		ports = append(ports, uint16(p))
	}
	return ports, nil
}

// record reports a connection: metrics, events, and the line of the audit log.
func (f *forwards) record(s *sandbox, e portforward.Event) {
	r := recordOf(s, e)
	f.events.publish(r)
	if e.Listener {
		f.recordListener(r)
		return
	}
	f.metrics.count(r)
	if r.Event == EventOpened {
		f.log.Debug("node: "+r.kind()+" opened", append(r.place(), "client", r.Client)...)
		return
	}
	line := append(r.place(), "client", r.Client, "sent", r.Sent, "received", r.Received)
	if r.Dropped > 0 {
		line = append(line, "dropped", r.Dropped)
	}
	line = append(line, "seconds", r.Seconds, "result", r.Result)
	if e.Err != nil {
		line = append(line, "err", e.Err)
	}
	f.log.Info("node: "+r.kind()+" "+r.Event, line...)
}

// kind is what the log calls a connection.
func (r *Record) kind() string {
	if r.Reverse {
		return "reverse"
	}
	return "forward"
}

// place says in the log where a connection leads.
func (r *Record) place() []any {
	line := []any{"namespace", r.Namespace, "pod", r.Pod, "sandbox", r.Sandbox, "network", r.Network}
	if r.Path != "" {
		return append(line, "path", r.Path)
	}
	line = append(line, "port", r.Port)
	if r.From != "" {
		line = append(line, "from", r.From)
	}
	return line
}

// stages are the names of a connection's stages in a Record.
var stages = map[tunnel.Stage]string{
	tunnel.Opened: EventOpened, tunnel.Closed: EventClosed, tunnel.Failed: EventFailed,
}

func recordOf(s *sandbox, e portforward.Event) Record {
	r := Record{
		Time: time.Now().UTC(), Event: stages[e.Stage], Namespace: s.namespace, Pod: s.pod, Sandbox: s.id,
		Network: e.To.Network.String(), Port: e.To.Port, Path: e.To.Path, Client: e.Client, UserAgent: e.UserAgent, Protocol: e.Protocol, ConnectSeconds: e.Connect.Seconds(),
	}
	if e.Reverse {
		r.Reverse, r.Address = true, e.To.Host
		if e.From.IsValid() {
			r.From = e.From.String()
		}
	}
	if e.Listener && e.Stage != tunnel.Failed {
		r.Event = reverseEvents[e.Stage]
	}
	if e.Stage == tunnel.Opened || e.Stage == tunnel.Listening {
		return r
	}
	r.Result = resultOf(e.Err)
	r.Sent, r.Received, r.Dropped, r.Seconds = e.Sent, e.Received, e.Dropped, e.Duration.Seconds()
	if e.Err != nil {
		r.Error = e.Err.Error()
	}
	return r
}
