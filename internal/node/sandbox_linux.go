package node

import (
	"cmp"
	"context"
	"encoding/json"
	"path/filepath"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// sandbox is a pod as the runtime has it.
type sandbox struct {
	id, namespace, pod string
	hostNetwork        bool
	place              place
}

// resolver finds sandboxes by asking the runtime, and the Docker engine where
// that does not tell.
type resolver struct {
	cri    runtime.RuntimeServiceClient
	docker *docker // nil for none
}

// find looks a sandbox up. The error is the runtime's own status, or one of ours:
// FailedPrecondition if the sandbox does not run, or nobody says where.
func (r *resolver) find(ctx context.Context, id string) (*sandbox, error) {
	s, err := r.ask(ctx, id)
	if err != nil || s.place.path != "" {
		return s, err
	}
	// A number alone may be another process' by now. One that the runtime
	// still gives after its start was noted is not.
	again, err := r.ask(ctx, id)
	if err != nil {
		return nil, err
	}
	if again.place != s.place {
		return nil, notRunning(id)
	}
	return s, nil
}

func (r *resolver) ask(ctx context.Context, id string) (*sandbox, error) {
	response, err := r.cri.PodSandboxStatus(ctx, &runtime.PodSandboxStatusRequest{PodSandboxId: id, Verbose: true})
	if err != nil {
		return nil, err
	}
	st := response.GetStatus()
	if st == nil { // whose state would count as ready, and whose network as the pod's own
		return nil, status.Errorf(codes.FailedPrecondition, "porthole node: the runtime tells no status of sandbox %s", id)
	}
	s := &sandbox{
		// By this id containers are looked for: none would find those of all pods.
		id: cmp.Or(st.GetId(), id), namespace: st.GetMetadata().GetNamespace(), pod: st.GetMetadata().GetName(),
		hostNetwork: st.GetLinux().GetNamespaces().GetOptions().GetNetwork() == runtime.NamespaceMode_NODE,
	}
	ready := st.GetState() == runtime.PodSandboxState_SANDBOX_READY
	s.place, err = r.locate(ctx, s, ready, response.GetInfo()["info"])
	return s, err
}

// locate finds a sandbox's network namespace in what the runtime tells of it or of
// its containers, or in what Docker tells.
func (r *resolver) locate(ctx context.Context, s *sandbox, ready bool, info string) (place, error) {
	where := parseInfo(info)
	if where == (place{}) && ready {
		where = r.ofContainers(ctx, s.id)
	}
	if where == (place{}) && r.docker != nil {
		// Whatever the state: there are cri-dockerds that never call a pod
		// ready that has one address, or none.
		if pid, err := r.docker.pid(ctx, s.id); err == nil {
			return numbered(s.id, pid)
		}
	}
	switch {
	case !ready:
		return place{}, notRunning(s.id)
	case where == place{} && s.hostNetwork:
		return place{path: nodeNamespace}, nil
	case where == place{}:
		return place{}, status.Errorf(codes.FailedPrecondition,
			"porthole node: the runtime does not tell where the network namespace of sandbox %s is, nor does Docker", s.id)
	}
	by, err := numbered(s.id, where.pid)
	if where.path != "" {
		by.path = where.path
		return by, nil
	}
	return by, err
}

// ofContainers looks for the namespace with the sandbox's containers: CRI-O tells
// nothing of a sandbox that has no process of its own.
func (r *resolver) ofContainers(ctx context.Context, id string) place {
	list, err := r.cri.ListContainers(ctx, &runtime.ListContainersRequest{Filter: &runtime.ContainerFilter{
		PodSandboxId: id,
		State:        &runtime.ContainerStateValue{State: runtime.ContainerState_CONTAINER_RUNNING},
	}})
	if err != nil {
		return place{}
	}
	for _, c := range list.GetContainers() {
		if c.GetPodSandboxId() != id {
			continue // of another pod: the runtime takes no filter
		}
		st, err := r.cri.ContainerStatus(ctx, &runtime.ContainerStatusRequest{ContainerId: c.GetId(), Verbose: true})
		if err != nil {
			continue
		}
		if where := parseInfo(st.GetInfo()["info"]); where != (place{}) {
			return where
		}
	}
	return place{}
}

// numbered is the place of a process that the runtime gives by its number.
func numbered(id string, pid int) (place, error) {
	started, err := startTime(pid)
	if err != nil {
		return place{}, notRunning(id)
	}
	return place{pid: pid, started: started}, nil
}

// notRunning is a status in the words of containerd's.
func notRunning(id string) error {
	return status.Errorf(codes.FailedPrecondition, "sandbox %s is not running", id)
}

// runtimeInfo is what containerd and CRI-O put under "info" into the verbose
// status of a sandbox or container, as far as it matters. The CRI leaves it to them.
type runtimeInfo struct {
	PID  int `json:"pid"`
	Spec struct {
		Linux struct {
			Namespaces []struct {
				Type string `json:"type"`
				Path string `json:"path"`
			} `json:"namespaces"`
		} `json:"linux"`
	} `json:"runtimeSpec"`
}

// parseInfo reads runtimeInfo; what it does not find is left zero.
func parseInfo(info string) place {
	var r runtimeInfo
	if json.Unmarshal([]byte(info), &r) != nil {
		return place{}
	}
	where := place{pid: max(r.PID, 0)}
	for _, n := range r.Spec.Linux.Namespaces {
		if n.Type == "network" && filepath.IsAbs(n.Path) {
			where.path = n.Path
		}
	}
	return where
}
