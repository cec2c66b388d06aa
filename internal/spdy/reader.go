package spdy

import "io"

const (
	readBuffer = 4 << 10
	// readAhead is how much a read of payload takes beyond it: the next
	// frame's header, so that a stream of large frames costs one read each.
	readAhead = 512
)

// frameReader reads frames from a transport: headers and small payloads through
// its buffer, large payloads straight to where they belong.
type frameReader struct {
	src  io.Reader
	buf  []byte
	r, w int // buf[r:w] is read ahead
}

func newFrameReader(src io.Reader) *frameReader {
	return &frameReader{src: src, buf: make([]byte, readBuffer)}
}

// next returns the next n octets, valid until the next call.
func (f *frameReader) next(n int) ([]byte, error) {
	if f.w-f.r < n {
		f.compact(n)
		m, err := io.ReadAtLeast(f.src, f.buf[f.w:], n-(f.w-f.r))
		f.w += m
		if err != nil {
			return nil, err
		}
	}
	b := f.buf[f.r : f.r+n]
	f.r += n
	return b, nil
}

// compact makes room for n octets from r on.
func (f *frameReader) compact(n int) {
	buf := f.buf
	if n > len(buf) {
		buf = make([]byte, n)
	}
	f.w = copy(buf, f.buf[f.r:f.w])
	f.r, f.buf = 0, buf
}

// read reads between 1 and len(dst) octets into dst. It scribbles on dst's
// capacity beyond its length.
func (f *frameReader) read(dst []byte) (int, error) {
	if f.r == f.w && len(dst) < len(f.buf)/2 {
		f.r, f.w = 0, 0
		m, err := io.ReadAtLeast(f.src, f.buf, 1)
		f.w = m
		if err != nil {
			return 0, err
		}
	}
	if f.r < f.w {
		n := copy(dst, f.buf[f.r:f.w])
		f.r += n
		return n, nil
	}
	return f.readThrough(dst)
}

// readThrough reads past the buffer, and puts into it what came after dst.
func (f *frameReader) readThrough(dst []byte) (int, error) {
	ahead := dst[:min(cap(dst), len(dst)+readAhead)]
	m, err := io.ReadAtLeast(f.src, ahead, 1)
	if err != nil {
		return 0, err
	}
	n := min(m, len(dst))
	f.r, f.w = 0, copy(f.buf, ahead[n:m])
	return n, nil
}

// discard drops the next n octets.
func (f *frameReader) discard(n int) error {
	for n > 0 {
		if f.r == f.w {
			m, err := io.ReadAtLeast(f.src, f.buf, 1)
			f.r, f.w = 0, m
			if err != nil {
				return err
			}
		}
		m := min(n, f.w-f.r)
		f.r += m
		n -= m
	}
	return nil
}
