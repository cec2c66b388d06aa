package container

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/moby/moby/api/pkg/stdcopy"
)

// frame is what an engine sends for a write of a container.
func frame(stream byte, text string) string {
	return string([]byte{stream, 0, 0, 0, 0, 0, byte(len(text) >> 8), byte(len(text))}) + text
}

// stream is an attach that brings some bytes.
func stream(r io.Reader) *attached {
	conn, _ := net.Pipe()
	a := newAttached(conn)
	a.calls = struct {
		io.Reader
		io.Writer
	}{r, io.Discard}
	return a
}

// Output is what was written to standard output, however reads cut the frames.
func TestAttached(t *testing.T) {
	sent := frame(1, "one") + frame(2, "an error\n") + frame(1, "") + frame(1, strings.Repeat("x", 300)) + frame(2, "and its reason") + frame(1, "two")
	want := "one" + strings.Repeat("x", 300) + "two"
	for name, r := range map[string]io.Reader{
		"whole": strings.NewReader(sent), "by bytes": iotest.OneByteReader(strings.NewReader(sent)), "in halves": iotest.HalfReader(strings.NewReader(sent)),
	} {
		a := stream(r)
		got, err := io.ReadAll(a)
		if err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
		if line := a.stderr.LastLine(); line != "and its reason" {
			t.Errorf("%s: the last line of errors is %q", name, line)
		}
	}
	if _, err := io.ReadAll(stream(strings.NewReader("HTTP/1.1 400"))); !errors.Is(err, errFrame) {
		t.Errorf("no frames: %v", err)
	}
}

// bounded reports whether no frame is longer than what there is: Docker's own package makes room for all of a frame at once.
func bounded(sent []byte) bool {
	for len(sent) >= frameHeader {
		size := uint64(binary.BigEndian.Uint32(sent[4:]))
		if sent = sent[frameHeader:]; size > uint64(len(sent)) {
			return false
		}
		sent = sent[size:]
	}
	return true
}

// FuzzAttached holds that what comes out is what Docker's own package makes of it.
func FuzzAttached(f *testing.F) {
	f.Add([]byte(frame(1, "one")+frame(2, "error")+frame(1, "two")), 3)
	f.Add([]byte("\x01\x00\x00\x00\xff\xff\xff\xffabc"), 1)
	f.Add([]byte("\x01000\x00\x00\x00\x03000"), 3)
	f.Add([]byte(frame(0, "two")), 80)
	f.Fuzz(func(t *testing.T, sent []byte, size int) {
		a := stream(bytes.NewReader(sent))
		p := make([]byte, 1+uint(size)%64)
		var got []byte
		for {
			n, err := a.Read(p)
			if n < 0 || n > len(p) {
				t.Fatalf("%d bytes of %d", n, len(p))
			}
			got = append(got, p[:n]...)
			if errors.Is(err, errFrame) {
				return // Docker's own package does not look at all of a header
			}
			if err != nil {
				break
			}
		}
		if !bounded(sent) {
			return
		}
		var want, errs bytes.Buffer
		if _, err := stdcopy.StdCopy(&want, &errs, bytes.NewReader(sent)); err == nil && !bytes.HasPrefix(got, want.Bytes()) {
			t.Errorf("%q, want %q", got, want.Bytes())
		}
	})
}
