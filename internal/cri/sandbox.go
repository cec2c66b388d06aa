// Package cri asks container runtimes, by the CRI and by what they tell beyond it, where the network of a pod's sandbox
// is and which containers it has. It must not know who asks, and enters nothing.
package cri

import (
	"cmp"
	"context"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Sandbox is a pod as its runtime knows it.
type Sandbox struct {
	ID, Namespace, Pod string
	UID                string // the pod's
	Ready              bool
	HostNetwork        bool
	NetworkModeKnown   bool   // the runtime says whether it is in HostNetwork
	Handler            string // the runtime handler of its RuntimeClass, or ""
	OwnKernel          bool   // its network is not that of its Linux namespace: see Info.OwnKernel

	info *Info
}

// NetNS says where a network namespace is, as far as a runtime tells. What is unknown is zero.
type NetNS struct {
	Path string // that it is bound to, absolute
	PID  int    // of a process in it
}

// QuerySandbox asks for the status of one sandbox. The error is the runtime's own status, or
// FailedPrecondition where it answers without one.
func QuerySandbox(ctx context.Context, client runtime.RuntimeServiceClient, id string) (*Sandbox, error) {
	response, err := client.PodSandboxStatus(ctx, &runtime.PodSandboxStatusRequest{PodSandboxId: id, Verbose: true})
	if err != nil {
		return nil, err
	}
	st := response.GetStatus()
	if st == nil { // its zero value would mean a ready pod with a network of its own
		return nil, status.Errorf(codes.FailedPrecondition, "the runtime tells no status of sandbox %s", id)
	}
	options, info := st.GetLinux().GetNamespaces().GetOptions(), ParseInfo(response.GetInfo())
	s := &Sandbox{
		// Containers are looked for by this ID: an empty one would find those of all pods.
		ID: cmp.Or(st.GetId(), id), Namespace: st.GetMetadata().GetNamespace(), Pod: st.GetMetadata().GetName(), UID: st.GetMetadata().GetUid(),
		Ready:       st.GetState() == runtime.PodSandboxState_SANDBOX_READY,
		HostNetwork: options.GetNetwork() == runtime.NamespaceMode_NODE, NetworkModeKnown: options != nil,
		Handler: cmp.Or(st.GetRuntimeHandler(), info.Spec.Annotations.Handler), info: info,
	}
	s.OwnKernel = info.OwnKernel(s.Handler)
	return s, nil
}

// NetNS returns where the sandbox's network namespace is: what the runtime has told of the sandbox, or
// else tells of its containers. CRI-O tells nothing of a sandbox that has no process of its own.
func (s *Sandbox) NetNS(ctx context.Context, client runtime.RuntimeServiceClient) NetNS {
	if told := s.info.NetNS(); told != (NetNS{}) || !s.Ready {
		return told
	}
	containers, err := RunningContainers(ctx, client, s.ID)
	if err != nil {
		return NetNS{}
	}
	for _, c := range containers {
		st, err := client.ContainerStatus(ctx, &runtime.ContainerStatusRequest{ContainerId: c.GetId(), Verbose: true})
		if err != nil {
			continue
		}
		if told := ParseInfo(st.GetInfo()).NetNS(); told != (NetNS{}) {
			return told
		}
	}
	return NetNS{}
}

// RunningContainers returns a sandbox's running containers, in the order in which they were made.
func RunningContainers(ctx context.Context, client runtime.RuntimeServiceClient, sandbox string) ([]*runtime.Container, error) {
	list, err := client.ListContainers(ctx, &runtime.ListContainersRequest{Filter: &runtime.ContainerFilter{
		PodSandboxId: sandbox,
		State:        &runtime.ContainerStateValue{State: runtime.ContainerState_CONTAINER_RUNNING},
	}})
	if err != nil {
		return nil, err
	}
	all := slices.DeleteFunc(list.GetContainers(), func(c *runtime.Container) bool {
		return c.GetPodSandboxId() != sandbox // of another pod: the runtime ignores the filter
	})
	slices.SortStableFunc(all, func(a, b *runtime.Container) int { return cmp.Compare(a.GetCreatedAt(), b.GetCreatedAt()) })
	return all, nil
}
