package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os/exec"
	"strings"
	"sync"
	"time"
)

// runtimeSwitch is the CRI socket that the kubelet is pointed at for as long as the
// bench runs. It leads to containerd or to `porthole node`, whichever is measured,
// so that the kubelet need not start again between two runs of a pair.
type runtimeSwitch struct {
	listener net.Listener
	work     sync.WaitGroup

	mu    sync.Mutex
	to    string // path of the socket that it leads to
	conns map[net.Conn]bool
}

func newRuntimeSwitch(path, to string) (*runtimeSwitch, error) {
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	s := &runtimeSwitch{listener: l, to: to, conns: map[net.Conn]bool{}}
	s.work.Go(s.accept)
	return s, nil
}

func (s *runtimeSwitch) accept() {
	for {
		down, err := s.listener.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		up, err := net.Dial("unix", s.to)
		if err != nil {
			s.mu.Unlock()
			down.Close()
			continue
		}
		s.conns[down], s.conns[up] = true, true
		s.mu.Unlock()
		s.work.Go(func() { s.move(up, down) })
		s.work.Go(func() { s.move(down, up) })
	}
}

func (s *runtimeSwitch) move(dst, src net.Conn) {
	_, _ = io.Copy(dst, src)
	dst.Close()
	src.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, dst)
	delete(s.conns, src)
}

// lead has new connections go elsewhere and ends those that there are: the kubelet
// comes back at once.
func (s *runtimeSwitch) lead(to string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.to == to {
		return
	}
	s.to = to
	for c := range s.conns {
		c.Close()
	}
}

func (s *runtimeSwitch) close() {
	s.listener.Close()
	s.lead("")
	s.work.Wait()
}

// point starts the kubelet again with another runtime endpoint, by a command that
// takes it as its last argument; "" is the cluster's own.
func (b *bench) point(ctx context.Context, endpoint string) error {
	words := append(strings.Fields(b.cluster.pointer), endpoint)
	if out, err := exec.CommandContext(ctx, words[0], words[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("point the kubelet at %q: %w\n%s", endpoint, err, out)
	}
	return nil
}

// settle is how long a switch may take to reach the kubelet.
const settle = 20 * time.Second
