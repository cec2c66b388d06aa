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

// sandbox is a pod as the runtime has it.
type sandbox struct {
	id, namespace, pod string
	hostNetwork        bool
	modeTold           bool // whether it is in hostNetwork is told by the runtime
	place              place
	handler            string // that runs it, by the runtime's configuration; or ""
	elsewhere          bool   // its network is not where a Linux namespace would be entered
}

// resolver finds sandboxes by asking the runtime, and the Docker engine where
// that does not tell.
type resolver struct {
	cri       runtime.RuntimeServiceClient
	docker    *docker  // nil for none
	elsewhere []string // handlers whose pods are, whatever the runtime tells
}

// find looks a sandbox up. The error is the runtime's own status, or one of ours:
// FailedPrecondition if the sandbox does not run, or nobody says where.
func (r *resolver) find(ctx context.Context, id string) (*sandbox, error) {
	s, err := r.ask(ctx, id)
	if err != nil || s.elsewhere || s.place.path != "" {
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
	options := st.GetLinux().GetNamespaces().GetOptions()
	s := &sandbox{
		// By this id containers are looked for: none would find those of all pods.
		id: cmp.Or(st.GetId(), id), namespace: st.GetMetadata().GetNamespace(), pod: st.GetMetadata().GetName(),
		hostNetwork: options.GetNetwork() == runtime.NamespaceMode_NODE, modeTold: options != nil,
	}
	ready := st.GetState() == runtime.PodSandboxState_SANDBOX_READY
	info := parseInfo(response.GetInfo()["info"])
	s.handler = cmp.Or(st.GetRuntimeHandler(), info.Spec.Annotations.Handler)
	if s.elsewhere = slices.Contains(r.elsewhere, cmp.Or(s.handler, DefaultHandler)) || info.elsewhere(s.handler); s.elsewhere {
		return s, nil
	}
	s.place, err = r.locate(ctx, s, ready, info.place())
	return s, err
}

// locate finds a sandbox's network namespace in what the runtime tells of it or of
// its containers, or in what Docker tells.
func (r *resolver) locate(ctx context.Context, s *sandbox, ready bool, where place) (place, error) {
	if where == (place{}) && ready {
		where = r.ofContainers(ctx, s.id)
	}
	if where == (place{}) && r.docker != nil {
		// Whatever the state: there are cri-dockerds that never call a pod
		// ready that has one address, or none.
		if c, err := r.docker.inspect(ctx, s.id); err == nil {
			s.handler = cmp.Or(s.handler, c.HostConfig.Runtime)
			s.elsewhere = slices.Contains(r.elsewhere, s.handler) || elsewhereByName(s.handler)
			return numbered(s.id, c.State.Pid)
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
		if where := parseInfo(st.GetInfo()["info"]).place(); where != (place{}) {
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
	PID int `json:"pid"`
	// containerd's:
	RuntimeType    string          `json:"runtimeType"`
	RuntimeOptions json.RawMessage `json:"runtimeOptions"` // of a form of the type's own
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

// parseInfo reads runtimeInfo. If it is malformed, it tells nothing.
func parseInfo(info string) *runtimeInfo {
	var r runtimeInfo
	if json.Unmarshal([]byte(info), &r) != nil {
		return &runtimeInfo{}
	}
	return &r
}

// place is where the network namespace is; what is not told is left zero.
func (r *runtimeInfo) place() place {
	where := place{pid: max(r.PID, 0)}
	for _, n := range r.Spec.Linux.Namespaces {
		if n.Type == "network" && filepath.IsAbs(n.Path) {
			where.path = n.Path
		}
	}
	return where
}

// elsewhere says whether the network of a pod is not that of its Linux namespace: in a
// virtual machine, or in a program that is a kernel to the pod. Where containerd tells
// what runs it, only runc and what takes its place are known to leave it there. Else
// the handler's name has to do.
func (r *runtimeInfo) elsewhere(handler string) bool {
	switch {
	case r.RuntimeType == "":
		return elsewhereByName(handler)
	case strings.HasPrefix(r.RuntimeType, "io.containerd.runc.") || r.RuntimeType == "io.containerd.runtime.v1.linux":
		var options struct {
			BinaryName string `json:"binary_name"`
		}
		_ = json.Unmarshal(r.RuntimeOptions, &options) // there need not be any
		return elsewhereByName(filepath.Base(options.BinaryName))
	}
	return true
}

// elsewhereByName knows names that handlers and programs of such runtimes have, which
// come with the hypervisor's or the platform's: kata-qemu, runsc-kvm.
func elsewhereByName(name string) bool {
	name = strings.ToLower(name)
	for _, word := range []string{"kata", "gvisor", "runsc", "firecracker"} {
		if strings.Contains(name, word) {
			return true
		}
	}
	return false
}
