package testenv

import (
	"context"
	"io"
	"net"
	"sync"
	"testing"
)

// Serve serves the connections to an address of this machine, until the test ends and closes them.
func Serve(t testing.TB, network, address string, serve func(net.Conn)) net.Listener {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	life, end := context.WithCancel(context.Background())
	var work sync.WaitGroup
	work.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			work.Go(func() {
				defer conn.Close()
				defer context.AfterFunc(life, func() { conn.Close() })()
				serve(conn)
			})
		}
	})
	t.Cleanup(func() { l.Close(); end(); work.Wait() })
	return l
}

// ServeTCP serves the connections to a free port of 127.0.0.1, and returns the port.
func ServeTCP(t testing.TB, serve func(*net.TCPConn)) uint16 {
	t.Helper()
	return Port(Serve(t, "tcp4", "127.0.0.1:0", func(conn net.Conn) { serve(conn.(*net.TCPConn)) }))
}

// Echo sends everything back, and then its end. It leaves none of the pipes behind that package net keeps
// for splice(2), which leak checks would find.
func Echo[C net.Conn](conn C) {
	_, _ = io.Copy(struct{ io.Writer }{conn}, struct{ io.Reader }{conn})
}

// Port is the port that l listens on.
func Port(l net.Listener) uint16 { return l.Addr().(*net.TCPAddr).AddrPort().Port() }
