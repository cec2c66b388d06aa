package agent

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net"
	"os"
	"time"

	"porthole.dev/porthole/internal/proc"
	"porthole.dev/porthole/internal/target"
)

// claimTime is how long another agent may take to let go of a port.
const claimTime = 2 * time.Second

// claimName is the abstract socket (unix(7)) of what a session listens on at an address. Everybody sees its
// name, which is a hash, so that the token stays secret.
func claimName(at target.Endpoint, session string) string {
	sum := sha256.Sum256([]byte(session + " " + at.String()))
	return "@porthole/" + hex.EncodeToString(sum[:16])
}

// claim has the agent of an earlier tunnel let go of what the session listens on: when a tunnel through ssh has
// fallen silent, its agent lives until ssh there notices.
func claim(at target.Endpoint, session string) {
	conn, err := net.DialTimeout("unix", claimName(at, session), claimTime)
	if err != nil {
		return
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(claimTime))
	_, _ = io.Copy(io.Discard, conn)
}

// hold calls lose when another agent of the same user claims the address, or root's, until release is called.
func hold(at target.Endpoint, session string, lose func()) (release func()) {
	l, err := net.Listen("unix", claimName(at, session))
	if err != nil {
		return func() {}
	}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			if mayClaim(conn.(*net.UnixConn)) {
				lose()
				l.Close()
			}
			conn.Close() // which tells that it is let go of
		}
	}()
	return func() { l.Close() }
}

// mayClaim reports whether the other end is this user, or root.
func mayClaim(conn *net.UnixConn) bool {
	peer, err := proc.Peer(conn)
	return err == nil && (peer.Uid == 0 || int(peer.Uid) == os.Geteuid())
}
