package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"

	"porthole.dev/porthole/internal/netns"
	"porthole.dev/porthole/internal/target"
)

// inside is the server in a network namespace of its own, a process.
type inside struct {
	cmd  *exec.Cmd
	pid  int
	port uint16
	dir  string // of socket
	ns   *netns.Namespace
}

func startInside(ctx context.Context) (*inside, error) {
	dir, err := os.MkdirTemp("", "porthole-bench-")
	if err != nil {
		return nil, err
	}
	i := &inside{dir: dir}
	cmd := exec.CommandContext(ctx, "/proc/self/exe", "inside", i.socket())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	cmd.Stderr = os.Stderr
	line, err := startAndRead(cmd)
	if err != nil {
		return nil, fmt.Errorf("start the server in a network namespace (this takes root): %w", err)
	}
	port, err := strconv.ParseUint(line, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("the server said %q", line)
	}
	ns, err := netns.OpenPID(cmd.Process.Pid)
	if err != nil {
		return nil, err
	}
	i.cmd, i.pid, i.port, i.ns = cmd, cmd.Process.Pid, uint16(port), ns
	return i, nil
}

// socket is the path of a Unix socket at which the server listens as well.
func (i *inside) socket() string { return filepath.Join(i.dir, "server.sock") }

func (i *inside) close() {
	_ = i.ns.Close()
	_ = i.cmd.Process.Kill()
	_ = i.cmd.Wait()
	_ = os.RemoveAll(i.dir)
}

// tcp is the server's port as a person gives it to porthole.
func (i *inside) tcp() string { return fmt.Sprintf(":%d", i.port) }

// dial talks to the server without leaving its namespace: what nobody can beat.
func (i *inside) dial() (net.Conn, error) {
	c, err := i.ns.Dial(context.Background(), target.TCPPort(i.port))
	if err != nil {
		return nil, err
	}
	return c.(net.Conn), nil
}

// startAndRead starts a command and returns the first line that it prints.
func startAndRead(cmd *exec.Cmd) (string, error) {
	out, err := cmd.StdoutPipe()
	if err != nil {
		return "", err
	}
	if err := cmd.Start(); err != nil {
		return "", err
	}
	r := bufio.NewReader(out)
	line, err := r.ReadString('\n')
	// A peer that prints goes on printing; nobody must make it wait.
	go func() { _, _ = io.Copy(io.Discard, r) }()
	return strings.TrimSpace(line), err
}

// serveInside serves in a namespace that is new, and so has its loopback down.
func serveInside(socket string) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return err
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	go func() { _ = serve(l) }()
	return serveOn("127.0.0.1:0")
}

// serveOn is the server: a client sends a number of bytes to be sent, as 8 bytes
// big-endian, or 0 to have what follows echoed, or a negative number for takeUpload.
func serveOn(address string) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	if err := serveDatagrams(l.Addr().String()); err != nil {
		return err
	}
	fmt.Println(l.Addr().(*net.TCPAddr).Port)
	return serve(l)
}

func serve(l net.Listener) error {
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() { defer c.Close(); _ = answer(c) }()
	}
}

// chunk is what the ends of a bulk transfer write and read at once.
const chunk = 256 << 10

func answer(c net.Conn) error {
	var head [8]byte
	if _, err := io.ReadFull(c, head[:]); err != nil {
		return err
	}
	size := int64(binary.BigEndian.Uint64(head[:]))
	if size < 0 {
		return takeUpload(c, size)
	}
	if size > 0 {
		buf := make([]byte, chunk)
		for ; size > 0; size -= chunk {
			if _, err := c.Write(buf[:min(size, chunk)]); err != nil {
				return err
			}
		}
		return nil
	}
	buf := make([]byte, 16<<10)
	for {
		n, err := c.Read(buf)
		if err != nil {
			return err
		}
		if _, err := c.Write(buf[:n]); err != nil {
			return err
		}
	}
}

// ask sends the head of a conversation.
func ask(c net.Conn, size int64) error {
	_, err := c.Write(head(size))
	return err
}

func head(size int64) []byte { return binary.BigEndian.AppendUint64(nil, uint64(size)) }
