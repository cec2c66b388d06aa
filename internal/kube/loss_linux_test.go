package kube_test

import (
	"errors"
	"io"
	"testing"
	"time"

	"porthole.dev/porthole/internal/pipe"
	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/testenv"
	"porthole.dev/porthole/internal/tunnel"
)

// A tunnel that is lost while the local client does not read is noticed, although it is
// behind bytes that a stock server's tunnel cannot be read past.
func TestTunnelLostBehindStalledReader(t *testing.T) {
	n := newNamespace(t)
	n.newReady("web")
	j := n.opened(t, "admin", "pod/web")
	conn, err := j.Dial(t.Context(), target.TCPPort(80))
	if err != nil {
		t.Fatal(err)
	}
	client, near := testenv.TCPPair(t)
	for _, err := range []error{client.SetReadBuffer(64 << 10), near.SetWriteBuffer(64 << 10)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	var copier pipe.Copier
	t.Cleanup(copier.Close)
	done := make(chan error, 1)
	go func() {
		_, err := copier.Copy(near, conn)
		done <- err
	}()
	if _, err := io.ReadFull(client, make([]byte, 1)); err != nil { // of the greeting
		t.Fatal(err)
	}
	// The pod echoes more than has room here, and then both are silent.
	if _, err := client.Write(make([]byte, 2<<20)); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Second)
	n.apiServer.kill()
	defer func() {
		if err := n.start(); err != nil {
			t.Fatal(err)
		}
	}()
	select {
	case err := <-done:
		if !errors.Is(err, tunnel.ErrTunnel) {
			t.Errorf("Copy = %v, want the tunnel's loss", err)
		}
	case <-time.After(testenv.Patience):
		t.Error("a connection whose tunnel is gone is still held")
	}
}
