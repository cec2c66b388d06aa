package spdy

import "sync"

// maxLateHeaders is how many bytes of headers a stream keeps that came after its
// opening.
const maxLateHeaders = 8 << 10

// loss is how a stream tells its owner that the peer or the tunnel has ended it,
// and what the peer has said about that.
type loss struct {
	mu     sync.Mutex
	reason error  // why, nil while nothing has happened
	tell   func() // who wants to know, or nil
	late   Header
}

func (l *loss) watch(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tell = f
	l.call()
}

// happen notes why the stream was lost; the first reason counts.
func (l *loss) happen(reason error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.reason == nil {
		l.reason = reason
	}
	l.call()
}

func (l *loss) why() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.reason
}

// call tells once; l.mu is held.
func (l *loss) call() {
	if l.reason != nil && l.tell != nil {
		go l.tell()
		l.tell = nil
	}
}

// keep replaces the headers that came before: what a stream holds is bounded.
func (l *loss) keep(headers Header) {
	if headersSize(headers) > maxLateHeaders {
		headers = nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.late = headers
}

func (l *loss) lateHeaders() Header {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.late
}

// headersSize is about what headers take, in bytes.
func headersSize(headers Header) (n int) {
	const name, value = 64, 16 // besides the bytes
	for k, values := range headers {
		n += name + len(k)
		for _, v := range values {
			n += value + len(v)
		}
	}
	return n
}
