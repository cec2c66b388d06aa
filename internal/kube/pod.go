package kube

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// PodStatus is what keeps a pod from taking connections, as `kubectl describe pod` knows it.
type PodStatus struct {
	Name      string
	Status    string // the phase, such as Pending, or Terminating, or NotReady for one that runs
	Container string // whose Reason it is, or "" for the pod's
	Reason    string // such as CrashLoopBackOff or Unschedulable, or ""
	Message   string // the cluster's own words, or ""

	// hopeless is a state that does not pass by itself soon.
	hopeless bool
}

func (s PodStatus) String() string {
	text := fmt.Sprintf("pod %s is %s", s.Name, s.Status)
	if s.Container != "" {
		text += ", container " + s.Container
	}
	for _, more := range []string{s.Reason, s.Message} {
		if more != "" {
			text += ": " + strings.TrimSpace(more)
		}
	}
	return text
}

// judge says whether connections may go to a pod, and if not, why. One that was
// named takes them when it is not ready too, as long as a container runs: it may
// be what is looked into.
func judge(pod *corev1.Pod, named bool) (status PodStatus, ok bool) {
	switch {
	case pod.DeletionTimestamp != nil:
		status = PodStatus{Status: "Terminating"}
	case pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed:
		status = ended(pod)
		status.hopeless = !replaced(pod, named)
	case pod.Status.Phase == corev1.PodPending || pod.Status.Phase == "":
		status = pending(pod)
	case named && runs(pod) || condition(pod, corev1.PodReady).Status == corev1.ConditionTrue:
		return PodStatus{}, true
	default:
		status = unready(pod)
	}
	status.Name = pod.Name
	return status, false
}

func runs(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.ContainerStatuses, func(s corev1.ContainerStatus) bool { return s.State.Running != nil })
}

func condition(pod *corev1.Pod, kind corev1.PodConditionType) corev1.PodCondition {
	for _, c := range pod.Status.Conditions {
		if c.Type == kind {
			return c
		}
	}
	return corev1.PodCondition{}
}

// ended describes a pod that will not run again: it succeeded, failed or was evicted.
func ended(pod *corev1.Pod) PodStatus {
	s := PodStatus{Status: string(pod.Status.Phase), Reason: pod.Status.Reason, Message: pod.Status.Message}
	for _, c := range pod.Status.ContainerStatuses {
		if t := c.State.Terminated; t != nil && s.Reason == "" {
			s.Container, s.Reason, s.Message = c.Name, t.Reason, exit(t)
		}
	}
	return s
}

// replaced says whether a pod that has ended will have a successor: one of the
// same name where it was named.
func replaced(pod *corev1.Pod, named bool) bool {
	owner := metav1.GetControllerOf(pod)
	return owner != nil && owner.Kind != "Job" && (!named || owner.Kind == "StatefulSet")
}

func exit(t *corev1.ContainerStateTerminated) string {
	return strings.TrimSpace(fmt.Sprintf("exit code %d %s", t.ExitCode, t.Message))
}

// pending describes a pod that does not run yet.
func pending(pod *corev1.Pod) PodStatus {
	if s, ok := stuck(pod); ok {
		s.Status = "Pending"
		return s
	}
	scheduled := condition(pod, corev1.PodScheduled)
	if scheduled.Status == corev1.ConditionFalse {
		return PodStatus{Status: "Pending", Reason: scheduled.Reason, Message: scheduled.Message}
	}
	return PodStatus{Status: "Pending", Reason: pod.Status.Reason, Message: pod.Status.Message}
}

// unready describes a pod that runs, or of which the node's word is missing.
func unready(pod *corev1.Pod) PodStatus {
	status := "NotReady"
	if pod.Status.Phase != corev1.PodRunning {
		status = string(pod.Status.Phase)
	}
	s, ok := stuck(pod)
	if !ok {
		ready := condition(pod, corev1.PodReady)
		s = PodStatus{Reason: ready.Reason, Message: ready.Message}
	}
	s.Status = status
	return s
}

// stuck describes the first container that keeps the pod from being ready.
func stuck(pod *corev1.Pod) (PodStatus, bool) {
	for _, c := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
		switch w, t := c.State.Waiting, c.State.Terminated; {
		case w != nil && w.Reason != "" && w.Reason != "PodInitializing":
			s := PodStatus{Container: c.Name, Reason: w.Reason, Message: w.Message, hopeless: hopeless(w.Reason)}
			if last := c.LastTerminationState.Terminated; last != nil {
				s.Message = strings.TrimPrefix(s.Message+"; last time it ended with "+last.Reason+", "+exit(last), "; ")
			}
			return s, true
		case t != nil && t.ExitCode != 0:
			return PodStatus{Container: c.Name, Reason: t.Reason, Message: exit(t)}, true
		}
	}
	return PodStatus{}, false
}

// hopeless says whether a container that waits for this reason needs a person.
// ErrImagePull is not among them: the first attempt may fail for the network's sake.
func hopeless(reason string) bool {
	switch reason {
	case "CrashLoopBackOff", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull",
		"CreateContainerConfigError", "CreateContainerError", "RunContainerError":
		return true
	}
	return false
}

// podPorts are the ports that a pod's containers name.
func podPorts(containers []corev1.Container) (all ports) {
	for _, container := range containers {
		for _, p := range container.Ports {
			all = append(all, port{name: p.Name, number: uint16(p.ContainerPort), protocol: cmp.Or(p.Protocol, corev1.ProtocolTCP)})
		}
	}
	return all
}

// revision is which version of its workload's template a pod was made from.
func revision(pod *corev1.Pod) string {
	return cmp.Or(pod.Labels["pod-template-hash"], pod.Labels["controller-revision-hash"])
}

// rank puts the pods first that are likely to stay: those of the workload's
// latest version, which is the one that the youngest pod has, and among them
// those that have been ready for longest.
func rank(pods []*corev1.Pod) {
	born := map[string]int64{}
	for _, p := range pods {
		born[revision(p)] = max(born[revision(p)], p.CreationTimestamp.Unix())
	}
	slices.SortStableFunc(pods, func(a, b *corev1.Pod) int {
		return cmp.Or(
			cmp.Compare(born[revision(b)], born[revision(a)]),
			condition(a, corev1.PodReady).LastTransitionTime.Compare(condition(b, corev1.PodReady).LastTransitionTime.Time),
			cmp.Compare(a.Name, b.Name))
	})
}
