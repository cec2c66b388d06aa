package local

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"

	"porthole.dev/porthole/internal/testenv"
)

// 1 GiB goes each way at the same time, and arrives bit for bit.
func TestBulkBothWays(t *testing.T) {
	const size = 1 << 30
	pod := testenv.NewPod(t)
	l := pod.Listen(t, "127.0.0.1:0")
	p := start(t, "forward", fmt.Sprintf("pid://%d", pod.PID), fmt.Sprintf(":%d", testenv.Port(l)))
	near, err := net.Dial("tcp", p.await(t, `^Forwarding from (127\S+) ->`))
	if err != nil {
		t.Fatal(err)
	}
	defer near.Close()
	far, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()

	var wg sync.WaitGroup
	for seed, ends := range [][2]net.Conn{{near, far}, {far, near}} {
		source := func() io.Reader { return io.LimitReader(rand.NewChaCha8([32]byte{byte(seed)}), size) }
		wg.Go(func() {
			_, err := io.Copy(struct{ io.Writer }{ends[0]}, source())
			if err == nil {
				err = ends[0].(*net.TCPConn).CloseWrite()
			}
			if err != nil {
				t.Error("send:", err)
			}
		})
		wg.Go(func() {
			got, want := sha256.New(), sha256.New()
			n, err := io.Copy(got, ends[1])
			if err != nil || n != size {
				t.Errorf("received %d bytes, %v", n, err)
			}
			_, _ = io.Copy(want, source())
			if !bytes.Equal(got.Sum(nil), want.Sum(nil)) {
				t.Error("the bytes that came are not those that were sent")
			}
		})
	}
	wg.Wait()
	p.interrupt(t)
}
