package node

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"porthole.dev/porthole/internal/portforward"
	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/testenv"
	"porthole.dev/porthole/internal/tunnel"
)

// listening returns what the node tells at first, or why it does not.
func (r *running) listening(t *testing.T) (sockets []target.Socket, err error) {
	t.Helper()
	client := &portforward.Client{URL: r.url(t), Transport: &http.Transport{}, SPDYOnly: true, MaxTunnels: 1}
	defer client.Close()
	ctx, cancel := context.WithCancel(t.Context())
	err = client.Listening(ctx, func(now []target.Socket) { sockets = now; cancel() })
	if errors.Is(err, context.Canceled) {
		err = nil
	}
	return sockets, err
}

// Clients are told of what they may reach, and no more of it than where it is.
func TestListening(t *testing.T) {
	testenv.NoLeaks(t)
	pod := testenv.NewPod(t)
	folder := t.TempDir()
	for _, at := range []string{"127.0.0.1:8080", "127.0.0.1:22", "127.0.0.5:8081", "[::]:8443"} {
		pod.Listen(t, at)
	}
	pod.ListenUDP(t, "127.0.0.1:53")
	for _, name := range []string{"open.sock", "closed.sock"} {
		pod.ListenUnix(t, filepath.Join(folder, name))
	}
	deny, _ := target.ParsePortSet("22")
	r := startNode(t, pod, Node{Policy: Policy{Deny: deny, AllowUnix: Paths{filepath.Join(folder, "open.sock")}}})
	sockets, err := r.listening(t)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range sockets {
		got = append(got, s.String())
		if s.Inode != 0 || s.PID != 0 || s.UID != 0 || s.Command != "" {
			t.Errorf("told too much: %+v", s)
		}
	}
	if want := []string{"127.0.0.1:8080", "[::]:8443", "127.0.0.1:53/udp", filepath.Join(folder, "open.sock")}; !slices.Equal(got, want) {
		t.Errorf("told %q, want %q", got, want)
	}
	r.stop()
}

// Of pods on the node's network nothing is told where they are denied.
func TestListeningHostNetwork(t *testing.T) {
	testenv.NoLeaks(t)
	r := startNode(t, testenv.NewPod(t), Node{Policy: Policy{DenyHostNetwork: true}})
	r.runtime.add("s1", fmt.Sprintf(containerdHostInfo, os.Getpid())).Linux = nil
	if _, err := r.listening(t); !errors.Is(err, tunnel.ErrDenied) {
		t.Errorf("%v, want ErrDenied", err)
	}
	r.stop()
}
