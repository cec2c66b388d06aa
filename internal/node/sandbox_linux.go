package node

import (
	"cmp"
	"context"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"porthole.dev/porthole/internal/cri"
)

// sandbox is a pod as the runtime knows it.
type sandbox struct {
	id, namespace, pod string
	uid                string // the pod's
	hostNetwork        bool
	networkModeKnown   bool // the runtime says whether it is in hostNetwork
	netns              netnsRef
	handler            string // the runtime handler of its RuntimeClass, or ""
	passThrough        bool   // its network is not in a Linux namespace of the node
}

// sandboxes are those of a runtime, with their containers: they are found by asking it, and the
// Docker engine for what it does not report.
type sandboxes struct {
	cri         runtime.RuntimeServiceClient
	docker      *docker  // nil for none
	passThrough []string // handlers whose pods' forwards always pass through to the runtime
}

// find looks a sandbox up. The error is the runtime's own status, or one of ours:
// FailedPrecondition if the sandbox does not run, or its namespace cannot be found.
func (r *sandboxes) find(ctx context.Context, id string) (*sandbox, error) {
	s, err := r.query(ctx, id)
	if err != nil || s.passThrough || s.netns.path != "" {
		return s, err
	}
	// A number alone may belong to another process by now, but not if the runtime
	// still reports it after its start time was read.
	again, err := r.query(ctx, id)
	if err != nil {
		return nil, err
	}
	if again.netns != s.netns {
		return nil, notRunning(id)
	}
	return s, nil
}

// query asks the runtime once.
func (r *sandboxes) query(ctx context.Context, id string) (*sandbox, error) {
	told, err := cri.QuerySandbox(ctx, r.cri, id)
	if err != nil {
		return nil, err
	}
	s := &sandbox{
		id: told.ID, namespace: told.Namespace, pod: told.Pod, uid: told.UID,
		hostNetwork: told.HostNetwork, networkModeKnown: told.NetworkModeKnown, handler: told.Handler,
		passThrough: told.OwnKernel || slices.Contains(r.passThrough, cmp.Or(told.Handler, DefaultHandler)),
	}
	if s.passThrough {
		return s, nil
	}
	s.netns, err = r.locate(ctx, s, told.Ready, told.NetNS(ctx, r.cri))
	return s, err
}

// locate finds a sandbox's network namespace in what the runtime tells, or in what Docker does.
func (r *sandboxes) locate(ctx context.Context, s *sandbox, ready bool, told cri.NetNS) (netnsRef, error) {
	if told == (cri.NetNS{}) && r.docker != nil {
		// Whatever the state: some versions of cri-dockerd never report a pod as
		// ready that has one address, or none.
		if c, err := r.docker.inspect(ctx, s.id); err == nil {
			s.handler = cmp.Or(s.handler, c.HostConfig.Runtime)
			s.passThrough = slices.Contains(r.passThrough, s.handler) || cri.OwnKernelByName(s.handler)
			return netnsOfProcess(s.id, c.State.Pid)
		}
	}
	switch {
	case !ready:
		return netnsRef{}, notRunning(s.id)
	case told == cri.NetNS{} && s.hostNetwork:
		return netnsRef{path: nodeNamespace}, nil
	case told == cri.NetNS{}:
		return netnsRef{}, status.Errorf(codes.FailedPrecondition,
			"porthole node: the runtime does not tell where the network namespace of sandbox %s is, nor does Docker", s.id)
	}
	ref, err := netnsOfProcess(s.id, told.PID)
	if told.Path != "" {
		ref.path = told.Path
		return ref, nil
	}
	return ref, err
}

// notRunning is a status with containerd's message.
func notRunning(id string) error {
	return status.Errorf(codes.FailedPrecondition, "sandbox %s is not running", id)
}
