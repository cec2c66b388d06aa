package portforward

import "strings"

const (
	// protocol is what travels in the streams (X-Stream-Protocol-Version) of
	// stock ends.
	protocol = "portforward.k8s.io"
	// protocolV1 is what travels in them between two ends of ours.
	protocolV1 = "porthole.v1"
	// protocolV1Alias is its name in a WebSocket: API servers hand on only those
	// protocols there that end like Kubernetes' own.
	protocolV1Alias = protocolV1 + ".k8s.io"

	// tunnelPrefix is before the name where a WebSocket carries SPDY.
	tunnelPrefix = "SPDY/3.1+"
	// webSocketProtocol is the stock protocol through a WebSocket.
	webSocketProtocol   = tunnelPrefix + protocol
	webSocketProtocolV1 = tunnelPrefix + protocolV1Alias

	channelProtocol       = "v4.channel.k8s.io"
	base64ChannelProtocol = "v4.base64.channel.k8s.io"
)

// spdyProtocols are what a Server speaks after an upgrade to SPDY, best first.
func spdyProtocols() []string { return []string{protocolV1, protocolV1Alias, protocol} }

// webSocketProtocols are what a Server speaks through a WebSocket, best first.
func webSocketProtocols() []string {
	return []string{webSocketProtocolV1, webSocketProtocol, channelProtocol, base64ChannelProtocol}
}

// isTunnel says whether a WebSocket of that protocol carries SPDY.
func isTunnel(webSocketProtocol string) bool {
	return strings.HasPrefix(webSocketProtocol, tunnelPrefix)
}

// isV1 says whether a negotiated name means porthole.v1.
func isV1(name string) bool { return name == protocolV1 || name == protocolV1Alias }
