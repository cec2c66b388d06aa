package spdy

import (
	"net"
	"testing"

	"golang.org/x/net/nettest"
)

func TestStreamIsConn(t *testing.T) {
	modes(t, func(t *testing.T, cfg Config) {
		nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
			client, server := tunnel(t, cfg)
			a, b := pair(t, client, server)
			return a, b, func() { client.Close(); server.Close() }, nil
		})
	})
}
