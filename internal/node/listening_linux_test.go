package node

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

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

// follower is a client that asks what listens in a sandbox, with a policy of its own.
type follower struct {
	told chan []string
	done chan error
}

func askListening(ctx context.Context, w *listeningWatches, s *sandbox, policy Policy) *follower {
	f := &follower{told: make(chan []string), done: make(chan error, 1)}
	d := &sandboxDialer{sandbox: s, policy: policy, unix: &unixSockets{}, watches: w}
	go func() {
		f.done <- d.listening(ctx, func(now []target.Socket) {
			var text []string
			for _, s := range now {
				text = append(text, s.String())
			}
			select {
			case f.told <- text:
			case <-ctx.Done():
			}
		})
	}()
	return f
}

// await waits until exactly these are told.
func (f *follower) await(t *testing.T, want ...string) {
	t.Helper()
	for late := time.After(waitTime); ; {
		select {
		case got := <-f.told:
			if slices.Equal(got, want) {
				return
			}
		case err := <-f.done:
			t.Fatalf("ended with %v", err)
		case <-late:
			t.Fatalf("%q is not told", want)
		}
	}
}

// looking is how many goroutines of this program have the kernel asked what listens.
func looking() int {
	all := make([]byte, 4<<20)
	return strings.Count(string(all[:runtime.Stack(all, true)]), ".(*Namespace).WatchListening(")
}

// However many clients ask for a sandbox, the kernel is asked for one: each is told by its own policy, and one that
// does not read holds up no other.
func TestListeningIsShared(t *testing.T) {
	testenv.NoLeaks(t)
	pod, other := testenv.NewPod(t), testenv.NewPod(t)
	pod.Listen(t, "127.0.0.1:22")
	pod.Listen(t, "127.0.0.1:8080")
	deny, _ := target.ParsePortSet("22")
	var w listeningWatches
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var all []*follower
	for i := range 40 {
		f := askListening(ctx, &w, sandboxOf(pod), []Policy{{}, {Deny: deny}}[i%2])
		all = append(all, f)
	}
	stalled := askListening(ctx, &w, sandboxOf(pod), Policy{})
	wants := [][]string{{"127.0.0.1:22", "127.0.0.1:8080"}, {"127.0.0.1:8080"}}
	for i, f := range all {
		f.await(t, wants[i%2]...)
	}
	if n := looking(); n != 1 {
		t.Errorf("the kernel is asked by %d watches, want 1", n)
	}
	byProcess := sandboxOf(other)
	byProcess.netns.path = ""
	beside := askListening(ctx, &w, byProcess, Policy{})
	beside.await(t)
	if n := looking(); n != 2 {
		t.Errorf("of two sandboxes the kernel is asked by %d watches, want 2", n)
	}
	pod.Listen(t, "127.0.0.1:8081")
	for i, f := range all {
		f.await(t, append(wants[i%2], "127.0.0.1:8081")...)
	}
	other.Kill()
	if err := <-beside.done; !errors.Is(err, tunnel.ErrNoSandbox) {
		t.Errorf("the sandbox is gone: %v", err)
	}
	cancel()
	for _, f := range append(all, stalled) {
		if err := <-f.done; !errors.Is(err, context.Canceled) {
			t.Errorf("ended with %v", err)
		}
	}
	if n := looking(); n != 0 || len(w.all) != 0 {
		t.Errorf("%d watches go on, of %v", n, w.all)
	}
}

// Who asks again after the last has gone, or from another tunnel, is told what there is now.
func TestListeningAgain(t *testing.T) {
	testenv.NoLeaks(t)
	pod := testenv.NewPod(t)
	r := startNode(t, pod, Node{})
	for n, at := range []string{"127.0.0.1:8080", "127.0.0.1:8081"} {
		pod.Listen(t, at)
		if sockets, err := r.listening(t); err != nil || len(sockets) != n+1 {
			t.Errorf("told %v, %v, want %d sockets", sockets, err, n+1)
		}
	}
	r.stop()
}

// A new listener is told through a node soon: on an idle machine within a second, and the bound is for one that runs other tests.
func TestListeningIsToldSoon(t *testing.T) {
	testenv.NoLeaks(t)
	pod := testenv.NewPod(t)
	r := startNode(t, pod, Node{})
	client := &portforward.Client{URL: r.url(t), Transport: &http.Transport{}, SPDYOnly: true, MaxTunnels: 1}
	defer client.Close()
	ctx, cancel := context.WithCancel(t.Context())
	counts, done := make(chan int), make(chan error, 1)
	go func() { done <- client.Listening(ctx, func(now []target.Socket) { counts <- len(now) }) }()
	await := func(want int) {
		for late := time.After(waitTime); ; {
			select {
			case n := <-counts:
				if n == want {
					return
				}
			case <-late:
				t.Fatalf("%d listeners are not told", want)
			}
		}
	}
	await(0)
	var took []time.Duration
	for n := range 9 {
		time.Sleep(rand.N(500 * time.Millisecond)) // so that they come at any time between two looks
		pod.Listen(t, "127.0.0.1:0")
		began := time.Now()
		await(n + 1)
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	t.Logf("told after %v in the median, %v at most", took[4], took[8])
	if took[4] > 10*time.Second {
		t.Errorf("a new listener is told after %v", took[4])
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("ended with %v", err)
	}
	r.stop()
}
