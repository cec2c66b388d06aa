package spdy

import (
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"time"
)

// Hundreds of connections at once that end in every way there is: afterwards no
// stream is left at either end, and the tunnel still works.
func TestChurn(t *testing.T) {
	modes(t, func(t *testing.T, cfg Config) {
		client, server := tunnel(t, cfg)
		var servers, clients sync.WaitGroup
		servers.Go(func() {
			for {
				s, err := server.Accept(t.Context())
				if err != nil {
					return
				}
				servers.Go(func() { mirror(s) })
			}
		})
		for i := range 64 {
			clients.Go(func() { churn(t, client, rand.New(rand.NewPCG(1, uint64(i)))) })
		}
		clients.Wait()
		within(t, 5*time.Second, "streams gone", func() bool {
			return client.Streams() == 0 && server.Streams() == 0
		})
		if err := client.Err(); err != nil {
			t.Error(err)
		}
		client.Close()
		servers.Wait()
	})
}

// mirror sends back what comes, as long as it lasts.
func mirror(s *Stream) {
	io.Copy(s, s)
	s.CloseWrite()
	s.Close()
}

func churn(t *testing.T, c *Conn, rnd *rand.Rand) {
	for range 20 {
		s, err := c.OpenStream(Header{"Port": {"8080"}}, false)
		if err != nil {
			t.Error(err)
			return
		}
		size := rnd.IntN(200_000)
		ending := rnd.IntN(4)
		go func() {
			s.Write(make([]byte, size))
			s.CloseWrite()
		}()
		switch ending {
		case 0:
			if n, err := io.Copy(io.Discard, s); err != nil || n != int64(size) {
				t.Errorf("%d bytes of %d came back, %v", n, size, err)
			}
			s.Close()
		case 1:
			s.Reset()
		case 2:
			s.Close()
		case 3:
			io.CopyN(io.Discard, s, int64(size/2))
			s.SetDeadline(time.Now().Add(-time.Second))
			s.Close()
		}
	}
}
