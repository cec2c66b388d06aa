package interop

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/nettest"

	"porthole.dev/porthole/internal/pipe"
	ours "porthole.dev/porthole/internal/portforward"
	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/testenv"
	"porthole.dev/porthole/internal/tunnel"
)

// servers runs a test against a server that half-closes exactly and against one
// that lingers for a second.
func servers(t *testing.T, test func(t *testing.T, r runtime, way func(*ours.Client))) {
	t.Run("exact", func(t *testing.T) {
		ways(t, func(t *testing.T, way func(*ours.Client)) { test(t, runtime{}, way) })
	})
	t.Run("lingering", func(t *testing.T) {
		ways(t, func(t *testing.T, way func(*ours.Client)) { test(t, runtime{linger: time.Second}, way) })
	})
}

func TestConn(t *testing.T) {
	servers(t, func(t *testing.T, r runtime, way func(*ours.Client)) {
		nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
			peers := make(chan net.Conn, 1)
			done := make(chan struct{})
			port := testenv.ServeTCP(t, func(conn *net.TCPConn) {
				peers <- conn
				<-done
			})
			c := start(t, r).client(t, way)
			c1 = dial(t, c, port).(net.Conn)
			return c1, <-peers, func() { close(done); c.Close() }, nil
		})
	})
}

func TestBulk(t *testing.T) {
	servers(t, func(t *testing.T, r runtime, way func(*ours.Client)) {
		sent := make([]byte, 64<<20)
		if r.linger > 0 { // it has that long for what is in flight at the end
			sent = sent[:4<<20]
		}
		rand.NewChaCha8([32]byte{1}).Read(sent)
		conn := dial(t, start(t, r).client(t, way), testenv.ServeTCP(t, testenv.Echo))
		defer conn.Close()
		go func() {
			conn.Write(sent)
			conn.CloseWrite()
		}()
		var got bytes.Buffer
		if n, err := io.Copy(&got, conn); err != nil || !bytes.Equal(sent, got.Bytes()) {
			t.Errorf("%d bytes came back, %v", n, err)
		}
	})
}

func TestRefused(t *testing.T) {
	servers(t, func(t *testing.T, r runtime, way func(*ours.Client)) {
		s := start(t, r)
		c := s.client(t, way)
		port := testenv.FreePort(t)
		for range 100 {
			conn := dial(t, c, port)
			_, err := io.ReadAll(conn)
			var refused *tunnel.PortError
			if !errors.As(err, &refused) || refused.To.Port != port || !errors.Is(err, syscall.ECONNREFUSED) {
				t.Fatalf("read: %v", err)
			}
			conn.Close()
		}
		if err := exchange(c, testenv.ServeTCP(t, testenv.Echo), 1); err != nil {
			t.Error(err)
		}
		if n := s.tunnels.Load(); n > 2 {
			t.Errorf("%d tunnels", n)
		}
	})
}

// Refused all at once, in shared tunnels: none looks like an end.
func TestRefusedAtOnce(t *testing.T) {
	servers(t, func(t *testing.T, r runtime, way func(*ours.Client)) {
		c := start(t, r).client(t, way)
		port := testenv.FreePort(t)
		var work sync.WaitGroup
		for range 200 {
			work.Go(func() {
				conn, err := c.Dial(t.Context(), target.TCPPort(port))
				if err != nil {
					t.Error(err)
					return
				}
				defer conn.Close()
				conn.Write([]byte("hello"))
				if _, err := io.ReadAll(conn); !errors.Is(err, syscall.ECONNREFUSED) {
					t.Errorf("read: %v", err)
				}
			})
		}
		work.Wait()
	})
}

// The port's reset in the middle of its answer is an error, with its words.
func TestPortResets(t *testing.T) {
	servers(t, func(t *testing.T, r runtime, way func(*ours.Client)) {
		port := testenv.ServeTCP(t, func(conn *net.TCPConn) {
			conn.Write(make([]byte, 1<<20))
			io.ReadFull(conn, make([]byte, 1))
			conn.SetLinger(0)
		})
		conn := dial(t, start(t, r).client(t, way), port)
		defer conn.Close()
		if _, err := io.ReadFull(conn, make([]byte, 1<<20)); err != nil {
			t.Fatal(err)
		}
		conn.Write([]byte("xy"))
		var reset *tunnel.PortError
		if _, err := io.ReadAll(conn); !errors.As(err, &reset) {
			t.Errorf("read: %v", err)
		}
	})
}

// What the port answers before it resets the connection arrives, and then the reset: it
// answers an upload, and closes with most of that unread.
func TestAnswerBeforeReset(t *testing.T) {
	answer := bytes.Repeat([]byte("a"), 229)
	servers(t, func(t *testing.T, r runtime, way func(*ours.Client)) {
		port := testenv.ServeTCP(t, func(conn *net.TCPConn) {
			io.ReadFull(conn, make([]byte, 1))
			conn.Write(answer)
		})
		c := start(t, r).client(t, way)
		var copier pipe.Copier
		defer copier.Close()
		tries := 50
		if r.linger > 0 { // which is how long each may take
			tries = 10
		}
		for i := range tries {
			client, near := testenv.TCPPair(t)
			done := make(chan error, 1)
			remote := dial(t, c, port)
			go func() { _, err := copier.Copy(near, remote); done <- err }()
			go client.Write(make([]byte, 300_000))
			got, err := io.ReadAll(client)
			if !bytes.Equal(got, answer) {
				t.Fatalf("try %d: %d bytes of the answer, then %v", i, len(got), err)
			}
			if err := <-done; err == nil {
				t.Fatalf("try %d: the copy ends without an error", i)
			}
			client.Close()
		}
	})
}

// The answer comes long after the question's end, from a server that allows it.
func TestHalfClose(t *testing.T) {
	ways(t, func(t *testing.T, way func(*ours.Client)) {
		port := testenv.ServeTCP(t, func(conn *net.TCPConn) {
			question, _ := io.ReadAll(conn)
			time.Sleep(500 * time.Millisecond)
			conn.Write(append(question, '!'))
		})
		conn := dial(t, start(t, runtime{}).client(t, way), port)
		defer conn.Close()
		io.WriteString(conn, "question")
		conn.CloseWrite()
		if got, err := io.ReadAll(conn); err != nil || string(got) != "question!" {
			t.Errorf("read %q, %v", got, err)
		}
	})
}

// The port ends its half first: the end arrives, and the upload goes on to its own.
func TestPortHalfCloses(t *testing.T) {
	ways(t, func(t *testing.T, way func(*ours.Client)) {
		uploaded := make(chan int64, 1)
		port := testenv.ServeTCP(t, func(conn *net.TCPConn) {
			io.WriteString(conn, "enough")
			conn.CloseWrite()
			n, _ := io.Copy(io.Discard, conn)
			uploaded <- n
		})
		conn := dial(t, start(t, runtime{}).client(t, way), port)
		defer conn.Close()
		if got, err := io.ReadAll(conn); err != nil || string(got) != "enough" {
			t.Fatalf("read %q, %v", got, err)
		}
		const size = 16 << 20
		if _, err := conn.Write(make([]byte, size)); err != nil {
			t.Fatal(err)
		}
		conn.CloseWrite()
		if n := <-uploaded; n != size {
			t.Errorf("%d bytes arrived", n)
		}
	})
}

// The port closes while the upload is under way. A lingering server cuts it off,
// which is an error here and clogs no tunnel for those that follow.
func TestPortClosesDuringUpload(t *testing.T) {
	servers(t, func(t *testing.T, r runtime, way func(*ours.Client)) {
		port := testenv.ServeTCP(t, func(conn *net.TCPConn) {
			io.ReadFull(conn, make([]byte, 1<<20))
			conn.CloseWrite()
			time.Sleep(50 * time.Millisecond)
		})
		back := testenv.ServeTCP(t, testenv.Echo)
		c := start(t, r).client(t, way)
		for range 3 {
			conn := dial(t, c, port)
			if n, err := conn.Write(make([]byte, 256<<20)); err == nil {
				t.Errorf("wrote %d bytes", n)
			}
			conn.Close()
			if err := exchange(c, back, 1<<20); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// A cancelled download leaves everything usable.
func TestResetMidway(t *testing.T) {
	servers(t, func(t *testing.T, r runtime, way func(*ours.Client)) {
		download := testenv.ServeTCP(t, func(conn *net.TCPConn) {
			for {
				if _, err := conn.Write(make([]byte, 64<<10)); err != nil {
					return
				}
			}
		})
		back := testenv.ServeTCP(t, testenv.Echo)
		c := start(t, r).client(t, way)
		for range 5 {
			conn := dial(t, c, download)
			if _, err := io.CopyN(io.Discard, conn, 4<<20); err != nil {
				t.Fatal(err)
			}
			pipe.Reset(conn)
			if err := exchange(c, back, 1<<20); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// One that nobody reads does not hold up the others, which go to other tunnels.
func TestStalledReader(t *testing.T) {
	ways(t, func(t *testing.T, way func(*ours.Client)) {
		download := testenv.ServeTCP(t, func(conn *net.TCPConn) {
			for {
				if _, err := conn.Write(make([]byte, 64<<10)); err != nil {
					return
				}
			}
		})
		back := testenv.ServeTCP(t, testenv.Echo)
		c := start(t, runtime{}).client(t, way)
		stalled := dial(t, c, download)
		defer pipe.Reset(stalled)
		time.Sleep(400 * time.Millisecond)
		var slowest time.Duration
		for range 200 {
			began := time.Now()
			if err := exchange(c, back, 100); err != nil {
				t.Fatal(err)
			}
			slowest = max(slowest, time.Since(began))
		}
		t.Logf("slowest %v", slowest)
	})
}

func TestManyAtOnce(t *testing.T) {
	servers(t, func(t *testing.T, r runtime, way func(*ours.Client)) {
		s := start(t, r)
		c := s.client(t, way)
		port := testenv.ServeTCP(t, testenv.Echo)
		if err := c.Connect(t.Context()); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		var work sync.WaitGroup
		for range 200 {
			work.Go(func() {
				if err := exchange(c, port, 10_000); err != nil {
					t.Error(err)
				}
			})
		}
		work.Wait()
		t.Logf("200 in %v, %d tunnels", time.Since(began), s.tunnels.Load())
	})
}

// Thousands of connections one after the other, for which the compression of the
// headers goes through its window many times.
func TestManyInTurn(t *testing.T) {
	ways(t, func(t *testing.T, way func(*ours.Client)) {
		s := start(t, runtime{})
		c := s.client(t, way)
		port := testenv.ServeTCP(t, testenv.Echo)
		for range 5_000 {
			if err := exchange(c, port, 10); err != nil {
				t.Fatal(err)
			}
		}
		if n := s.tunnels.Load(); n > 50 { // a slow machine sees need for some
			t.Errorf("%d tunnels", n)
		}
	})
}

// The API server goes away under live connections: none sees an end, and the next
// dial comes through.
func TestTunnelsBreak(t *testing.T) {
	servers(t, func(t *testing.T, r runtime, way func(*ours.Client)) {
		s := start(t, r)
		c := s.client(t, way)
		port := testenv.ServeTCP(t, testenv.Echo)
		var conns []pipe.Conn
		for range 50 {
			conn := dial(t, c, port)
			defer conn.Close()
			conn.Write([]byte("x"))
			if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
			conns = append(conns, conn)
		}
		s.cut()
		for _, conn := range conns {
			if _, err := io.ReadAll(conn); !errors.Is(err, tunnel.ErrTunnel) {
				t.Errorf("read: %v", err)
			}
		}
		if err := exchange(c, port, 1000); err != nil {
			t.Error(err)
		}
	})
}

// The node being gone is the API server's answer, not a broken tunnel.
func TestStatus(t *testing.T) {
	ways(t, func(t *testing.T, way func(*ours.Client)) {
		s := start(t, runtime{})
		s.api.Config.Handler = nil // http.DefaultServeMux, which has nothing
		var status *ours.StatusError
		if err := s.client(t, way).Connect(t.Context()); !errors.As(err, &status) || status.Code != 404 {
			t.Errorf("connect: %v", err)
		}
	})
}
