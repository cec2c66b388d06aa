package pipe

import (
	"io"
	"sync"

	"golang.org/x/sys/unix"

	"porthole.dev/porthole/internal/nonblock"
)

const (
	// pipeSize is what a pipe is asked to hold. Root and
	// CAP_SYS_RESOURCE apart, the kernel grants a user 16,384 pages in pipes
	// (pipe-user-pages-soft, pipe(7)); the size is a wish, not a need.
	pipeSize = 1 << 20
	// defaultPipes times pipeSize is just that budget.
	defaultPipes = 64
	// idlePipes are kept for the next burst; the rest is closed.
	idlePipes = 16
)

// kernelPipe is a pipe(7) between two splices.
type kernelPipe struct {
	r, w int
	size int
}

// pipePool lends kernel pipes, and bounds how many there are. The zero value is ready.
type pipePool struct {
	mu   sync.Mutex
	live int
	idle []*kernelPipe
}

// get lends a pipe, or returns nil when limit pipes are lent or the kernel has no more.
func (p *pipePool) get(limit int) *kernelPipe {
	if limit == 0 {
		limit = defaultPipes
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if last := len(p.idle) - 1; last >= 0 {
		k := p.idle[last]
		p.idle = p.idle[:last]
		return k
	}
	if p.live >= limit {
		return nil
	}
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return nil // the process or the user has no room for one
	}
	k := &kernelPipe{r: fds[0], w: fds[1]}
	// Refused beyond the user's budget; the pipe then keeps the size it has.
	_, _ = unix.FcntlInt(uintptr(k.w), unix.F_SETPIPE_SZ, pipeSize)
	size, err := unix.FcntlInt(uintptr(k.w), unix.F_GETPIPE_SZ, 0)
	if err != nil {
		k.close()
		return nil
	}
	k.size = size
	p.live++
	return k
}

// put takes a pipe back, to be lent again if it is clean, that is, empty.
func (p *pipePool) put(k *kernelPipe, clean bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if clean && len(p.idle) < idlePipes {
		p.idle = append(p.idle, k)
		return
	}
	p.live--
	k.close()
}

func (p *pipePool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, k := range p.idle {
		k.close()
	}
	p.live -= len(p.idle)
	p.idle = nil
}

// spliceTo moves up to n of the bytes that it holds to a socket.
func (k *kernelPipe) spliceTo(fd, n int) (int, error) {
	n, err := nonblock.Splice(k.r, fd, n)
	if n == 0 && err == nil {
		err = io.ErrUnexpectedEOF // the pipe holds less than it took: never seen, and never to spin on
	}
	return n, err
}

func (k *kernelPipe) close() {
	_ = unix.Close(k.r)
	_ = unix.Close(k.w)
}
