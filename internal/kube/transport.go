package kube

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"time"

	"porthole.dev/porthole/internal/nonblock"
)

const (
	// dialLimit is how long a connection to the API server may take to come up.
	dialLimit = 10 * time.Second
	// dialSpace is between the beginnings of two attempts.
	dialSpace = 500 * time.Millisecond
	// attemptTime is how long one attempt is kept; no network is slower.
	attemptTime = 5 * time.Second
)

// dialServer connects as net.Dialer does, but begins another attempt every half a second
// beside those under way, and takes the first that succeeds. TCP doubles the time
// between its attempts (tcp_syn_retries, tcp(7)): when a network is back after a
// minute, the next one could be another half a minute away.
func dialServer(ctx context.Context, network, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialLimit)
	defer cancel()
	succeeded := make(chan net.Conn)
	failed := make(chan error)
	again := time.NewTicker(dialSpace)
	defer again.Stop()
	for {
		go dialOnce(ctx, network, address, succeeded, failed)
		for waiting := true; waiting; {
			select {
			case conn := <-succeeded:
				return conn, nil
			case err := <-failed:
				var timeout net.Error
				if !errors.As(err, &timeout) || !timeout.Timeout() {
					return nil, err
				}
			case <-again.C:
				waiting = false
			case <-ctx.Done():
				return nil, &net.OpError{Op: "dial", Net: network, Err: context.Cause(ctx)}
			}
		}
	}
}

// dialBurst is dialServer for tunnels.
func dialBurst(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := dialServer(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return &nonblock.Gatherer{Conn: nonblock.Burst(conn)}, nil
}

// dialOnce makes one attempt for dialServer, until ctx ends.
func dialOnce(ctx context.Context, network, address string, succeeded chan<- net.Conn, failed chan<- error) {
	dialer := net.Dialer{Timeout: attemptTime}
	conn, err := dialer.DialContext(ctx, network, address)
	if err != nil {
		select {
		case failed <- err:
		case <-ctx.Done():
		}
		return
	}
	select {
	case succeeded <- conn:
	case <-ctx.Done():
		conn.Close()
	}
}

// recovery wakes up those who wait when the API server answers again after it did not.
type recovery struct {
	mu   sync.Mutex
	lost bool
	back chan struct{} // closed when it answers; nil while nobody waits
}

// wait returns a channel that is closed when the server answers again.
func (r *recovery) wait() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.back == nil {
		r.back = make(chan struct{})
	}
	return r.back
}

func (r *recovery) note(answered bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if answered && r.lost && r.back != nil {
		close(r.back)
		r.back = nil
	}
	r.lost = !answered
}

// recoveryTransport is a transport that notes whether there are answers.
type recoveryTransport struct {
	http.RoundTripper
	*recovery
}

// RoundTrip implements http.RoundTripper.
func (t recoveryTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := t.RoundTripper.RoundTrip(req)
	if err == nil || req.Context().Err() == nil {
		t.note(err == nil)
	}
	return resp, err
}

// WrappedRoundTripper is how client-go finds the transport within.
func (t recoveryTransport) WrappedRoundTripper() http.RoundTripper { return t.RoundTripper }
