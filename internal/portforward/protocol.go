package portforward

import "porthole.dev/porthole/internal/tunnel"

const (
	// protocol is what travels in the streams (X-Stream-Protocol-Version) of
	// stock ends.
	protocol = "portforward.k8s.io"
	// v1Alias is the name of porthole.v1 in a WebSocket: API servers pass on only those
	// protocols there that end like Kubernetes' own.
	v1Alias = tunnel.Protocol + ".k8s.io"

	// tunnelPrefix is before the name where a WebSocket carries SPDY.
	tunnelPrefix = "SPDY/3.1+"
	// webSocketProtocol is the stock protocol through a WebSocket.
	webSocketProtocol   = tunnelPrefix + protocol
	webSocketProtocolV1 = tunnelPrefix + v1Alias

	channelProtocol       = "v4.channel.k8s.io"
	base64ChannelProtocol = "v4.base64.channel.k8s.io"
)

// spdyProtocols are what a Server speaks after an upgrade to SPDY, best first.
func spdyProtocols() []string { return []string{tunnel.Protocol, v1Alias, protocol} }

// webSocketProtocols are what a Server speaks through a WebSocket, best first.
func webSocketProtocols() []string {
	return []string{webSocketProtocolV1, webSocketProtocol, channelProtocol, base64ChannelProtocol}
}

// isV1 reports whether a negotiated name means porthole.v1.
func isV1(name string) bool { return name == tunnel.Protocol || name == v1Alias }
