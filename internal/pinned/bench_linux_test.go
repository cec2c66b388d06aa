package pinned_test

import (
	"io"
	"net"
	"testing"

	"porthole.dev/porthole/internal/pinned"
	"porthole.dev/porthole/internal/testenv"
)

// BenchmarkBulk writes as a tunnel does, in batches.
func BenchmarkBulk(b *testing.B) {
	c, s := testenv.TCPPair(b)
	bulk(b, c, s)
}

func bulk(b *testing.B, c, s net.Conn) {
	client, server := securePair(b, c, s)
	batch := make([]byte, 128<<10)
	b.SetBytes(int64(len(batch)))
	go func() {
		for range b.N {
			if _, err := client.Write(batch); err != nil {
				b.Error(err)
			}
		}
		client.Close()
	}()
	if n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{server}, make([]byte, 128<<10)); n != int64(b.N*len(batch)) {
		b.Errorf("%d bytes, %v", n, err)
	}
}

func securePair(b *testing.B, near, far net.Conn) (client, server *pinned.Conn) {
	us, them := newKey(b), newKey(b)
	done := serve(b, far, them, us.Public())
	client, err := pinned.Client(b.Context(), near, us, them.Public())
	s := <-done
	if err != nil || s.err != nil {
		b.Fatal(err, s.err)
	}
	return client, s.conn
}
