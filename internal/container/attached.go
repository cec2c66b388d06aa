package container

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"

	"porthole.dev/porthole/internal/nonblock"
	"porthole.dev/porthole/internal/tail"
)

// The streams of a frame, as package stdcopy of github.com/moby/moby/api names them.
const (
	frameStdin  = 0 // which nobody sends, and that package takes for standard output
	frameStdout = 1
	frameStderr = 2
	frameError  = 3 // of the engine
	frameHeader = 8 // bytes
)

// errFrame means that what came from an engine's attach is not framed as the output of a container without a terminal is.
var errFrame = errors.New("what the engine sends is not the output of a container")

// attach connects to the standard streams of a container that was not started yet. The API's client would read a header without an end.
func (t engineTransport) attach(ctx context.Context, version, id string) (net.Conn, error) {
	path := t.base + "/v" + version + "/containers/" + id + "/attach?stream=1&stdin=1&stdout=1&stderr=1"
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, path, nil)
	if err != nil {
		return nil, err
	}
	request.Header = http.Header{"Connection": {"Upgrade"}, "Upgrade": {"tcp"}}
	conn, err := t.dial(ctx)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	err = upgrade(conn, request)
	if !stop() {
		err = context.Cause(ctx)
	}
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("attach: %w", err)
	}
	return conn, nil
}

// upgrade asks for a connection that is spoken on without HTTP, on which the engine is silent until the container starts.
func upgrade(conn net.Conn, request *http.Request) error {
	if err := request.Write(conn); err != nil {
		return err
	}
	r := bufio.NewReader(io.LimitReader(conn, maxHeader))
	answer, err := http.ReadResponse(r, request) //nolint:bodyclose // the connection is closed, or goes on
	switch {
	case err != nil:
		return err
	case answer.StatusCode != http.StatusSwitchingProtocols:
		return errors.New(answer.Status)
	case r.Buffered() > 0:
		return errFrame
	}
	return nil
}

// attached is a container's standard input and output as one stream, by the connection of an engine's attach. The engine sends
// what the container prints in frames: a byte for the stream, three of 0, the length in 32 bits, and the bytes.
type attached struct {
	net.Conn
	calls  io.ReadWriter // of Conn
	stderr *tail.Tail

	header [frameHeader]byte // of the next frame
	have   int               // bytes of it
	stream byte              // of this frame
	left   uint32            // bytes of it that have not come yet
}

func newAttached(conn net.Conn) *attached {
	return &attached{Conn: conn, calls: nonblock.Of(conn), stderr: &tail.Tail{}}
}

// Read implements io.Reader: it reads what the container writes to its standard output. What it writes to its standard error is
// kept in stderr.
func (a *attached) Read(p []byte) (int, error) {
	for {
		n, err := a.calls.Read(p)
		n, bad := a.decode(p[:n])
		if bad != nil {
			err = bad
		}
		if n > 0 || err != nil || len(p) == 0 {
			return n, err
		}
	}
}

// Write implements io.Writer: it writes to the container's standard input.
func (a *attached) Write(p []byte) (int, error) { return a.calls.Write(p) }

// decode moves the standard output in what was read to its front, and returns its length. One read brings many frames, and
// nothing is read twice.
func (a *attached) decode(p []byte) (n int, err error) {
	for rest := p; len(rest) > 0; {
		if a.left == 0 {
			taken := copy(a.header[a.have:], rest)
			a.have, rest = a.have+taken, rest[taken:]
			if err := a.begin(); err != nil {
				return n, err
			}
			continue
		}
		part := rest[:min(int64(a.left), int64(len(rest)))]
		a.left, rest = a.left-uint32(len(part)), rest[len(part):]
		if a.stream == frameStdin || a.stream == frameStdout {
			n += copy(p[n:], part)
		} else {
			_, _ = a.stderr.Write(part)
		}
	}
	return n, nil
}

// begin begins a frame once its header is whole.
func (a *attached) begin() error {
	if a.have < frameHeader {
		return nil
	}
	if a.header[0] > frameError || a.header[1]|a.header[2]|a.header[3] != 0 {
		return fmt.Errorf("%w: a frame begins with % x", errFrame, a.header[:4])
	}
	a.have, a.stream, a.left = 0, a.header[0], binary.BigEndian.Uint32(a.header[4:])
	return nil
}
