package portforward

import (
	"io"
	"maps"
	"net"
	"strings"
	"testing"

	"porthole.dev/porthole/internal/pipe"
	"porthole.dev/porthole/internal/testenv"
)

// What a port sends in bulk is spliced into the tunnel, whichever protocol it speaks.
func TestNodeSplices(t *testing.T) {
	const size = 8 << 20
	port := testenv.ServeTCP(t, func(conn *net.TCPConn) { conn.Write(make([]byte, size)) })
	for name, form := range map[string]func(*Client){
		"v1":    func(*Client) {},
		"stock": func(c *Client) { c.Transport = stockOnly{c.Transport} },
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			before := kernelPipes(t)
			conn := reach(t, n.client(t, form, func(c *Client) { c.SPDYOnly = true }), port)
			defer conn.Close()
			if got, err := io.Copy(io.Discard, conn); got != size || err != nil {
				t.Errorf("%d of %d bytes came, %v", got, size, err)
			}
			used := kernelPipes(t) // the Server keeps one for the next burst
			maps.DeleteFunc(used, func(pipe string, _ bool) bool { return before[pipe] })
			if len(used) == 0 {
				t.Error("no kernel pipe was used")
			}
		})
	}
}

// What is no socket has no Splicer, not even one that is a nil of some type.
func TestNewSplicer(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if newSplicer(&pipe.Copier{}, a) != nil {
		t.Error("something that is no socket has a Splicer")
	}
	socket, _ := testenv.TCPPair(t)
	if newSplicer(&pipe.Copier{}, socket) == nil {
		t.Error("a socket has no Splicer")
	}
}

// kernelPipes are the pipes that are open in this process, by what tells them apart.
func kernelPipes(t *testing.T) map[string]bool {
	t.Helper()
	open := map[string]bool{}
	for _, d := range testenv.Descriptors(t) {
		if _, pipe, ok := strings.Cut(d, "pipe:["); ok {
			open[pipe] = true
		}
	}
	return open
}
