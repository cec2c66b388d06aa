package demo

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/vishvananda/netlink"
)

// startTimeout bounds the wait for the application to listen.
const startTimeout = 30 * time.Second

// Start makes the pod and returns once its application listens on
// 127.0.0.1:Port inside. An ordinary user's is in a user namespace, and has
// neither a bridge nor DNS, which take root. ctx bounds the start only: a pod
// lives until its application ends, [Pod.Close] is called, or this process
// dies, however it dies. What a killed demo left in the same StateDir is
// removed first; a running one makes it fail with [ErrRunning].
func Start(ctx context.Context, cfg Config) (*Pod, error) {
	s := &starter{Config: cfg.withDefaults(), pod: &Pod{done: make(chan struct{})}}
	if err := s.start(ctx); err != nil {
		if undone := s.pod.Close(); undone != nil {
			s.Log.Warn("demo: taking down what was started", "err", undone)
		}
		if !isRoot() {
			err = explainUserNamespaces("/proc/sys", err)
		}
		return nil, fmt.Errorf("demo: %w", err)
	}
	return s.pod, nil
}

func isRoot() bool { return os.Geteuid() == 0 }

func defaultStateDir() string {
	if isRoot() {
		return "/run/porthole"
	}
	return filepath.Join(os.TempDir(), fmt.Sprintf("porthole-demo-%d", os.Geteuid()))
}

// starter carries what the steps of a start hand to one another.
type starter struct {
	Config
	pod     *Pod
	lock    *stateLock
	bridge  *bridge
	process *podProcess
}

func (s *starter) start(ctx context.Context) error {
	steps := []func() error{s.takeLock, s.claimBridge, s.addBridge, s.serveDNS, s.spawn, s.addVeth, s.release}
	if !isRoot() {
		steps = []func() error{s.takeLock, s.spawn, s.release}
	}
	for _, step := range steps {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := step(); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if err := s.process.waitListening(ctx, s.Port); err != nil {
		return err
	}
	s.Log.Info("demo: pod is ready", "pid", s.pod.PID, "ip", s.pod.IP, "bridge", s.pod.Bridge)
	return nil
}

func (s *starter) takeLock() (err error) {
	s.lock, err = lockState(s.StateDir)
	if err != nil {
		return err
	}
	s.pod.onClose(s.lock.release)
	return s.lock.clearLeftovers(s.Log)
}

// claimBridge records the bridge as ours, unless it is somebody else's: what is recorded gets removed.
func (s *starter) claimBridge() error {
	if _, err := netlink.LinkByName(s.Bridge); err == nil {
		return fmt.Errorf("add bridge %s: %w", s.Bridge, ErrBridgeExists)
	}
	return s.lock.write(record{Bridge: s.Bridge})
}

func (s *starter) addBridge() error {
	subnet, err := chooseSubnet()
	if err != nil {
		return err
	}
	s.pod.IP, s.pod.BridgeIP, s.pod.Bridge = hostIn(subnet, podHost), hostIn(subnet, bridgeHost), s.Bridge
	s.bridge, err = newBridge(s.Bridge, subnet)
	if err != nil {
		return err
	}
	s.pod.onClose(func() error { return removeLinks(s.Bridge) })
	return s.bridge.up()
}

// serveDNS goes on without DNS when another server holds the port on every
// address of the host: the pod can be shown without names.
func (s *starter) serveDNS() error {
	server := &DNS{
		Addr:      netip.AddrPortFrom(s.pod.BridgeIP, 53).String(),
		Domain:    clusterDomain,
		Hosts:     clusterHosts(s.pod.IP),
		Pointers:  clusterPointers(s.pod.IP),
		Upstreams: hostResolvers("/etc/resolv.conf"),
		Log:       s.Log,
	}
	if err := server.Start(); err != nil {
		s.Log.Warn("demo: the pod has no DNS", "err", err)
		return nil
	}
	s.pod.onClose(server.Close)
	return nil
}

func (s *starter) spawn() (err error) {
	root := filepath.Join(s.StateDir, "demo-root")
	if err := os.Mkdir(root, 0o755); err != nil {
		return err
	}
	s.pod.onClose(func() error { return os.Remove(root) })
	s.process, err = spawn(s.Config, s.pod)
	if err != nil {
		return err
	}
	s.pod.onClose(s.process.kill)
	s.pod.PID = s.process.pid()
	return s.lock.write(record{Bridge: s.pod.Bridge, Pod: identify(s.pod.PID)})
}

func (s *starter) addVeth() error { return s.bridge.plug(s.pod.PID) }

// release lets the pod's init go on, now that its network is there.
func (s *starter) release() error {
	s.Log.Debug("demo: network is up", slog.Any("ip", s.pod.IP))
	return s.process.send(setup{
		Root:     filepath.Join(s.StateDir, "demo-root"),
		User:     !isRoot(),
		Hostname: hostname,
		Files:    podFiles(s.pod.IP, s.pod.BridgeIP),
		Args:     s.Args,
		Env:      podEnv(),
	})
}
