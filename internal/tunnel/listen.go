package tunnel

import (
	"crypto/rand"
	"errors"
	"net/netip"
	"strconv"

	"porthole.dev/porthole/internal/spdy"
	"porthole.dev/porthole/internal/target"
)

// FeatureListen is the feature of a server that listens at its targets.
const FeatureListen = "listen"

// maxSession is how many bytes a session's token has at most.
const maxSession = 128

// NewSession returns a token for Client.Listen: 130 random bits. Whoever has it can take over what was
// listened on with it.
func NewSession() string { return rand.Text() }

// listenHeader returns the headers that have the far end listen.
func listenHeader(at target.Endpoint, session string) spdy.Header {
	h := spdy.Header{
		"network": {"listen"}, "listen": {at.Network.String()},
		"address": {at.Addr().String()}, "port": {strconv.Itoa(int(at.Port()))},
	}
	if session != "" {
		h["session"] = []string{session}
	}
	return h
}

// parseListen reads the headers that have this end listen.
func parseListen(h spdy.Header) (at target.Endpoint, session string, err error) {
	if at.Network, err = parseListenNetwork(h.Get("listen")); err != nil {
		return at, "", err
	}
	addr, err := netip.ParseAddr(h.Get("address"))
	if err != nil {
		return at, "", errors.New("address is not an IP address")
	}
	port, err := strconv.ParseUint(h.Get("port"), 10, 16)
	if err != nil {
		return at, "", errors.New("port is not a number from 0 to 65535")
	}
	if session = h.Get("session"); len(session) > maxSession {
		return at, "", errors.New("session is too long")
	}
	at.AddrPort = netip.AddrPortFrom(addr.Unmap(), uint16(port))
	return at, session, nil
}

// incomingHeader returns the headers of a stream for a connection that a client has made to a listener.
func incomingHeader(listener uint32, client target.Endpoint) spdy.Header {
	return spdy.Header{
		"listener": {strconv.FormatUint(uint64(listener), 10)},
		"network":  {client.Network.String()},
		"client":   {client.AddrPort.String()},
	}
}

// parseIncoming reads the headers of a stream that the far end opens.
func parseIncoming(h spdy.Header) (listener uint32, client target.Endpoint, err error) {
	id, err := strconv.ParseUint(h.Get("listener"), 10, 32)
	if err != nil {
		return 0, client, errors.New("listener is not a stream")
	}
	if client.Network, err = parseListenNetwork(h.Get("network")); err != nil {
		return 0, client, err
	}
	client.AddrPort, err = netip.ParseAddrPort(h.Get("client"))
	return uint32(id), client, err
}

// parseListenNetwork reads a network that can be listened on.
func parseListenNetwork(s string) (target.Network, error) {
	if network, ok := target.ParseNetwork(s); ok && network != target.Unix {
		return network, nil
	}
	return 0, errors.New("only tcp and udp can be listened on")
}
