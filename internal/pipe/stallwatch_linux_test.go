package pipe_test

import (
	"errors"
	"net"
	"syscall"
	"testing"
	"time"

	"porthole.dev/porthole/internal/pipe"
	"porthole.dev/porthole/internal/testenv"
)

// A look that comes when the write has ended leaves the source's error to its reader, and
// does not come again.
func TestLookAfterWrite(t *testing.T) {
	testenv.NoLeaks(t)
	src, peer := testenv.TCPPair(t)
	dst, _ := testenv.TCPPair(t)
	w := pipe.NewTimedWriter(dst, src)
	if _, err := w.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	must(t, pipe.Reset(peer))
	awaitError(t, src)
	for range 2 * pipe.GiveUpChecks { // as a timer may that had fired before it was stopped
		w.CheckStall()
	}
	if w.StopTimer() {
		t.Error("the timer runs although no write does")
	}
	if _, err := w.Write([]byte("x")); err != nil {
		t.Errorf("the next write fails: %v", err)
	}
	if _, err := src.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the source's reader gets %v, want ECONNRESET", err)
	}
}

// awaitError waits until a socket has an error to tell.
func awaitError(t *testing.T, c *net.TCPConn) {
	t.Helper()
	for end := time.Now().Add(testenv.Patience); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if pipe.HasError(c) {
			return
		}
	}
	t.Fatal("the reset does not arrive")
}

// An end of file is none where a failed write has taken the reset away, and one where the
// peer's end had come before or where this side had ended, too.
func TestConfirmEnd(t *testing.T) {
	for name, test := range map[string]struct {
		peer func(*net.TCPConn)
		end  func(*pipe.Side, *net.TCPConn)
		want error
	}{
		"reset": {func(p *net.TCPConn) { _ = pipe.Reset(p) }, func(e *pipe.Side, c *net.TCPConn) {
			_, err := c.Write([]byte("x"))
			time.AfterFunc(20*time.Millisecond, func() { e.MarkLost(err) })
		}, syscall.ECONNRESET},
		"end, then reset": {func(p *net.TCPConn) { _ = p.Close() }, func(e *pipe.Side, c *net.TCPConn) {
			var err error
			for err == nil {
				_, err = c.Write([]byte("x"))
			}
			time.AfterFunc(20*time.Millisecond, func() { e.MarkLost(err) })
		}, nil},
		"end": {func(p *net.TCPConn) { _ = p.Close() }, func(*pipe.Side, *net.TCPConn) {}, nil},
		"two ends": {func(p *net.TCPConn) { _ = p.Close() }, func(e *pipe.Side, c *net.TCPConn) {
			e.SetWriteClosed()
			_ = c.CloseWrite()
		}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			testenv.NoLeaks(t)
			c, peer := testenv.TCPPair(t)
			e := pipe.NewSide(c)
			test.peer(peer)
			if test.want != nil {
				awaitError(t, c)
			} else if n, err := c.Read(make([]byte, 1)); n != 0 || err == nil {
				t.Fatalf("read %d, %v", n, err)
			}
			test.end(e, c)
			if n, _ := c.Read(make([]byte, 1)); n != 0 {
				t.Fatal("there is something to read")
			}
			if err := e.ConfirmEOF(); !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
		})
	}
}
