package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"

	"porthole.dev/porthole/internal/demo"
	"porthole.dev/porthole/internal/forward"
	"porthole.dev/porthole/internal/kube"
	"porthole.dev/porthole/internal/netns"
	"porthole.dev/porthole/internal/node"
	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/trace"
)

// printError prints an error as one line, with the next step to take.
func printError(w io.Writer, err error) { fmt.Fprintln(w, "porthole: "+words(err)) }

// words is an error as a person reads it.
func words(err error) string {
	text := strings.ReplaceAll(err.Error(), "\n", "; ")
	if h := hint(err); h != "" {
		text += " (hint: " + h + ")"
	}
	return text
}

// hints are the next steps, by the error that they follow; the first match counts.
var hints = []struct {
	err  error
	hint string
}{
	{target.ErrUnknown, "a target is POD, RESOURCE/NAME as svc/web, pid://NUMBER, netns://NAME or netns:///PATH"},
	{target.ErrPort, "ports are REMOTE, LOCAL:REMOTE, :REMOTE for any free local port, or ADDRESS:LOCAL:REMOTE, with numbers from 1 to 65535"},
	{target.ErrAddress, "for example --address 127.0.0.1, --address ::1, --address 0.0.0.0"},
	{netns.ErrNoProcess, "`ps -e` lists processes"},
	{netns.ErrNotExist, "`ip netns` lists those that have names, `lsns -t net` those of processes"},
	{netns.ErrExited, "start it again and forward to its new process, or give its namespace a name: `ip netns attach NAME PID`"},
	{netns.ErrNotNamespace, "a namespace's file is bound in /run/netns, or is /proc/PID/ns/net"},
	{netns.ErrPermission, "it takes CAP_SYS_ADMIN over the namespace: run porthole with sudo, and outside of any container"},
	{netns.ErrUnsupported, "run porthole on the Linux host of the process"},
	{forward.ErrTwice, "give each forward a local port of its own, or `:REMOTE` for any free one"},
	{trace.ErrPermission, "it needs root, or CAP_BPF, CAP_PERFMON and CAP_DAC_READ_SEARCH, and CAP_SYS_ADMIN where tracefs is not mounted: run porthole with sudo, and outside of any container"},
	{trace.ErrNoBTF, "it needs a kernel built with CONFIG_DEBUG_INFO_BTF, and /sys/kernel/btf/vmlinux"},
	{trace.ErrNoRingBuffer, "it needs Linux 5.8 or later; `uname -r` tells the version"},
	{trace.ErrNoTracepoints, "it needs a kernel built with CONFIG_FTRACE_SYSCALLS"},
	{trace.ErrUnsupported, "run porthole on the Linux host itself"},
	{errDemoPort, "`porthole demo --port 0` takes any free one, and so does `make demo PORT=0`; `ss -ltnp` shows who has this one"},
	{demo.ErrNotRoot, "run it as root, for example with sudo"},
	{demo.ErrUnsupported, "run it on Linux; `porthole kuard` alone serves the same page anywhere"},
	{demo.ErrBridgeExists, "if nothing needs it: `ip link del porthole0`"},
	{demo.ErrRunning, "end that one first; one machine has one demo"},
	{kube.ErrNoConfig, "set KUBECONFIG, or --kubeconfig; pid://NUMBER and netns://NAME need none"},
	{kube.ErrNoContext, "`kubectl config get-contexts` lists them; --context names one"},
	{kube.ErrUnreachable, "`kubectl config view --minify` shows where it should be; is the network up?"},
	{kube.ErrCertificate, "the kubeconfig's certificate-authority is not this server's"},
	{kube.ErrCredentials, "`kubectl get pods` shows whether logging in works"},
	{kube.ErrUnauthorized, "the token may have expired: log in again"},
	{kube.ErrNotFound, "`kubectl get pods,services` lists what there is; -n names another namespace"},
	{kube.ErrUnknownResource, "`kubectl api-resources` lists the types"},
	{kube.ErrNoPods, "take a pod, a service, or what has pods by a selector"},
	{kube.ErrNoSelector, "forward to a pod instead"},
	{kube.ErrNoPort, "take a port's number, or one of the names"},
	{kube.ErrNotTCP, "take a TCP port"},
	{kube.ErrNotReady, "`kubectl describe` tells more; --pod-running-timeout waits longer at the start, --wait later"},
	{node.ErrEndpoint, "for example unix:///run/containerd/containerd.sock, unix:///run/crio/crio.sock, unix:///run/cri-dockerd.sock"},
	{node.ErrInUse, "`ss -xlp` shows whose it is: end that one first, or take another path"},
	{node.ErrNotSocket, "move it away, or take another path"},
	{node.ErrFolder, "run it with sudo, or take a path in a folder that exists and is yours"},
	{node.ErrListen, "`ss -ltnp` shows who listens; --metrics-address and --streaming-address take other ones"},
	{node.ErrLoopback, "--streaming-anywhere lets it be; whoever can read the traffic can then read the forwards"},
	{node.ErrPorts, "for example 80,443,8000-9000"},
	{node.ErrBackend, "native, or socat"},
	{node.ErrNoNode, "`systemctl status porthole` shows whether it runs; --events names another socket"},
	{node.ErrNotRoot, "run it with sudo"},
	{node.ErrUnsupported, "run it on the node"},
	{syscall.EADDRINUSE, "`ss -ltnp` shows who listens; take another local port, or `:REMOTE` for any free one"},
	{syscall.EADDRNOTAVAIL, "`ip addr` lists this machine's addresses"},
	{syscall.EACCES, "ports below 1024 are for root: take a higher one, or run it with sudo"},
	{syscall.ECONNREFUSED, "nothing listens on that port of 127.0.0.1 or ::1 there; `ss -ltn` inside shows what does"},
	{syscall.ENETUNREACH, "the loopback interface there is down: `nsenter -t PID -n ip link set lo up`"},
}

func hint(err error) string {
	var usage usageError
	var forbidden *kube.ForbiddenError
	if errors.As(err, &forbidden) {
		return grant(forbidden)
	}
	for _, h := range hints {
		if errors.Is(err, h.err) {
			return h.hint
		}
	}
	if errors.As(err, &usage) {
		return "--help shows the usage"
	}
	return ""
}

// grant is what an administrator types so that the user may do what was forbidden.
func grant(e *kube.ForbiddenError) string {
	user := e.User
	if user == "" {
		user = "USER"
	}
	name := "porthole-" + strings.NewReplacer("/", "-", ".", "-").Replace(e.Verb+"-"+e.Resource)
	return fmt.Sprintf("`kubectl create role %[1]s --verb=%[2]s --resource=%[3]s --namespace=%[4]s` and "+
		"`kubectl create rolebinding %[1]s --role=%[1]s --user=%[5]s --namespace=%[4]s` grant it",
		name, e.Verb, e.Resource, e.Namespace, user)
}
