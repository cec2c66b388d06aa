package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"porthole.dev/porthole/internal/spdy"
)

// floor is the least that a client of a stock node can do: it opens one tunnel,
// asks for a download, and throws away what TLS brings, without a look at it and
// without handing it to anybody. It tells its CPU seconds and its seconds.
// Pause is how long it waits before each read of the socket.
func floor(pod, port string, size int64, pause time.Duration) error {
	conn, err := dialTunnel(pod, pause)
	if err != nil {
		return err
	}
	defer conn.Close()
	// The frames to send are the product's own; what comes back is not parsed.
	tunnel := spdy.New(sendOnly{conn, make(chan struct{})}, spdy.Config{})
	data, err := openStreams(tunnel, port)
	if err != nil {
		return err
	}
	before, start := ownSeconds(), time.Now()
	if _, err := data.Write(head(size)); err != nil {
		return err
	}
	buf := make([]byte, chunk)
	for n := int64(0); n < size; {
		m, err := conn.Read(buf)
		if err != nil {
			return fmt.Errorf("after %d bytes: %w", n, err)
		}
		n += int64(m)
	}
	fmt.Println(ownSeconds()-before, time.Since(start).Seconds())
	return nil
}

// floorCommand is floor with the arguments pod, port, bytes and pause.
func floorCommand(args []string) error {
	size, err := strconv.ParseInt(args[2], 10, 64)
	if err != nil {
		return err
	}
	pause, err := time.ParseDuration(args[3])
	if err != nil {
		return err
	}
	return floor(args[0], args[1], size, pause)
}

// sendOnly is a transport whose reads wait for its end.
type sendOnly struct {
	net.Conn
	ended chan struct{}
}

func (s sendOnly) Read([]byte) (int, error) { <-s.ended; return 0, io.EOF }

// openStreams opens one connection's streams.
func openStreams(tunnel *spdy.Conn, port string) (*spdy.Stream, error) {
	headers := spdy.Header{"streamType": {"error"}, "port": {port}, "requestID": {"1"}}
	if _, err := tunnel.OpenStream(headers, true); err != nil {
		return nil, err
	}
	return tunnel.OpenStream(spdy.Header{"streamType": {"data"}, "port": {port}, "requestID": {"1"}}, false)
}

// dialTunnel upgrades a connection to the cluster that the kubeconfig names.
func dialTunnel(pod string, pause time.Duration) (net.Conn, error) {
	config, server, err := tlsConfig()
	if err != nil {
		return nil, err
	}
	tcp, err := net.Dial("tcp", server)
	if err != nil {
		return nil, err
	}
	conn := tls.Client(&restingConn{Conn: tcp, pause: pause}, config)
	path := "/api/v1/namespaces/default/pods/" + pod + "/portforward"
	request := "POST " + path + " HTTP/1.1\r\nHost: " + server + "\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n" +
		"X-Stream-Protocol-Version: portforward.k8s.io\r\nContent-Length: 0\r\n\r\n"
	if _, err := io.WriteString(conn, request); err != nil {
		return nil, err
	}
	return conn, readUpgrade(conn)
}

// readUpgrade reads a 101 answer, byte by byte so as to take none of the stream.
func readUpgrade(conn net.Conn) error {
	var answer strings.Builder
	for one := make([]byte, 1); !strings.HasSuffix(answer.String(), "\r\n\r\n"); {
		if _, err := conn.Read(one); err != nil {
			return err
		}
		answer.Write(one)
	}
	if status, _, _ := strings.Cut(answer.String(), "\r\n"); !strings.Contains(status, " 101 ") {
		return errors.New("upgrade: " + status)
	}
	return nil
}

// tlsConfig has the user's credentials for the cluster at the address.
func tlsConfig() (config *tls.Config, address string, err error) {
	loader := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(clientcmd.NewDefaultClientConfigLoadingRules(), nil)
	kube, err := loader.ClientConfig()
	if err != nil {
		return nil, "", err
	}
	u, err := url.Parse(kube.Host)
	if err != nil {
		return nil, "", err
	}
	if config, err = rest.TLSConfigFor(kube); err != nil {
		return nil, "", err
	}
	config.NextProtos, config.ServerName = []string{"http/1.1"}, u.Hostname()
	return config, u.Host, nil
}

// restingConn waits before each read, and reads much at once then.
type restingConn struct {
	net.Conn
	pause  time.Duration
	buf    [chunk]byte
	unread []byte
}

func (c *restingConn) Read(p []byte) (int, error) {
	if c.pause == 0 {
		return c.Conn.Read(p)
	}
	if len(c.unread) == 0 {
		time.Sleep(c.pause)
		n, err := c.Conn.Read(c.buf[:])
		if err != nil {
			return 0, err
		}
		c.unread = c.buf[:n]
	}
	n := copy(p, c.unread)
	c.unread = c.unread[n:]
	return n, nil
}

// ownSeconds is this process' own CPU time, user and system.
func ownSeconds() float64 {
	var usage syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &usage) != nil {
		return 0
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano()).Seconds()
}

// measureFloor runs floor in a process of its own, as the other clients are.
func (b *bench) measureFloor(ctx context.Context, pause time.Duration) (cpu, seconds float64, err error) {
	cmd := exec.CommandContext(ctx, "/proc/self/exe", "floor", b.cluster.pod, b.cluster.port, fmt.Sprint(b.bytes), pause.String())
	out, err := cmd.Output()
	if err == nil {
		_, err = fmt.Sscan(string(out), &cpu, &seconds)
	}
	return cpu, seconds, err
}
