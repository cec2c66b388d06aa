package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v4"
	"k8s.io/client-go/plugin/pkg/client/auth/exec"
	"k8s.io/client-go/tools/clientcmd/api"

	"porthole.dev/porthole/internal/safetext"
)

// preferences are what a kuberc file of kubectl says about port-forward: the options
// that apply unless they are typed, and which credential plugins may run.
type preferences struct {
	Defaults  []commandDefaults `yaml:"defaults"`
	Overrides []commandDefaults `yaml:"overrides"` // Defaults, in v1alpha1
	Policy    api.PolicyType    `yaml:"credentialPluginPolicy"`
	Allowlist []struct {
		Name    string `yaml:"name"`
		Command string `yaml:"command"`
	} `yaml:"credentialPluginAllowlist"`
}

type commandDefaults struct {
	Command string          `yaml:"command"`
	Options []defaultOption `yaml:"options"`
	Flags   []defaultOption `yaml:"flags"` // Options, in v1alpha1
}

type defaultOption struct {
	Name    string `yaml:"name"`
	Default string `yaml:"default"`
}

// kubercPath is the file, if any, and whether it was asked for.
func kubercPath(flag string) (path string, asked bool) {
	home, err := os.UserHomeDir()
	env := os.Getenv("KUBERC")
	switch {
	case flag != "" || env != "" && env != "off":
		return cmp.Or(flag, env), true
	case env == "off" || strings.EqualFold(os.Getenv("KUBECTL_KUBERC"), "false") || err != nil:
		return "", false
	}
	return filepath.Join(home, ".kube", "kuberc"), false
}

// readPreferences reads the file. A mistake in a file that was not asked for is only a
// warning, unless it concerns which plugins may run.
func readPreferences(flag string, stderr io.Writer) (*preferences, error) {
	path, asked := kubercPath(flag)
	p := new(preferences)
	if path == "" {
		return p, nil
	}
	text, err := os.ReadFile(path)
	if err == nil {
		err = yaml.Unmarshal(text, p)
	}
	switch {
	case err != nil && asked:
		return nil, fmt.Errorf("kuberc: %w", err)
	case errors.Is(err, fs.ErrNotExist):
		return p, nil
	case err != nil:
		fmt.Fprintf(stderr, "porthole: no preferences taken from %s: %s\n", path, safetext.Line(oneLine(err.Error())))
		return new(preferences), nil
	}
	if err := exec.ValidatePluginPolicy(p.plugins()); err != nil {
		return nil, fmt.Errorf("kuberc %s: %w", path, err)
	}
	return p, nil
}

// prefer applies the kuberc file's preferences.
func (f *forwarding) prefer(flags *pflag.FlagSet, stderr io.Writer) error {
	p, err := readPreferences(f.kubectl.kuberc, stderr)
	if err != nil {
		return err
	}
	f.config.Plugins = p.plugins()
	return p.apply(flags, f.reverse)
}

// plugins says which credential plugins may run.
func (p *preferences) plugins() api.PluginPolicy {
	policy := api.PluginPolicy{PolicyType: p.Policy}
	for _, allowed := range p.Allowlist {
		policy.Allowlist = append(policy.Allowlist, api.AllowlistEntry{Command: cmp.Or(allowed.Command, allowed.Name)})
	}
	return policy
}

// apply sets the flags that were not typed. In the other direction there are not all of them.
func (p *preferences) apply(flags *pflag.FlagSet, reverse bool) error {
	for _, c := range append(p.Defaults, p.Overrides...) {
		if c.Command != "port-forward" {
			continue
		}
		for _, o := range append(c.Options, c.Flags...) {
			f := flags.Lookup(o.Name)
			if f == nil && reverse {
				continue
			}
			if f == nil {
				return fmt.Errorf("kuberc: %s has no flag --%s", c.Command, o.Name)
			}
			if f.Changed {
				continue
			}
			if err := flags.Set(o.Name, o.Default); err != nil {
				return fmt.Errorf("kuberc: --%s %s: %w", o.Name, o.Default, err)
			}
		}
	}
	return nil
}
