package main

import (
	"net"
	"time"
)

// startWAN listens on loopback and passes everything on to an address, each
// byte some time later, in both directions. Closing the listener ends it.
func startWAN(to string, delay time.Duration) (net.Listener, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	go func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", to)
			if err != nil {
				_ = near.Close()
				continue
			}
			go late(far, near, delay)
			go late(near, far, delay)
		}
	}()
	return l, nil
}

// late copies, each piece when its time has come: pieces overtake none, and any
// number of them may be on their way.
func late(dst, src net.Conn, delay time.Duration) {
	type piece struct {
		due  time.Time
		data []byte
	}
	way := make(chan piece, 4096)
	go func() {
		defer close(way)
		for {
			buf := make([]byte, 32<<10)
			n, err := src.Read(buf)
			if n > 0 {
				way <- piece{time.Now().Add(delay), buf[:n]}
			}
			if err != nil {
				return
			}
		}
	}()
	defer dst.Close()
	for p := range way {
		time.Sleep(time.Until(p.due))
		if _, err := dst.Write(p.data); err != nil {
			break
		}
	}
	for range way { // so that the reader ends
	}
}
