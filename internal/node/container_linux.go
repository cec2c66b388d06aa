package node

import (
	"context"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"porthole.dev/porthole/internal/cri"
	"porthole.dev/porthole/internal/netns"
	"porthole.dev/porthole/internal/proc"
)

// container is a running container, as the runtime knows it.
type container struct {
	id     string
	pid    int              // of its first process
	mounts []*runtime.Mount // that the kubelet has asked for
}

// container asks the runtime for a container, and Docker where it does not tell its process.
// The error wraps netns.ErrNoProcess if there is none.
func (r *sandboxes) container(ctx context.Context, id string) (*container, error) {
	answer, err := r.cri.ContainerStatus(ctx, &runtime.ContainerStatusRequest{ContainerId: id, Verbose: true})
	if err != nil {
		return nil, err
	}
	c := &container{id: id, pid: cri.ParseInfo(answer.GetInfo()).PID, mounts: answer.GetStatus().GetMounts()}
	if c.pid == 0 && r.docker != nil {
		if inspected, err := r.docker.inspect(ctx, id); err == nil {
			c.pid = inspected.State.Pid
		}
	}
	if c.pid == 0 {
		return nil, fmt.Errorf("the runtime tells no process of container %s: %w", id, netns.ErrNoProcess)
	}
	return c, nil
}

// enter takes hold of a container's first process. The error wraps netns.ErrNoProcess if there
// is none.
func (r *sandboxes) enter(ctx context.Context, id string) (*container, *netns.Namespace, error) {
	c, err := r.container(ctx, id)
	if err != nil {
		return nil, nil, err
	}
	ns, err := netns.OpenPID(c.pid)
	if err != nil {
		return nil, nil, err
	}
	// The number may have been another process' by then, but not if the runtime still
	// reports it while it is held.
	again, err := r.container(ctx, id)
	if err == nil && again.pid != c.pid {
		err = fmt.Errorf("container %s: %w", id, netns.ErrNoProcess)
	}
	if err != nil {
		ns.Close()
		return nil, nil, err
	}
	return c, ns, nil
}

// owns says whether what lies on a mount is the pod's own: on the root of the container, in an
// emptyDir of the pod, or in memory that was mounted for the container alone. All else may be
// others': the node's directories, volumes, and what was mounted into the container later.
func (c *container) owns(m netns.Mount, pod string) bool {
	if m.IsRoot {
		return true
	}
	for _, asked := range c.mounts {
		// The directory itself is compared: another mount may be at its path inside.
		if host := asked.GetHostPath(); isEmptyDir(host, pod) {
			if id, err := netns.IDOf(host); err == nil && id == m.Top {
				return true
			}
		}
	}
	return m.Type == "tmpfs" && m.Root == "/" && !mountedHere(m.Device)
}

// isEmptyDir says whether a path is where kubelets keep an emptyDir of the pod with this UID:
// ROOT/pods/UID/volumes/kubernetes.io~empty-dir/NAME.
func isEmptyDir(host, pod string) bool {
	folder, name := path.Split(host)
	return pod != "" && !strings.Contains(pod, "/") && name != "" && path.IsAbs(host) && path.Clean(host) == host &&
		strings.HasSuffix(folder, "/pods/"+pod+"/volumes/kubernetes.io~empty-dir/")
}

// mountedHere says whether a filesystem is mounted on the node, or that cannot be found out.
func mountedHere(device string) bool {
	for _, process := range []string{"1", "self"} { // a service may not have all mounts of the node
		list, err := os.ReadFile("/proc/" + process + "/mountinfo")
		if err != nil {
			return true
		}
		all, err := proc.ParseMounts(list)
		if err != nil || slices.ContainsFunc(all, func(m proc.Mount) bool { return m.Device == device }) {
			return true
		}
	}
	return false
}
