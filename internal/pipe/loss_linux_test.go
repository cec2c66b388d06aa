package pipe_test

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
)

const (
	answerSize = 229
	uploadSize = 300_000
)

// answerAndClose is a server that refuses an upload: it answers, and closes with most of
// the upload unread, for which the kernel sends its answer and then a reset.
func answerAndClose(t *testing.T, server *net.TCPConn, answer []byte) {
	if _, err := io.ReadFull(server, make([]byte, 1)); err != nil {
		t.Error("the server reads:", err)
	}
	if _, err := server.Write(answer); err != nil {
		t.Error("the server writes:", err)
	}
	// Closed with nothing unread it would send an end of file first.
	for end := time.Now().Add(testenv.Patience); unread(t, server) == 0 && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	_ = server.Close()
}

// unread is how much has come and was not read.
func unread(t *testing.T, c *net.TCPConn) (n int) {
	err := raw(t, c).Control(func(fd uintptr) {
		var err error
		if n, err = unix.IoctlGetInt(int(fd), unix.SIOCINQ); err != nil {
			t.Error("unread bytes:", err)
		}
	})
	if err != nil {
		t.Error("unread bytes:", err)
	}
	return n
}

// upload writes while the answer is read, and returns how that ended.
func upload(client *net.TCPConn) (got []byte, written, read error) {
	done := make(chan error, 1)
	go func() {
		_, err := client.Write(make([]byte, uploadSize))
		done <- err
	}()
	got, read = io.ReadAll(client)
	return got, <-done, read
}

// What was answered before a reset arrives before the reset, whenever the upload fails.
func TestAnswerBeforeReset(t *testing.T) {
	answer := bytes.Repeat([]byte("a"), answerSize)
	eachWay(t, func(t *testing.T, start func() proxied) {
		for i := range 200 {
			p := start()
			go answerAndClose(t, p.server, answer)
			got, written, read := upload(p.client)
			if !bytes.Equal(got, answer) {
				t.Fatalf("try %d: %d bytes of the answer, %v", i, len(got), read)
			}
			// Else the write was told. A plain Conn over a socket may have told its own write, and read an end then:
			// the kernel tells whoever asks first, and Copy sees no socket to look at.
			if written == nil && !errors.Is(read, syscall.ECONNRESET) && !strings.HasSuffix(t.Name(), "/plain") {
				t.Fatalf("try %d: the answer ends with %v, want ECONNRESET", i, read)
			}
			if r := p.wait(t); !errors.Is(r.err, syscall.ECONNRESET) && !errors.Is(r.err, syscall.EPIPE) {
				t.Fatalf("try %d: Copy's error is %v", i, r.err)
			}
			_ = p.client.Close()
		}
	})
}

// All that had arrived here before the reset is delivered to a slow reader, although it is
// more than sockets hold.
func TestAnswerBeforeResetToSlowReader(t *testing.T) {
	const size = 3 << 20
	eachWay(t, func(t *testing.T, start func() proxied) {
		if strings.HasSuffix(t.Name(), "/plain") {
			return // there is no socket, and so it is the Conn's to wait
		}
		p := start()
		server, client := p.client, p.server // who reads is behind a socket, whatever the way
		must(t, client.SetReadBuffer(64<<10))
		go func() {
			_, _ = server.Write(make([]byte, size))
			awaitArrival(t, server)
			_ = pipe.Reset(server)
		}()
		total := 0
		var err error
		for buf := make([]byte, size/10); err == nil; time.Sleep(50 * time.Millisecond) {
			var n int
			n, err = io.ReadFull(client, buf)
			total += n
		}
		if total != size || !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%d of %d bytes, then %v", total, size, err)
		}
		p.wait(t)
	})
}

// awaitArrival waits until the peer's kernel has all that was written.
func awaitArrival(t *testing.T, c *net.TCPConn) {
	for end := time.Now().Add(testenv.Patience); ; time.Sleep(time.Millisecond) {
		var left int
		raw, err := c.SyscallConn()
		if err == nil {
			err = raw.Control(func(fd uintptr) { left, err = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) })
		}
		if err != nil || time.Now().After(end) {
			t.Errorf("%d bytes have not arrived, %v", left, err)
			return
		}
		if left == 0 {
			return
		}
	}
}

// A reset goes on to who does not read, although what was said before it cannot be
// delivered: also where it shows first by a write that fails.
func TestFailedWriteBehindStalledReader(t *testing.T) {
	testenv.NoLeaks(t)
	for _, way := range []string{"splice", "nopipes", "mixed", "spliceFrom"} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			c := pipe.Copier{MaxPipes: ways[way].maxPipes}
			t.Cleanup(c.Close)
			p := newProxied(t, &c, way)
			fill(t, p.server)
			must(t, pipe.Reset(p.server))
			_, _ = p.client.Write([]byte("x"))
			select {
			case r := <-p.done:
				if r.err == nil {
					t.Error("Copy ends without an error")
				}
			case <-time.After(testenv.Patience):
				t.Fatal("the connection is held by a reader that stands still")
			}
		})
	}
}

// An end of file that came before the reset is one, and the reset comes behind it.
func TestEndBeforeReset(t *testing.T) {
	eachWay(t, func(t *testing.T, start func() proxied) {
		for range 50 {
			p := start()
			write(t, p.server, "answer")
			must(t, p.server.CloseWrite())
			read(t, p.client, "answer")
			must(t, p.server.Close())
			for err := error(nil); err == nil; {
				_, err = p.client.Write([]byte("upload that goes on"))
			}
			if r := p.wait(t); r.err == nil {
				t.Error("Copy ends without an error")
			}
		}
	})
}
