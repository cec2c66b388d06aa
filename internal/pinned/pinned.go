// Package pinned is TLS between two ends that know each other by their Ed25519 keys and by nothing else: no names, no
// authorities, no dates. It must not know what is carried, nor how either end has learnt the other's key.
package pinned

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"
)

// handshakeTime is how long the other end may take. Whoever does not know the protocol holds a
// connection for no longer.
const handshakeTime = 10 * time.Second

var (
	// ErrStranger means that the other end has another key than it should.
	ErrStranger = errors.New("the other end has another key")
	// errSlow is a timeout: see net.Error.
	errSlow = fmt.Errorf("not done within %v: %w", handshakeTime, context.DeadlineExceeded)
)

// Client does the client's part of a handshake with an end that has the key theirs. Of a zero
// PublicKey any key will do: then somebody in the middle goes unnoticed. Errors wrap ErrStranger, or
// are those of the connection, of crypto/tls or of ctx. It owns conn, which is closed after an error.
//
// A server that does not know the key mine says so only afterwards, in answer to the first Read: see
// Refused.
func Client(ctx context.Context, conn net.Conn, mine Key, theirs PublicKey) (*Conn, error) {
	config := mine.config(theirs)
	config.InsecureSkipVerify = true // of names and authorities; VerifyConnection compares the key
	below := newBuffered(conn)
	return handshake(ctx, below, tls.Client(below, config))
}

// Server is Client for the server's part. It lets in theirs and nobody else, and nobody at all if that is zero.
func Server(ctx context.Context, conn net.Conn, mine Key, theirs PublicKey) (*Conn, error) {
	if theirs == (PublicKey{}) {
		conn.Close()
		return nil, errors.New("TLS handshake: no key of the client is known")
	}
	config := mine.config(theirs)
	config.ClientAuth = tls.RequireAnyClientCert
	below := newBuffered(conn)
	return handshake(ctx, below, tls.Server(below, config))
}

// Refused reports whether the error of a Read or Write says that the other end has ended the
// connection with an alert, as a server does that does not know the client's key.
func Refused(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "remote error" // crypto/tls exports no type of alerts
}

// config is what both parts have in common. TLS 1.3 has proven, when VerifyConnection is called,
// that the other end has the private key of its certificate.
func (k Key) config(theirs PublicKey) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		Certificates:           []tls.Certificate{k.certificate},
		SessionTicketsDisabled: true, // each handshake proves the key anew
		VerifyConnection:       func(state tls.ConnectionState) error { return theirs.verify(state) },
	}
}

// verify compares the key of the other end.
func (p PublicKey) verify(state tls.ConnectionState) error {
	if p == (PublicKey{}) {
		return nil
	}
	if len(state.PeerCertificates) == 0 {
		return fmt.Errorf("%w: it has none", ErrStranger)
	}
	key, ok := state.PeerCertificates[0].PublicKey.(ed25519.PublicKey)
	if !ok {
		return fmt.Errorf("%w: it is of another kind", ErrStranger)
	}
	if theirs := PublicKey(key); theirs != p {
		return fmt.Errorf("%w: %s", ErrStranger, theirs)
	}
	return nil
}

func handshake(ctx context.Context, conn *buffered, secure *tls.Conn) (*Conn, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, handshakeTime, errSlow)
	defer cancel()
	err := secure.HandshakeContext(ctx)
	if err == nil {
		conn.proven()
		return &Conn{secure, conn}, nil
	}
	conn.Close()
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return nil, fmt.Errorf("TLS handshake: %w", err)
}
