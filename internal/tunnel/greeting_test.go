package tunnel_test

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"porthole.dev/porthole/internal/tunnel"
)

var greeting = tunnel.Greeting{Version: "1.2", Features: []string{"targets"}}

// The vector of docs/protocol.md.
const greetingVector = "00706f7274686f6c652e76310a" + "001d" + "76657273696f6e3d312e320a" + "66656174757265733d746172676574730a"

func TestGreetingVector(t *testing.T) {
	if got := hex.EncodeToString(greeting.Append(nil)); got != greetingVector {
		t.Errorf("the greeting is %s, want %s", got, greetingVector)
	}
}

func TestReadGreeting(t *testing.T) {
	hello := string(greeting.Append(nil))
	for name, before := range map[string]string{
		"nothing":        "",
		"a line":         "Welcome!\n",
		"half a line":    "Welcome! ",
		"half a magic":   "\x00porthole.v1",
		"a bell":         "\a\x00\r\n",
		"64 KiB":         strings.Repeat("x", 64<<10),
		"64 KiB of ends": strings.Repeat("\n", 64<<10),
	} {
		r := bufio.NewReader(iotest.OneByteReader(strings.NewReader(before + hello + "behind")))
		got, err := tunnel.ReadGreeting(r)
		if err != nil || got.Version != "1.2" || !slices.Equal(got.Features, greeting.Features) || !got.Has(tunnel.FeatureTargets) || got.Has("target") {
			t.Errorf("%s before: got %+v, %v", name, got, err)
		}
		if rest, err := io.ReadAll(r); string(rest) != "behind" || err != nil {
			t.Errorf("%s before: %q is left, %v", name, rest, err)
		}
	}
}

func TestNoGreeting(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		want error
	}{
		"nothing":     {"", io.EOF},
		"an error":    {"bash: porthole: command not found\n", io.EOF},
		"a magic":     {"\x00porthole.v2\n", io.EOF},
		"a length":    {"\x00porthole.v1\n\x00", io.ErrUnexpectedEOF},
		"half a text": {"\x00porthole.v1\n\x00\x05ver", io.ErrUnexpectedEOF},
		"too long":    {"\x00porthole.v1\n\x10\x01" + strings.Repeat("x", 5000), tunnel.ErrNoGreeting},
		"no end":      {strings.Repeat("yes\n", 1<<20), tunnel.ErrNoGreeting},
		"no line":     {strings.Repeat("y", 4<<20), tunnel.ErrNoGreeting},
	} {
		if got, err := tunnel.ReadGreeting(bufio.NewReader(strings.NewReader(c.text))); !errors.Is(err, c.want) {
			t.Errorf("%s: got %+v, %v, want %v", name, got, err, c.want)
		}
	}
	_, err := tunnel.ReadGreeting(bufio.NewReader(strings.NewReader("porthole: not found\n")))
	var noise *tunnel.NoiseError
	if !errors.As(err, &noise) || string(noise.Noise) != "porthole: not found\n" || !errors.Is(err, tunnel.ErrNoGreeting) {
		t.Errorf("what came instead is %v", err)
	}
}

func FuzzReadGreeting(f *testing.F) {
	f.Add(greeting.Append(nil))
	f.Add([]byte("noise\n\x00porthole.v1\n\x00\x03a=b"))
	f.Add([]byte("\x00porthole.v1\n\x00\x14features=,a,,b\nversi"))
	f.Fuzz(func(t *testing.T, text []byte) {
		got, err := tunnel.ReadGreeting(bufio.NewReader(bytes.NewReader(text)))
		if err != nil {
			return
		}
		again, err := tunnel.ReadGreeting(bufio.NewReader(bytes.NewReader(got.Append(nil))))
		if err != nil || again.Version != got.Version || !slices.Equal(again.Features, got.Features) {
			t.Fatalf("%q is read as %+v, and that as %+v, %v", text, got, again, err)
		}
	})
}
