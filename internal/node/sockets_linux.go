package node

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"
)

// sockets are those on which the data path listens. This process holds them, so that
// clients wait while the data path starts again, and are not refused.
type sockets struct {
	streaming, metrics *net.TCPListener
	events             *socket
}

// open listens; sockets that are not configured stay nil.
func (s *sockets) open(n *Node) (err error) {
	if s.streaming, err = listenTCP(cmp.Or(n.Streaming, defaultStreaming)); err != nil {
		return err
	}
	if n.Events != "" {
		if s.events, err = listenEndpoint(n.Events); err != nil {
			return err
		}
	}
	if n.Metrics != "" {
		s.metrics, err = listenTCP(n.Metrics)
	}
	return err
}

func listenTCP(address string) (*net.TCPListener, error) {
	for end := time.Now().Add(takeOverTime); ; time.Sleep(takeOverTime / 100) {
		l, err := net.Listen("tcp", address)
		if err == nil {
			return l.(*net.TCPListener), nil
		}
		if !errors.Is(err, syscall.EADDRINUSE) || time.Now().After(end) {
			return nil, fmt.Errorf("%w: %w", ErrListen, err)
		}
	}
}

// files are the sockets in the order in which the data path finds them, nil where
// there is none. The caller closes them.
func (s *sockets) files() (files []*os.File, err error) {
	defer func() {
		if err != nil {
			closeFiles(files)
		}
	}()
	files = make([]*os.File, 3)
	if files[0], err = s.streaming.File(); err != nil {
		return files, err
	}
	if s.metrics != nil {
		if files[1], err = s.metrics.File(); err != nil {
			return files, err
		}
	}
	if s.events != nil {
		files[2], err = s.events.File()
	}
	return files, err
}

func closeFiles(files []*os.File) {
	for _, f := range files {
		if f != nil {
			f.Close()
		}
	}
}

func (s *sockets) addresses() (a Addresses) {
	a.Streaming = s.streaming.Addr().String()
	if s.metrics != nil {
		a.Metrics = s.metrics.Addr().String()
	}
	if s.events != nil {
		a.Events = s.events.path
	}
	return a
}

// close may be called more than once.
func (s *sockets) close() {
	for _, l := range []*net.TCPListener{s.streaming, s.metrics} {
		if l != nil {
			_ = l.Close()
		}
	}
	if s.events != nil {
		_ = s.events.Close()
	}
}
