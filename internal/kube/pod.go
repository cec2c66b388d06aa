package kube

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
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
	// vague is one of which a warning of the cluster's may tell more.
	vague bool
	// Which warnings are about this state: nil or zero where that is not known.
	uid     types.UID
	since   time.Time // that the last step of the pod's start was made
	waiting []string  // containers that are not ready
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
	case named && runs(pod):
		return PodStatus{}, true
	case pod.Status.Phase == corev1.PodPending || pod.Status.Phase == "":
		status = pending(pod)
	case condition(pod, corev1.PodReady).Status == corev1.ConditionTrue:
		return PodStatus{}, true
	default:
		status = unready(pod)
	}
	status.Name, status.uid = pod.Name, pod.UID
	status.since, status.waiting = lastStep(pod), waiting(pod)
	status.vague = status.vague || status.Message == "" || status.Reason == "ContainersNotReady"
	return status, false
}

// isSidecar says whether an init container goes on beside the containers that
// follow it, for as long as the pod does.
func isSidecar(c corev1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
}

// sidecars are the states of a pod's sidecars, and initial those of the init
// containers that have to end before its other containers begin.
func sidecars(pod *corev1.Pod) []corev1.ContainerStatus { return initStatuses(pod, true) }
func initial(pod *corev1.Pod) []corev1.ContainerStatus  { return initStatuses(pod, false) }

func initStatuses(pod *corev1.Pod, sidecar bool) (some []corev1.ContainerStatus) {
	for _, s := range pod.Status.InitContainerStatuses {
		named := func(c corev1.Container) bool { return c.Name == s.Name && isSidecar(c) }
		if slices.ContainsFunc(pod.Spec.InitContainers, named) == sidecar {
			some = append(some, s)
		}
	}
	return some
}

// runs says whether a container runs, or a sidecar, which may do so while the
// others still wait.
func runs(pod *corev1.Pod) bool {
	return slices.ContainsFunc(slices.Concat(pod.Status.ContainerStatuses, sidecars(pod)),
		func(s corev1.ContainerStatus) bool { return s.State.Running != nil })
}

// notBegun are the containers that do not run yet.
func notBegun(pod *corev1.Pod) []corev1.Container {
	begun := func(c corev1.Container) bool {
		return slices.ContainsFunc(pod.Status.ContainerStatuses,
			func(s corev1.ContainerStatus) bool { return s.Name == c.Name && s.State.Waiting == nil })
	}
	return slices.DeleteFunc(slices.Clone(pod.Spec.Containers), begun)
}

// lastStep is when the pod's start came as far as it has: it was given a node, and
// a container began.
func lastStep(pod *corev1.Pod) time.Time {
	var last time.Time
	if scheduled := condition(pod, corev1.PodScheduled); scheduled.Status == corev1.ConditionTrue {
		last = scheduled.LastTransitionTime.Time
	}
	for _, s := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
		for _, began := range []time.Time{startOf(s.State), startOf(s.LastTerminationState)} {
			if began.After(last) {
				last = began
			}
		}
	}
	return last
}

func startOf(s corev1.ContainerState) time.Time {
	switch {
	case s.Running != nil:
		return s.Running.StartedAt.Time
	case s.Terminated != nil:
		return s.Terminated.StartedAt.Time
	}
	return time.Time{}
}

// waiting are the containers that keep the pod from being ready.
func waiting(pod *corev1.Pod) (names []string) {
	for _, s := range slices.Concat(initial(pod), sidecars(pod), pod.Status.ContainerStatuses) {
		if done := s.State.Terminated; !s.Ready && (done == nil || done.ExitCode != 0) {
			names = append(names, s.Name)
		}
	}
	return names
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
	if s.Reason != "" {
		return s
	}
	// A sidecar is told to end when all others have: what it says then comes last.
	all := slices.Concat(pod.Status.ContainerStatuses, sidecars(pod))
	if pod.Status.Phase == corev1.PodFailed {
		all = slices.Concat(initial(pod), all)
		well := func(c corev1.ContainerStatus) bool {
			return c.State.Terminated == nil || c.State.Terminated.ExitCode == 0
		}
		if some := slices.DeleteFunc(slices.Clone(all), well); len(some) > 0 {
			all = some
		}
	}
	for _, c := range all {
		if t := c.State.Terminated; t != nil {
			s.Container, s.Reason, s.Message = c.Name, t.Reason, exit(t)
			break
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
	s, ok := stuck(pod)
	if !ok {
		s, ok = initializing(pod)
	}
	if ok {
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

// initializing describes the init container that the others wait for: one that has
// not ended, or a sidecar that has not started as its probe sees it.
func initializing(pod *corev1.Pod) (PodStatus, bool) {
	all := initial(pod)
	for i, c := range all {
		if c.State.Running != nil {
			return PodStatus{Container: c.Name, Reason: "PodInitializing",
				Message: fmt.Sprintf("init container %d of %d is running", i+1, len(all))}, true
		}
	}
	for _, c := range sidecars(pod) {
		if c.State.Running != nil && c.Started != nil && !*c.Started {
			return PodStatus{Container: c.Name, Reason: "PodInitializing", Message: "sidecar has not started yet", vague: true}, true
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

// podPorts are the ports that a pod's containers name, and after them its sidecars.
func podPorts(containers, initial []corev1.Container) (all ports) {
	ordinary := func(c corev1.Container) bool { return !isSidecar(c) }
	for _, container := range slices.Concat(containers, slices.DeleteFunc(slices.Clone(initial), ordinary)) {
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
