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

func (p *peer) dial() (net.Conn, error) { return net.Dial("tcp", p.address) }

func (p *peer) close() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	_ = p.cmd.Wait()
}

// startPorthole starts `porthole forward pid://` for one port.
func (b *bench) startPorthole(ctx context.Context, port string, flags ...string) (*peer, error) {
	cmd := exec.CommandContext(ctx, b.porthole, append([]string{"forward", "--address", "127.0.0.1",
		fmt.Sprintf("pid://%d", b.inside.pid), port}, flags...)...)
	cmd.Stderr = os.Stderr
	line, err := startAndRead(cmd)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", b.porthole, err)
	}
	words := strings.Fields(line) // Forwarding from 127.0.0.1:40001 -> 80
	if len(words) < 3 {
		return nil, fmt.Errorf("%s said %q", b.porthole, line)
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
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	address := l.Addr().(*net.TCPAddr)
	_ = l.Close()
	cmd := exec.CommandContext(ctx, "socat",
		fmt.Sprintf("TCP-LISTEN:%d,bind=127.0.0.1,reuseaddr,fork", address.Port),
		fmt.Sprintf("EXEC:nsenter -t %d -n socat - TCP4\\:localhost\\:%d", b.inside.pid, b.inside.port))
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start socat: %w", err)
	}
	p := &peer{cmd: cmd, address: address.String()}
	for range 100 {
		if c, err := p.dial(); err == nil {
			return p, c.Close()
		}
		time.Sleep(20 * time.Millisecond)
	}
	p.close()
	return nil, fmt.Errorf("socat does not listen on %s", address)
}
