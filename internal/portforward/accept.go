package portforward

import (
	"bufio"
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
)

// answerTime is how long a client may take to take the answer to its upgrade.
const answerTime = 10 * time.Second

// caller is who asked for an upgrade, and for what.
type caller struct {
	server *Server
	offer  Offer
	addr   string
	agent  string
	share  *spdy.Share // of Server.Memory

	reserved int // of share

	// Guarded by serverTunnels.mu.
	tunnel served // once it is open
	opened time.Time
}

// leave says that nothing of the Offer is going to be used any more.
func (c *caller) leave() {
	c.server.tunnels.leave(c)
	c.share.Release(c.reserved)
	c.offer.done()
}

// served is a tunnel of whatever form, at the server's end.
type served interface {
	// run serves the tunnel until it ends or ctx does.
	run(ctx context.Context)
	// idleSince is when its last connection ended, if it has none.
	idleSince() (time.Time, bool)
	// end ends it early.
	end()
}

// accept answers an upgrade. The client has been told an error already.
func (c *caller) accept(w http.ResponseWriter, r *http.Request) (served, error) {
	switch {
	case r.Method != http.MethodGet && r.Method != http.MethodPost:
		w.Header().Set("Allow", "GET, POST")
		return nil, refuseUpgrade(w, http.StatusMethodNotAllowed, "method is "+r.Method)
	case !names(r, "Connection", "upgrade"):
		return nil, refuseUpgrade(w, http.StatusBadRequest, "request asks for no upgrade")
	case r.ContentLength != 0:
		// Its octets and the tunnel's could not be told apart.
		return nil, refuseUpgrade(w, http.StatusBadRequest, "request has a body")
	case names(r, "Upgrade", "websocket"):
		return c.acceptWebSocket(w, r)
	case names(r, "Upgrade", "SPDY/3.1"):
		return c.acceptSPDY(w, r)
	}
	return nil, refuseUpgrade(w, http.StatusBadRequest, "Upgrade is neither SPDY/3.1 nor websocket")
}

// refuseUpgrade answers with an error, in the words of stock servers.
func refuseUpgrade(w http.ResponseWriter, status int, why string) error {
	err := errors.New("unable to upgrade: " + why)
	http.Error(w, err.Error(), status)
	return err
}

// elements are those of a header that is a list (RFC 9110, section 5.6.1), in one
// line or several.
func elements(r *http.Request, header string) (all []string) {
	for _, line := range r.Header.Values(header) {
		for element := range strings.SplitSeq(line, ",") {
			if element = strings.TrimSpace(element); element != "" {
				all = append(all, element)
			}
		}
	}
	return all
}

// names says whether a header that is a list names the token, in whatever case.
func names(r *http.Request, header, token string) bool {
	return slices.ContainsFunc(elements(r, header), func(e string) bool { return strings.EqualFold(e, token) })
}

// acceptSPDY answers an upgrade to SPDY/3.1.
func (c *caller) acceptSPDY(w http.ResponseWriter, r *http.Request) (served, error) {
	offered := elements(r, "X-Stream-Protocol-Version")
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
	transport := &hijacked{conn, nonblock.Of(conn), rest(buffered.Reader)}
	return c.newSession(transport, conn, chosen, newSplicer(&c.server.copier, conn)), nil
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

// answerSPDY writes the answer by hand: net/http has no way to write it without
// its own headers, and a Hijack ends what it has to say.
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

// acceptWebSocket answers a WebSocket handshake: a tunnel of SPDY, or one of the
// older forms. Origin is not looked at, see ServeHTTP.
func (c *caller) acceptWebSocket(w http.ResponseWriter, r *http.Request) (served, error) {
	offered := elements(r, "Sec-WebSocket-Protocol")
	chosen, ok := choose(offered, webSocketProtocols())
	if !ok && len(offered) > 0 {
		return nil, refuseUpgrade(w, http.StatusForbidden, unknown(offered, webSocketProtocols()))
	}
	var ports []uint16
	if !isTunnel(chosen) {
		var err error
		if ports, err = channelPorts(r.URL.Query(), c.offer.Ports); err != nil {
			return nil, refuseUpgrade(w, http.StatusBadRequest, err.Error())
		}
		if !c.share.Reserve(len(ports) * channelCost) {
			return nil, refuseUpgrade(w, http.StatusServiceUnavailable, ErrTooManyTunnels.Error())
		}
		c.reserved = len(ports) * channelCost
	}
	out := &gatheringWriter{ResponseWriter: w}
	ws, err := websocket.Accept(out, r, &websocket.AcceptOptions{
		Subprotocols: []string{chosen}, InsecureSkipVerify: true,
	})
	if err != nil {
		return nil, err
	}
	ws.SetReadLimit(-1) // a message is a piece of a stream: its size says nothing
	m := &messages{ws: ws, out: out.gatherer}
	if !isTunnel(chosen) {
		return c.newChannels(m, out.conn, chosen, ports), nil
	}
	return c.newSession(m, out.conn, strings.TrimPrefix(chosen, tunnelPrefix), nil), nil
}

// gatheringWriter lets a gatherer have a hand in what the WebSocket library writes.
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

// rest returns what is read already.
func rest(r *bufio.Reader) []byte {
	b, _ := r.Peek(r.Buffered()) // as much as there is: no error
	return slices.Clone(b)
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
