package kube

import (
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"porthole.dev/porthole/internal/pinned"
	"porthole.dev/porthole/internal/target"
)

const (
	// agentPrefix is what the names of agents' containers begin with.
	agentPrefix = "porthole-"
	// agentUser is the user of an agent for whom any will do.
	agentUser = 65532
	// Agents listen on ports from the first up to, and without, the last.
	firstAgentPort = 20000
	lastAgentPort  = 60000
	// The annotations of a pod that stands for a static one, and of the container that kubectl takes.
	mirrorAnnotation  = "kubernetes.io/config.mirror"
	defaultAnnotation = "kubectl.kubernetes.io/default-container"
)

// agentArgs are the arguments by which an agent is found again.
type agentArgs struct {
	port        uint16
	key         string // of the client
	containerID string // "" if it has no container's sockets
}

// list returns the arguments as `porthole agent` takes them.
func (a agentArgs) list() []string {
	args := []string{"--listen", net.JoinHostPort("127.0.0.1", strconv.Itoa(int(a.port))), "--client-key", a.key}
	if a.containerID != "" {
		args = append(args, "--container-id", a.containerID)
	}
	return args
}

// readAgentArgs reads what list returns.
func readAgentArgs(args []string) (a agentArgs, ok bool) {
	for pair := range slices.Chunk(args, 2) {
		if len(pair) < 2 {
			return a, false
		}
		switch pair[0] {
		case "--listen":
			_, port, _ := net.SplitHostPort(pair[1])
			number, _ := strconv.ParseUint(port, 10, 16)
			a.port = uint16(number)
		case "--client-key":
			a.key = pair[1]
		case "--container-id":
			a.containerID = pair[1]
		default:
			return a, false
		}
	}
	return a, a.port != 0 && a.key != ""
}

// wantedAgent is what the agent of a pod is to be.
type wantedAgent struct {
	agents      *Agents
	key         string // of the client
	target      string // the container whose sockets are wanted, or ""
	containerID string // of target
}

// wantedAgent returns what the agent of a pod is to be. Errors: *ContainerError, *AgentError.
func (r *Route) wantedAgent(pod *corev1.Pod, key pinned.PublicKey) (wantedAgent, error) {
	w := wantedAgent{agents: r.Agents, key: key.String()}
	if pod.DeletionTimestamp != nil {
		return w, &AgentError{Pod: pod.Name, Err: errors.New("the pod is being deleted")}
	}
	if reason := agentless(pod); reason != "" {
		return w, &AgentError{Pod: pod.Name, Err: fmt.Errorf("%w: %s", ErrNoAgent, reason), Final: true}
	}
	sockets := slices.ContainsFunc(r.Want, func(p target.Port) bool { return p.Network == target.Unix })
	if r.Container == "" && !sockets {
		return w, nil
	}
	var err error
	if w.target, err = agentTarget(pod, r.Container); err != nil {
		return w, err
	}
	status := statusOf(pod, w.target)
	_, w.containerID, _ = strings.Cut(status.ContainerID, "://")
	if status.State.Running == nil || w.containerID == "" {
		return w, &AgentError{Pod: pod.Name, Err: fmt.Errorf("container %s does not run", w.target)}
	}
	return w, nil
}

// agentless says why a pod can have no agent, or "".
func agentless(pod *corev1.Pod) string {
	windows := pod.Spec.NodeSelector[corev1.LabelOSStable] == "windows" || pod.Spec.OS != nil && pod.Spec.OS.Name == corev1.Windows
	switch _, mirror := pod.Annotations[mirrorAnnotation]; {
	case mirror:
		return "it is a static pod, which gets no ephemeral containers"
	case windows:
		return "it is on a Windows node"
	case pod.Spec.HostNetwork:
		return "it has the network of its node, where every program could connect to an agent"
	}
	return ""
}

// agentTarget is the container whose sockets are meant: the named one, the one that kubectl
// would take, or the only one.
func agentTarget(pod *corev1.Pod, named string) (string, error) {
	var names []string
	for _, c := range pod.Spec.Containers {
		names = append(names, c.Name)
	}
	for _, c := range pod.Spec.InitContainers {
		if isSidecar(c) {
			names = append(names, c.Name)
		}
	}
	if named = cmp.Or(named, pod.Annotations[defaultAnnotation]); slices.Contains(names, named) {
		return named, nil
	}
	if named == "" && len(names) == 1 {
		return names[0], nil
	}
	return "", &ContainerError{Pod: pod.Name, Container: named, Available: names}
}

// statusOf is the status of a container or a sidecar, zero if there is none.
func statusOf(pod *corev1.Pod, container string) corev1.ContainerStatus {
	for _, s := range slices.Concat(pod.Status.ContainerStatuses, pod.Status.InitContainerStatuses, pod.Status.EphemeralContainerStatuses) {
		if s.Name == container {
			return s
		}
	}
	return corev1.ContainerStatus{}
}

// namePrefix is what the names of its containers begin with: agents that differ have different ones.
func (w wantedAgent) namePrefix() string {
	return agentPrefix + shortHash(w.key, w.target, w.agents.Image, string(w.agents.Patch)) + "-"
}

// in finds the wanted agent in a pod, running or being started. One that was started in another
// way will do, unless the user asks for something in particular.
func (w wantedAgent) in(pod *corev1.Pod) (found runningAgent, ok bool) {
	for _, c := range pod.Spec.EphemeralContainers {
		args, is := readAgentArgs(c.Args)
		exact, state := strings.HasPrefix(c.Name, w.namePrefix()), statusOf(pod, c.Name).State
		if !is || args.key != w.key || state.Terminated != nil || !exact && (w.agents.Patch != "" || state.Running == nil) {
			continue
		}
		if w.target != "" && (c.TargetContainerName != w.target || args.containerID != w.containerID) {
			continue
		}
		if found = (runningAgent{agentArgs: args, name: c.Name, found: true}); exact {
			return found, true
		}
	}
	return found, found.name != ""
}

// strangerIn is a running container of an agent that knows another user, "" if there is none.
func (w wantedAgent) strangerIn(pod *corev1.Pod) string {
	for _, c := range pod.Spec.EphemeralContainers {
		args, is := readAgentArgs(c.Args)
		if is && strings.HasPrefix(c.Name, agentPrefix) && args.key != w.key && statusOf(pod, c.Name).State.Running != nil {
			return c.Name
		}
	}
	return ""
}

// container is what is added to a pod, with a name and a port that are free there.
func (w wantedAgent) container(pod *corev1.Pod) (*corev1.EphemeralContainer, agentArgs, error) {
	number := 1
	for _, c := range pod.Spec.EphemeralContainers {
		if n, err := strconv.Atoi(strings.TrimPrefix(c.Name, w.namePrefix())); err == nil {
			number = max(number, n+1)
		}
	}
	if number > maxAgents {
		return nil, agentArgs{}, &AgentError{Pod: pod.Name, Err: fmt.Errorf("%d agents have ended there already", maxAgents)}
	}
	args := agentArgs{port: freeAgentPort(pod), key: w.key, containerID: w.containerID}
	c := &corev1.EphemeralContainer{TargetContainerName: w.target, EphemeralContainerCommon: corev1.EphemeralContainerCommon{
		Name: w.namePrefix() + strconv.Itoa(number), Image: w.agents.Image, ImagePullPolicy: corev1.PullPolicy(w.agents.PullPolicy),
		Args: args.list(), SecurityContext: agentSecurity(pod, w.target),
		TerminationMessagePolicy: corev1.TerminationMessageFallbackToLogsOnError,
	}}
	if err := w.agents.patch(c); err != nil {
		return nil, args, err
	}
	if c.SecurityContext == nil || c.SecurityContext.RunAsUser == nil {
		return nil, args, &AgentError{Pod: pod.Name, Err: fmt.Errorf("container %s: %w", w.target, ErrUserUnknown), Final: true}
	}
	return c, args, nil
}

// freeAgentPort is a port that no container of the pod declares.
func freeAgentPort(pod *corev1.Pod) uint16 {
	taken := map[uint16]bool{}
	for _, p := range podPorts(pod.Spec.Containers, pod.Spec.InitContainers) {
		taken[p.number] = true
	}
	for _, c := range pod.Spec.EphemeralContainers {
		if args, ok := readAgentArgs(c.Args); ok {
			taken[args.port] = true
		}
	}
	for {
		if port := uint16(firstAgentPort + rand.N(lastAgentPort-firstAgentPort)); !taken[port] {
			return port
		}
	}
}

// agentSecurity is what an agent runs as: as little as possible, as the profile "restricted" of
// Kubernetes' pod security standards has it, and as the target's user if there is a target. If
// that user is not known the context has none. For the root of a process of root's, an agent
// needs the capabilities of that (ptrace(2), "Ptrace access mode checking").
func agentSecurity(pod *corev1.Pod, of string) *corev1.SecurityContext {
	s := &corev1.SecurityContext{
		AllowPrivilegeEscalation: new(bool), ReadOnlyRootFilesystem: new(true), RunAsNonRoot: new(true),
		Capabilities:   &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
		SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
	}
	theirs, whole := securityOf(pod, of), valueOr(pod.Spec.SecurityContext, corev1.PodSecurityContext{})
	s.RunAsUser, s.RunAsGroup = cmp.Or(theirs.RunAsUser, whole.RunAsUser), cmp.Or(theirs.RunAsGroup, whole.RunAsGroup)
	if of == "" {
		if s.RunAsUser == nil || *s.RunAsUser == 0 {
			s.RunAsUser, s.RunAsGroup = new(int64(agentUser)), new(int64(agentUser))
		}
		return s
	}
	if user := statusOf(pod, of).User; user != nil && user.Linux != nil {
		s.RunAsUser, s.RunAsGroup = cmp.Or(s.RunAsUser, &user.Linux.UID), cmp.Or(s.RunAsGroup, &user.Linux.GID)
	}
	s.SELinuxOptions, s.AppArmorProfile = theirs.SELinuxOptions, theirs.AppArmorProfile
	if s.RunAsUser != nil && *s.RunAsUser == 0 {
		s.RunAsNonRoot = nil
		s.Capabilities = theirs.Capabilities
		if valueOr(theirs.Privileged, false) {
			s.Capabilities = &corev1.Capabilities{Add: []corev1.Capability{"ALL"}}
		}
	}
	return s
}

// securityOf is the security context of a container or a sidecar.
func securityOf(pod *corev1.Pod, container string) corev1.SecurityContext {
	for _, c := range slices.Concat(pod.Spec.Containers, pod.Spec.InitContainers) {
		if c.Name == container {
			return valueOr(c.SecurityContext, corev1.SecurityContext{})
		}
	}
	return corev1.SecurityContext{}
}

// patch merges what the user gave into a container. Errors: *PatchError.
func (a *Agents) patch(c *corev1.EphemeralContainer) (err error) {
	*c, err = mergePatch(AgentPatch, *c, a.Patch)
	return err
}
