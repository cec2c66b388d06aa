package pipe_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"porthole.dev/porthole/internal/pipe"
	"porthole.dev/porthole/internal/testenv"
)

// raw is a socket as Load takes it.
func raw(t *testing.T, c *net.TCPConn) syscall.RawConn {
	t.Helper()
	r, err := c.SyscallConn()
	must(t, err)
	return r
}

// load waits for bytes of a source.
func load(t *testing.T, splicer *pipe.FrameSplicer, src syscall.RawConn, limit int) int {
	t.Helper()
	for end := time.Now().Add(testenv.Patience); time.Now().Before(end); time.Sleep(time.Millisecond) {
		n, err := splicer.Load(src, limit)
		if n > 0 || err != nil {
			must(t, err)
			return n
		}
	}
	t.Fatal("there is nothing to load")
	return 0
}

// What several sockets say comes behind its heads, and no more of it than was asked for.
func TestFrameSplicer(t *testing.T) {
	testenv.NoLeaks(t)
	c := &pipe.Copier{}
	defer c.Close()
	out, far := testenv.TCPPair(t)
	splicer := c.FrameSplicer(out)
	var want string
	for i := range 3 {
		in, near := testenv.TCPPair(t)
		write(t, in, "hello from here")
		must(t, in.Close())
		src := raw(t, near)
		for _, piece := range []string{"hello ", "from ", "here"} {
			if n := load(t, splicer, src, len(piece)); n > len(piece) {
				t.Fatalf("%d bytes were loaded, not %d", n, len(piece))
			}
			head := fmt.Sprintf("<%d>", i)
			must(t, splicer.Send([]byte(head)))
			want += head + piece
		}
		readable(t, near)
		if n, err := splicer.Load(src, 1); n != 0 || !errors.Is(err, io.EOF) {
			t.Errorf("at the end: %d, %v", n, err)
		}
		must(t, near.Close())
		if _, err := splicer.Load(src, 1); !errors.Is(err, net.ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
	}
	must(t, out.Close())
	if got, err := io.ReadAll(far); err != nil || string(got) != want {
		t.Errorf("read %q, %v, want %q", got, err, want)
	}
}

// Nothing is loaded from a source that is silent, and not without a pipe; a source that
// was reset is no source that has ended.
func TestFrameSplicerLoadsNothing(t *testing.T) {
	testenv.NoLeaks(t)
	c := &pipe.Copier{MaxPipes: -1}
	defer c.Close()
	out, _ := testenv.TCPPair(t)
	in, near := testenv.TCPPair(t)
	write(t, in, "x")
	readable(t, near)
	if n, err := c.FrameSplicer(out).Load(raw(t, near), 1); n != 0 || err != nil {
		t.Errorf("without a pipe: %d, %v", n, err)
	}
	c.MaxPipes = 0
	splicer := c.FrameSplicer(out)
	if n := load(t, splicer, raw(t, near), 9); n != 1 {
		t.Errorf("%d bytes were loaded", n)
	}
	must(t, splicer.Send(nil))
	if n, err := c.FrameSplicer(out).Load(raw(t, near), 1); n != 0 || err != nil {
		t.Errorf("of a silent source: %d, %v", n, err)
	}
	must(t, pipe.Reset(in))
	readable(t, near)
	if n, err := c.FrameSplicer(out).Load(raw(t, near), 1); n != 0 || !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("of a source that was reset: %d, %v", n, err)
	}
	if c.FrameSplicer(plainNet{out}) != nil {
		t.Error("a splicer that is no socket")
	}
}

// plainNet hides that a net.Conn is a socket.
type plainNet struct{ net.Conn }

// Send waits while nobody reads, and no longer than there is a connection; what it held
// is given back.
func TestFrameSplicerStall(t *testing.T) {
	testenv.NoLeaks(t)
	c := &pipe.Copier{MaxPipes: 1}
	defer c.Close()
	out, far := testenv.TCPPair(t)
	splicer := c.FrameSplicer(out)
	in, near := testenv.TCPPair(t)
	go func() {
		for chunk := bytes.Repeat([]byte("x"), 1<<20); ; {
			if _, err := in.Write(chunk); err != nil {
				return
			}
		}
	}()
	failed := make(chan error)
	src := raw(t, near)
	go func() {
		for {
			if n, err := splicer.Load(src, 1<<20); n == 0 && err != nil {
				failed <- err
				return
			} else if n == 0 {
				continue
			}
			if err := splicer.Send([]byte("head")); err != nil {
				failed <- err
				return
			}
		}
	}()
	select {
	case err := <-failed:
		t.Fatal(err)
	case <-time.After(300 * time.Millisecond):
	}
	must(t, pipe.Reset(far))
	if err := <-failed; !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
		t.Errorf("the splicer ended with %v", err)
	}
	if n := load(t, splicer, src, 1); n != 1 { // the only pipe there may be was given back
		t.Errorf("%d bytes were loaded", n)
	}
	_ = splicer.Send(nil)
	must(t, in.Close())
}

// readable waits until a socket has something to say.
func readable(t *testing.T, c *net.TCPConn) {
	t.Helper()
	must(t, raw(t, c).Control(func(fd uintptr) {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if n, err := unix.Poll(fds, int(testenv.Patience.Milliseconds())); n != 1 {
			t.Fatalf("poll: %d, %v", n, err)
		}
	}))
}

// A Conn that draws is given bulk to draw.
func TestBulkIsDrawn(t *testing.T) {
	testenv.NoLeaks(t)
	c := &pipe.Copier{}
	defer c.Close()
	client, near := testenv.TCPPair(t)
	far, server := testenv.TCPPair(t)
	d := asReceiver(c, near).(receiver)
	const size = 8 << 20
	bulk := make(chan error, 1)
	go func() {
		_, err := server.Write(make([]byte, size))
		bulk <- errors.Join(err, server.CloseWrite())
	}()
	done := make(chan result, 1)
	go func() {
		counts, err := c.Copy(d, far)
		done <- result{counts, err}
	}()
	n, err := io.Copy(io.Discard, client)
	must(t, errors.Join(err, client.Close(), <-bulk))
	if r := <-done; n != size || r.err != nil || r.counts.FromB != size {
		t.Errorf("%d of %d bytes came, %d were counted, %v", n, size, r.counts.FromB, r.err)
	}
	if d.taken.Load() == 0 {
		t.Error("nothing was taken by itself")
	}
}
