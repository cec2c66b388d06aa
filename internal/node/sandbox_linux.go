package node

import (
	"cmp"
	"context"
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
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
	response, err := r.cri.PodSandboxStatus(ctx, &runtime.PodSandboxStatusRequest{PodSandboxId: id, Verbose: true})
	if err != nil {
		return nil, err
	}
	st := response.GetStatus()
	if st == nil { // its zero value would mean a ready pod with a network of its own
		return nil, status.Errorf(codes.FailedPrecondition, "porthole node: the runtime tells no status of sandbox %s", id)
	}
	options := st.GetLinux().GetNamespaces().GetOptions()
	s := &sandbox{
		// Containers are looked for by this id: an empty one would find those of all pods.
		id: cmp.Or(st.GetId(), id), namespace: st.GetMetadata().GetNamespace(), pod: st.GetMetadata().GetName(), uid: st.GetMetadata().GetUid(),
		hostNetwork: options.GetNetwork() == runtime.NamespaceMode_NODE, networkModeKnown: options != nil,
	}
	ready := st.GetState() == runtime.PodSandboxState_SANDBOX_READY
	info := parseInfo(response.GetInfo()["info"])
	s.handler = cmp.Or(st.GetRuntimeHandler(), info.Spec.Annotations.Handler)
	if s.passThrough = slices.Contains(r.passThrough, cmp.Or(s.handler, DefaultHandler)) || info.ownKernel(s.handler); s.passThrough {
		return s, nil
	}
	s.netns, err = r.locate(ctx, s, ready, info.netns())
	return s, err
}

// locate finds a sandbox's network namespace in what the runtime tells of it or of
// its containers, or in what Docker tells.
func (r *sandboxes) locate(ctx context.Context, s *sandbox, ready bool, told netnsRef) (netnsRef, error) {
	if told == (netnsRef{}) && ready {
		told = r.netnsOfContainers(ctx, s.id)
	}
	if told == (netnsRef{}) && r.docker != nil {
		// Whatever the state: some versions of cri-dockerd never report a pod as
		// ready that has one address, or none.
		if c, err := r.docker.inspect(ctx, s.id); err == nil {
			s.handler = cmp.Or(s.handler, c.HostConfig.Runtime)
			s.passThrough = slices.Contains(r.passThrough, s.handler) || ownKernelByName(s.handler)
			return netnsOfProcess(s.id, c.State.Pid)
		}
	}
	switch {
	case !ready:
		return netnsRef{}, notRunning(s.id)
	case told == netnsRef{} && s.hostNetwork:
		return netnsRef{path: nodeNamespace}, nil
	case told == netnsRef{}:
		return netnsRef{}, status.Errorf(codes.FailedPrecondition,
			"porthole node: the runtime does not tell where the network namespace of sandbox %s is, nor does Docker", s.id)
	}
	ref, err := netnsOfProcess(s.id, told.pid)
	if told.path != "" {
		ref.path = told.path
		return ref, nil
	}
	return ref, err
}

// netnsOfContainers looks for the namespace in the status of the sandbox's containers:
// CRI-O tells nothing of a sandbox that has no process of its own.
func (r *sandboxes) netnsOfContainers(ctx context.Context, id string) netnsRef {
	containers, err := r.runningContainers(ctx, id)
	if err != nil {
		return netnsRef{}
	}
	for _, container := range containers {
		st, err := r.cri.ContainerStatus(ctx, &runtime.ContainerStatusRequest{ContainerId: container, Verbose: true})
		if err != nil {
			continue
		}
		if ref := parseInfo(st.GetInfo()["info"]).netns(); ref != (netnsRef{}) {
			return ref
		}
	}
	return netnsRef{}
}

// notRunning is a status with containerd's message.
func notRunning(id string) error {
	return status.Errorf(codes.FailedPrecondition, "sandbox %s is not running", id)
}

// runtimeInfo is what containerd and CRI-O put under "info" into the verbose
// status of a sandbox or container, as far as it matters. The CRI does not define it.
type runtimeInfo struct {
	PID int `json:"pid"`
	// containerd's:
	RuntimeType    string          `json:"runtimeType"`
	RuntimeOptions json.RawMessage `json:"runtimeOptions"` // in a format that depends on the type
	Spec           struct {
		Annotations struct {
			Handler string `json:"io.kubernetes.cri-o.RuntimeHandler"`
		} `json:"annotations"`
		Linux struct {
			Namespaces []struct {
				Type string `json:"type"`
				Path string `json:"path"`
			} `json:"namespaces"`
		} `json:"linux"`
	} `json:"runtimeSpec"`
}

// parseInfo reads runtimeInfo, which is empty if info is malformed.
func parseInfo(info string) *runtimeInfo {
	var r runtimeInfo
	if json.Unmarshal([]byte(info), &r) != nil {
		return &runtimeInfo{}
	}
	return &r
}

// netns refers to the network namespace; what is unknown is left zero.
func (r *runtimeInfo) netns() netnsRef {
	ref := netnsRef{pid: max(r.PID, 0)}
	for _, n := range r.Spec.Linux.Namespaces {
		if n.Type == "network" && filepath.IsAbs(n.Path) {
			ref.path = n.Path
		}
	}
	return ref
}

// ownKernel says whether the network of a pod is not that of its Linux namespace: in a
// virtual machine, or in a program that acts as the pod's kernel. If containerd reports
// what runs it, only runc and its replacements are known to leave it there. Otherwise
// the handler's name decides.
func (r *runtimeInfo) ownKernel(handler string) bool {
	switch {
	case r.RuntimeType == "":
		return ownKernelByName(handler)
	case strings.HasPrefix(r.RuntimeType, "io.containerd.runc.") || r.RuntimeType == "io.containerd.runtime.v1.linux":
		var options struct {
			BinaryName string `json:"binary_name"`
		}
		_ = json.Unmarshal(r.RuntimeOptions, &options) // there need not be any
		return ownKernelByName(filepath.Base(options.BinaryName))
	}
	return true
}

// ownKernelByName recognizes the names of such runtimes' handlers and programs, which
// have the hypervisor's or the platform's name added: kata-qemu, runsc-kvm.
func ownKernelByName(name string) bool {
	name = strings.ToLower(name)
	for _, word := range []string{"kata", "gvisor", "runsc", "firecracker"} {
		if strings.Contains(name, word) {
			return true
		}
	}
	return false
}
