package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"porthole.dev/porthole/internal/netns"
	"porthole.dev/porthole/internal/target"
)

// peer is a forwarder to the server inside.
type peer struct {
	cmd     *exec.Cmd // nil for none
	address string
	name    string // "kubectl v1.37.2"; "" where nobody asks
}

func (p *peer) dial() (net.Conn, error) {
	if strings.HasPrefix(p.address, "/") {
		return net.Dial("unix", p.address)
	}
	return net.Dial("tcp", p.address)
}

func (p *peer) close() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	_ = p.cmd.Wait()
}

// startPorthole starts `porthole forward pid://` for one port.
func (b *bench) startPorthole(ctx context.Context, port string) (*peer, error) {
	return startPortholeAs(exec.CommandContext(ctx, b.porthole, "forward", "--address", "127.0.0.1",
		fmt.Sprintf("pid://%d", b.inside.pid), port))
}

// startPortholeAs starts a porthole of one port.
func startPortholeAs(cmd *exec.Cmd) (*peer, error) {
	cmd.Stderr = os.Stderr
	line, err := startAndRead(cmd)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	words := strings.Fields(line) // Forwarding from 127.0.0.1:40001 -> 80
	if len(words) < 3 {
		return nil, fmt.Errorf("%s said %q", cmd.Path, line)
	}
	return &peer{cmd: cmd, address: strings.TrimSuffix(words[2], "/udp")}, nil
}

// startMinimal starts the least that a Go proxy into a namespace can be.
func (b *bench) startMinimal(ctx context.Context) (*peer, error) {
	cmd := exec.CommandContext(ctx, "/proc/self/exe", "proxy", fmt.Sprintf("%d:%d", b.inside.pid, b.inside.port))
	cmd.Stderr = os.Stderr
	line, err := startAndRead(cmd)
	if err != nil {
		return nil, fmt.Errorf("start the minimal proxy: %w", err)
	}
	return &peer{cmd: cmd, address: line}, nil
}

// minimalProxy copies with io.Copy, which splices between two TCP connections.
func minimalProxy(to string) error {
	pidText, portText, _ := strings.Cut(to, ":")
	pid, err := strconv.Atoi(pidText)
	if err != nil {
		return err
	}
	port, err := strconv.Atoi(portText)
	if err != nil {
		return err
	}
	ns, err := netns.OpenPID(pid)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(l.Addr())
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			far, err := ns.Dial(context.Background(), target.TCPPort(uint16(port)))
			if err != nil {
				return
			}
			defer far.Close()
			go func() { _, _ = io.Copy(far, c); _ = far.CloseWrite() }()
			_, _ = io.Copy(c, far)
		}()
	}
}

// startSocat starts the way of old: two programs for every connection.
func (b *bench) startSocat(ctx context.Context) (*peer, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, "socat",
		fmt.Sprintf("TCP-LISTEN:%d,bind=127.0.0.1,reuseaddr,fork", port),
		fmt.Sprintf("EXEC:nsenter -t %d -n socat - TCP4\\:localhost\\:%d", b.inside.pid, b.inside.port))
	return startListening(cmd, fmt.Sprintf("127.0.0.1:%d", port))
}

// startListening starts a peer that says nothing, and waits until it listens.
func startListening(cmd *exec.Cmd, address string) (*peer, error) {
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	p := &peer{cmd: cmd, address: address}
	for range 100 {
		if c, err := p.dial(); err == nil {
			return p, c.Close()
		}
		time.Sleep(20 * time.Millisecond)
	}
	p.close()
	return nil, fmt.Errorf("%s does not listen on %s", cmd.Path, address)
}

// freePort is a port of TCP that was free a moment ago.
func freePort() (uint16, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	return l.Addr().(*net.TCPAddr).AddrPort().Port(), l.Close()
}
