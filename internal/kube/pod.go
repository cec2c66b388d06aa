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

// PodStatus is what keeps a pod from taking connections, as `kubectl describe pod` shows it.
type PodStatus struct {
	Name      string
	Status    string // the phase, such as Pending, or Terminating, or NotReady for one that runs
	Container string // that Reason is about, or "" for the pod
	Reason    string // such as CrashLoopBackOff or Unschedulable, or ""
	Message   string // the cluster's own words, or ""

	permanent bool // the state does not pass by itself soon
	vague     bool // a warning of the cluster's may say more

	// These tell which warnings are about this state; zero where that is not known.
	uid     types.UID
	since   time.Time // when the last step of the pod's start was made
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

// readiness says whether connections may go to a pod, and if not, why not. A pod that
// the user named takes them even if it is not ready, as long as a container runs: it
// may be the one to be debugged.
func readiness(pod *corev1.Pod, named bool) (status PodStatus, ok bool) {
	switch {
	case pod.DeletionTimestamp != nil:
		status = PodStatus{Status: "Terminating"}
	case pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed:
		status = ended(pod)
		status.permanent = !replaced(pod, named)
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

// isSidecar says whether an init container keeps running beside the containers that
// follow it, as long as the pod does.
func isSidecar(c corev1.Container) bool {
	return valueOr(c.RestartPolicy, "") == corev1.ContainerRestartPolicyAlways
}

// sidecars are the states of a pod's sidecars, and initial those of the init
// containers that have to end before its other containers start.
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

// runs says whether a container runs, or a sidecar, which may run while the others
// still wait.
func runs(pod *corev1.Pod) bool {
	return slices.ContainsFunc(slices.Concat(pod.Status.ContainerStatuses, sidecars(pod)),
		func(s corev1.ContainerStatus) bool { return s.State.Running != nil })
}

// notStarted are the containers that have not started yet.
func notStarted(pod *corev1.Pod) []corev1.Container {
	started := func(c corev1.Container) bool {
		return slices.ContainsFunc(pod.Status.ContainerStatuses,
			func(s corev1.ContainerStatus) bool { return s.Name == c.Name && s.State.Waiting == nil })
	}
	return slices.DeleteFunc(slices.Clone(pod.Spec.Containers), started)
}

// lastStep is when the last step of the pod's start was made: it was given a node, or
// a container started.
func lastStep(pod *corev1.Pod) time.Time {
	var last time.Time
	if scheduled := condition(pod, corev1.PodScheduled); scheduled.Status == corev1.ConditionTrue {
		last = scheduled.LastTransitionTime.Time
	}
	for _, s := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
		last = slices.MaxFunc([]time.Time{last, startOf(s.State), startOf(s.LastTerminationState)}, time.Time.Compare)
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

// ended describes a pod that has succeeded, failed or been evicted.
func ended(pod *corev1.Pod) PodStatus {
	s := PodStatus{Status: string(pod.Status.Phase), Reason: pod.Status.Reason, Message: pod.Status.Message}
	if s.Reason != "" {
		return s
	}
	// A sidecar ends after all others, so that its state says least about the reason.
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
			s.Container, s.Reason, s.Message = c.Name, t.Reason, exitText(t)
			break
		}
	}
	return s
}

// replaced says whether a pod that has ended will be replaced; by one of the same
// name, if the user named it.
func replaced(pod *corev1.Pod, named bool) bool {
	owner := metav1.GetControllerOf(pod)
	return owner != nil && owner.Kind != "Job" && (!named || owner.Kind == "StatefulSet")
}

func exitText(t *corev1.ContainerStateTerminated) string {
	return strings.TrimSpace(fmt.Sprintf("exit code %d %s", t.ExitCode, t.Message))
}

// pending describes a pod that does not run yet.
func pending(pod *corev1.Pod) PodStatus {
	s, ok := blockedContainer(pod)
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

// unready describes a pod that runs, or whose state the node does not report.
func unready(pod *corev1.Pod) PodStatus {
	status := "NotReady"
	if pod.Status.Phase != corev1.PodRunning {
		status = string(pod.Status.Phase)
	}
	s, ok := blockedContainer(pod)
	if !ok {
		ready := condition(pod, corev1.PodReady)
		s = PodStatus{Reason: ready.Reason, Message: ready.Message}
	}
	s.Status = status
	return s
}

// blockedContainer describes the first container that waits or failed.
func blockedContainer(pod *corev1.Pod) (PodStatus, bool) {
	for _, c := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
		switch w, t := c.State.Waiting, c.State.Terminated; {
		case w != nil && w.Reason != "" && w.Reason != "PodInitializing":
			s := PodStatus{Container: c.Name, Reason: w.Reason, Message: w.Message, permanent: needsPerson(w.Reason)}
			if last := c.LastTerminationState.Terminated; last != nil {
				s.Message = strings.TrimPrefix(s.Message+"; last time it ended with "+last.Reason+", "+exitText(last), "; ")
			}
			return s, true
		case t != nil && t.ExitCode != 0:
			return PodStatus{Container: c.Name, Reason: t.Reason, Message: exitText(t)}, true
		}
	}
	return PodStatus{}, false
}

// initializing describes the init container that the others wait for: one that has
// not ended, or a sidecar whose startup probe has not succeeded.
func initializing(pod *corev1.Pod) (PodStatus, bool) {
	all := initial(pod)
	for i, c := range all {
		if c.State.Running != nil {
			return PodStatus{Container: c.Name, Reason: "PodInitializing",
				Message: fmt.Sprintf("init container %d of %d is running", i+1, len(all))}, true
		}
	}
	for _, c := range sidecars(pod) {
		if c.State.Running != nil && !valueOr(c.Started, true) {
			return PodStatus{Container: c.Name, Reason: "PodInitializing", Message: "sidecar has not started yet", vague: true}, true
		}
	}
	return PodStatus{}, false
}

// needsPerson says whether a container that waits for this reason is likely to wait
// until somebody fixes it. ErrImagePull is no such reason: the first attempt may fail
// because of the network.
func needsPerson(reason string) bool {
	switch reason {
	case "CrashLoopBackOff", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull",
		"CreateContainerConfigError", "CreateContainerError", "RunContainerError":
		return true
	}
	return false
}

// cannotStart says whether a container of porthole's own that waits for this reason is given up: somebody
// waits for it, and it would be tried again in any case.
func cannotStart(reason string) bool { return needsPerson(reason) || reason == "ErrImagePull" }

// podPorts are the ports that a pod's containers declare, and then its sidecars.
func podPorts(containers, initial []corev1.Container) (all ports) {
	ordinary := func(c corev1.Container) bool { return !isSidecar(c) }
	for _, container := range slices.Concat(containers, slices.DeleteFunc(slices.Clone(initial), ordinary)) {
		for _, p := range container.Ports {
			all = append(all, port{name: p.Name, number: uint16(p.ContainerPort), protocol: cmp.Or(p.Protocol, corev1.ProtocolTCP)})
		}
	}
	return all
}

// rank puts the pods first that are likely to stay: those of the workload's latest
// version, which is the one that the youngest pod has, and among them those that have
// been ready for longest.
func rank(pods []*corev1.Pod) {
	revision := func(p *corev1.Pod) string {
		return cmp.Or(p.Labels["pod-template-hash"], p.Labels["controller-revision-hash"])
	}
	youngest := map[string]int64{} // by revision
	for _, p := range pods {
		youngest[revision(p)] = max(youngest[revision(p)], p.CreationTimestamp.Unix())
	}
	slices.SortStableFunc(pods, func(a, b *corev1.Pod) int {
		return cmp.Or(
			cmp.Compare(youngest[revision(b)], youngest[revision(a)]),
			condition(a, corev1.PodReady).LastTransitionTime.Compare(condition(b, corev1.PodReady).LastTransitionTime.Time),
			cmp.Compare(a.Name, b.Name))
	})
}
