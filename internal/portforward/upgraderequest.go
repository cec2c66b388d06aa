package portforward

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/coder/websocket"

	"porthole.dev/porthole/internal/nonblock"
	"porthole.dev/porthole/internal/spdy"
	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/tunnel"
)

// answerTime is how long a client may take to take the answer to its upgrade.
const answerTime = 10 * time.Second

// upgradeRequest is a request to open a tunnel that has come, and its tunnel afterwards.
type upgradeRequest struct {
	server    *Server
	pending   PendingUpgrade
	client    string
	userAgent string
	share     *spdy.Share // of Server.Memory
	reserved  int         // of share

	// Guarded by serverTunnels.mu.
	tunnel serverTunnel // once it is open
	opened time.Time
}

// serverTunnel is a tunnel at the server's end: a tunnel.Server, around which a stockServer
// may be, or channels.
type serverTunnel interface {
	// Run serves the tunnel until it ends or ctx does. The error is why it has ended.
	Run(ctx context.Context) error
	// IdleSince returns when the last connection ended, and whether there is none.
	IdleSince() (time.Time, bool)
	// Close ends it early.
	Close()
}

// release gives back what the request or its tunnel holds.
func (r *upgradeRequest) release() {
	r.server.tunnels.leave(r)
	r.share.Release(r.reserved)
	r.pending.done()
}

// proxy connects the tunnel's connections.
func (r *upgradeRequest) proxy(protocol string) tunnel.Proxy {
	return tunnel.Proxy{
		Dialer: r.pending.Dialer, Copier: &r.server.copier, Describe: r.describe,
		Events: func(e tunnel.Event) {
			if e.Err != nil {
				r.server.log.Debug("connection failed", "client", r.client, "port", e.To, "err", e.Err)
			}
			if r.pending.Events != nil {
				r.pending.Events(Event{Event: e, Client: r.client, UserAgent: r.userAgent, Protocol: protocol})
			}
		},
	}
}

// describe makes the text of an error that stock servers send: people and scripts look for it.
func (r *upgradeRequest) describe(to target.Address, err error) string {
	return fmt.Sprintf("error forwarding %s to pod %s, uid : %v", to.Named(), r.pending.Pod, err)
}

// newTunnel starts a tunnel over transport, which conn carries. The splicer may be nil.
func (r *upgradeRequest) newTunnel(transport io.ReadWriteCloser, conn net.Conn, name string, splicer spdy.Splicer) serverTunnel {
	cfg := tunnel.ServerConfig{
		Proxy:    r.proxy(protocol),
		SPDY:     spdy.Config{Share: r.share, Splicer: splicer, PeerClosed: func() bool { return peerClosed(conn) }},
		IdleTime: cmp.Or(r.server.IdleTime, defaultServerIdle),
		Sandbox:  r.pending.Sandbox,
		Bind:     r.pending.Bind, Listeners: &r.server.listeners, Listening: r.pending.Listening,
	}
	if isV1(name) {
		cfg.Proxy = r.proxy(tunnel.Protocol)
		return tunnel.NewServer(transport, cfg)
	}
	return newStockServer(transport, cfg)
}

// accept answers the request. If there is an error, the client has been told.
func (r *upgradeRequest) accept(w http.ResponseWriter, req *http.Request) (serverTunnel, error) {
	switch {
	case req.Method != http.MethodGet && req.Method != http.MethodPost:
		w.Header().Set("Allow", "GET, POST")
		return nil, refuseUpgrade(w, http.StatusMethodNotAllowed, "method is "+req.Method)
	case !names(req, "Connection", "upgrade"):
		return nil, refuseUpgrade(w, http.StatusBadRequest, "request asks for no upgrade")
	case req.ContentLength != 0:
		// Its bytes and the tunnel's could not be told apart.
		return nil, refuseUpgrade(w, http.StatusBadRequest, "request has a body")
	case names(req, "Upgrade", "websocket"):
		return r.acceptWebSocket(w, req)
	case names(req, "Upgrade", "SPDY/3.1"):
		return r.acceptSPDY(w, req)
	}
	return nil, refuseUpgrade(w, http.StatusBadRequest, "Upgrade is neither SPDY/3.1 nor websocket")
}

// refuseUpgrade answers with an error, worded like those of stock servers.
func refuseUpgrade(w http.ResponseWriter, status int, why string) error {
	err := errors.New("unable to upgrade: " + why)
	http.Error(w, err.Error(), status)
	return err
}

// elements returns those of a header that is a list (RFC 9110, section 5.6.1), in one
// line or several.
func elements(req *http.Request, header string) (all []string) {
	for _, line := range req.Header.Values(header) {
		for element := range strings.SplitSeq(line, ",") {
			if element = strings.TrimSpace(element); element != "" {
				all = append(all, element)
			}
		}
	}
	return all
}

// names reports whether a header that is a list contains the token, in whatever case.
func names(req *http.Request, header, token string) bool {
	return slices.ContainsFunc(elements(req, header), func(e string) bool { return strings.EqualFold(e, token) })
}

// acceptSPDY answers an upgrade to SPDY/3.1.
func (r *upgradeRequest) acceptSPDY(w http.ResponseWriter, req *http.Request) (serverTunnel, error) {
	offered := elements(req, "X-Stream-Protocol-Version")
	if len(offered) == 0 {
		return nil, refuseUpgrade(w, http.StatusBadRequest, "X-Stream-Protocol-Version names no protocol")
	}
	chosen, ok := choose(offered, spdyProtocols())
	if !ok {
		w.Header()["X-Accepted-Stream-Protocol-Versions"] = spdyProtocols()
		return nil, refuseUpgrade(w, http.StatusForbidden, unknown(offered, spdyProtocols()))
	}
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, refuseUpgrade(w, http.StatusInternalServerError, err.Error())
	}
	if err := answerSPDY(conn, chosen); err != nil {
		conn.Close()
		return nil, err
	}
	ahead, _ := buffered.Peek(buffered.Reader.Buffered()) // as much as there is: no error
	transport := &hijacked{conn, nonblock.Of(conn), slices.Clone(ahead)}
	return r.newTunnel(transport, conn, chosen, newSplicer(&r.server.copier, conn)), nil
}

func unknown(offered, ours []string) string {
	return fmt.Sprintf("unable to negotiate protocol: client supports %q, server accepts %q", offered, ours)
}

// choose returns the first of ours that is offered.
func choose(offered, ours []string) (string, bool) {
	for _, p := range ours {
		if slices.Contains(offered, p) {
			return p, true
		}
	}
	return "", false
}

// answerSPDY writes the answer by hand: net/http cannot write it without headers of its own,
// and writes nothing more after a Hijack.
func answerSPDY(conn net.Conn, protocol string) error {
	answer := "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n" +
		"X-Stream-Protocol-Version: " + protocol + "\r\n\r\n"
	if err := conn.SetDeadline(time.Now().Add(answerTime)); err != nil {
		return err
	}
	if _, err := conn.Write([]byte(answer)); err != nil {
		return err
	}
	return conn.SetDeadline(time.Time{})
}

// acceptWebSocket answers a WebSocket handshake: for a tunnel of SPDY, or one of the older
// forms. Origin is not looked at, see ServeHTTP.
func (r *upgradeRequest) acceptWebSocket(w http.ResponseWriter, req *http.Request) (serverTunnel, error) {
	offered := elements(req, "Sec-WebSocket-Protocol")
	chosen, ok := choose(offered, webSocketProtocols())
	if !ok && len(offered) > 0 {
		return nil, refuseUpgrade(w, http.StatusForbidden, unknown(offered, webSocketProtocols()))
	}
	carriesSPDY := strings.HasPrefix(chosen, tunnelPrefix)
	var ports []uint16
	if !carriesSPDY {
		var err error
		if ports, err = channelPorts(req.URL.Query(), r.pending.Ports); err != nil {
			return nil, refuseUpgrade(w, http.StatusBadRequest, err.Error())
		}
		if !r.share.Reserve(len(ports) * channelCost) {
			return nil, refuseUpgrade(w, http.StatusServiceUnavailable, ErrTooManyTunnels.Error())
		}
		r.reserved = len(ports) * channelCost
	}
	out := &gatheringWriter{ResponseWriter: w}
	ws, err := websocket.Accept(out, req, &websocket.AcceptOptions{
		Subprotocols: []string{chosen}, InsecureSkipVerify: true,
	})
	if err != nil {
		return nil, err
	}
	ws.SetReadLimit(-1) // a message is a piece of a stream: its size says nothing
	m := &messages{ws: ws, out: out.gatherer}
	if !carriesSPDY {
		return r.newChannels(m, out.conn, chosen, ports), nil
	}
	return r.newTunnel(m, out.conn, strings.TrimPrefix(chosen, tunnelPrefix), nil), nil
}

// gatheringWriter passes what the WebSocket library writes through a gatherer.
type gatheringWriter struct {
	http.ResponseWriter
	conn     net.Conn
	gatherer *gatherer
}

// Hijack implements http.Hijacker.
func (g *gatheringWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffered, err := http.NewResponseController(g.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	g.conn, g.gatherer = conn, &gatherer{ReadWriteCloser: conn}
	through := gathered{conn, g.gatherer}
	return through, bufio.NewReadWriter(buffered.Reader, bufio.NewWriter(through)), nil
}

// gathered is a net.Conn whose writes go through a gatherer.
type gathered struct {
	net.Conn
	gatherer *gatherer
}

func (g gathered) Write(p []byte) (int, error) { return g.gatherer.Write(p) }

// hijacked is a connection that was taken over from an http.Server, with what the
// client had sent behind its request.
type hijacked struct {
	net.Conn
	quick io.ReadWriter // of Conn
	ahead []byte
}

func (h *hijacked) Read(p []byte) (int, error) {
	if len(h.ahead) > 0 {
		n := copy(p, h.ahead)
		h.ahead = h.ahead[n:]
		return n, nil
	}
	return h.quick.Read(p)
}

func (h *hijacked) Write(p []byte) (int, error) { return h.quick.Write(p) }
