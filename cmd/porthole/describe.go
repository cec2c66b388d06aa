package main

import (
	"cmp"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"porthole.dev/porthole/internal/demo"
	"porthole.dev/porthole/internal/forward"
	"porthole.dev/porthole/internal/kube"
	"porthole.dev/porthole/internal/manifest"
	"porthole.dev/porthole/internal/netns"
	"porthole.dev/porthole/internal/node"
	"porthole.dev/porthole/internal/pinned"
	"porthole.dev/porthole/internal/safetext"
	"porthole.dev/porthole/internal/session"
	"porthole.dev/porthole/internal/ssh"
	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/trace"
	"porthole.dev/porthole/internal/tunnel"
)

// printError prints an error on one line, with the next step to take, and several errors on
// a line each. The mistakes in a file begin with their place, so that editors can jump to it.
func printError(w io.Writer, err error, verbose bool) {
	if each := fileErrors(err); len(each) > 0 {
		for _, e := range each {
			fmt.Fprintln(w, safetext.Line(withHint(e.Error(), tableHint(e))))
		}
		return
	}
	var several session.Errors
	if !errors.As(err, &several) {
		several = session.Errors{err}
	}
	for _, e := range several {
		fmt.Fprintln(w, "porthole: "+safetext.Line(describe(e, verbose)))
	}
}

// fileErrors returns the mistakes in a file of forwards, or nil for other errors.
func fileErrors(err error) []error {
	var one *manifest.Error
	if !errors.As(err, &one) {
		return nil
	}
	var joined interface{ Unwrap() []error }
	if errors.As(err, &joined) && len(joined.Unwrap()) > 1 {
		return joined.Unwrap()
	}
	return []error{one}
}

// describe returns an error for a person: on one line, with a hint, and shortened unless
// verbose is set.
func describe(err error, verbose bool) string {
	text := err.Error()
	if !verbose {
		text = brief(err)
	}
	return withHint(oneLine(text), hint(err))
}

func withHint(text, hint string) string {
	if hint == "" {
		return text
	}
	return text + " (hint: " + hint + ")"
}

// oneLine joins the lines of a text.
func oneLine(text string) string {
	var joined strings.Builder
	for line := range strings.Lines(strings.TrimSpace(text)) {
		line = strings.TrimSpace(line)
		if joined.Len() > 0 && line != "" {
			if !strings.HasSuffix(joined.String(), ".") {
				joined.WriteByte(';')
			}
			joined.WriteByte(' ')
		}
		joined.WriteString(line)
	}
	return joined.String()
}

// The parts of a refusal that only the node's administrator can use.
var (
	ofPod      = regexp.MustCompile(` to pod [0-9a-f]{32,}, uid *`)
	longNumber = regexp.MustCompile(`[0-9a-f]{32,}`)
)

// brief returns an error's text without the details that a person does not need.
func brief(err error) string {
	text := err.Error()
	var refused *tunnel.PortError
	if errors.As(err, &refused) && errors.Is(refused, syscall.ECONNREFUSED) && refused.To.Host == "" {
		short := fmt.Sprintf("error forwarding %s: connection refused", refused.To.Named())
		text = strings.Replace(text, refused.Text, short, 1)
	}
	text = ofPod.ReplaceAllString(text, "")
	return longNumber.ReplaceAllStringFunc(text, func(number string) string { return number[:12] + "..." })
}

// hintedError is an error with a next step that only the place where it happens can know.
type hintedError struct {
	error
	hint string
}

func (e hintedError) Unwrap() error { return e.error }

// hints are the next steps by error; the first match counts.
var hints = []struct {
	err  error
	hint string
}{
	{target.ErrVia, "auto uses the stock protocol where that is enough, and otherwise porthole on the node, an agent in the pod, or a relay"},
	{target.ErrUnknown, "a target is POD, RESOURCE/NAME as svc/web, host://NAME, docker://NAME, podman://NAME, containerd://ID, cri://POD, pid://NUMBER, netns://NAME or netns:///PATH"},
	{target.ErrEngineTarget, "`docker ps`, `podman ps`, `nerdctl ps` and `crictl pods` list them; docker://PROJECT/SERVICE is one of Compose"},
	{target.ErrEngineVia, "auto makes sockets in the container's namespace where its process is on this machine, and otherwise starts a helper container beside it"},
	{target.ErrHostVia, "without --via, porthole there makes sockets in the container's namespace, or starts a helper container beside it"},
	{target.ErrContainerHere, "leave out --container; or run porthole on that host"},
	{target.ErrEngineContext, "leave it out; on another host, its own DOCKER_HOST, CONTAINER_HOST and current context say which engine is meant"},

	{target.ErrRemoteHost, "for example `porthole forward host://db.internal 5432`, or host://10.0.0.7, host://[fd00::7]"},
	{target.ErrPort, "ports are [[ADDRESS:]LOCAL:]REMOTE, as 8080:80, :80, 8000-8010, 5353:53/udp, 5432:/run/x.sock, ./x.sock:5432 or 5432:HOST:5432, with numbers from 1 to 65535"},
	{target.ErrUnsupported, "Kubernetes forwards only TCP ports of pods; with `--via auto` all else goes through porthole on the node, or an agent in the pod"},
	{target.ErrAll, "for example `porthole forward pid://4947 --all --except 22,9000-9010`"},
	{target.ErrNoHost, "names are looked up as the target would: in its /etc/hosts, and by the name servers of its /etc/resolv.conf"},
	{target.ErrLookup, "the target's /etc/resolv.conf names the servers (for netns://NAME, /etc/netns/NAME/resolv.conf does, and for host:// that of the relay's pod); an IP address needs no lookup"},
	{target.ErrEach, "`--each sts/db 5432` has db-0 at port 5432 and db-1 at 5433; `--each=addresses` has db-0 at 127.0.0.2 and db-1 at 127.0.0.3"},
	{target.ErrNoPlace, "take local ports that are further apart, or `--each=addresses`, which gives each pod an address of its own"},
	{target.ErrAddress, "for example --address 127.0.0.1, --address ::1, --address 0.0.0.0"},
	{pinned.ErrDamaged, "move the file away and a new key is made; agents that know only the old one are left alone, and new ones started beside them"},
	{pinned.ErrExposed, "`chmod 600` on it; if others may have read it, move it away, and a new key is made"},
	{pinned.ErrPublicKey, "a public key is 43 characters of base64url, as porthole writes it"},
	{netns.ErrNoProcess, "`ps -e` lists processes"},
	{netns.ErrNotExist, "`ip netns` lists those that have names, `lsns -t net` those of processes"},
	{netns.ErrExited, "start it again and forward to its new process, or give its namespace a name: `ip netns attach NAME PID`"},
	{netns.ErrNotNamespace, "a namespace's file is bound in /run/netns, or is /proc/PID/ns/net"},
	{netns.ErrPermission, "it takes CAP_SYS_ADMIN in the user namespace that the network namespace belongs to, and CAP_SYS_PTRACE over the process: run porthole with sudo, outside of any container; docs/permissions.md has all ways"},
	{session.ErrSameNetwork, "leave out --all, and forward to single ports at local ports of another number, as 8081:8080"},
	{netns.ErrNoSockDiag, "`modprobe tcp_diag` may help; ports by their numbers can be forwarded in any case"},
	{netns.ErrNotListed, "`modprobe -a udp_diag unix_diag` may help; what is not listed can be forwarded in any case"},
	{netns.ErrUnsupported, "run porthole on the Linux host of the process"},
	{forward.ErrTwice, "give each forward a local port of its own, or `:REMOTE` for any free one"},
	{forward.ErrNotSocket, "move it away, or take another path"},
	{forward.ErrSocketInUse, "`ss -lxp` shows who listens; take another path"},
	{trace.ErrPermission, "it needs root, or CAP_BPF, CAP_PERFMON and CAP_DAC_READ_SEARCH, and CAP_SYS_ADMIN where tracefs is not mounted: run porthole with sudo, and outside of any container"},
	{trace.ErrNoBTF, "it needs a kernel built with CONFIG_DEBUG_INFO_BTF, and /sys/kernel/btf/vmlinux"},
	{trace.ErrNoRingBuffer, "it needs Linux 5.8 or later; `uname -r` tells the version"},
	{trace.ErrNoTracepoints, "it needs a kernel built with CONFIG_FTRACE_SYSCALLS"},
	{trace.ErrUnsupported, "run porthole on the Linux host itself"},
	{errDemoPort, "`porthole demo --port 0` takes any free one, and so does `make demo PORT=0`; `ss -ltnp` shows who has this one"},
	{demo.ErrUserNamespaces, "run it with sudo"},
	{demo.ErrStateDir, "TMPDIR names another folder for temporary files"},
	{demo.ErrUnsupported, "run it on Linux; `porthole kuard` alone serves the same page anywhere"},
	{demo.ErrBridgeExists, "if nothing needs it: `ip link del porthole0`"},
	{demo.ErrRunning, "end that one first; one machine has one demo"},
	{kube.ErrNoConfig, "set KUBECONFIG, or --kubeconfig; docker://NAME, pid://NUMBER and netns://NAME need none"},
	{kube.ErrNoContext, "`kubectl config get-contexts` lists them; --context names one"},
	{kube.ErrEntry, "`kubectl config view` shows the entries; KUBECONFIG or --kubeconfig name the file"},
	{kube.ErrNoPlugin, "install it, or put it in the PATH"},
	{kube.ErrUnreachable, "`kubectl config view --minify` shows where it should be; is the network up?"},
	{kube.ErrCredentials, "`kubectl get pods` shows whether logging in works"},
	{kube.ErrUnauthorized, "the token may have expired: log in again"},
	{kube.ErrNoNamespace, "`kubectl get namespaces` lists them; -n names one"},
	{kube.ErrNotFound, "`kubectl get pods,services` lists what there is; -n names another namespace"},
	{kube.ErrUnknownResource, "`kubectl api-resources` lists the types"},
	{kube.ErrNoPods, "take a pod, a service, or what has pods by a selector"},
	{kube.ErrOnePod, "--each is for what has several pods: a StatefulSet, a service, another workload; leave it out here"},
	{kube.ErrNoSelector, "`--via auto` or `--via relay` reaches it from inside the cluster; docs/relays.md says how"},
	{kube.ErrRelayTarget, "host://NAME is any host that the cluster reaches; `--via agent` reaches Unix sockets, and hosts as a pod sees them"},
	{kube.ErrNoPort, "take a port's number, or one of the names"},
	{kube.ErrProtocol, "PORT/udp is a UDP port; other protocols than TCP and UDP cannot be forwarded"},
	{kube.ErrNotReady, "`kubectl describe` tells more; --pod-running-timeout waits longer at the start, --wait later"},
	{kube.ErrNotStarted, "`kubectl describe pod` tells more; --agent-image names another image, and `make image` makes it"},
	{kube.ErrNoContainer, "--container NAME says which one's Unix sockets are meant"},
	{kube.ErrUserUnknown, "name the user by --agent-patch FILE, with `securityContext: {runAsUser: UID, runAsGroup: GID}` in the file; `kubectl exec` with `id` shows it"},
	{kube.ErrNoAgent, "`porthole node` on the pod's node needs nothing in the pod; docs/node.md says how to install it"},
	{kube.ErrNoEphemeral, "ephemeral containers need Kubernetes 1.25 or later; `--via node` does without"},
	{kube.ErrAgentRefuses, "somebody else's agent has the port, or the key in this user's file was replaced meanwhile; try again"},
	{pinned.ErrStranger, "another program in the pod has the agent's port; `--via node` goes around it where the node runs porthole"},
	{kube.ErrLostKey, "the other agent cannot be removed; it goes with its pod"},
	{kube.ErrNoRelay, "`kubectl get job` shows whose it is: `kubectl delete job` makes room, and so does another --agent-image"},
	{kube.ErrRelayEnds, "try again in a few seconds; a Job that stays has a finalizer, which `kubectl get job -o yaml` shows"},
	{kube.ErrNamespaceEnds, "choose another namespace by -n: a relay can be in any that reaches the host"},
	{kube.ErrAdmission, "--relay-patch FILE adds what the cluster demands of a relay, such as other resources or labels; -n chooses another namespace"},
	{node.ErrEndpoint, "for example unix:///run/containerd/containerd.sock, unix:///run/crio/crio.sock, unix:///run/cri-dockerd.sock"},
	{node.ErrInUse, "`ss -xlp` shows whose it is: end that one first, or take another path"},
	{node.ErrNotSocket, "move it away, or take another path"},
	{node.ErrFolder, "run it with sudo, or take a path in a folder that exists and is yours"},
	{node.ErrListen, "`ss -ltnp` shows who listens; --metrics-address and --streaming-address take other ones"},
	{node.ErrLoopback, "--streaming-anywhere lets it be; whoever can read the traffic can then read the forwards"},
	{target.ErrPortSet, "for example 80,443,8000-9000"},
	{node.ErrPaths, "for example /run/postgresql/.s.PGSQL.5432,/tmp/*.sock; * is anything within one folder, and there is no .. or / at the end"},
	{node.ErrBackend, "native, or socat"},
	{node.ErrNoNode, "`systemctl status porthole` shows whether it runs; --events names another socket"},
	{node.ErrNotRoot, "run it with sudo"},
	{node.ErrUnsupported, "run it on the node"},
}

func hint(err error) string {
	var hinted hintedError
	if errors.As(err, &hinted) {
		return hinted.hint
	}
	for _, find := range []func(error) string{reverseHint, engineHint, tableHint, sshHint, socketHint, usageHint} {
		if h := find(err); h != "" {
			return h
		}
	}
	return ""
}

// tableHint returns the hint for an error by its type or identity alone.
func tableHint(err error) string {
	var setting *demo.SettingError
	switch {
	case errors.As(err, &setting):
		return settingHint(setting)
	case errors.Is(err, netns.ErrPermission) && os.Geteuid() == 0:
		return "root lacks CAP_SYS_ADMIN over the namespace here: run porthole outside of any container and user namespace"
	}
	for _, find := range []func(error) string{clusterHint, nodeHint} {
		if h := find(err); h != "" {
			return h
		}
	}
	for _, h := range hints {
		if errors.Is(err, h.err) {
			return h.hint
		}
	}
	return ""
}

// clusterHint returns the hint for what a cluster refuses, or cannot start.
func clusterHint(err error) string {
	var forbidden *kube.ForbiddenError
	var server *kube.ServerError
	var agent *kube.AgentError
	var relay *kube.RelayError
	var notReady *kube.NotReadyError
	var patch *kube.PatchError
	switch {
	case errors.As(err, &forbidden):
		return grant(forbidden)
	case errors.As(err, &patch) && patch.Of == kube.AgentPatch:
		return "a patch may set env, envFrom, securityContext and volumeMounts; --agent-image and --agent-image-pull-policy are flags of their own"
	case errors.As(err, &patch):
		return "a patch has metadata (labels, annotations) and spec as a pod template has them, and as containers only [{name: relay, resources: ...}]"
	case errors.As(err, &agent) && errors.Is(err, kube.ErrAdmission):
		return "--agent-patch FILE adds what the cluster demands of the container, such as another securityContext"
	case errors.As(err, &relay) && errors.As(err, &notReady) && len(notReady.Pods) > 0 && notReady.Pods[0].Reason == "CreateContainerConfigError":
		return "an image that names no user, or root, needs --relay-patch FILE with `spec: {securityContext: {runAsUser: 65532}}`; `kubectl get events` tells more"
	case errors.As(err, &relay) && errors.Is(err, kube.ErrNotReady):
		return "`kubectl get events` tells more; --agent-image names another image, and --relay-patch FILE what the pod needs, such as pull secrets, tolerations and resources"
	case errors.Is(err, kube.ErrNoPlugin) && errors.As(err, &server) && server.Advice != "":
		return "the kubeconfig says how to install it: " + oneLine(server.Advice)
	case errors.Is(err, kube.ErrCertificate):
		return certificateHint(err)
	}
	return ""
}

// nodeHint returns the hint for what a pod's node does not carry.
func nodeHint(err error) string {
	var refused *tunnel.PortError
	var stock *kube.NodeError
	switch {
	case errors.As(err, &stock) && stock.To.Host != "":
		return hostHint(tunnel.ErrDenied)
	case errors.As(err, &refused) && hasNoSocat(refused):
		return "socat is missing on the pod's node, and not here: install it there, or run `porthole node` there"
	case errors.As(err, &stock):
		return "`--via auto` starts an agent in the pod instead; docs/node.md says how to install `porthole node` on its node"
	}
	return ""
}

// settingHint says how user namespaces are allowed where a setting of the kernel forbids them.
func settingHint(e *demo.SettingError) string {
	allowed := "1"
	switch e.Setting {
	case "kernel.apparmor_restrict_unprivileged_userns":
		return "AppArmor allows user namespaces by profile, which docs/permissions.md has for porthole; or run it with sudo"
	case "user.max_user_namespaces":
		allowed = "15000"
	}
	return fmt.Sprintf("`sudo sysctl -w %s=%s` allows user namespaces to everybody; or run it with sudo", e.Setting, allowed)
}

// certificateHint says what is wrong with a server's certificate.
func certificateHint(err error) string {
	var host x509.HostnameError
	var invalid x509.CertificateInvalidError
	var authority x509.UnknownAuthorityError
	switch {
	case errors.As(err, &host):
		return "the certificate is for other names than the server's: --tls-server-name, or tls-server-name in the kubeconfig, says which to take"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "it has expired or is not valid yet, by this machine's clock: `date` shows that"
	case errors.As(err, &authority):
		return "the kubeconfig's certificate-authority did not sign it: is the kubeconfig an old one, or a proxy in between?"
	}
	return "`kubectl config view --minify` shows which certificate-authority is expected"
}

// hasNoSocat reports whether a node lacked socat; the stock protocol has only text to say so.
func hasNoSocat(e *tunnel.PortError) bool {
	text := strings.ToLower(e.Text)
	return e.Reason == "" && strings.Contains(text, "socat") && strings.Contains(text, "not found")
}

// sshHint returns the hint for another host that cannot be reached, or has no agent.
func sshHint(err error) string {
	var failed *ssh.Error
	var version *ssh.VersionError
	var there *ssh.HostError
	var refused *tunnel.PortError
	switch {
	case errors.As(err, &there) && errors.Is(err, exec.ErrNotFound):
		return "porthole runs the system's ssh: install OpenSSH's client, and `ssh -V` has to find it"
	case errors.As(err, &failed) && failed.Missing() && failed.Command != "":
		return fmt.Sprintf("%s has to be installed there, in the PATH of `%s`", failed.Command, safetext.QuoteAll(append([]string{"ssh"}, append(sshArgs(failed.Host, "-p"), "env")...)...))
	case errors.As(err, &failed) && failed.Missing():
		return fmt.Sprintf("porthole has to be there too: `%s` copies it, and `--remote-command ./porthole` names it", copyTo(failed.Host))
	case errors.As(err, &failed):
		return fmt.Sprintf("`%s` shows more", safetext.QuoteAll(append([]string{"ssh"}, sshArgs(failed.Host, "-p")...)...))
	case errors.As(err, &there) && errors.Is(err, tunnel.ErrDenied):
		return "porthole may not enter it there: `--remote-command \"sudo porthole\"` starts it as root"
	case errors.As(err, &there) && errors.As(err, &refused):
		box := safetext.QuoteAll(append([]string{"ssh"}, sshArgs(there.Host, "-p")...)...)
		return fmt.Sprintf("`%s ps -e` lists that host's processes, `%s ip netns` its namespaces", box, box)
	case errors.As(err, &version):
		return fmt.Sprintf("`%s` copies this one, and `--remote-command ./porthole` names it", copyTo(version.Host))
	}
	return ""
}

// copyTo is the command that copies this program to a host.
func copyTo(host target.Host) string {
	self, err := os.Executable()
	if err != nil {
		self = "porthole"
	}
	if strings.Contains(host.Name, ":") {
		host.Name = "[" + host.Name + "]"
	}
	args := sshArgs(host, "-P")
	last := len(args) - 1
	return safetext.QuoteAll(slices.Concat([]string{"scp"}, args[:last], []string{self, args[last] + ":porthole"})...)
}

// sshArgs are a host as ssh and scp take it.
func sshArgs(host target.Host, port string) (args []string) {
	if host.Port != 0 {
		args = append(args, port, strconv.Itoa(int(host.Port)))
	}
	name := host.Name
	if host.User != "" {
		name = host.User + "@" + name
	}
	return append(args, name)
}

// socketHint returns the hint for a local port that cannot be bound, or a remote one that refuses.
func socketHint(err error) string {
	var op *net.OpError
	var refused *tunnel.PortError
	switch {
	case errors.As(err, &refused) && refused.To.Network == target.Unix:
		return remoteUnixHint(refused)
	case errors.As(err, &refused) && refused.To.Host != "":
		return hostHint(refused)
	case errors.As(err, &refused) && errors.Is(refused, syscall.ECONNREFUSED):
		return refusedHint(refused)
	case !errors.As(err, &op):
		return ""
	case op.Op == "listen":
		return listenHint(op)
	case op.Op == "connect" && op.Net == "unix": // netns alone calls it so
		return unixHint(op)
	case op.Op == "dial" && !isLoopback(op.Addr): // of a host, as the target sees it
		return hostHint(op)
	case op.Op == "dial" && errors.Is(op, syscall.ECONNREFUSED):
		return fmt.Sprintf("nothing listens on that port of 127.0.0.1 or ::1 there; `porthole targets TARGET`, or `%s` inside, shows what does", listeners(op.Net == "udp"))
	case op.Op == "dial" && errors.Is(op, syscall.ENETUNREACH):
		return "is the loopback interface there down? `nsenter -t PID -n ip link set lo up` sets it up"
	}
	return ""
}

// isLoopback reports whether an address is one of the target itself.
func isLoopback(addr net.Addr) bool {
	switch addr := addr.(type) {
	case *net.TCPAddr:
		return addr.IP.IsLoopback()
	case *net.UDPAddr:
		return addr.IP.IsLoopback()
	}
	return true
}

// refusedHint says where nothing listens. Porthole's own nodes try both families; of
// others, only the text shows what they tried.
func refusedHint(e *tunnel.PortError) string {
	tried := "127.0.0.1 or ::1 there"
	if e.Reason == "" && !strings.Contains(e.Text, "[::1]") {
		tried = "127.0.0.1 there, and the node does not say whether it tried ::1"
	}
	return fmt.Sprintf("nothing listens on that port of %s; `%s` inside shows what does", tried, listeners(e.To.Network == target.UDP))
}

func listenHint(op *net.OpError) string {
	port := 0
	switch address := op.Addr.(type) {
	case *net.TCPAddr:
		port = address.Port
	case *net.UDPAddr:
		port = address.Port
	}
	switch {
	case errors.Is(op, syscall.EADDRINUSE):
		return fmt.Sprintf("`%sp` shows who listens; take another local port, or `:REMOTE` for any free one", listeners(strings.HasPrefix(op.Net, "udp")))
	case errors.Is(op, syscall.EADDRNOTAVAIL):
		return "`ip addr` lists this machine's addresses"
	case errors.Is(op, syscall.EACCES) && 0 < port && port < 1024:
		return "ports below 1024 are for root: take a higher one, or run it with sudo"
	}
	return ""
}

func usageHint(err error) string {
	var usage usageError
	if errors.As(err, &usage) {
		return "--help shows the usage"
	}
	return ""
}

// grant returns the commands by which an administrator allows what was forbidden.
func grant(e *kube.ForbiddenError) string {
	role, binding, in := "role", "rolebinding", []string{"--namespace=" + e.Namespace}
	if e.Namespace == "" {
		role, binding, in = "clusterrole", "clusterrolebinding", nil
	}
	what := []string{"--verb=" + e.Verb, "--resource=" + e.Resource}
	if strings.HasPrefix(e.Resource, "/") {
		what[1] = "--non-resource-url=" + e.Resource
	} else if e.Verb == "impersonate" && e.Name != "" {
		what = append(what, "--resource-name="+e.Name)
	}
	name := "porthole-" + strings.NewReplacer("/", "-", ".", "-").Replace(e.Verb+"-"+strings.TrimPrefix(e.Resource, "/"))
	create := slices.Concat([]string{"kubectl", "create", role, name}, what, in)
	bind := slices.Concat([]string{"kubectl", "create", binding, name, "--" + role + "=" + name, "--user=" + cmp.Or(e.User, "USER")}, in)
	return fmt.Sprintf("`%s` and `%s` grant it", safetext.QuoteAll(create...), safetext.QuoteAll(bind...))
}
