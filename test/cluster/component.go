package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// Component names one process of the cluster.
type Component string

// The components, in the order in which they start.
const (
	Etcd              Component = "etcd"
	Containerd        Component = "containerd"
	APIServer         Component = "apiserver"
	ControllerManager Component = "controller-manager"
	Scheduler         Component = "scheduler"
	Kubelet           Component = "kubelet"
	CoreDNS           Component = "coredns"
)

// Components lists all of them, in the order in which they start.
func Components() []Component {
	return []Component{Etcd, Containerd, APIServer, ControllerManager, Scheduler, Kubelet, CoreDNS}
}

// termGrace is how long a component may take to end by itself before it is killed.
// The API server is the slowest: it drains for a few seconds.
const termGrace = 20 * time.Second

// joinCgroup enters the cgroup before the component's own program begins,
// so that nothing which it starts can be outside.
const joinCgroup = `echo $$ > "$0" && exec "$@"`

// Status is what is known of one component.
type Status struct {
	Component Component
	// PID is 0 when the component is not running.
	PID int
	// Log is the path of its log, standard output and standard error of every run since the cluster's start.
	Log string
}

// Status tells which components run.
func (c *Cluster) Status() []Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []Status
	for _, name := range Components() {
		status := Status{Component: name, Log: c.folder.log(name)}
		if p, err := c.process(name); err == nil && p.running() {
			status.PID = p.PID
		}
		all = append(all, status)
	}
	return all
}

// LogPath is the file that holds what a component wrote.
func (c *Cluster) LogPath(name Component) string { return c.folder.log(name) }

// SetArgs replaces the flags that Options.Args gave a component. They hold from its next start on.
func (c *Cluster) SetArgs(name Component, args ...string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := map[Component][]string{}
	for key, value := range c.record.Options.Args {
		all[key] = value
	}
	all[name] = args
	c.record.Options.Args = all
	return c.record.save()
}

// SetRuntimeEndpoint starts the kubelet again with another CRI socket, a unix:// URL; empty means containerd's.
// It returns once the kubelet knows its pods again, which go on meanwhile.
func (c *Cluster) SetRuntimeEndpoint(ctx context.Context, endpoint string) error {
	c.mu.Lock()
	c.record.Options.RuntimeEndpoint = endpoint
	err := c.record.save()
	c.mu.Unlock()
	if err == nil {
		err = c.Restart(ctx, Kubelet)
	}
	if err == nil {
		err = c.WaitReady(ctx)
	}
	return err
}

// Start starts a stopped component and returns once it serves; it does nothing when the component runs.
func (c *Cluster) Start(ctx context.Context, name Component) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p, err := c.process(name); err == nil && p.running() {
		return nil
	}
	if err := c.launch(name); err != nil {
		return err
	}
	return c.waitComponent(ctx, name)
}

// Stop asks a component to end, waits for it, and kills it when it takes too long.
// Pods keep running without kubelet and containerd: their shims are no children of containerd.
func (c *Cluster) Stop(ctx context.Context, name Component) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.end(ctx, name, syscall.SIGTERM)
}

// Kill ends a component at once, as a crash would.
func (c *Cluster) Kill(ctx context.Context, name Component) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.end(ctx, name, syscall.SIGKILL)
}

// Restart is Stop and then Start.
func (c *Cluster) Restart(ctx context.Context, name Component) error {
	if err := c.Stop(ctx, name); err != nil {
		return err
	}
	return c.Start(ctx, name)
}

// end sends a signal and waits until the process is gone.
func (c *Cluster) end(ctx context.Context, name Component, signal syscall.Signal) error {
	p, err := c.process(name)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = p.end(ctx, signal, termGrace)
	}
	if err != nil {
		return fmt.Errorf("end %s: %w", name, err)
	}
	return nil
}

// process is the last one started for a component, by this program or another.
func (c *Cluster) process(name Component) (process, error) {
	var p process
	data, err := os.ReadFile(c.folder.pid(name))
	if err != nil {
		return p, err
	}
	return p, json.Unmarshal(data, &p)
}

// launch starts a component's process and records it.
func (c *Cluster) launch(name Component) error {
	command, err := c.command(name)
	if err != nil {
		return err
	}
	log, err := os.OpenFile(c.folder.log(name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	defer log.Close()
	procs, err := componentCgroup()
	if err != nil {
		return err
	}
	cmd := exec.Command("/bin/sh", append([]string{"-c", joinCgroup, procs}, command...)...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Dir = c.folder.state()
	cmd.Env = c.environment()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	// Reaps the component for as long as this program lives; afterwards init does.
	go cmd.Wait()
	return c.recordProcess(name, cmd.Process.Pid)
}

// environment is small on purpose: a proxy of the user's must not come between the components.
func (c *Cluster) environment() []string {
	path := c.folder.bin() + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	return []string{"PATH=" + path, "HOME=" + c.folder.state()}
}

func (c *Cluster) recordProcess(name Component, pid int) error {
	p, err := findProcess(pid)
	if err != nil {
		return fmt.Errorf("start %s: it ended at once\nhint: see %s", name, c.folder.log(name))
	}
	c.log.Info("started", "component", string(name), "pid", pid)
	data, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("record %s: %w", name, err)
	}
	return writeFile(c.folder.pid(name), data)
}

// command is the program and the flags of a component.
func (c *Cluster) command(name Component) ([]string, error) {
	flags := map[Component]func() []string{
		Etcd:              c.etcdCommand,
		Containerd:        c.containerdCommand,
		APIServer:         c.apiServerCommand,
		ControllerManager: c.controllerManagerCommand,
		Scheduler:         c.schedulerCommand,
		Kubelet:           c.kubeletCommand,
		CoreDNS:           c.coreDNSCommand,
	}[name]
	if flags == nil {
		return nil, fmt.Errorf("%w: %q", ErrUnknownComponent, name)
	}
	command := append(flags(), c.record.Options.Args[name]...)
	command[0] = filepath.Join(c.folder.bin(), command[0])
	return command, nil
}
