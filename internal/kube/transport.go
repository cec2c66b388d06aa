package kube

import (
	"context"
	"errors"
	"net"
	"time"
)

const (
	// dialLimit is how long a connection to the API server may take to come up.
	dialLimit = 10 * time.Second
	// dialAgain is after how long another attempt is made beside the first.
	dialAgain = 500 * time.Millisecond
	// dialKeep is how long one attempt is kept; no network is slower.
	dialKeep = 5 * time.Second
)

// dial connects as net.Dialer does, but begins anew every half a second beside
// what is still under way, and takes what comes first. TCP doubles the time
// between its attempts (tcp_syn_retries, tcp(7)): when a network is back after a
// minute, the next could be another half away.
func dial(ctx context.Context, network, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialLimit)
	defer cancel()
	won := make(chan net.Conn)
	lost := make(chan error)
	again := time.NewTicker(dialAgain)
	defer again.Stop()
	for {
		go dialOnce(ctx, network, address, won, lost)
		for waiting := true; waiting; {
			select {
			case conn := <-won:
				return conn, nil
			case err := <-lost:
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

// dialOnce makes one attempt for dial, until ctx ends.
func dialOnce(ctx context.Context, network, address string, won chan<- net.Conn, lost chan<- error) {
	dialer := net.Dialer{Timeout: dialKeep}
	conn, err := dialer.DialContext(ctx, network, address)
	if err != nil {
		select {
		case lost <- err:
		case <-ctx.Done():
		}
		return
	}
	select {
	case won <- conn:
	case <-ctx.Done():
		conn.Close()
	}
}
