// Package cluster builds and runs a real Kubernetes of one node on this machine: etcd, the control plane,
// the kubelet, containerd and CoreDNS, each a process that a test can stop, kill and start again.
// It needs Linux and root, and must not know what is tested on it.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// NodeName is the name of the cluster's only node.
const NodeName = "porthole"

// bootTime is ten times what a start takes on two cores.
const bootTime = 2 * time.Minute

var (
	// ErrNotRunning is returned by Open when no cluster was started under the folder.
	ErrNotRunning = errors.New("no cluster is running")
	// ErrInUse is returned by Start when another folder's cluster holds the machine.
	ErrInUse = errors.New("another cluster is running on this machine")
	// ErrUnknownComponent is returned for a component that the cluster does not have.
	ErrUnknownComponent = errors.New("unknown component")
)

// Options say where a cluster lives and how it differs from the usual one. The zero value works
// in a process whose working directory lies inside this module.
type Options struct {
	// Dir holds the binaries, the logs and the state. Empty means .cache/cluster at the repository's root.
	Dir string
	// NodeCIDR is the network of the node's own bridge, "10.200.0.0/24". The first address is the node's,
	// the API server's and the name server's. Empty means that one, or the next that is free.
	NodeCIDR string
	// PodCIDR is the network of the pods. Empty means "10.1.4.0/24", or the next that is free.
	PodCIDR string
	// RuntimeEndpoint is the CRI socket that the kubelet speaks to, as a unix:// URL.
	// Empty means containerd's.
	RuntimeEndpoint string
	// Args are flags appended to those of a component; where one is given twice, these win.
	Args map[Component][]string
	// NoInstall forbids installing missing Debian packages; Build then fails and names them.
	NoInstall bool
	// Log tells what is being done. Nil means silence.
	Log *slog.Logger `json:"-"`
}

// Cluster is a running cluster. Its processes outlive the program that started them: only Down ends them.
// The methods are safe to call from several goroutines, but two calls about one component exclude each other
// only when they go through the same Cluster.
type Cluster struct {
	folder folder
	log    *slog.Logger
	record record

	mu     sync.Mutex // guards record.Options and the components' processes
	unlock func()
}

// Start builds what is missing, ends what an earlier cluster of the same folder left,
// and returns once the node is ready and the cluster's name server answers.
// Until Down or the end of the program no other program can start a cluster on this machine, but wait for its turn.
// When Start fails it leaves nothing running; the logs stay.
func Start(ctx context.Context, options Options) (*Cluster, error) {
	c, err := prepare(ctx, options)
	if err != nil {
		return nil, err
	}
	began := time.Now()
	booting, cancel := context.WithTimeout(ctx, bootTime)
	defer cancel()
	if err := c.boot(booting); err != nil {
		// The context may be what failed; clearing up must not depend on it.
		return nil, errors.Join(err, c.Down(context.WithoutCancel(ctx)))
	}
	c.log.Info("cluster is ready", "took", time.Since(began).Round(time.Millisecond), "kubeconfig", c.Kubeconfig())
	return c, nil
}

// prepare does all that needs no clearing up after a failure.
func prepare(ctx context.Context, options Options) (*Cluster, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("start cluster: not root\nhint: the node makes namespaces, mounts and bridges; run it as root")
	}
	if err := Build(ctx, options); err != nil {
		return nil, err
	}
	unlock, err := lockMachine(ctx)
	if err != nil {
		return nil, err
	}
	c, err := clearedCluster(ctx, options)
	if err != nil {
		unlock()
		return nil, err
	}
	c.unlock = unlock
	return c, nil
}

// clearedCluster ends what an earlier run of the same folder left. Another folder's cluster is not ours to end.
func clearedCluster(ctx context.Context, options Options) (*Cluster, error) {
	c, err := newCluster(options)
	if err != nil {
		return nil, err
	}
	return c, c.clear(ctx)
}

func newCluster(options Options) (*Cluster, error) {
	dir, err := openFolder(options.Dir)
	if err != nil {
		return nil, err
	}
	return &Cluster{
		folder: dir,
		log:    loggerOf(options),
		record: record{Folder: dir, Options: options},
		unlock: func() {},
	}, nil
}

func loggerOf(options Options) *slog.Logger {
	if options.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return options.Log
}

// boot brings the cluster up on a cleared machine.
func (c *Cluster) boot(ctx context.Context) error {
	network, err := chooseNetwork(c.record.Options)
	if err != nil {
		return err
	}
	c.record.Network = network
	c.record.Before = readHostState()
	steps := []func(context.Context) error{
		c.makeHost,
		c.writeConfiguration,
		c.startControlPlane,
		c.startNode,
		c.WaitReady,
	}
	for _, step := range steps {
		if err := step(ctx); err != nil {
			return fmt.Errorf("start cluster: %w\nhint: the components' logs are in %s", err, c.folder.logs())
		}
	}
	return nil
}

// makeHost changes the machine; what Down needs to undo it is written first.
func (c *Cluster) makeHost(context.Context) error {
	if err := c.folder.make(); err != nil {
		return err
	}
	if err := c.record.save(); err != nil {
		return err
	}
	if err := makeCgroups(); err != nil {
		return err
	}
	return c.record.Network.make()
}

func (c *Cluster) startControlPlane(ctx context.Context) error {
	for _, name := range []Component{Etcd, Containerd, APIServer} {
		if err := c.launch(name); err != nil {
			return err
		}
	}
	for _, name := range []Component{Containerd, Etcd, APIServer} {
		if err := c.waitComponent(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

func (c *Cluster) startNode(ctx context.Context) error {
	if err := c.ImportImage(ctx, pauseImage, c.folder.binary("pause")); err != nil {
		return err
	}
	for _, name := range []Component{ControllerManager, Scheduler, Kubelet, CoreDNS} {
		if err := c.launch(name); err != nil {
			return err
		}
	}
	_, err := c.Kubectl(ctx, "apply", "-f", c.folder.config("coredns-rbac.yaml"))
	return err
}

// Open takes over a cluster that this or another program started under dir; empty means the default folder.
func Open(dir string) (*Cluster, error) {
	c, err := newCluster(Options{Dir: dir})
	if err != nil {
		return nil, err
	}
	if c.record, err = recordOf(c.folder); err != nil {
		return nil, fmt.Errorf("open cluster in %s: %w", c.folder, err)
	}
	return c, nil
}

// Down ends the cluster of the folder, whoever started it and however far it came; empty means the default folder.
// It is no error when there is none.
func Down(ctx context.Context, options Options) error {
	unlock, err := lockMachine(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	c, err := newCluster(options)
	if err != nil {
		return err
	}
	// Another folder's cluster stays, and this folder has none beside it.
	if err := c.clear(ctx); !errors.Is(err, ErrInUse) {
		return err
	}
	return nil
}

// Down ends every process of the cluster, and takes away its mounts, devices, cgroups and state.
// Binaries and logs stay.
func (c *Cluster) Down(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	err := c.clear(ctx)
	c.unlock()
	c.unlock = func() {}
	return err
}
