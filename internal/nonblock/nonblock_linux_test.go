package nonblock_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/net/nettest"
	"golang.org/x/sys/unix"

	"porthole.dev/porthole/internal/nonblock"
	"porthole.dev/porthole/internal/testenv"
)

// quick is a connection that is read and written by this package's calls.
type quick struct {
	net.Conn
	io.ReadWriter
}

func (q quick) Read(p []byte) (int, error)  { return q.ReadWriter.Read(p) }
func (q quick) Write(p []byte) (int, error) { return q.ReadWriter.Write(p) }

func quickPair(t testing.TB) (a, b quick) {
	t.Helper()
	dialed, accepted := testenv.TCPPair(t)
	return quick{dialed, nonblock.Of(dialed)}, quick{accepted, nonblock.Of(accepted)}
}

func TestConn(t *testing.T) {
	testenv.NoLeaks(t)
	nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
		a, b := quickPair(t)
		return a, b, func() { _ = a.Close(); _ = b.Close() }, nil
	})
}

// More than the kernel takes at once arrives whole, and the end behind it.
func TestLarge(t *testing.T) {
	a, b := quickPair(t)
	want := bytes.Repeat([]byte("0123456789abcdef"), 1<<20)
	go func() {
		_, _ = a.Write(want)
		_ = a.Close()
	}()
	got, err := io.ReadAll(b)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("read %d bytes, %v, want %d", len(got), err, len(want))
	}
}

func TestErrors(t *testing.T) {
	a, b := quickPair(t)
	_ = a.Conn.(*net.TCPConn).SetLinger(0)
	_ = a.Close()
	if _, err := b.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("read of a reset connection: %v", err)
	}
	if _, err := b.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
		t.Errorf("write to a reset connection: %v", err)
	}
	if _, err := a.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("read after Close: %v", err)
	}
	if _, err := a.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("write after Close: %v", err)
	}
}

// What is no socket is used as it is.
func TestOfOthers(t *testing.T) {
	var buf bytes.Buffer
	if got := nonblock.Of(&buf); got != &buf {
		t.Errorf("a buffer became a %T", got)
	}
}

// Bytes go through a pipe, and behind what announces more.
func TestSplice(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	a, b := quickPair(t)
	fd := descriptor(t, a.Conn.(*net.TCPConn))
	if _, err := nonblock.Splice(fd, int(w.Fd()), 100); !errors.Is(err, unix.EAGAIN) {
		t.Errorf("splice of a silent socket: %v", err)
	}
	if _, err := w.WriteString("behind"); err != nil {
		t.Fatal(err)
	}
	if n, err := nonblock.WriteMore(fd, []byte("ahead, ")); n != 7 || err != nil {
		t.Errorf("WriteMore: %d, %v", n, err)
	}
	if n, err := nonblock.Splice(int(r.Fd()), fd, 100); n != 6 || err != nil {
		t.Errorf("Splice: %d, %v", n, err)
	}
	_ = a.Close()
	if got, err := io.ReadAll(b); err != nil || string(got) != "ahead, behind" {
		t.Errorf("read %q, %v", got, err)
	}
	if _, err := nonblock.Write(-1, []byte(strings.Repeat("x", 9))); !errors.Is(err, unix.EBADF) {
		t.Errorf("write to nothing: %v", err)
	}
	if _, err := nonblock.Read(-1, nil); !errors.Is(err, unix.EBADF) {
		t.Errorf("read from nothing: %v", err)
	}
}

// descriptor is valid for as long as c is open.
func descriptor(t *testing.T, c *net.TCPConn) (fd int) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(d uintptr) { fd = int(d) }); err != nil {
		t.Fatal(err)
	}
	return fd
}
