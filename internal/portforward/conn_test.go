package portforward

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/nettest"

	"porthole.dev/porthole/internal/spdy"
	"porthole.dev/porthole/internal/testenv"
	"porthole.dev/porthole/internal/tunnel"
)

var _ net.Conn = (*stockConn)(nil)

const refusal = "error forwarding port 80 to pod x, uid : failed to connect to localhost:80: connection refused"

// peer is the server's end of a connection, with both streams ended as one.
type peer struct {
	*spdy.Stream
	text *spdy.Stream
}

func (p peer) Close() error { return errors.Join(p.text.Close(), p.Stream.Close()) }

func TestConn(t *testing.T) {
	ways(t, func(t *testing.T, way func(*Client)) {
		nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
			peers := make(chan peer, 1)
			s := start(t, func(r *request) { peers <- peer{r.data, r.text} })
			c := s.client(t, way)
			c1 = dial(t, c, 80)
			return c1, <-peers, func() { c.Close(); s.cut() }, nil
		})
	})
}

func TestBulk(t *testing.T) {
	ways(t, func(t *testing.T, way func(*Client)) {
		conn := dial(t, start(t, echo).client(t, way), 80)
		defer conn.Close()
		sent := make([]byte, 8<<20)
		rand.NewChaCha8([32]byte{1}).Read(sent)
		go func() {
			conn.Write(sent)
			conn.CloseWrite()
		}()
		var got bytes.Buffer
		if n, err := io.Copy(&got, conn); err != nil || n != int64(len(sent)) || !bytes.Equal(sent, got.Bytes()) {
			t.Errorf("%d bytes came back, %v", n, err)
		}
	})
}

// With a warm tunnel the first byte is back after one round trip: the port has what the client
// says while nothing that the server says has reached the client.
func TestFirstByteTakesOneRoundTrip(t *testing.T) {
	ways(t, func(t *testing.T, way func(*Client)) {
		arrived := make(chan error, 1)
		s := start(t, func(r *request) {
			_, err := io.ReadFull(r.data, make([]byte, 1))
			arrived <- err
			r.data.Write([]byte("y"))
			r.finish()
		})
		target, _ := url.Parse(s.http.URL)
		var back sync.Mutex
		target.Host = heldUp(t, target.Host, &back)
		c := newClient(t, target, way)
		if err := c.Connect(t.Context()); err != nil {
			t.Fatal(err)
		}
		back.Lock()
		conn := dial(t, c, 80)
		defer conn.Close()
		mustWrite(t, conn, "x")
		select {
		case err := <-arrived:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(testenv.Patience):
			t.Error("nothing reaches the port before the server has answered")
		}
		back.Unlock()
		mustRead(t, conn, "y")
	})
}

func TestHalfClose(t *testing.T) {
	conn := dial(t, start(t, func(r *request) {
		question, _ := io.ReadAll(r.data)
		time.Sleep(200 * time.Millisecond)
		r.data.Write(append(question, '!'))
		r.finish()
	}).client(t), 80)
	defer conn.Close()
	mustWrite(t, conn, "question")
	if err := conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(conn); err != nil || string(got) != "question!" {
		t.Errorf("read %q, %v", got, err)
	}
}

// A server that half-closes and goes on reading leaves the error stream open. The
// end of file comes all the same, although it must be held back for a while.
func TestServerHalfCloses(t *testing.T) {
	uploaded := make(chan int, 1)
	conn := dial(t, start(t, func(r *request) {
		io.WriteString(r.data, "enough")
		r.data.CloseWrite()
		b, _ := io.ReadAll(r.data)
		uploaded <- len(b)
		r.text.Close()
	}).client(t), 80)
	defer conn.Close()
	if got, err := io.ReadAll(conn); err != nil || string(got) != "enough" {
		t.Fatalf("read %q, %v", got, err)
	}
	mustWrite(t, conn, strings.Repeat("x", 1<<20))
	if err := conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if n := <-uploaded; n != 1<<20 {
		t.Errorf("%d bytes arrived", n)
	}
}

// An end of file without a word is held back for as long as it takes when there
// is nothing more to send.
func TestEndWaitsForResult(t *testing.T) {
	go1 := make(chan struct{})
	conn := dial(t, start(t, func(r *request) {
		io.Copy(io.Discard, r.data)
		r.data.CloseWrite()
		<-go1
		r.fail("error forwarding port: broken")
	}).client(t), 80)
	defer conn.Close()
	conn.CloseWrite()
	conn.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
	if n, err := conn.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read %d, %v", n, err)
	}
	conn.SetReadDeadline(time.Time{})
	close(go1)
	if _, err := io.ReadAll(conn); err == nil || err.Error() != "error forwarding port: broken" {
		t.Errorf("read: %v", err)
	}
}

// However the server orders it, an error never looks like an end.
func TestErrorIsNeverAnEnd(t *testing.T) {
	t.Parallel()
	orders := map[string]func(*request){
		"text, resets": func(r *request) { r.fail(refusal) },
		"end, text, reset": func(r *request) {
			r.data.CloseWrite()
			time.Sleep(50 * time.Millisecond)
			r.fail(refusal)
		},
		"text, ends": func(r *request) {
			io.WriteString(r.text, refusal)
			r.finish()
		},
		"text only":         func(r *request) { io.WriteString(r.text, refusal) },
		"reset, later text": func(r *request) { r.data.Reset(); time.Sleep(50 * time.Millisecond); r.fail(refusal) },
		"bytes, then words": func(r *request) { io.WriteString(r.data, "half"); r.data.CloseWrite(); r.fail(refusal) },
	}
	for name, order := range orders {
		t.Run(name, func(t *testing.T) {
			c := start(t, order).client(t)
			conn := dial(t, c, 80)
			defer conn.Close()
			_, err := io.ReadAll(conn)
			var port *tunnel.PortError
			if !errors.As(err, &port) || port.To.Port != 80 || port.Text != refusal || !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("read: %v", err)
			}
			if _, err := conn.Write([]byte("x")); !errors.As(err, &port) {
				t.Errorf("write: %v", err)
			}
			if _, err := conn.WriteTo(io.Discard); !errors.As(err, &port) {
				t.Errorf("write to: %v", err)
			}
			if err := conn.CloseWrite(); !errors.As(err, &port) {
				t.Errorf("close write: %v", err)
			}
		})
	}
}

func TestErrorTextIsBounded(t *testing.T) {
	conn := dial(t, start(t, func(r *request) {
		r.fail(strings.Repeat("é", 1<<20))
	}).client(t), 80)
	defer conn.Close()
	_, err := io.ReadAll(conn)
	var port *tunnel.PortError
	if !errors.As(err, &port) || len(port.Text) > tunnel.MaxText || strings.Trim(port.Text, "é") != "" {
		t.Errorf("read: %.100v", err)
	}
	if errors.Is(err, syscall.ECONNREFUSED) {
		t.Error("taken for a refusal")
	}
}

func TestServerResets(t *testing.T) {
	conn := dial(t, start(t, func(r *request) {
		io.ReadFull(r.data, make([]byte, 1))
		r.data.Reset()
		r.text.Close()
	}).client(t), 80)
	defer conn.Close()
	mustWrite(t, conn, "x")
	if n, err := conn.Read(make([]byte, 1)); !errors.Is(err, tunnel.ErrReset) {
		t.Errorf("read %d, %v", n, err)
	}
}

// Once the server is through, writing fails and the tunnel is not blocked.
func TestServerIsThrough(t *testing.T) {
	conn := dial(t, start(t, func(r *request) {
		io.WriteString(r.data, "bye")
		r.finish()
	}).client(t), 80)
	defer conn.Close()
	mustRead(t, conn, "bye")
	if n, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Fatalf("read %d, %v", n, err)
	}
	if _, err := conn.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
		t.Errorf("write: %v", err)
	}
	if err := conn.CloseWrite(); err != nil {
		t.Errorf("close write: %v", err)
	}
}

// The end of the error stream may overtake that of the data stream: still an end.
func TestErrorStreamEndsFirst(t *testing.T) {
	c := start(t, func(r *request) {
		io.ReadFull(r.data, make([]byte, 1))
		r.text.Close()
		time.Sleep(100 * time.Millisecond)
		io.WriteString(r.data, "late")
		r.data.CloseWrite()
	}).client(t)
	conn := dial(t, c, 80)
	defer conn.Close()
	mustWrite(t, conn, "x")
	if got, err := io.ReadAll(conn); err != nil || string(got) != "late" {
		t.Errorf("read %q, %v", got, err)
	}
}

// A write that waits for a stalled server ends when the server is through.
func TestBlockedWriteEnds(t *testing.T) {
	conn := dial(t, start(t, func(r *request) {
		time.Sleep(300 * time.Millisecond)
		r.fail(refusal)
	}).client(t), 80)
	defer conn.Close()
	var port *tunnel.PortError
	if _, err := conn.Write(make([]byte, 64<<20)); !errors.As(err, &port) {
		t.Errorf("write: %v", err)
	}
}

func TestCloseReachesServer(t *testing.T) {
	for name, end := range map[string]func(*stockConn) error{"close": (*stockConn).Close, "reset": (*stockConn).Reset} {
		t.Run(name, func(t *testing.T) {
			ended := make(chan error, 1)
			conn := dial(t, start(t, func(r *request) {
				_, err := io.Copy(io.Discard, r.data)
				ended <- err
				r.finish()
			}).client(t), 80)
			mustWrite(t, conn, "x")
			end(conn)
			if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
				t.Errorf("read: %v", err)
			}
			if _, err := conn.Write(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
				t.Errorf("write: %v", err)
			}
			if err := <-ended; (err == nil) != (name == "close") {
				t.Errorf("server: %v", err)
			}
		})
	}
}

// A broken tunnel fails every connection in it, and none sees an end.
func TestTunnelBreaks(t *testing.T) {
	s := start(t, func(r *request) {
		io.WriteString(r.data, "half an ")
		io.Copy(io.Discard, r.data)
	})
	c := s.client(t, func(c *Client) { c.MaxTunnels = 2 })
	var conns []*stockConn
	for range 10 {
		conn := dial(t, c, 80)
		defer conn.Close()
		mustRead(t, conn, "half an ")
		conns = append(conns, conn)
	}
	s.cut()
	for _, conn := range conns {
		if _, err := io.ReadAll(conn); !errors.Is(err, tunnel.ErrTunnel) || errors.Is(err, io.EOF) {
			t.Errorf("read: %v", err)
		}
		if _, err := conn.Write([]byte("x")); !errors.Is(err, tunnel.ErrTunnel) {
			t.Errorf("write: %v", err)
		}
	}
}
