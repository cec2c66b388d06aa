package portforward

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"porthole.dev/porthole/internal/nonblock"
	"porthole.dev/porthole/internal/tunnel"
)

const (
	// maxBody is how much of an answer's body is read.
	maxBody = 64 << 10
	// spdyTime is how long SPDY may take before a WebSocket is tried. What stands in
	// its way may swallow it without an answer.
	spdyTime = 3 * time.Second
)

// upgraded is a tunnel's byte stream.
type upgraded struct {
	io.ReadWriteCloser
	protocol string   // what the server chose to speak in it
	conn     net.Conn // that carries it, nil if the Transport does not tell
}

// Write writes to the tunnel. What TLS makes of p leaves together, where a nonblock.Gatherer is below it.
func (u upgraded) Write(p []byte) (int, error) {
	g := gathererOf(u.conn)
	if g == nil {
		return u.ReadWriteCloser.Write(p)
	}
	g.Hold()
	n, err := u.ReadWriteCloser.Write(p)
	if failed := g.Release(); err == nil && failed != nil {
		return 0, failed
	}
	return n, err
}

// gathererOf returns the Gatherer that conn is, or is above, or nil.
func gathererOf(conn net.Conn) *nonblock.Gatherer {
	for {
		if g, ok := conn.(*nonblock.Gatherer); ok {
			return g
		}
		above, ok := conn.(interface{ NetConn() net.Conn })
		if !ok {
			return nil
		}
		conn = above.NetConn()
	}
}

// carrier has the Transport tell which connection carries a request.
func carrier(ctx context.Context) (context.Context, *net.Conn) {
	conn := new(net.Conn)
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) { *conn = info.Conn },
	}), conn
}

// Ways is what Clients have found out about the way to an API server, for all of its
// pods. The zero value knows nothing; its methods are safe to call at the same time.
type Ways struct {
	spdyFails, webSocketFails atomic.Bool // and the other one works
}

// way is one of the two ways to upgrade.
type way struct {
	name  string
	open  func(context.Context) (upgraded, error)
	fails *atomic.Bool
}

// upgrade opens one tunnel's byte stream: by SPDY's own upgrade, and where that is
// refused, through a WebSocket, which costs everybody on the way more but gets through
// proxies that let nothing else pass. It tells by which. A server of ours is told from
// a stock one by the protocol that it chooses of those that are offered.
//
// Every HTTP answer that is not the upgrade asked for is a refusal: proxies and old servers
// give all kinds of answers, and to RBAC the two ways are different verbs. A failure without an
// answer would be the same the other way. Where both ways were refused, one request is made
// each time, by either in turn, until one succeeds.
func (c *Client) upgrade(ctx context.Context) (u upgraded, via string, err error) {
	first, second := c.ways()
	turn := c.refusals.Load()
	if turn > 0 {
		first, second = []way{second, first}[turn%2], way{}
	}
	u, err = first.open(ctx)
	switch {
	case turn > 0 && err == nil:
		c.refusals.Store(0)
	case turn > 0 && refused(err):
		c.refusals.Add(1)
	}
	if err == nil || !refused(err) || second.open == nil || busy(err) {
		return u, first.name, err
	}
	c.tunnels.log.Debug("upgrade refused", "way", first.name, "next", second.name, "err", err)
	u, again := second.open(ctx)
	switch {
	case again == nil:
		first.fails.Store(lasting(err))
		second.fails.Store(false)
	case refused(again) && first.name == "spdy":
		again = err // of two refusals SPDY's, whose verb is the one that people are given
	}
	if refused(again) && !c.KeepWebSocket {
		c.refusals.Store(1)
	}
	return u, second.name, again
}

// ways are the two ways in the order in which they are to be tried. The second may be
// none.
func (c *Client) ways() (first, second way) {
	spdy := way{"spdy", c.upgradeSPDY, &c.Ways.spdyFails}
	webSocket := way{"websocket", c.upgradeWebSocket, &c.Ways.webSocketFails}
	switch {
	case c.SPDYOnly:
		return spdy, way{}
	case c.Ways.spdyFails.Load(), c.KeepWebSocket && !c.Ways.webSocketFails.Load():
		return webSocket, spdy
	}
	spdy.open = c.trySPDY
	return spdy, webSocket
}

// trySPDY is upgradeSPDY with a short time limit: no answer counts as a refusal.
func (c *Client) trySPDY(ctx context.Context) (upgraded, error) {
	limited, cancel := context.WithTimeout(ctx, spdyTime)
	defer cancel()
	u, err := c.upgradeSPDY(limited)
	if err != nil && limited.Err() != nil && ctx.Err() == nil {
		err = fmt.Errorf("%w: no answer within %v", errUpgrade, spdyTime)
	}
	return u, err
}

// lasting reports whether a refusal means that this way does not work, rather than that the
// server is in trouble at the moment.
func lasting(err error) bool {
	var status *StatusError
	if !errors.As(err, &status) {
		return true
	}
	switch status.Code {
	case http.StatusInternalServerError, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return false
	}
	return true
}

// refused reports whether err is an answer of the server.
func refused(err error) bool {
	var status *StatusError
	return errors.As(err, &status) || errors.Is(err, errUpgrade)
}

// busy reports whether the server asks for a pause, whichever way is used.
func busy(err error) bool {
	var status *StatusError
	return errors.As(err, &status) && (status.Code == http.StatusTooManyRequests || status.RetryAfter > 0)
}

// upgradeSPDY upgrades an HTTP/1.1 connection to SPDY/3.1.
func (c *Client) upgradeSPDY(ctx context.Context) (upgraded, error) {
	ctx, conn := carrier(ctx)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.URL.String(), nil)
	if err != nil {
		return upgraded{}, err
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", "SPDY/3.1")
	req.Header["X-Stream-Protocol-Version"] = c.protocols(tunnel.Protocol, protocol)
	resp, err := c.Transport.RoundTrip(req)
	if err != nil {
		return upgraded{}, err
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		return upgraded{}, statusError(resp)
	}
	u, err := spdyBody(resp)
	if err != nil {
		resp.Body.Close()
	}
	u.conn = *conn
	return u, err
}

// protocols are those that are offered to the server, the better one first.
func (c *Client) protocols(v1, stock string) []string {
	if c.StockOnly {
		return []string{stock}
	}
	return []string{v1, stock}
}

// spdyBody is the byte stream behind a 101 response, if it is what was asked for.
func spdyBody(resp *http.Response) (upgraded, error) {
	if !strings.EqualFold(resp.Header.Get("Upgrade"), "SPDY/3.1") {
		return upgraded{}, fmt.Errorf("%w: Upgrade is %q", errUpgrade, resp.Header.Get("Upgrade"))
	}
	chosen := resp.Header.Get("X-Stream-Protocol-Version")
	if chosen != protocol && chosen != tunnel.Protocol {
		return upgraded{}, fmt.Errorf("%w: X-Stream-Protocol-Version is %q", errUpgrade, chosen)
	}
	rwc, ok := resp.Body.(io.ReadWriteCloser)
	if !ok {
		return upgraded{}, fmt.Errorf("transport's 101 response has a body of type %T that cannot be written", resp.Body)
	}
	return upgraded{ReadWriteCloser: rwc, protocol: chosen}, nil
}

// statusError reads the answer of a server that did not upgrade, and closes it.
func statusError(resp *http.Response) *StatusError {
	defer resp.Body.Close()
	// An answer cut short is still an answer.
	body, _ := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	return &StatusError{Code: resp.StatusCode, Status: resp.Status, Message: message(body), RetryAfter: retryAfter(resp.Header)}
}

// retryAfter is the time of a Retry-After, in either of its forms (RFC 9110, 10.2.3).
func retryAfter(h http.Header) time.Duration {
	value := h.Get("Retry-After")
	if seconds, err := strconv.ParseUint(value, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second
	}
	if at, err := http.ParseTime(value); err == nil {
		return max(0, time.Until(at))
	}
	return 0
}

// message is what a body has to say: a Kubernetes Status its message, anything
// else its text.
func message(body []byte) string {
	var status struct{ Kind, Message string }
	text := string(body)
	if json.Unmarshal(body, &status) == nil && status.Kind == "Status" && status.Message != "" {
		text = status.Message
	}
	return tunnel.ClipText(strings.TrimSpace(text))
}
