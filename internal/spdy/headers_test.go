package spdy

import (
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/adler32"
	"net/http"
	"reflect"
	"strings"
	"testing"

	stockframes "github.com/moby/spdystream/spdy"
)

// The specification does not print the checksum, but every SPDY/3 stream of
// header blocks begins with it.
func TestDictionary(t *testing.T) {
	if len(dictionary) != 1423 || adler32.Checksum([]byte(dictionary)) != 0xe3c6a7c2 {
		t.Fatalf("%d bytes, checksum %#x", len(dictionary), adler32.Checksum([]byte(dictionary)))
	}
	if n := binary.BigEndian.Uint16([]byte(zlibHeader)); n%31 != 0 {
		t.Fatalf("zlib header %#x fails its check (RFC 1950, section 2.2)", n)
	}
}

// compressor writes header blocks as peers do, really compressed.
type compressor struct {
	buf bytes.Buffer
	w   *zlib.Writer
}

func (c *compressor) block(t testing.TB, text []byte) []byte {
	t.Helper()
	if c.w == nil {
		w, err := zlib.NewWriterLevelDict(&c.buf, zlib.BestCompression, []byte(dictionary))
		if err != nil {
			t.Fatal(err)
		}
		c.w = w
	}
	c.buf.Reset()
	c.w.Write(text)
	c.w.Flush()
	return bytes.Clone(c.buf.Bytes())
}

func text(t testing.TB, h Header) []byte {
	t.Helper()
	b, err := headerText(h)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestHeaderBlockVector(t *testing.T) {
	var e headerEncoder
	first := e.append(nil, text(t, Header{"Port": {"80"}}))
	want := "7820e3c6a7c2" + "00" + "1200" + "edff" +
		"00000001" + "00000004" + "706f7274" + "00000002" + "3830" + "000000ffff"
	if !bytes.Equal(first, unhex(t, want)) {
		t.Errorf("first block %x, want %s", first, want)
	}
	second := e.append(nil, text(t, nil))
	if want := "00" + "0400" + "fbff" + "00000000" + "000000ffff"; !bytes.Equal(second, unhex(t, want)) {
		t.Errorf("second block %x, want %s", second, want)
	}
}

// headerSets are sent one after the other through one compression context.
var headerSets = []Header{
	{"Streamtype": {"error"}, "Port": {"8080"}, "Requestid": {"0"}},
	{"Streamtype": {"data"}, "Port": {"8080"}, "Requestid": {"0"}},
	{},
	{"Two": {"values", "and another"}, "Empty": {""}},
	{"Long": {strings.Repeat("x", 15<<10)}},
	{"After": {"long"}},
}

func TestHeaderRoundTrip(t *testing.T) {
	var e headerEncoder
	var c compressor
	for name, encode := range map[string]func(text []byte) []byte{
		"stored":     func(text []byte) []byte { return e.append(nil, text) },
		"compressed": func(text []byte) []byte { return c.block(t, text) },
	} {
		t.Run(name, func(t *testing.T) {
			var d headerDecoder
			for i, h := range headerSets {
				got, err := d.decode(encode(text(t, h)))
				if err != nil || !reflect.DeepEqual(got, h) {
					t.Fatalf("set %d: %v, %v", i, got, err)
				}
			}
		})
	}
}

func pairs(kv ...string) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(kv)/2))
	for _, s := range kv {
		b = appendString(b, s)
	}
	return b
}

func TestHeaderRefuses(t *testing.T) {
	many := Header{}
	for i := range maxHeaderCount + 1 {
		many[fmt.Sprintf("H%d", i)] = []string{""}
	}
	tooMany := binary.BigEndian.AppendUint32(nil, maxHeaderCount+1)
	for name, text := range map[string][]byte{
		"upper case":    pairs("Port", "80"),
		"twice":         pairs("port", "80", "port", "81"),
		"no name":       pairs("", "80"),
		"too many":      tooMany,
		"many values":   pairs("a", strings.Repeat("\x00", maxHeaderCount)),
		"spread values": pairs("a", strings.Repeat("\x00", maxHeaderCount-2), "b", "\x00"),
		"2^32 of them":  {0xff, 0xff, 0xff, 0xff},
		"2^32 bytes":    append(pairs()[:0], 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff),
		"cut":           pairs("port", "80")[:15],
		"goes on":       append(pairs("port", "80"), 0),
		"goes on a lot": append(pairs("port", "80"), make([]byte, 4<<10)...),
		"bomb":          pairs("bomb", strings.Repeat("0", 1<<20)),
		"spread bomb":   pairs("a", strings.Repeat("0", 60<<10), "b", strings.Repeat("0", 60<<10)),
	} {
		var c compressor
		var d headerDecoder
		if h, err := d.decode(c.block(t, text)); !errors.Is(err, ErrProtocol) {
			t.Errorf("%s: %d headers, %v", name, len(h), err)
		}
	}
	var d headerDecoder
	if _, err := d.decode(make([]byte, maxHeaderBlock+1)); !errors.Is(err, ErrProtocol) {
		t.Errorf("large block: %v", err)
	}
	if _, err := headerText(many); err == nil {
		t.Error("too many headers were encoded")
	}
	if _, err := headerText(Header{"Values": make([]string, maxHeaderCount+1)}); err == nil {
		t.Error("too many values were encoded")
	}
	if _, err := headerText(Header{"Long": {strings.Repeat("x", maxHeaderBlock)}}); err == nil {
		t.Error("too long a header was encoded")
	}
}

// A bomb must not be unpacked before it is refused.
func TestHeaderBombCostsLittle(t *testing.T) {
	var c compressor
	bomb := c.block(t, pairs("bomb", strings.Repeat("0", 14<<20)))
	if len(bomb) > maxHeaderBlock {
		t.Fatalf("bomb of %d bytes", len(bomb))
	}
	result := testing.Benchmark(func(b *testing.B) {
		b.ReportAllocs()
		for range b.N {
			var d headerDecoder
			d.decode(bomb)
		}
	})
	if result.AllocedBytesPerOp() > 256<<10 {
		t.Errorf("refusing a bomb takes %d bytes", result.AllocedBytesPerOp())
	}
}

// The decompressor hands text out when its window of 32 KiB is full, which may be
// with the last byte of a block and before the empty stored block. SYN_REPLYs
// without headers, of 4 bytes each, come to that after 8192.
func TestHeaderWindowWraps(t *testing.T) {
	for _, size := range []int{0, 1, 7, 32} {
		h := Header{}
		if size > 0 {
			h["Port"] = []string{strings.Repeat("8", size)}
		}
		t.Run(fmt.Sprint(size), func(t *testing.T) { wrapWindows(t, h) })
	}
}

// wrapWindows sends one header set for many windows through our ends and stock ones.
func wrapWindows(t *testing.T, h Header) {
	var e headerEncoder
	var ours, stocks headerDecoder
	var out, in bytes.Buffer
	stock, err := stockframes.NewFramer(&out, &in)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 20_000 {
		f := control{kind: kindSynReply, streamID: 1, block: e.append(nil, text(t, h))}
		if _, err := ours.decode(f.block); err != nil {
			t.Fatalf("block %d, ours to ours: %v", i, err)
		}
		in.Write(f.append(nil))
		if _, err := stock.ReadFrame(); err != nil {
			t.Fatalf("block %d, ours to stock: %v", i, err)
		}
		stock.WriteFrame(&stockframes.SynReplyFrame{StreamId: 1, Headers: http.Header(h)})
		b := bytes.Clone(out.Bytes())
		out.Reset()
		if f, err = parseControl(b[:headerSize], b[headerSize:]); err != nil {
			t.Fatal(err)
		}
		if got, err := stocks.decode(f.block); err != nil || got.Get("Port") != h.Get("Port") {
			t.Fatalf("block %d, stock to ours: %v, %v", i, got, err)
		}
	}
}

// FuzzHeaderBlock feeds two blocks to one context. What is accepted must survive
// our own encoder.
func FuzzHeaderBlock(f *testing.F) {
	var c compressor
	var e headerEncoder
	f.Add(c.block(f, text(f, headerSets[0])), c.block(f, text(f, headerSets[1])))
	f.Add(e.append(nil, text(f, headerSets[0])), e.append(nil, text(f, headerSets[3])))
	f.Fuzz(func(t *testing.T, first, second []byte) {
		var d, back headerDecoder
		var e headerEncoder
		for _, block := range [][]byte{first, second} {
			h, err := d.decode(block)
			if err != nil {
				if !errors.Is(err, ErrProtocol) {
					t.Fatal(err)
				}
				return
			}
			text, err := headerText(h)
			if err != nil {
				continue // within the caps of decoding, not of encoding
			}
			again, err := back.decode(e.append(nil, text))
			if err != nil || !reflect.DeepEqual(again, h) {
				t.Fatalf("%v\n%v %v", h, again, err)
			}
		}
	})
}
