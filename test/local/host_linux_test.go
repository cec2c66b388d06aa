package local

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"porthole.dev/porthole/internal/testenv"
)

// The ends of the cable between this host and the other one.
const (
	nearAddress = "198.18.77.1"
	farAddress  = "198.18.77.2"
)

// TestHost forwards ports of a container on another host: a network namespace with a real sshd, which is killed and started
// again while connections are made all the time.
func TestHost(t *testing.T) {
	pod := testenv.NewPod(t)
	server := otherHost(t)
	l := pod.Listen(t, "127.0.0.1:0")
	go echoEach(l)
	target, port := fmt.Sprintf("pid://%d", pod.PID), testenv.Port(l)
	p := startCommand(t, overSSH(t, server, "forward", "--host", "ssh://box", target, fmt.Sprintf(":%d", port), fmt.Sprintf(":%d/udp", testenv.EchoUDP(pod.ListenUDP(t, "127.0.0.1:0")))))
	address := p.await(t, `^Forwarding from (127\S+) ->`)
	udp := p.await(t, `^Forwarding from (127\S+)/udp ->`)
	if err := askUDP(udp); err != nil {
		t.Error(err)
	}

	load := startLoad(t, address)
	for range 2 {
		load.await(t, 100)
		server.Stop()
		if err := server.KillSessions(); err != nil {
			t.Fatal(err)
		}
		if err := server.Start(); err != nil {
			t.Fatal(err)
		}
		load.await(t, 100)
	}
	broken := load.stop()
	t.Logf("%d connections were cut", broken)
	if broken > 2*loaders { // those that were open at the time
		t.Errorf("%d connections were cut, by two breaks with %d at once", broken, loaders)
	}
	if err := askUDP(udp); err != nil {
		t.Error(err)
	}
	p.interrupt(t)
	if n := strings.Count(p.errors(), "connected again"); n != 2 {
		t.Errorf("told %d times that it is connected again:\n%s", n, p.errors())
	}
	testenv.Await(t, "no agent is left", func() bool { return exec.Command("pgrep", "-f", "^"+porthole+" agent").Run() != nil })
}

// TestHostAll forwards whatever listens in a container on another host, also after the tunnel was lost.
func TestHostAll(t *testing.T) {
	pod := testenv.NewPod(t)
	server := otherHost(t)
	first := pod.Listen(t, "127.0.0.1:0")
	go echoEach(first)
	p := startCommand(t, overSSH(t, server, "forward", "--host", "ssh://box", fmt.Sprintf("pid://%d", pod.PID), "--all", "--address", "127.0.0.1"))
	p.await(t, fmt.Sprintf(`^(Forwarding) from 127\S+ -> %d$`, testenv.Port(first)))
	server.Stop()
	if err := errors.Join(server.KillSessions(), server.Start()); err != nil {
		t.Fatal(err)
	}
	second := pod.Listen(t, "127.0.0.1:0")
	go echoEach(second)
	p.await(t, fmt.Sprintf(`^(Forwarding) from 127\S+ -> %d$`, testenv.Port(second)))
	first.Close()
	p.await(t, fmt.Sprintf(`^(No longer) forwarding from 127\S+ -> %d$`, testenv.Port(first)))
	p.interrupt(t)
	// By way of the other host, the network that porthole itself is in.
	out, err := overSSH(t, server, "forward", "--host", "ssh://box", fmt.Sprintf("pid://%d", os.Getpid()), "--all").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "it uses the network that porthole is in") || strings.Contains(string(out), "Forwarding") {
		t.Errorf("all of the own network: %v: %s", err, out)
	}
}

// otherHost starts an sshd in a network namespace that a cable leads to.
func otherHost(t *testing.T) *testenv.SSHServer {
	t.Helper()
	if _, err := testenv.SSHD(); err != nil {
		testenv.Lacking(t, "an ssh server: "+err.Error())
	}
	pod := testenv.NewPod(t)
	cable := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "pt-near"}, PeerName: "pt-far", PeerNamespace: netlink.NsPid(pod.PID)}
	if err := netlink.LinkAdd(cable); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = netlink.LinkDel(cable) })
	near := addressed("pt-near", nearAddress)
	far := pod.NS.Do(func() error { return addressed("pt-far", farAddress) })
	if err := errors.Join(near, far); err != nil {
		t.Fatal(err)
	}
	s := &testenv.SSHServer{
		Address: farAddress, Port: 2222, Dir: t.TempDir(),
		Within: []string{"nsenter", "--net=/proc/" + strconv.Itoa(pod.PID) + "/ns/net"},
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Stop(); _ = s.KillSessions() })
	return s
}

func addressed(name, address string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	a, err := netlink.ParseAddr(address + "/30")
	if err != nil {
		return err
	}
	return errors.Join(netlink.AddrAdd(link, a), netlink.LinkSetUp(link))
}

// overSSH is porthole with an ssh in its PATH that is configured for the server, where this porthole is the agent.
func overSSH(t *testing.T, server *testenv.SSHServer, args ...string) *exec.Cmd {
	t.Helper()
	dir := t.TempDir()
	ssh, err := exec.LookPath("ssh")
	if err != nil {
		t.Fatal(err)
	}
	script := fmt.Sprintf("#!/bin/sh\nexec %s -F %s \"$@\"\n", ssh, server.File("config"))
	if err := os.WriteFile(filepath.Join(dir, "ssh"), []byte(script), 0o755); err != nil { //nolint:gosec // a program
		t.Fatal(err)
	}
	cmd := exec.Command(porthole, append(args, "--remote-command", porthole)...)
	cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"))
	return cmd
}

// askUDP wants an answer, and asks again for what was lost.
func askUDP(address string) error {
	c, err := net.Dial("udp", address)
	if err != nil {
		return err
	}
	defer c.Close()
	answer := make([]byte, 10)
	for range 60 {
		if _, err = c.Write([]byte("hello")); err != nil {
			continue
		}
		_ = c.SetReadDeadline(time.Now().Add(time.Second))
		var n int
		if n, err = c.Read(answer); err == nil && string(answer[:n]) == "hello" {
			return nil
		}
	}
	return fmt.Errorf("no answer over UDP: %w", err)
}

// loaders are how many connections a load has at once.
const loaders = 10

// load makes connections all the time, each of which sends something and wants it back.
type load struct {
	end    chan struct{}
	work   sync.WaitGroup
	mu     sync.Mutex
	whole  int
	broken int
}

func startLoad(t *testing.T, address string) *load {
	l := &load{end: make(chan struct{})}
	for range loaders {
		l.work.Go(func() { l.run(t, address) })
	}
	return l
}

func (l *load) run(t *testing.T, address string) {
	for {
		select {
		case <-l.end:
			return
		default:
		}
		err := echoMuch(address)
		l.mu.Lock()
		switch {
		case err == nil:
			l.whole++
		case errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE):
			l.broken++
		default:
			t.Error(err)
		}
		l.mu.Unlock()
	}
}

// await waits for more connections that got all back.
func (l *load) await(t *testing.T, more int) {
	t.Helper()
	count := func() int { l.mu.Lock(); defer l.mu.Unlock(); return l.whole }
	began := count()
	testenv.Await(t, fmt.Sprintf("%d connections more", more), func() bool { return count() >= began+more })
}

// stop ends the load, and returns how many connections were reset.
func (l *load) stop() int {
	close(l.end)
	l.work.Wait()
	return l.broken
}

// echoMuch sends some bytes and the end of file, and wants the same back.
func echoMuch(address string) error {
	c, err := net.Dial("tcp", address)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(2 * time.Minute)); err != nil {
		return err
	}
	const size = 100_000
	sent := make(chan error, 1)
	go func() {
		_, err := c.Write(make([]byte, size))
		sent <- errors.Join(err, c.(*net.TCPConn).CloseWrite())
	}()
	n, err := io.Copy(io.Discard, c)
	if werr := <-sent; err == nil {
		err = werr
	}
	if err == nil && n != size {
		err = fmt.Errorf("a clean end after %d bytes of %d", n, size)
	}
	return err
}
