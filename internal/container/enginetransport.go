package container

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
)

const (
	// maxAnswer is the largest answer of an engine that is read, in bytes. A list has some 1,600 for each container, and 33 commas.
	maxAnswer = 32 << 20
	// elementSize is what an element of JSON counts beside its text: {} in a list of containers takes 270 bytes of memory.
	elementSize = 64
	// maxHeader is the largest header of an answer, in bytes.
	maxHeader = 1 << 20
)

// engineTransport is the way to an engine with Docker's API. It ends answers that are longer than maxAnswer, since whoever reads
// JSON holds all of it. A stream of events is one answer: after some ten thousand events it ends, and is asked for again
// (sharedEngine.keepWatching).
type engineTransport struct {
	*http.Transport
	base string // the URL that the paths of the API follow
	host string // HOST:PORT; of no meaning where DialContext knows where to go
}

// RoundTrip implements http.RoundTripper.
func (t engineTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	answer, err := t.Transport.RoundTrip(r)
	if err == nil {
		answer.Body = &boundedBody{answer.Body, maxAnswer}
	}
	return answer, err
}

// dial connects to the engine, for whoever needs more of a connection than answers.
func (t engineTransport) dial(ctx context.Context) (net.Conn, error) {
	if t.TLSClientConfig != nil {
		return (&tls.Dialer{Config: t.TLSClientConfig}).DialContext(ctx, "tcp", t.host)
	}
	return t.DialContext(ctx, "tcp", t.host)
}

// boundedBody is the body of an answer.
type boundedBody struct {
	io.ReadCloser
	left int
}

// Read implements io.Reader. An element of JSON that is not the first one follows a comma.
func (b *boundedBody) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, fmt.Errorf("%w: more than %d MiB", ErrLongAnswer, maxAnswer>>20)
	}
	n, err := b.ReadCloser.Read(p)
	b.left -= n + elementSize*bytes.Count(p[:n], []byte{','})
	return n, err
}
