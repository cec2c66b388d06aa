package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"porthole.dev/porthole/internal/netns"
	"porthole.dev/porthole/internal/target"
)

// reverse compares the way back with the same way forward: from this host's namespaces, and from
// the cluster's pod by an agent.
func (b *bench) reverse(ctx context.Context) error {
	server := exec.CommandContext(ctx, "/proc/self/exe", "serve", "0")
	server.Stderr = os.Stderr
	local, err := startAndRead(server)
	if err != nil {
		return err
	}
	defer func() { _ = server.Process.Kill(); _ = server.Wait() }()
	forward, err := b.startPorthole(ctx, b.inside.tcp())
	if err != nil {
		return err
	}
	defer forward.close()
	if err := b.reverseBulk(ctx, "this host", b.inside.ns, forward, local, fmt.Sprintf("pid://%d", b.inside.pid)); err != nil {
		return err
	}
	if !b.cluster.given() || b.cluster.agentImage == "" {
		fmt.Fprintln(os.Stderr, "reverse: no -agent-image given: agents are left out")
		return nil
	}
	pid, err := processOf("serve\x00" + b.cluster.port)
	if err != nil {
		return err
	}
	ns, err := netns.OpenPID(pid)
	if err != nil {
		return err
	}
	defer ns.Close()
	agent, err := b.startClient(ctx, b.porthole, append([]string{"forward", "pod/" + b.cluster.pod}, b.cluster.viaAgent()...))
	if err != nil {
		return err
	}
	defer agent.close()
	return b.reverseBulk(ctx, "agent", ns, agent, local, append(b.cluster.viaAgent(), "pod/"+b.cluster.pod)...)
}

// farPort is where something inside connects to for the way back.
const farPort = 7070

// reverseBulk compares downloads and uploads of something inside, to and from a server on this host, with those by
// forward. Either moves its bytes the other way than forward does, and a chain may be slower one way than the other.
func (b *bench) reverseBulk(ctx context.Context, name string, inside *netns.Namespace, forward *peer, local string, args ...string) error {
	cmd := exec.CommandContext(ctx, b.porthole, append(append([]string{"reverse"}, args...), strconv.Itoa(farPort)+":"+local)...)
	cmd.Stderr = os.Stderr
	line, err := startAndRead(cmd)
	if err != nil || !strings.Contains(line, strconv.Itoa(farPort)) {
		return fmt.Errorf("start %s: %q, %w", cmd.Path, line, err)
	}
	back := &peer{cmd: cmd}
	defer back.close()
	fromInside := func() (net.Conn, error) {
		c, err := inside.Dial(ctx, target.TCPPort(farPort))
		if err != nil {
			return nil, err
		}
		return c.(net.Conn), nil
	}
	forward.name = "the same way forward"
	for _, how := range []struct {
		name string
		rate func(dialer) (float64, error)
	}{{"download", b.download}, {"upload", b.uploadRate}} {
		rates, err := b.alternate([]dialer{fromInside, forward.dial}, how.rate)
		if err != nil {
			return err
		}
		b.compare(forward, "reverse, "+name+": "+how.name+", MB/s", rates, "%.0f", "at least 0.8", func(r float64) bool { return r >= 0.8 })
	}
	return nil
}
