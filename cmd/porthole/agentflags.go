package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"porthole.dev/porthole/internal/kube"
	"porthole.dev/porthole/internal/target"
)

// defaultImage is the project's own, of this version.
func defaultImage() string {
	tag := strings.Map(func(r rune) rune { // what a tag has no letters for, in a version that was built by hand
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
	patch      string // the file's path
	patchJSON  []byte // what it has, once checked
	relayPatch string // the file's path
	relayJSON  kube.RelayPatch
}

func (a *agentFlags) add(flags *pflag.FlagSet) {
	flags.StringVar(&a.image, "agent-image", defaultImage(), "image of agents and relays")
	flags.StringVar(&a.pullPolicy, "agent-image-pull-policy", "",
		"Always, IfNotPresent or Never; Kubernetes' own choice by default, which depends on the image's tag")
	flags.StringVar(&a.patch, "agent-patch", "", "YAML or JSON `file` of what an agent's container has besides, such as env, volumeMounts and securityContext")
	flags.StringVar(&a.relayPatch, "relay-patch", "", "YAML or JSON `file` of what a relay's pod has besides, such as resources, tolerations, nodeSelector, imagePullSecrets and labels")
}

// check reports values that cannot be, and reads the patch.
func (a *agentFlags) check() error {
	switch {
	case a.image == "":
		return errors.New("forward: --agent-image is empty")
	case a.pullPolicy != "" && !slices.Contains(pullPolicies, a.pullPolicy):
		return fmt.Errorf("forward: --agent-image-pull-policy %q: want %s", a.pullPolicy, strings.Join(pullPolicies, ", "))
	}
	return errors.Join(
		readPatch("agent-patch", a.patch, func(text []byte) (err error) { a.patchJSON, err = kube.ReadAgentPatch(text); return err }),
		readPatch("relay-patch", a.relayPatch, func(text []byte) (err error) { a.relayJSON, err = kube.ParseRelayPatch(text); return err }))
}

// readPatch reads the file of a flag, if there is one.
func readPatch(flag, path string, parse func([]byte) error) error {
	if path == "" {
		return nil
	}
	text, err := os.ReadFile(path)
	if err == nil {
		err = parse(text)
	}
	if err != nil {
		return fmt.Errorf("forward: --%s %s: %w", flag, path, err)
	}
	return nil
}

// agents is what runs as an agent.
func (a *agentFlags) agents() *kube.Agents {
	agents := &kube.Agents{Image: a.image, PullPolicy: a.pullPolicy, Patch: a.patchJSON, RelayPatch: a.relayJSON, Version: version()}
	if dir, err := os.UserConfigDir(); err == nil {
		agents.KeyFile = filepath.Join(dir, "porthole", "agent.key")
	}
	return agents
}

// onlyWithTarget reports flags that a file has keys for.
func (f *forwarding) onlyWithTarget(flags *pflag.FlagSet) error {
	if f.file == "" {
		return nil
	}
	for _, name := range []string{"address", "pin", "each", "via", "container"} {
		if flags.Changed(name) {
			return usageError{fmt.Errorf("forward: a file has %s for each of its forwards: --%s goes with a target", name, name)}
		}
	}
	return nil
}

// parseVia reads what carries the connections of a forward.
func (f *forwarding) parseVia(only *target.Forward) (err error) {
	if only.Via, err = target.ParseVia(f.via); err != nil {
		return fmt.Errorf("%s: --via %w", f.cmd.Name(), err)
	}
	if f.cmd.Flags().Changed("container") {
		if only.Container, err = target.ParseContainer(f.container); err != nil {
			return fmt.Errorf("%s: --container %w", f.cmd.Name(), err)
		}
	}
	for name, goes := range map[string]bool{"via": only.Target.Scheme.InCluster(), "container": only.Target.Scheme == target.Kubernetes} {
		if !goes && f.cmd.Flags().Changed(name) {
			return fmt.Errorf("%s: --%s is for pods, services and workloads, which %s is not", f.cmd.Name(), name, only.Target)
		}
	}
	if err := only.CheckVia(); err != nil {
		return fmt.Errorf("%s: --%w", f.cmd.Name(), err)
	}
	return nil
}
