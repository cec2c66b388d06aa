package spdy

import (
	"bufio"
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"fmt"
	"io"
	"net/textproto"
	"slices"
	"strings"
)

// Header are the headers of a stream. They are sent in lower case; a name may have several
// values.
type Header = textproto.MIMEHeader

// The caps of a header block. What Kubernetes sends is under 200 bytes.
const (
	maxHeaderBlock = 16 << 10 // bytes as they come over the wire
	maxHeaderText  = 64 << 10 // bytes after decompression
	maxHeaderCount = 64       // names, and values
)

// valueSeparator stands between the values of one name (section 2.6.10).
const valueSeparator = "\x00"

// syncMarker is the empty stored block that ends each header block: zlib's
// Z_SYNC_FLUSH, without which a reader cannot hand out what it has.
const syncMarker = "\x00\x00\x00\xff\xff"

// zlibHeader opens the zlib stream (RFC 1950, section 2.2): deflate with a
// window of 32 KiB, fastest level, preset dictionary, and the dictionary's Adler-32.
const zlibHeader = "\x78\x20\xe3\xc6\xa7\xc2"

// headerEncoder writes the zlib stream of the header blocks of one direction.
// Its deflate blocks are stored, not compressed: that is as valid (RFC 1951,
// section 3.2.4), saves the 0.8 MB that a compressor keeps per tunnel, and costs
// some 120 bytes per connection. The zero value is ready to use.
type headerEncoder struct {
	begun bool
}

// append appends the header block that holds text, as headerText made it.
func (e *headerEncoder) append(dst, text []byte) []byte {
	if !e.begun {
		e.begun = true
		dst = append(dst, zlibHeader...)
	}
	dst = append(dst, 0)
	dst = binary.LittleEndian.AppendUint16(dst, uint16(len(text)))
	dst = binary.LittleEndian.AppendUint16(dst, ^uint16(len(text)))
	dst = append(dst, text...)
	return append(dst, syncMarker...)
}

// headerText lays out h as a name/value block (section 2.6.10): names in lower
// case and sorted, so that the bytes depend on nothing but h. Headers that the
// caps of this package would refuse are an error.
func headerText(h Header) ([]byte, error) {
	names := make([]string, 0, len(h))
	for name := range h {
		names = append(names, name)
	}
	slices.Sort(names)
	text, values := binary.BigEndian.AppendUint32(nil, uint32(len(names))), 0
	for _, name := range names {
		values += max(1, len(h[name]))
		if name == "" {
			return nil, fmt.Errorf("encode headers: a name is empty")
		}
		text = appendString(text, strings.ToLower(name))
		text = appendString(text, strings.Join(h[name], valueSeparator))
	}
	if len(names) > maxHeaderCount || values > maxHeaderCount || len(text) > maxHeaderBlock-64 {
		return nil, fmt.Errorf("encode headers: %d names, %d values, %d bytes are too many", len(names), values, len(text))
	}
	return text, nil
}

func appendString(dst []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint32(dst, uint32(len(s))), s...)
}

// maxTail is what may be left of a block behind its last value: the code that
// ends a compressed block (RFC 1951, section 3.2.5: at most 15 bits, across three
// bytes) and the empty stored block.
const maxTail = 3 + len(syncMarker)

// headerDecoder reads the zlib stream of the header blocks of one direction.
// After an error it is of no more use: the compression context is lost. The
// zero value is ready to use and holds no memory before the first block.
type headerDecoder struct {
	block  blockFeed
	tail   []byte        // of the last block, not read yet
	text   *bufio.Reader // of the decompressed stream
	budget int           // bytes of text that the current block may still have
}

// blockFeed hands the current block to the decompressor, byte by byte, so that
// it never reads ahead; at the block's end it has no more, and says so.
type blockFeed struct {
	rest []byte
}

func (b *blockFeed) Read(p []byte) (int, error) {
	if len(b.rest) == 0 {
		return 0, io.ErrUnexpectedEOF
	}
	n := copy(p, b.rest)
	b.rest = b.rest[n:]
	return n, nil
}

func (b *blockFeed) ReadByte() (byte, error) {
	if len(b.rest) == 0 {
		return 0, io.ErrUnexpectedEOF
	}
	c := b.rest[0]
	b.rest = b.rest[1:]
	return c, nil
}

// decode decompresses one header block and parses it. Names are canonical in the
// result. Any error is ErrProtocol.
func (d *headerDecoder) decode(block []byte) (Header, error) {
	if len(block) > maxHeaderBlock {
		return nil, protocolError("header block of %d bytes", len(block))
	}
	if len(d.tail) > 0 {
		block = append(d.tail, block...)
		d.tail = nil
	}
	d.block.rest, d.budget = block, maxHeaderText
	if err := d.begin(); err != nil {
		return nil, err
	}
	h, err := d.parse()
	if err == nil {
		err = d.finish()
	}
	d.block.rest = nil
	return h, err
}

// finish checks that the block is at its end. The decompressor hands text out
// when it meets the empty stored block, or before that when its window of 32 KiB
// is full. With that the last value may come early; what is left belongs before
// the next block, since no reading on now would return.
func (d *headerDecoder) finish() error {
	rest := d.block.rest
	if d.text.Buffered() > 0 || len(rest) > maxTail || len(rest) > 0 && !bytes.HasSuffix(rest, []byte(syncMarker[1:])) {
		return protocolError("header block goes on after its last value")
	}
	d.tail = bytes.Clone(rest)
	return nil
}

// begin opens the decompressor with the first block, which carries zlib's header.
func (d *headerDecoder) begin() error {
	if d.text != nil {
		return nil
	}
	z, err := zlib.NewReaderDict(&d.block, []byte(dictionary))
	if err != nil {
		return protocolError("header block: %v", err)
	}
	d.text = bufio.NewReaderSize(z, 512)
	return nil
}

// parse reads the name/value block, which says itself where it ends.
func (d *headerDecoder) parse() (Header, error) {
	count, err := d.number()
	if err != nil {
		return nil, err
	}
	if count > maxHeaderCount {
		return nil, protocolError("%d headers", count)
	}
	h, values := make(Header, count), 0
	for range count {
		n, err := d.pair(h)
		if err != nil {
			return nil, err
		}
		if values += n; values > maxHeaderCount {
			return nil, protocolError("more than %d values", maxHeaderCount)
		}
	}
	return h, nil
}

// pair reads one name with its values into h and returns how many these are, of which it
// reads no more than are too many: an empty value is one byte here, and more in h.
func (d *headerDecoder) pair(h Header) (values int, err error) {
	name, err := d.string()
	if err != nil {
		return 0, err
	}
	value, err := d.string()
	if err != nil {
		return 0, err
	}
	key := textproto.CanonicalMIMEHeaderKey(name)
	if name == "" || name != strings.ToLower(name) || h[key] != nil {
		return 0, protocolError("header name %.40q is empty, not in lower case, or given twice", name)
	}
	h[key] = strings.SplitN(value, valueSeparator, maxHeaderCount+1)
	return len(h[key]), nil
}

func (d *headerDecoder) number() (int, error) {
	var b [4]byte
	if err := d.full(b[:]); err != nil {
		return 0, err
	}
	n := binary.BigEndian.Uint32(b[:])
	if n > maxHeaderText {
		return 0, protocolError("header text above %d bytes", maxHeaderText)
	}
	return int(n), nil
}

func (d *headerDecoder) string() (string, error) {
	n, err := d.number()
	if err != nil {
		return "", err
	}
	b := make([]byte, min(n, d.budget+1))
	err = d.full(b)
	return string(b), err
}

func (d *headerDecoder) full(b []byte) error {
	if d.budget -= len(b); d.budget < 0 {
		return protocolError("header text above %d bytes", maxHeaderText)
	}
	if _, err := io.ReadFull(d.text, b); err != nil {
		return protocolError("header block: %v", err)
	}
	return nil
}
