package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"porthole.dev/porthole/internal/container"
	"porthole.dev/porthole/internal/kube"
	"porthole.dev/porthole/internal/leftovers"
	"porthole.dev/porthole/internal/safetext"
	"porthole.dev/porthole/internal/session"
	"porthole.dev/porthole/internal/target"
)

const cleanLong = `List what portholes have left behind, and remove it.

Usually nothing is left. A porthole that is killed may leave
  relays      Jobs in the cluster that wait for a node or an image; others end by
              themselves a minute after their last client
  files       ready files and Unix sockets on this machine
  helpers     helper containers in docker and podman that never started
The image of helper containers stays in the engine, so that the next helper starts at
once, until it is removed here.

Your own relays are removed, the files of portholes that are dead, unless somebody has
changed them since, and in the engines that you may use helpers and their image. Relays
of other users, and what a running porthole uses, are listed and stay. Agents are
ephemeral containers, which Kubernetes cannot remove: they stay, and go with their pods.`

// leftoversDir is where portholes note which files they have made; "" if there is no place.
func leftoversDir() string {
	dir, err := os.UserCacheDir()
	if err != nil {
		return ""
	}
	return filepath.Join(dir, "porthole", "files")
}

// cleaning is the command line of `porthole clean`.
type cleaning struct {
	config        *kube.Config
	engineContext string
	all           bool
	dryRun        bool
	output        string
	out           io.Writer
	errs          session.Errors
	found         bool
	partly        bool // an engine was not searched
}

func newClean() *cobra.Command {
	c := &cleaning{config: &kube.Config{Retries: new(kube.RetryLimiter)}, output: "text"}
	cmd := &cobra.Command{
		Use:   "clean",
		Short: "List and remove what portholes have left behind",
		Long:  cleanLong,
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if c.output != "text" && c.output != "json" {
				return usageError{fmt.Errorf("clean: unknown output %q, want text or json", c.output)}
			}
			c.out = cmd.OutOrStdout()
			return c.run(cmd.Context(), cmd.ErrOrStderr())
		},
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.BoolVarP(&c.all, "all-namespaces", "A", false, "look in all namespaces")
	flags.BoolVar(&c.dryRun, "dry-run", false, "only list")
	flags.StringVarP(&c.output, "output", "o", c.output, "text, or json for one object a line")
	flags.StringVar(&c.engineContext, "engine-context", "", "a context of docker, or a connection of podman, to look in; the current ones by default")
	c.config.AddFlags(flags)
	return cmd
}

// run goes on after a failure, so that what cannot be removed keeps nothing else from being removed.
func (c *cleaning) run(ctx context.Context, stderr io.Writer) error {
	if leftoversDir() == "" {
		fmt.Fprintln(stderr, "porthole: HOME or XDG_CACHE_HOME has to be set, to an absolute path: no files were searched")
	}
	pods := c.files()
	c.engines(ctx, stderr)
	cluster, err := kube.Open(c.config)
	switch {
	case errors.Is(err, kube.ErrNoConfig) && c.config.Kubeconfig == "":
		fmt.Fprintln(stderr, "porthole: there is no kubeconfig, so no cluster was searched")
	case err != nil:
		c.errs = append(c.errs, err)
	default:
		defer cluster.Close()
		c.cluster(ctx, cluster, pods)
	}
	if len(c.errs) > 0 {
		return c.errs
	}
	switch {
	case c.found || c.output != "text":
	case c.partly:
		fmt.Fprintln(c.out, "nothing is left in what was searched")
	default:
		fmt.Fprintln(c.out, "nothing is left")
	}
	return nil
}

// files removes what dead portholes of this user have left on this machine, and returns the pods of relays
// that living ones use.
func (c *cleaning) files() (pods []string) {
	dead, pods, err := leftovers.Find(leftoversDir())
	c.failed(err)
	for _, left := range dead {
		for _, path := range left.Files {
			c.tell(cleaned{Kind: "file", Name: path, Removed: true})
		}
		if c.dryRun {
			c.failed(left.Close())
		} else {
			c.failed(left.Remove())
		}
	}
	return pods
}

// engines removes what helper containers have left in docker and podman. One that is not there, or that this user may not use, has none
// of theirs.
func (c *cleaning) engines(ctx context.Context, stderr io.Writer) {
	opener := &container.Opener{Version: version()}
	defer opener.Close()
	var unknown []error // each engine that has no such context
	for _, scheme := range []target.Scheme{target.Docker, target.Podman} {
		all, err := opener.Leftovers(ctx, scheme, c.engineContext)
		switch named := c.engineContext != ""; {
		case named && errors.Is(err, container.ErrNoContext):
			unknown = append(unknown, err)
		case !named && errors.Is(err, container.ErrNoEngine):
		case !named && (errors.Is(err, container.ErrEnginePermission) || errors.Is(err, container.ErrNoContext)):
			c.partly = true
			fmt.Fprintln(stderr, "porthole: not searched: "+safetext.Line(describe(err, false)))
		default:
			c.failed(err)
		}
		if len(unknown) == 2 {
			c.failed(unknown[0])
		}
		for _, left := range all {
			what := cleaned{Kind: left.Kind, Engine: string(scheme), Name: left.Name, Removed: left.Stays == "", Why: left.Stays}
			if what.Removed && !c.dryRun {
				if err := left.Remove(ctx); err != nil {
					c.failed(fmt.Errorf("remove %s: %w", what, err))
					continue
				}
			}
			c.tell(what)
		}
	}
}

func (c *cleaning) failed(err error) {
	if err != nil {
		c.errs = append(c.errs, err)
	}
}

// cluster removes the user's relays, and lists what stays.
func (c *cleaning) cluster(ctx context.Context, cluster *kube.Cluster, used []string) {
	namespace := cluster.Namespace
	if c.all {
		namespace = ""
	}
	flags := agentFlags{}
	key, err := flags.agents().PublicKey()
	c.failed(err)
	relays, err := cluster.Relays(ctx, namespace, key)
	c.failed(err)
	for _, r := range relays {
		what := cleaned{Kind: "relay", Namespace: r.Namespace, Name: r.Name}
		switch {
		case !r.Mine:
			what.Why = "it belongs to another user, or to another key"
		case slices.ContainsFunc(used, r.HasPod):
			what.Why = "a running porthole uses it"
		default:
			what.Removed = true
			if !c.dryRun {
				if err := cluster.RemoveRelay(ctx, r); err != nil {
					c.failed(err)
					continue
				}
			}
		}
		c.tell(what)
	}
	agents, err := cluster.AgentContainers(ctx, namespace, key)
	c.failed(err)
	for _, a := range agents {
		c.tell(cleaned{Kind: "agent", Namespace: a.Namespace, Pod: a.Pod, Name: a.Name, State: a.State, Mine: a.Mine, Why: "it goes with its pod"})
	}
}

// cleaned is one thing that was found, as `-o json` prints it.
type cleaned struct {
	Kind      string `json:"kind"`             // file, relay, agent, helper, or image of helpers
	Engine    string `json:"engine,omitempty"` // of a helper or image: docker or podman
	Namespace string `json:"namespace,omitempty"`
	Pod       string `json:"pod,omitempty"` // of an agent
	Name      string `json:"name"`          // of the Job, container or image, or the path of the file
	State     string `json:"state,omitempty"`
	Mine      bool   `json:"mine,omitempty"` // of an agent: it knows this user's key
	Removed   bool   `json:"removed"`        // with --dry-run: it would be
	Why       string `json:"why,omitempty"`  // it stays
}

func (w cleaned) String() string {
	switch w.Kind {
	case container.LeftHelper:
		return fmt.Sprintf("helper container %s in %s", w.Name, w.Engine)
	case container.LeftImage:
		return fmt.Sprintf("image %s in %s", w.Name, w.Engine)
	case "relay":
		return fmt.Sprintf("relay %s in namespace %s", w.Name, w.Namespace)
	case "agent":
		return fmt.Sprintf("agent in pod %s of namespace %s, ephemeral container %s, %s", w.Pod, w.Namespace, w.Name, w.State)
	}
	return w.Name
}

func (c *cleaning) tell(w cleaned) {
	c.found = true
	if c.output == "json" {
		text, err := json.Marshal(w)
		c.failed(err)
		fmt.Fprintln(c.out, string(text))
		return
	}
	switch {
	case !w.Removed:
		fmt.Fprintf(c.out, "stays: %s: %s\n", w, w.Why)
	case c.dryRun:
		fmt.Fprintf(c.out, "would remove %s\n", w)
	default:
		fmt.Fprintf(c.out, "removed %s\n", w)
	}
}
