package e2e

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// wantDownload wants n bytes as the server sends them, and then the end.
func wantDownload(t *testing.T, address string, n int64) {
	t.Helper()
	conn := dial(t, address)
	defer conn.Close()
	if _, err := fmt.Fprintf(conn, "download %d\n", n); err != nil {
		t.Fatal(err)
	}
	got, want := sha256.New(), sha256.New()
	if m, err := io.Copy(got, conn); m != n || err != nil {
		t.Fatalf("downloaded %d bytes of %d, then %v", m, n, err)
	}
	_, _ = io.CopyN(want, rand.NewChaCha8([32]byte{}), n)
	if !bytes.Equal(got.Sum(nil), want.Sum(nil)) {
		t.Error("what was downloaded differs from what was sent")
	}
}

// wantUpload sends n bytes and wants the server to have got all, and to say so.
func wantUpload(t *testing.T, address string, n int64) {
	t.Helper()
	conn := dial(t, address)
	defer conn.Close()
	if _, err := fmt.Fprintf(conn, "upload %d\n", n); err != nil {
		t.Fatal(err)
	}
	sum := sha256.New()
	if m, err := io.CopyN(io.MultiWriter(conn, sum), rand.NewChaCha8([32]byte{1}), n); err != nil {
		t.Fatalf("uploaded %d bytes of %d, then %v", m, n, err)
	}
	answer, err := io.ReadAll(conn)
	if want := fmt.Sprintf("%d %x\n", n, sum.Sum(nil)); string(answer) != want || err != nil {
		t.Fatalf("the server got %q, %v, want %q", answer, err, want)
	}
}

// TestHalfClose holds what can be had on a stock node when the client ends its side first. containerd never tells the
// pod of it, and a second later it ends the connection as if the server had: an answer that comes only after the end of
// the request cannot be had. What must not be is that half of an answer looks whole.
func TestHalfClose(t *testing.T) {
	needCluster(t)
	p := start(t, "forward", "solo", ":8080")
	address := p.address(t, 0)
	t.Run("answer", func(t *testing.T) {
		if got := who(t, address); got != "solo" {
			t.Errorf("got an answer from %s", got)
		}
		answer, err := say(address, "late 0\nrequest")
		t.Logf("an answer to the end of a request: %q, %v", answer, err)
	})
	t.Run("download", func(t *testing.T) { downloadAfterEnd(t, address) })
	if got := who(t, address); got != "solo" {
		t.Errorf("got an answer from %s", got)
	}
}

// withinSecond is an answer that is through in less than the second after which
// a stock runtime ends a connection that one side has ended. What comes later is
// lost there, and no client can tell.
const withinSecond = 8 << 20

// downloadAfterEnd wants all of an answer that comes within the runtime's second.
func downloadAfterEnd(t *testing.T, address string) {
	conn := dial(t, address)
	defer conn.Close()
	if _, err := fmt.Fprintf(conn, "download %d\n", withinSecond); err != nil {
		t.Fatal(err)
	}
	if err := conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	n, err := io.Copy(io.Discard, conn)
	t.Logf("of an answer of %d bytes came %d, then %v", withinSecond, n, err)
	if n < withinSecond || err != nil {
		t.Errorf("%d bytes of %d, %v", n, withinSecond, err)
	}
}

// TestRefused holds that a port where nobody listens is an error of its own connections only.
func TestRefused(t *testing.T) {
	needCluster(t)
	p := start(t, "forward", "solo", ":8080", ":7")
	other := newEchoer(t, p.address(t, 0))
	for range 3 {
		answer, err := say(p.address(t, 1), "x")
		wantReset(t, answer, err)
		if _, err := other.round(); err != nil {
			t.Fatalf("the other connection: %v", err)
		}
	}
	if got := who(t, p.address(t, 0)); got != "solo" {
		t.Errorf("got an answer from %s", got)
	}
	p.interrupt(t)
	refused := regexp.MustCompile(`(?m)^porthole: .*error forwarding port 7: connection refused \(hint: .*\)$`)
	if n := len(refused.FindAllString(p.stderr(), -1)); n != 3 {
		t.Errorf("%d lines for 3 connections that were refused:\n%s", n, p.stderr())
	}
}

// TestServerReset holds that a reset never looks like a clean end, and touches nobody else.
func TestServerReset(t *testing.T) {
	needCluster(t)
	p := start(t, "forward", "solo", ":8080")
	address := p.address(t, 0)
	other := newEchoer(t, address)
	for range 5 {
		answer, err := say(address, "reset\n")
		wantReset(t, answer, err)
		if _, err := other.round(); err != nil {
			t.Fatalf("the other connection: %v", err)
		}
	}
}

// TestStalled holds that who reads nothing, at either end, holds up nobody else.
func TestStalled(t *testing.T) {
	needCluster(t)
	for _, stalled := range []string{"nobody\n", "download 1000000000\n", "stall 60\n"} {
		t.Run(strings.Fields(stalled)[0], func(t *testing.T) {
			p := start(t, "forward", "solo", ":8080")
			address := p.address(t, 0)
			early := newEchoer(t, address)
			time.Sleep(time.Second) // it has a tunnel to itself, and the next has one
			one := dial(t, address)
			if _, err := io.WriteString(one, stalled); err != nil {
				t.Fatal(err)
			}
			if strings.HasPrefix(stalled, "stall") {
				_ = one.SetWriteDeadline(time.Now().Add(2 * time.Second))
				n, err := io.CopyN(one, rand.NewChaCha8([32]byte{}), 1<<30)
				t.Logf("the server that does not read was sent %d bytes, then %v", n, err)
			}
			awaitStandstill(t, one)
			others := []*echoer{early}
			for range 30 {
				others = append(others, newEchoer(t, address))
			}
			wantLively(t, others)
		})
	}
}

// awaitStandstill waits until nothing more has come for a connection that is not read, for
// long enough that everything on the way is full.
func awaitStandstill(t *testing.T, c *net.TCPConn) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	for unread, since := 0, time.Now(); time.Since(since) < 2*time.Second; time.Sleep(50 * time.Millisecond) {
		now := 0
		if cerr := raw.Control(func(fd uintptr) { now, err = unix.IoctlGetInt(int(fd), unix.SIOCINQ) }); cerr != nil || err != nil {
			t.Fatal(cerr, err)
		}
		if now != unread {
			unread, since = now, time.Now()
		}
	}
}

// wantLively has connections echo, one after the other.
func wantLively(t *testing.T, others []*echoer) {
	t.Helper()
	var took []time.Duration
	for range 20 {
		for i, e := range others {
			d, err := e.round()
			if err != nil {
				t.Fatalf("connection %d: %v", i, err)
			}
			took = append(took, d)
		}
	}
	slices.Sort(took)
	t.Logf("round trips: median %v, p99 %v, longest %v", took[len(took)/2], took[len(took)*99/100], took[len(took)-1])
	if p99 := took[len(took)*99/100]; p99 > 5*time.Second {
		t.Errorf("p99 of the others is %v", p99)
	}
}

// TestStalledAmongMany holds that one connection among 300 whose reader stalls holds up those at most which share its
// tunnel, that these lose nothing, and that they go on when it ends.
func TestStalledAmongMany(t *testing.T) {
	needCluster(t)
	p := start(t, "forward", "solo", ":8080")
	address := p.address(t, 0)
	var others []*echoer
	for range 299 {
		others = append(others, newEchoer(t, address))
		time.Sleep(10 * time.Millisecond) // as people come, not as a burst
	}
	if stuck := rounds(t, others, patience); stuck > 0 {
		t.Fatalf("%d connections have no echo before anything stalls", stuck)
	}
	stalled := dial(t, address)
	if _, err := io.WriteString(stalled, "download 1000000000\n"); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2 * time.Second) // until everything on the way is full
	stuck := rounds(t, others, 30*time.Second)
	t.Logf("of 299 connections beside a stalled reader %d wait", stuck)
	if stuck > 10 { // 64 tunnels for all of them
		t.Errorf("%d connections wait for one that stalls", stuck)
	}
	stalled.Close()
	if stuck := pending(others, patience); stuck > 0 {
		t.Errorf("%d connections still wait when nothing stalls any more", stuck)
	}
	p.interrupt(t)
}

// rounds has all connections echo at once and returns how many have no answer in time. Those are left waiting.
func rounds(t *testing.T, all []*echoer, limit time.Duration) (stuck int) {
	t.Helper()
	for _, e := range all {
		if _, err := e.conn.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		e.owed++
	}
	return pending(all, limit)
}

// pending waits for the answers that connections are owed and returns how many have not all of them in time.
func pending(all []*echoer, limit time.Duration) int {
	var stuck atomic.Int32
	var waiting sync.WaitGroup
	for _, e := range all {
		waiting.Go(func() {
			_ = e.conn.SetReadDeadline(time.Now().Add(limit))
			for ; e.owed > 0; e.owed-- {
				if _, err := e.r.ReadByte(); err != nil {
					stuck.Add(1)
					return
				}
			}
		})
	}
	waiting.Wait()
	return int(stuck.Load())
}

// TestCancelled holds that downloads which nobody wants to the end leave the session usable.
func TestCancelled(t *testing.T) {
	needCluster(t)
	p := start(t, "forward", "solo", ":8080")
	address := p.address(t, 0)
	for range 5 {
		conn := dial(t, address)
		if _, err := io.WriteString(conn, "download 1000000000\n"); err != nil {
			t.Fatal(err)
		}
		if _, err := io.CopyN(io.Discard, conn, 1<<20); err != nil {
			t.Fatal(err)
		}
		conn.Close()
		if got := who(t, address); got != "solo" {
			t.Errorf("got an answer from %s", got)
		}
	}
	wantDownload(t, address, 16<<20)
	p.interrupt(t)
}

// TestServerEndsFirst holds what can be had on a stock node when the server ends its side while the client sends:
// containerd cuts the other direction a second later, and until then every byte arrives.
func TestServerEndsFirst(t *testing.T) {
	needCluster(t)
	p := start(t, "forward", "solo", ":8080")
	address := p.address(t, 0)
	const size = 4 << 20
	conn := dial(t, address)
	if _, err := io.WriteString(conn, "sink\n"); err != nil {
		t.Fatal(err)
	}
	if n, err := io.CopyN(conn, rand.NewChaCha8([32]byte{}), size); err != nil {
		t.Fatalf("the upload ended after %d bytes with %v", n, err)
	}
	if err := conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if goodbye, err := io.ReadAll(conn); string(goodbye) != "goodbye\n" || err != nil {
		t.Errorf("got %q, %v", goodbye, err)
	}
	if got := taken(t, address); got != fmt.Sprint(size) {
		t.Errorf("the server took %s bytes of %d", got, size)
	}
	t.Run("later", func(t *testing.T) { uploadAfterEnd(t, address) })
}

// uploadAfterEnd goes on sending for longer than the stock node lets it, and only tells how far that came.
func uploadAfterEnd(t *testing.T, address string) {
	conn := dial(t, address)
	if _, err := io.WriteString(conn, "sink\n"); err != nil {
		t.Fatal(err)
	}
	began, sent := time.Now(), 0
	for time.Since(began) < 4*time.Second {
		n, err := conn.Write(make([]byte, 1000))
		sent += n
		if err != nil {
			t.Logf("the upload ended after %v with %v", time.Since(began).Round(time.Millisecond), err)
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	conn.Close()
	t.Logf("sent %d bytes, of which the server took %s", sent, taken(t, address))
	if got := who(t, address); got != "solo" {
		t.Errorf("got an answer from %s", got)
	}
}

// taken is how many bytes the server's last sink took, once it is over.
func taken(t *testing.T, address string) string {
	t.Helper()
	for range 600 {
		if n := ask(t, address, "taken\n"); n != "-1" {
			return n
		}
		time.Sleep(50 * time.Millisecond)
	}
	return "-1"
}

// TestEndOfFile holds that a client that leaves the end to the server, as one of HTTP/1.0 does, waits for it no longer
// than with kubectl. containerd tells of the end after a second only.
func TestEndOfFile(t *testing.T) {
	needCluster(t)
	kubectls := endAfter(t, startCommand(t, command(c.KubectlPath(), "port-forward", "pod/solo", ":8080")).address(t, 0))
	ours := endAfter(t, start(t, "forward", "solo", ":8080").address(t, 0))
	t.Logf("from the answer to the end: %v, kubectl's %v", ours, kubectls)
	if ours > kubectls+500*time.Millisecond {
		t.Errorf("the end comes %v after the answer, kubectl's after %v", ours, kubectls)
	}
}

// endAfter is how long after its last byte the end of an answer comes, when the machine has nothing else to do: at best.
func endAfter(t *testing.T, address string) time.Duration {
	t.Helper()
	best := patience
	for range 5 {
		best = min(best, endOnce(t, address))
	}
	return best
}

func endOnce(t *testing.T, address string) time.Duration {
	t.Helper()
	conn := dial(t, address)
	defer conn.Close()
	if _, err := io.WriteString(conn, "who\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, make([]byte, len("solo 8080\n"))); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if n, err := conn.Read(make([]byte, 1)); err != io.EOF {
		t.Fatalf("%d bytes more, %v", n, err)
	}
	return time.Since(began).Round(time.Millisecond)
}

// bulk is how much is carried in each direction.
const bulk int64 = 256 << 20

func TestBulk(t *testing.T) {
	needCluster(t)
	p := start(t, "forward", "solo", ":8080")
	address := p.address(t, 0)
	for name, carry := range map[string]func(*testing.T, string, int64){"download": wantDownload, "upload": wantUpload} {
		t.Run(name, func(t *testing.T) {
			began := time.Now()
			carry(t, address, bulk)
			t.Logf("%.0f MB/s", float64(bulk)/1e6/time.Since(began).Seconds())
		})
	}
}

// TestBurst opens 200 connections at once, all of which live at the same time.
func TestBurst(t *testing.T) {
	needCluster(t)
	p := start(t, "forward", "solo", ":8080")
	address := p.address(t, 0)
	began := time.Now()
	var all sync.WaitGroup
	failed := make(chan error, 200)
	hold := make(chan struct{})
	var opened sync.WaitGroup
	for range 200 {
		opened.Add(1)
		all.Go(func() { failed <- echoHeld(address, opened.Done, hold) })
	}
	opened.Wait()
	t.Logf("200 connections had their first byte after %v", time.Since(began).Round(time.Millisecond))
	close(hold)
	all.Wait()
	close(failed)
	for err := range failed {
		if err != nil {
			t.Error(err)
		}
	}
	p.interrupt(t)
}

// echoHeld has one line echoed, and a second one once hold is closed.
func echoHeld(address string, opened func(), hold <-chan struct{}) error {
	e, err := dialEcho(address)
	if err == nil {
		_, err = e.round()
	}
	opened()
	if err != nil {
		return err
	}
	defer e.conn.Close()
	<-hold
	if _, err := e.round(); err != nil {
		return err
	}
	if err := e.conn.CloseWrite(); err != nil {
		return err
	}
	if _, err := e.r.ReadByte(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("want the end, got %w", err)
	}
	return nil
}
