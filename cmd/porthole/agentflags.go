package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"porthole.dev/porthole/internal/kube"
	"porthole.dev/porthole/internal/safetext"
	"porthole.dev/porthole/internal/target"
)

// defaultImage is the project's own image of this version, as `make image` names it.
func defaultImage() string {
	tag := strings.Map(func(r rune) rune { // a tag allows none of these, which versions of builds by hand have
		if strings.ContainsRune("()+", r) {
			return '-'
		}
		return r
	}, version())
	return "porthole.dev/porthole:" + strings.TrimPrefix(tag, "-")
}

// pullPolicies are Kubernetes' own.
var pullPolicies = []string{"Always", "IfNotPresent", "Never"}

// agentFlags are the flags of agents and relays.
type agentFlags struct {
	image      string
	pullPolicy string
	patch      string // the file's path, and so relayPatch
	relayPatch string
	patches    map[kube.PatchKind]kube.Patch // once checked
}

// add adds the flags of agents.
func (a *agentFlags) add(flags *pflag.FlagSet) {
	flags.StringVar(&a.image, "agent-image", defaultImage(), "image of agents, and of relays")
	flags.StringVar(&a.pullPolicy, "agent-image-pull-policy", "",
		"Always, IfNotPresent or Never; Kubernetes' own choice by default, which depends on the image's tag")
	flags.StringVar(&a.patch, "agent-patch", "", "YAML or JSON `file` of what to add to an agent's container, such as env, volumeMounts and securityContext")
}

// addRelay adds the flag of relays.
func (a *agentFlags) addRelay(flags *pflag.FlagSet) {
	flags.StringVar(&a.relayPatch, "relay-patch", "", "YAML or JSON `file` of what to add to a relay's pod, such as resources, tolerations, nodeSelector, imagePullSecrets and labels")
}

// check reports values that are not allowed, and reads the patches.
func (a *agentFlags) check() error {
	switch {
	case a.image == "":
		return errors.New("--agent-image is empty")
	case a.pullPolicy != "" && !slices.Contains(pullPolicies, a.pullPolicy):
		return fmt.Errorf("--agent-image-pull-policy %q: want %s", a.pullPolicy, strings.Join(pullPolicies, ", "))
	}
	a.patches = map[kube.PatchKind]kube.Patch{}
	return cmp.Or(a.readPatch("agent-patch", a.patch, kube.AgentPatch), a.readPatch("relay-patch", a.relayPatch, kube.RelayPatch))
}

// readPatch reads the file of a flag, if there is one.
func (a *agentFlags) readPatch(flag, path string, of kube.PatchKind) error {
	if path == "" {
		return nil
	}
	text, err := os.ReadFile(path)
	if err == nil {
		a.patches[of], err = kube.ReadPatch(of, text)
	}
	if err != nil {
		return fmt.Errorf("--%s %s: %w", flag, path, err)
	}
	return nil
}

// agents says what agents and relays run, and where the user's key is.
func (a *agentFlags) agents() *kube.Agents {
	agents := &kube.Agents{Image: a.image, PullPolicy: a.pullPolicy, Patch: a.patches[kube.AgentPatch], RelayPatch: a.patches[kube.RelayPatch], Version: version()}
	if dir, err := os.UserConfigDir(); err == nil {
		agents.KeyFile = filepath.Join(dir, "porthole", "agent.key")
	}
	return agents
}

// onlyWithTarget reports flags that go with a target, where a file is given, which has keys for them.
func (f *forwarding) onlyWithTarget(flags *pflag.FlagSet) error {
	if f.file == "" {
		return nil
	}
	for _, name := range []string{"address", "pin", "each", "via", "container", "all", "except", "engine-context"} {
		if flags.Changed(name) {
			key := name
			if name == "engine-context" {
				key = "engineContext"
			}
			err := fmt.Errorf("forward: a file has %s for each of its forwards: --%s goes with a target", key, name)
			return usageError{hintedError{err, "leave it out, and write the key " + key + " into the file"}}
		}
	}
	return nil
}

// parseVia reads what carries the connections of a forward, and which container its Unix sockets are in.
func (f *forwarding) parseVia(only *target.Forward) (err error) {
	if err := checkUseful(f.cmd.Name(), f.given, only.Target); err != nil {
		return err
	}
	if only.Via, err = target.ParseVia(f.via); err != nil && only.Target.Scheme.InEngine() {
		return fmt.Errorf("%s: --via %q: %w", f.cmd.Name(), f.via, target.ErrEngineVia)
	} else if err != nil {
		return fmt.Errorf("%s: --via %w", f.cmd.Name(), err)
	}
	if f.cmd.Flags().Changed("container") {
		if only.Container, err = target.ParseContainer(f.container); err != nil {
			return fmt.Errorf("%s: --container %w", f.cmd.Name(), err)
		}
	}
	return parseEngineContext(f.cmd, f.engineContext, only)
}

// givenFlags are the names of the flags that were typed, before preferences set others.
func givenFlags(flags *pflag.FlagSet) (names []string) {
	flags.Visit(func(f *pflag.Flag) { names = append(names, f.Name) })
	return names
}

// clusterFlags are the names of the flags that say which cluster is meant, and of those that only a cluster's targets have a use for.
func clusterFlags() []string {
	var flags pflag.FlagSet
	new(kube.Config).AddFlags(&flags)
	names := []string{"max-tunnels", "pod-running-timeout"}
	flags.VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
	return names
}

// checkUseful reports flags that were typed for a command, and that a target has no use for.
func checkUseful(command string, given []string, to target.Target) error {
	const ofPods = "pods, services and workloads"
	for _, rule := range []struct {
		goes  bool
		whose string
		flags []string
	}{
		{to.Scheme == target.Kubernetes, ofPods, []string{"pin", "each", "agent-patch"}},
		{to.Scheme == target.Kubernetes || to.Scheme == target.CRI, ofPods, []string{"container"}},
		{to.Scheme.InCluster(), ofPods, []string{"agent-image", "agent-image-pull-policy", "relay-patch"}},
		{to.Scheme.InCluster(), "targets of a cluster", clusterFlags()},
		{to.Scheme.InCluster() || to.Scheme.InEngine(), "targets of a cluster and containers", []string{"via"}},
		{to.Scheme == target.Docker || to.Scheme == target.Podman, "containers of docker and podman", []string{"agent-binary", "engine-context"}},
	} {
		for _, name := range rule.flags {
			if !rule.goes && slices.Contains(given, name) {
				return hintedError{fmt.Errorf("%s: --%s is for %s, which %s is not", command, name, rule.whose, to), instead(name, to)}
			}
		}
	}
	return nil
}

// instead says what to do in the place of a flag that a target has no use for.
func instead(flag string, of target.Target) string {
	ofDocker := of.Scheme == target.Docker || of.Scheme == target.Podman
	switch {
	case flag == "namespace" && (of.Scheme == target.Containerd || of.Scheme == target.CRI):
		return fmt.Sprintf("a namespace goes in the target: %s://NAMESPACE/%s", of.Scheme, safetext.Quote(of.Name))
	case flag == "context" && ofDocker:
		return "--engine-context names a context of docker, or a connection of podman"
	case flag == "engine-context" && of.Scheme.InCluster():
		return "--context names a context of the kubeconfig"
	case flag == "engine-context" && of.Scheme == target.Containerd:
		return "CONTAINERD_ADDRESS names the socket of another containerd"
	case flag == "engine-context" && of.Scheme == target.CRI:
		return "CONTAINER_RUNTIME_ENDPOINT names the socket of another runtime"
	case flag == "agent-binary" && of.Scheme.InCluster():
		return "--agent-image names the image of agents and relays"
	case flag == "agent-image" && ofDocker:
		return "--agent-binary names the program of a helper container"
	case flag == "pin" && ofDocker:
		return "leave it out: a container named by its ID is not followed to another one"
	case flag == "each" && ofDocker:
		return fmt.Sprintf("leave it out: %s://NAME is one container, and %[1]s://PROJECT/SERVICE leads to those of a service in turn", of.Scheme)
	case flag == "container" && of.Scheme.InEngine():
		return "leave it out: it chooses among the containers of a pod"
	case flag == "via":
		return "leave it out: sockets are made in the namespace itself"
	}
	return "leave it out"
}
