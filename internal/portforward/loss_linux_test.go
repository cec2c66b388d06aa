package portforward

import (
	"bytes"
	"errors"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"porthole.dev/porthole/internal/pipe"
	"porthole.dev/porthole/internal/testenv"
	"porthole.dev/porthole/internal/tunnel"
)

// joined returns the client's end of a local connection that is copied to and from conn,
// as a session does it, and what becomes of that.
func joined(t *testing.T, copier *pipe.Copier, conn pipe.Conn) (*net.TCPConn, <-chan error) {
	t.Helper()
	client, near := testenv.TCPPair(t)
	done := make(chan error, 1)
	go func() {
		_, err := copier.Copy(near, conn)
		done <- err
	}()
	t.Cleanup(func() { _ = client.Close() })
	return client, done
}

// ends fails the test unless a copy ends with an error.
func ends(t *testing.T, done <-chan error) error {
	t.Helper()
	select {
	case err := <-done:
		if err == nil {
			t.Error("a connection that was lost ends without an error")
		}
		return err
	case <-time.After(testenv.Patience):
		t.Fatal("a connection that was lost is still held")
		return nil
	}
}

// refusing answers an upload and closes with most of it unread, for which its kernel
// sends the answer and then a reset.
func refusing(t *testing.T, answer []byte) func(*net.TCPConn) {
	return func(conn *net.TCPConn) {
		if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
			t.Error("the port reads:", err)
		}
		if _, err := conn.Write(answer); err != nil {
			t.Error("the port writes:", err)
		}
	}
}

// uploading writes while it reads the answer, and returns how that ended.
func uploading(client *net.TCPConn) (got []byte, written, read error) {
	done := make(chan error, 1)
	go func() {
		_, err := client.Write(make([]byte, 300_000))
		done <- err
	}()
	got, read = io.ReadAll(client)
	return got, <-done, read
}

// What a port answers before it resets the connection arrives, and then the reset.
func TestNodeAnswersBeforeReset(t *testing.T) {
	answer := bytes.Repeat([]byte("a"), 229)
	forms(t, func(t *testing.T, form func(*Client)) {
		t.Parallel()
		var copier pipe.Copier
		t.Cleanup(copier.Close)
		n := newNode(t)
		c := n.client(t, form)
		port := testenv.ServeTCP(t, refusing(t, answer))
		for i := range 100 {
			client, done := joined(t, &copier, reach(t, c, port))
			got, written, read := uploading(client)
			if !bytes.Equal(got, answer) {
				t.Fatalf("try %d: %d bytes of the answer, %v", i, len(got), read)
			}
			if written == nil && !errors.Is(read, syscall.ECONNRESET) { // else the write was told
				t.Fatalf("try %d: the answer ends with %v, want ECONNRESET", i, read)
			}
			ends(t, done)
			_ = client.Close()
		}
		within(t, 20*time.Second, "the ends are told", func() bool { _, ended := n.told(); return len(ended) == 100 })
		for _, e := range second(n.told()) {
			if got := tunnel.ReasonOf(e.Err); got != tunnel.ReasonReset {
				t.Errorf("an end is told as %s: %v", got, e.Err)
			}
		}
	})
}

func second[A, B any](_ A, b B) B { return b }

// The same from the other side: what a client sends before it resets the connection
// arrives at a port that is slow to read, and then the reset.
func TestClientSendsBeforeReset(t *testing.T) {
	const size = 2 << 20
	forms(t, func(t *testing.T, form func(*Client)) {
		t.Parallel()
		var copier pipe.Copier
		t.Cleanup(copier.Close)
		type received struct {
			bytes int
			err   error
		}
		port := make(chan received, 1)
		c := newNode(t).client(t, form)
		conn := reach(t, c, testenv.ServeTCP(t, func(conn *net.TCPConn) {
			var r received
			for buf := make([]byte, size/10); r.err == nil; time.Sleep(20 * time.Millisecond) {
				var n int
				n, r.err = io.ReadFull(conn, buf)
				r.bytes += n
			}
			port <- r
		}))
		client, done := joined(t, &copier, conn)
		if _, err := client.Write(make([]byte, size)); err != nil {
			t.Fatal(err)
		}
		within(t, 30*time.Second, "the bytes are here", func() bool { return unsent(t, client) == 0 })
		_ = pipe.Reset(client)
		ends(t, done)
		if r := <-port; r.bytes != size || !errors.Is(r.err, syscall.ECONNRESET) {
			t.Errorf("%d of %d bytes, then %v", r.bytes, size, r.err)
		}
	})
}

// unsent is how many bytes have not arrived in the peer's kernel.
func unsent(t *testing.T, c *net.TCPConn) (n int) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	_ = raw.Control(func(fd uintptr) { n, err = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) })
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// A connection that is lost behind a local reader that stands still is given up, whatever
// loses it. With a stock server a port's reset is behind bytes that nobody reads.
func TestLossBehindStalledReader(t *testing.T) {
	t.Parallel()
	flood := func(lost <-chan struct{}) func(*net.TCPConn) {
		return func(conn *net.TCPConn) {
			go func() { <-lost; _ = pipe.Reset(conn) }()
			_, _ = io.Copy(conn, endless{})
		}
	}
	for name, lose := range map[string]func(n *node, port chan struct{}){
		"port":   func(_ *node, port chan struct{}) { close(port) },
		"tunnel": func(n *node, _ chan struct{}) { n.cut() },
		"server": func(n *node, _ chan struct{}) { n.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			forms(t, func(t *testing.T, form func(*Client)) {
				t.Parallel()
				var copier pipe.Copier
				t.Cleanup(copier.Close)
				lost := make(chan struct{})
				t.Cleanup(func() { // for those that the test does not lose by it
					select {
					case <-lost:
					default:
						close(lost)
					}
				})
				n := newNode(t)
				conn := reach(t, n.client(t, form), testenv.ServeTCP(t, flood(lost)))
				if _, stock := conn.(*stockConn); stock && name == "port" {
					_ = conn.Reset() // or else the port floods for ever
					return
				}
				client, done := joined(t, &copier, conn)
				if _, err := io.ReadFull(client, make([]byte, 1)); err != nil {
					t.Fatal(err)
				}
				awaitStall(t, client)
				lose(n, lost)
				ends(t, done)
			})
		})
	}
}

// cut breaks all tunnels.
func (n *node) cut() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, c := range n.conns {
		_ = c.Close()
	}
}

// awaitStall waits until nothing more comes for a client that does not read.
func awaitStall(t *testing.T, client *net.TCPConn) {
	t.Helper()
	raw, err := client.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	seen, since := -1, time.Now()
	within(t, 30*time.Second, "the reader holds all up", func() bool {
		var n int
		_ = raw.Control(func(fd uintptr) { n, err = unix.IoctlGetInt(int(fd), unix.SIOCINQ) })
		if err != nil {
			t.Fatal(err)
		}
		if n != seen {
			seen, since = n, time.Now()
		}
		return time.Since(since) > 500*time.Millisecond
	})
}

// A local client that goes away behind a port that stands still takes the port's
// connection along, and the other way round.
func TestClientGoesBehindStall(t *testing.T) {
	t.Parallel()
	for name, serve := range map[string]func(conn *net.TCPConn, gone chan<- error){
		"port takes nothing": func(conn *net.TCPConn, gone chan<- error) {
			raw, _ := conn.SyscallConn()
			for { // without reading: poll(2) tells of a reset all the same
				var fds [1]unix.PollFd
				_ = raw.Control(func(fd uintptr) {
					fds[0].Fd = int32(fd)
					_, _ = unix.Poll(fds[:], 0)
				})
				if fds[0].Revents&unix.POLLERR != 0 {
					gone <- nil
					return
				}
				time.Sleep(10 * time.Millisecond)
			}
		},
		"port floods": func(conn *net.TCPConn, gone chan<- error) {
			_, _ = io.Copy(conn, endless{})
			gone <- nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			forms(t, func(t *testing.T, form func(*Client)) {
				t.Parallel()
				var copier pipe.Copier
				t.Cleanup(copier.Close)
				gone := make(chan error, 1)
				n := newNode(t)
				conn := reach(t, n.client(t, form), testenv.ServeTCP(t, func(conn *net.TCPConn) { serve(conn, gone) }))
				client, done := joined(t, &copier, conn)
				_ = client.SetWriteDeadline(time.Now().Add(time.Second))
				_, _ = client.Write(make([]byte, 64<<20))
				within(t, 20*time.Second, "connection", n.hasOpened)
				_ = pipe.Reset(client)
				ends(t, done)
				select {
				case <-gone:
				case <-time.After(testenv.Patience):
					t.Fatal("the port's connection is still held")
				}
				within(t, 20*time.Second, "the end is told", func() bool { _, ended := n.told(); return len(ended) == 1 })
			})
		})
	}
}

// The words of an error end a connection, and not what came before them.
func TestErrorLeavesWhatCame(t *testing.T) {
	t.Parallel()
	const size = 200_000 // less than a stream holds
	conn := dial(t, start(t, func(r *request) {
		_, _ = r.data.Write(make([]byte, size))
		r.fail("error forwarding port: broken")
	}).client(t), 80)
	defer conn.Close()
	within(t, 20*time.Second, "the result", func() bool { return isDone(conn.over) })
	time.Sleep(lateData + time.Second/2) // so late a reader is
	n, err := io.Copy(io.Discard, conn)
	var port *tunnel.PortError
	if n != size || !errors.As(err, &port) {
		t.Errorf("%d of %d bytes, then %v", n, size, err)
	}
}

// What a port answers before it resets the connection comes ahead of the words for that.
func TestChannelsAnswerBeforeReset(t *testing.T) {
	channelForms(t, func(t *testing.T, open func(*node, ...uint16) *channelClient) {
		n := newNode(t)
		port := testenv.ServeTCP(t, refusing(t, []byte(strings.Repeat("a", 229))))
		for range 30 {
			c := open(n, port)
			go c.send(0, make([]byte, 300_000))
			c.want(0, strings.Repeat("a", 229))
			if channel, words := c.receive(); channel != 1 || !strings.Contains(string(words), "error forwarding port") {
				t.Fatalf("channel %d says %q", channel, words)
			}
			c.ws.CloseNow()
		}
	})
}
