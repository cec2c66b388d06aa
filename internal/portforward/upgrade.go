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
	"strings"
	"time"
)

const (
	// maxBody is how much of an answer's body is read, of which maxMessage is
	// kept when it is not a Kubernetes Status.
	maxBody    = 64 << 10
	maxMessage = 4 << 10

	// unwrapTime is how long SPDY may take where a WebSocket has just worked.
	// What stands in its way may swallow it without an answer.
	unwrapTime = 3 * time.Second
)

// upgraded is a tunnel's byte stream.
type upgraded struct {
	io.ReadWriteCloser
	protocol string   // what the server chose to speak in it
	conn     net.Conn // that carries it, nil if the Transport does not tell
}

// carrier has the Transport tell which connection carries a request.
func carrier(ctx context.Context) (context.Context, *net.Conn) {
	conn := new(net.Conn)
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) { *conn = info.Conn },
	}), conn
}

// upgrade opens one tunnel's byte stream: through a WebSocket, and where that is
// refused, by SPDY's own upgrade. It tells by which. A server of ours is told from
// a stock one by the protocol that it chooses of those that are offered.
//
// Refused is every HTTP answer that is not the upgrade asked for, as kubectl has
// it: a 403 may be about the GET alone, since RBAC knows it as another verb than
// the POST, and old servers and proxies answer what they like. What is not an
// answer would not be another by POST.
//
// Between two ends of ours the WebSocket is left again if SPDY gets through, which
// costs everybody on the way less.
func (c *Client) upgrade(ctx context.Context) (u upgraded, via string, err error) {
	if c.SPDYOnly || c.spdyWorks.Load() {
		u, err := c.upgradeSPDY(ctx)
		if c.SPDYOnly || !refused(err) {
			return u, "spdy", err
		}
		c.spdyWorks.Store(false) // the way is another now: all is tried again
	}
	u, err = c.upgradeWebSocket(ctx)
	switch {
	case err == nil && isV1(u.protocol) && !c.KeepWebSocket && !c.spdyFails.Load():
		u, via = c.unwrap(ctx, u)
		return u, via, nil
	case err == nil || !refused(err):
		return u, "websocket", err
	}
	c.tunnels.log.Debug("websocket refused, trying spdy", "err", err)
	u, err = c.upgradeSPDY(ctx)
	if err == nil {
		c.spdyWorks.Store(true)
	}
	return u, "spdy", err
}

// unwrap exchanges a WebSocket for SPDY, if that gets through in time.
func (c *Client) unwrap(ctx context.Context, ws upgraded) (upgraded, string) {
	ctx, cancel := context.WithTimeout(ctx, unwrapTime)
	defer cancel()
	u, err := c.upgradeSPDY(ctx)
	if err == nil && isV1(u.protocol) {
		ws.Close()
		c.spdyWorks.Store(true)
		return u, "spdy"
	}
	c.tunnels.log.Debug("staying with websocket", "err", err)
	if err == nil {
		u.Close()
	}
	c.spdyFails.Store(true)
	return ws, "websocket"
}

// refused says whether err is an answer of the server.
func refused(err error) bool {
	var status *StatusError
	return errors.As(err, &status) || errors.Is(err, errUpgrade)
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
	req.Header["X-Stream-Protocol-Version"] = []string{protocolV1, protocol}
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

// spdyBody is the byte stream behind a 101 response, if it is what was asked for.
func spdyBody(resp *http.Response) (upgraded, error) {
	if !strings.EqualFold(resp.Header.Get("Upgrade"), "SPDY/3.1") {
		return upgraded{}, fmt.Errorf("%w: Upgrade is %q", errUpgrade, resp.Header.Get("Upgrade"))
	}
	chosen := resp.Header.Get("X-Stream-Protocol-Version")
	if chosen != protocol && chosen != protocolV1 {
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
	return &StatusError{Code: resp.StatusCode, Status: resp.Status, Message: message(body)}
}

// message is what a body has to say: a Kubernetes Status its message, anything
// else its text.
func message(body []byte) string {
	var status struct{ Kind, Message string }
	text := string(body)
	if json.Unmarshal(body, &status) == nil && status.Kind == "Status" && status.Message != "" {
		text = status.Message
	}
	return clip(strings.TrimSpace(text))
}

// clip bounds a foreign text, and leaves no half of a character behind.
func clip(text string) string {
	return strings.ToValidUTF8(text[:min(len(text), maxMessage)], "")
}
