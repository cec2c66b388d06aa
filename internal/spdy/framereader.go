package spdy

import (
	"io"
	"sync/atomic"
	"time"
)

const (
	readBuffer = 4 << 10
	// readAhead is how much a read of payload takes beyond it: the next frame's header,
	// so that a stream of large frames costs one read each.
	readAhead = 512
)

// frameReader reads frames from a transport: headers and small payloads through its buffer,
// large payloads straight to where they belong.
type frameReader struct {
	src  io.Reader
	buf  []byte
	r, w int // buf[r:w] is read ahead

	started  time.Time
	lastRead atomic.Int64 // when bytes last came, in ns after started
}

func (f *frameReader) init(src io.Reader) {
	f.src, f.buf, f.started = src, make([]byte, readBuffer), time.Now()
}

// next returns the next n bytes, valid until the next call.
func (f *frameReader) next(n int) ([]byte, error) {
	if f.w-f.r < n {
		buf := f.buf
		if n > len(buf) {
			buf = make([]byte, n)
		}
		f.w = copy(buf, f.buf[f.r:f.w])
		f.r, f.buf = 0, buf
		m, err := f.fill(f.buf[f.w:], n-f.w)
		f.w += m
		if err != nil {
			return nil, err
		}
	}
	b := f.buf[f.r : f.r+n]
	f.r += n
	return b, nil
}

// read reads between 1 and len(dst) bytes into dst. A large dst is read into directly, and
// its capacity beyond its length is overwritten: what comes behind dst goes to the buffer.
func (f *frameReader) read(dst []byte) (int, error) {
	if f.r == f.w && len(dst) >= len(f.buf)/2 {
		ahead := dst[:min(cap(dst), len(dst)+readAhead)]
		m, err := f.fill(ahead, 1)
		n := min(m, len(dst))
		f.r, f.w = 0, copy(f.buf, ahead[n:m])
		return n, err
	}
	if err := f.refill(); err != nil {
		return 0, err
	}
	n := copy(dst, f.buf[f.r:f.w])
	f.r += n
	return n, nil
}

// discard drops the next n bytes.
func (f *frameReader) discard(n int) error {
	for n > 0 {
		if err := f.refill(); err != nil {
			return err
		}
		m := min(n, f.w-f.r)
		f.r += m
		n -= m
	}
	return nil
}

// refill makes sure that the buffer is not empty.
func (f *frameReader) refill() (err error) {
	if f.r == f.w {
		f.r = 0
		f.w, err = f.fill(f.buf, 1)
	}
	return err
}

// fill reads at least atLeast bytes from the transport and notes when they came.
func (f *frameReader) fill(dst []byte, atLeast int) (n int, err error) {
	for n < atLeast && err == nil {
		var m int
		if m, err = f.src.Read(dst[n:]); m > 0 {
			n += m
			f.lastRead.Store(int64(time.Since(f.started)))
		}
	}
	switch {
	case n >= atLeast:
		return n, nil
	case n > 0 && err == io.EOF:
		err = io.ErrUnexpectedEOF
	}
	return n, err
}
