package agent_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"porthole.dev/porthole/internal/agent"
	"porthole.dev/porthole/internal/container"
	"porthole.dev/porthole/internal/pipe"
	"porthole.dev/porthole/internal/route"
	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/testenv"
	"porthole.dev/porthole/internal/tunnel"
)

// serve returns the client's end of a tunnel to an agent for targets of this host.
func serve(t *testing.T) *tunnel.Client {
	t.Helper()
	mine, theirs := net.Pipe()
	a := &agent.Agent{Version: "test", Openers: map[target.Scheme]route.Opener{target.PID: container.Open, target.NetNS: container.Open}}
	served := make(chan error, 1)
	go func() { served <- a.Serve(context.Background(), theirs) }()
	if _, err := tunnel.ReadGreeting(bufio.NewReader(mine)); err != nil {
		t.Fatal(err)
	}
	if _, err := mine.Write(tunnel.Greeting{Version: "test"}.Append(nil)); err != nil {
		t.Fatal(err)
	}
	client := tunnel.NewClient(mine, tunnel.ClientConfig{})
	t.Cleanup(func() {
		client.Close()
		if err := <-served; err != nil {
			t.Error("the agent:", err)
		}
	})
	return client
}

// What is wrong with a host is the same through an agent as on this host.
func TestHosts(t *testing.T) {
	testenv.NoLeaks(t)
	near, far := testenv.NewPod(t), testenv.NewPod(t)
	testenv.Join(t, near.NS, far)
	l := far.Listen(t, testenv.Far4+":0")
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, "hello")
			c.Close()
		}
	}()
	opened, err := serve(t).OpenTarget(t.Context(), "pid://"+strconv.Itoa(near.PID), "")
	if err != nil {
		t.Fatal(err)
	}
	port := testenv.Port(l)
	for _, c := range []struct {
		host string
		port uint16
		want error // nil if it can be reached
	}{
		{testenv.Far4, port, nil},
		{testenv.Far4, 9, syscall.ECONNREFUSED},
		{"192.0.2.1", 9, syscall.ENETUNREACH},
		{strings.Repeat("x", 64), 9, target.ErrNoHost}, // no name server is asked for that
		{"porthole-test.invalid", 9, target.ErrLookup}, // this host's name servers cannot be reached from there
	} {
		to := target.Address{Host: c.host, Port: c.port}
		ctx, cancel := context.WithTimeout(t.Context(), testenv.Patience)
		direct := read(near.NS.Dial(ctx, to))
		cancel()
		through := read(opened.Dial(to))
		if !errors.Is(direct, c.want) || !errors.Is(through, c.want) {
			t.Errorf("%s: %v, and through the agent %v, want %v", to, direct, through, c.want)
		}
		if c.want != nil && direct.Error() != through.Error() {
			t.Errorf("%s: %v, and through the agent %v", to, direct, through)
		}
	}
}

// read reads all that a connection has, and returns its error.
func read(conn pipe.Conn, err error) error {
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = io.ReadAll(conn)
	return err
}

// Nobody listens for a datagram, which is found when it is sent.
func TestDatagramRefused(t *testing.T) {
	testenv.NoLeaks(t)
	pod := testenv.NewPod(t)
	opened, err := serve(t).OpenTarget(t.Context(), "pid://"+strconv.Itoa(pod.PID), "")
	if err != nil {
		t.Fatal(err)
	}
	conn, err := opened.Dial(target.Address{Network: target.UDP, Port: 9})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	defer time.AfterFunc(testenv.Patience, func() { conn.Close() }).Stop()
	for range 2 { // the flow has not ended by that
		if _, err := io.WriteString(conn, "anybody?"); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Read(make([]byte, 10)); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Fatalf("read: %v, want ECONNREFUSED", err)
		}
	}
}
