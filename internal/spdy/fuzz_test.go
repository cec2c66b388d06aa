package spdy

import (
	"io"
	"runtime"
	"sync"
	"testing"
	"time"
)

// script is a transport whose peer says a fixed text and then hangs up; what is
// written to it goes nowhere.
type script struct {
	text []byte
}

func (s *script) Read(p []byte) (int, error) {
	if len(s.text) == 0 {
		return 0, io.EOF
	}
	n := copy(p, s.text)
	s.text = s.text[n:]
	return n, nil
}

func (s *script) Write(p []byte) (int, error) { return len(p), nil }

func (s *script) Close() error { return nil }

// FuzzConn lets a peer say anything to a server whose program reads what comes
// and answers. Nothing may panic, hang, stay behind or grow.
func FuzzConn(f *testing.F) {
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"), false)
	f.Add(clientText(f), false)
	f.Add(clientText(f), true)
	for _, v := range vectors {
		f.Add(append(clientText(f), unhex(f, v.wire)...), true)
	}
	f.Fuzz(func(t *testing.T, text []byte, flowControl bool) {
		before := runtime.NumGoroutine()
		c := New(&script{text: text}, Config{Server: true, FlowControl: flowControl, ReceiveBuffer: 64 << 10, MaxStreams: 16})
		var programs sync.WaitGroup
		for {
			s, err := c.Accept(t.Context())
			if err != nil {
				break
			}
			programs.Go(func() { answer(t, s, len(text)) })
		}
		programs.Wait()
		c.Close()
		if n := len(c.streams); n > 0 {
			t.Fatalf("%d streams left", n)
		}
		within(t, 5*time.Second, "goroutines gone", func() bool { return runtime.NumGoroutine() <= before })
	})
}

func answer(t *testing.T, s *Stream, limit int) {
	s.Write([]byte("answer"))
	if n, _ := io.Copy(io.Discard, s); n > int64(limit) {
		t.Errorf("read %d bytes of %d", n, limit)
	}
	s.Close()
}

// clientText is what a client of ours says on two streams.
func clientText(t testing.TB) []byte {
	r := newRecorder()
	c := New(r, Config{})
	c.Cork()
	for _, h := range headerSets[:2] {
		s, err := c.OpenStream(h, false)
		if err != nil {
			t.Fatal(err)
		}
		mustWrite(t, s, "hello")
		s.CloseWrite()
	}
	c.Uncork()
	c.Close()
	var text []byte
	for _, w := range r.taken() {
		text = append(text, w...)
	}
	return text
}
