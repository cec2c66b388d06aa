package kube

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	// Kubeconfig files may still name these providers; all others are exec plugins now.
	_ "k8s.io/client-go/plugin/pkg/client/auth/azure" // says what has replaced it
	_ "k8s.io/client-go/plugin/pkg/client/auth/gcp"   // likewise
	_ "k8s.io/client-go/plugin/pkg/client/auth/oidc"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"
)

// Config says which cluster is meant, as whom and in which namespace, as kubectl's
// files and flags do. The zero value means what kubectl means without flags.
type Config struct {
	// Kubeconfig is the path of the only file to read; "" means those of
	// $KUBECONFIG, or ~/.kube/config, or inside a pod its service account.
	Kubeconfig string
	// Overrides take precedence over the files.
	Overrides clientcmd.ConfigOverrides
	// Plugins is which plugins for credentials may run; its zero value allows all.
	Plugins api.PluginPolicy
	// Warn is called with each warning that the server sends with an answer, from
	// many goroutines at once. nil drops them.
	Warn func(text string)
	// Retries spaces out retries over all Clusters of this Config and of those that In
	// makes; nil means that each Cluster spaces out its own.
	Retries *RetryLimiter

	extra []string // KEY=VALUE of --as-user-extra
}

// AddFlags adds kubectl's standard flags to flags; they write to c.
func (c *Config) AddFlags(flags *pflag.FlagSet) {
	names := clientcmd.RecommendedConfigOverrideFlags("")
	names.ClusterOverrideFlags.APIServer.ShortName = "s"
	names.ContextOverrideFlags.Namespace.Description = "namespace of the targets; the context's if not given"
	clientcmd.BindOverrideFlags(&c.Overrides, flags, names)
	flags.StringVar(&c.Kubeconfig, "kubeconfig", c.Kubeconfig, "path of the kubeconfig file to use")
	flags.StringArrayVar(&c.extra, "as-user-extra", nil, "extra field KEY=VALUE of the user to impersonate; may be repeated")
}

// In is c for another context or namespace; "" keeps what c has. With another
// context, its own namespace counts unless one is given.
func (c *Config) In(context, namespace string) *Config {
	other := *c
	if context != "" {
		other.Overrides.CurrentContext = context
		other.Overrides.Context = api.Context{}
	}
	if namespace != "" {
		other.Overrides.Context.Namespace = namespace
	}
	return &other
}

// SPDYOnly reports whether the environment asks for SPDY without WebSocket, by
// the variable that kubectl has for it.
func SPDYOnly() bool {
	return strings.EqualFold(os.Getenv("KUBECTL_PORT_FORWARD_WEBSOCKETS"), "false")
}

// KeepWebSocket reports whether the same variable asks for WebSockets.
func KeepWebSocket() bool {
	return strings.EqualFold(os.Getenv("KUBECTL_PORT_FORWARD_WEBSOCKETS"), "true")
}

// load reads the files. Errors: ErrNoConfig, *ContextError, *EntryError.
func (c *Config) load() (config *rest.Config, namespace string, err error) {
	overrides := c.Overrides
	if overrides.AuthInfo.ImpersonateUserExtra, err = parseExtra(c.extra); err != nil {
		return nil, "", err
	}
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = c.Kubeconfig
	rules.Warner = func(error) {} // a missing file is an error only where it matters
	loader := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &overrides)
	if config, err = loader.ClientConfig(); err != nil {
		return nil, "", configError(loader, rules, &overrides, err)
	}
	if err := checkUser(loader, &overrides); err != nil {
		return nil, "", err
	}
	if config.ExecProvider != nil {
		config.ExecProvider.PluginPolicy = c.Plugins
	}
	hidePassword(config)
	namespace, _, err = loader.Namespace()
	return config, namespace, err
}

// hidePassword moves a user's name and password out of the server's URL, since
// messages and logs show that.
func hidePassword(config *rest.Config) {
	server, err := url.Parse(config.Host)
	if err != nil || server.User == nil {
		return
	}
	if config.Username == "" && config.BearerToken == "" {
		config.Username = server.User.Username()
		config.Password, _ = server.User.Password()
	}
	server.User = nil
	config.Host = server.String()
}

// Names are the names of the contexts, clusters and users in the kubeconfig, sorted.
func (c *Config) Names() (contexts, clusters, users []string) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = c.Kubeconfig
	rules.Warner = func(error) {}
	raw, err := rules.Load()
	if err != nil {
		return nil, nil, nil
	}
	return slices.Sorted(maps.Keys(raw.Contexts)), slices.Sorted(maps.Keys(raw.Clusters)), slices.Sorted(maps.Keys(raw.AuthInfos))
}

// configError says which of the things that can be wrong with the files err means.
func configError(loader clientcmd.ClientConfig, rules *clientcmd.ClientConfigLoadingRules, overrides *clientcmd.ConfigOverrides, err error) error {
	raw, rawErr := loader.RawConfig()
	context := overrides.CurrentContext
	if context == "" {
		context = raw.CurrentContext
	}
	_, known := raw.Contexts[context]
	missing := rawErr != nil && errors.Is(rawErr, fs.ErrNotExist)
	switch {
	case missing || rawErr == nil && api.IsConfigEmpty(&raw) && clientcmd.IsEmptyConfig(err):
		return fmt.Errorf("%w in %s", ErrNoConfig, strings.Join(rules.GetLoadingPrecedence(), ", "))
	case rawErr != nil:
		return fmt.Errorf("read kubeconfig: %w", err)
	case len(raw.Contexts) > 0 && !known && (context != "" || overrides.Context.Cluster == ""):
		return &ContextError{Context: context, Available: slices.Sorted(maps.Keys(raw.Contexts))}
	}
	return entryError(&raw, context, overrides, err)
}

func parseExtra(pairs []string) (map[string][]string, error) {
	extra := map[string][]string{}
	for _, pair := range pairs {
		key, value, ok := strings.Cut(pair, "=")
		if !ok || key == "" {
			return nil, fmt.Errorf("--as-user-extra %q: want KEY=VALUE", pair)
		}
		extra[key] = append(extra[key], value)
	}
	return extra, nil
}
