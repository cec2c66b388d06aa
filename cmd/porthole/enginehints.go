package main

import (
	"errors"
	"fmt"
	"os"
	"path"
	"runtime"
	"strings"

	"porthole.dev/porthole/internal/container"
	"porthole.dev/porthole/internal/netns"
	"porthole.dev/porthole/internal/safetext"
	"porthole.dev/porthole/internal/target"
)

// engineHint returns the hint for a container, or its engine, that cannot be reached.
func engineHint(err error) string {
	var engine *container.EngineError
	var missing *container.NotFoundError
	var ambiguous *container.AmbiguousError
	var inPod *container.PodContainerError
	var state *container.StateError
	var program *container.ProgramError
	switch {
	case errors.As(err, &program):
		return programHint(program)
	case errors.As(err, &engine):
		return brokenEngineHint(engine)
	case errors.As(err, &missing):
		return missingHint(missing)
	case errors.As(err, &inPod):
		return "--container names one of them; without it, all of the pod's containers are searched"
	case errors.As(err, &ambiguous) && ambiguous.Pods:
		return "cri://NAMESPACE/NAME says which is meant"
	case errors.As(err, &ambiguous):
		return "more digits of the ID, or the name, say which is meant"
	case errors.As(err, &state):
		return stateHint(state)
	}
	return ""
}

// programHint returns the hint for an engine whose helper containers have no program.
func programHint(e *container.ProgramError) string {
	what := "--agent-binary FILE names a porthole that is linked statically, for linux/" + e.Architecture
	if e.Beside == "" || e.File != "" {
		return what + ", as the release's are"
	}
	return what + ", or put the release's at " + safetext.Quote(e.Beside)
}

// programOf is what a person calls the engine of a target by, with the option for its context or namespace.
func programOf(t target.Target, context string) string {
	switch {
	case t.Scheme == target.Docker && context != "":
		return "docker --context " + safetext.Quote(context)
	case t.Scheme == target.Podman && context != "":
		return "podman --connection " + safetext.Quote(context)
	case t.Scheme == target.Containerd && t.Namespace != "":
		return "nerdctl -n " + safetext.Quote(t.Namespace)
	case t.Scheme == target.Containerd:
		return "nerdctl"
	case t.Scheme == target.CRI:
		return "crictl"
	}
	return string(t.Scheme)
}

// brokenEngineHint returns the hint for an engine that does not answer.
func brokenEngineHint(e *container.EngineError) string {
	podman := e.Engine == target.Podman
	switch {
	case errors.Is(e, container.ErrEnginePermission) && e.Group != "":
		return fmt.Sprintf("the group %s may: `sudo usermod -aG %s $USER` and a new login, or run porthole with sudo", e.Group, safetext.Quote(e.Group))
	case errors.Is(e, container.ErrEnginePermission):
		return "run porthole with sudo"
	case errors.Is(e, container.ErrNoEngine):
		return stoppedEngineHint(e.Engine, e.Address)
	case errors.Is(e, container.ErrNoInterface) && e.Engine == target.Containerd:
		return "CONTAINERD_ADDRESS, or address in nerdctl.toml, names containerd's own socket"
	case errors.Is(e, container.ErrNoInterface):
		return "it has to serve version 1 of the CRI: containerd from 1.6 on, where disabled_plugins in its config.toml does not name cri, or CRI-O; CONTAINER_RUNTIME_ENDPOINT names another one"
	case errors.Is(e, container.ErrEndpoint):
		return "engines of other hosts are reached with --host ssh://HOST, where porthole asks the engine there"
	case errors.Is(e, container.ErrUnsupported):
		return "it works on a Linux host, and from here with --host ssh://HOST, if porthole is installed there"
	case errors.Is(e, container.ErrNoContext) && podman:
		return "`podman system connection ls` lists them"
	case errors.Is(e, container.ErrNoContext):
		return "`docker context ls` lists them"
	case errors.Is(e, container.ErrContextUnread) && podman:
		return "`podman system connection ls` lists connections; CONTAINER_HOST names an engine as unix:///PATH, tcp://HOST:PORT or ssh://[USER@]HOST[:PORT]/PATH"
	case errors.Is(e, container.ErrContextUnread):
		return "`docker context ls` lists contexts; DOCKER_HOST names an engine as unix:///PATH, tcp://HOST:PORT or ssh://[USER@]HOST[:PORT]"
	case errors.Is(e, container.ErrLongAnswer):
		return fmt.Sprintf("`%s ps -a` shows whether it gets an answer; the address may not be an engine's", programOf(target.Target{Scheme: e.Engine}, ""))
	case errors.Is(e, container.ErrEngineTooOld):
		return "Docker has it from 19.03 on, podman from 3 on"
	}
	if h := sshHint(e); h != "" {
		return h
	}
	if podman {
		return "`podman --remote version` shows whether podman itself gets an answer"
	}
	return fmt.Sprintf("`%s version` shows whether %[1]s itself gets an answer", programOf(target.Target{Scheme: e.Engine}, ""))
}

// stoppedEngineHint returns the hint for an engine that does not run.
func stoppedEngineHint(engine target.Scheme, address string) string {
	linux := runtime.GOOS == "linux"
	scheme, _, _ := strings.Cut(address, "://")
	switch {
	case scheme == "tcp", scheme == "http", scheme == "https":
		return "start it on that host; DOCKER_HOST, CONTAINER_HOST and --engine-context name another one"
	case engine == target.Podman && linux:
		return "`systemctl --user start podman.socket` starts it, or `podman system service`; CONTAINER_HOST names another one"
	case engine == target.Podman:
		return "`podman machine start` starts it; CONTAINER_HOST and --engine-context name another one"
	case engine == target.Docker && linux:
		return "`systemctl start docker` starts it; DOCKER_HOST and --engine-context name another one"
	case engine == target.Docker:
		return "start Docker Desktop, Colima or whatever runs it here; DOCKER_HOST and --engine-context name another one"
	case engine == target.Containerd:
		return "`systemctl start containerd` starts it; CONTAINERD_ADDRESS, or address in nerdctl.toml, names another one, as /run/k3s/containerd/containerd.sock"
	}
	return "CONTAINER_RUNTIME_ENDPOINT, or runtime-endpoint in /etc/crictl.yaml, names the runtime's socket; `ps -e` shows whether it runs"
}

// missingHint returns the hint for a container that is not there.
func missingHint(e *container.NotFoundError) string {
	list := "`" + programOf(e.Target, e.Context) + " ps -a` lists what there is"
	switch _, _, service := e.Target.Compose(); {
	case e.Target.Scheme == target.CRI:
		list = "`crictl pods` lists what there is"
	case service && e.Target.Scheme == target.Podman:
		list = "`" + programOf(e.Target, e.Context) + " ps -a --filter label=com.docker.compose.project` lists what Compose has made"
	case service:
		program := programOf(e.Target, e.Context)
		list = fmt.Sprintf("`%s compose ls -a` lists projects, and `%[1]s compose -p PROJECT ps -a` their services", program)
	}
	if len(e.Similar) > 0 {
		return "did you mean " + strings.Join(e.Similar, " or ") + "? " + list
	}
	return list
}

// stateHint returns the hint for a container that does not run, or has no network that can be entered.
func stateHint(e *container.StateError) string {
	program, name := programOf(e.Target, e.Context), safetext.Quote(e.Name)
	switch {
	case errors.Is(e, container.ErrNotRunning), errors.Is(e, container.ErrEnded) && strings.HasPrefix(e.Name, "k8s://"):
		return notRunningHint(e)
	case errors.Is(e, container.ErrEnded):
		return fmt.Sprintf("`%s start %s` starts it, and `%s logs %s` may show why it has ended", program, name, program, name)
	case errors.Is(e, container.ErrRemoved):
		return "a container is followed to the next one of its name only if it is named by that, and not by its ID"
	case errors.Is(e, container.ErrNoNetwork):
		return "if the runtime is cri-dockerd: `docker ps` lists the pod's containers, for docker://"
	case errors.Is(e, container.ErrElsewhere) && (e.Target.Scheme == target.Containerd || e.Target.Scheme == target.CRI):
		return "the engine is in another PID namespace, or on another machine: run porthole there, or reach it with --host ssh://HOST"
	case errors.Is(e, container.ErrOwnNetwork):
		return "only networks of this machine's kernel can be entered: publish the port, or run the container with runc"
	case errors.Is(e, container.ErrElsewhere):
		return "the engine is on another machine, or in a virtual one: `--via auto` starts a helper container there"
	case errors.Is(e, netns.ErrPermission) && os.Geteuid() != 0:
		return "the namespace is another user's: run porthole with sudo, or as the user who started the container"
	}
	return ""
}

// notRunningHint returns the hint for a container by its state.
func notRunningHint(e *container.StateError) string {
	program, name := programOf(e.Target, e.Context), safetext.Quote(e.Name)
	pod, inPod := strings.CutPrefix(e.Name, "k8s://")
	switch {
	case inPod:
		return "Kubernetes starts it again with another ID: forward to its pod, cri://" + path.Dir(pod) + ", which is followed"
	case e.Target.Scheme == target.CRI:
		return "the kubelet starts it again if it is to run; `crictl pods` shows the pods of this node"
	case e.State == container.Paused:
		return fmt.Sprintf("`%s unpause %s` resumes it", program, name)
	case e.State == container.Restarting:
		return fmt.Sprintf("its engine starts it again and again: `%s logs %s` may show why it ends", program, name)
	case e.State == container.Stopping, e.State == container.Removing:
		return fmt.Sprintf("`%s ps -a` shows whether it still is", program)
	case e.State == container.Dead:
		return fmt.Sprintf("it cannot be started again: `%s rm -f %s` removes it", program, name)
	case e.State == container.NoTask: // of nerdctl, or of ctr
		return fmt.Sprintf("`%s start %s` or `%s tasks start -d %s` starts it", program, name, strings.Replace(program, "nerdctl", "ctr", 1), name)
	}
	return fmt.Sprintf("`%s start %s` starts it", program, name)
}
