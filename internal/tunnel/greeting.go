package tunnel

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

const (
	// greetingMagic is what a greeting begins with. No shell prints a zero byte.
	greetingMagic = "\x00" + Protocol + "\n"
	// maxNoise is how many bytes may come before a greeting, such as what a login shell prints.
	maxNoise = 64 << 10
	// maxGreeting is the length of a greeting's text at most.
	maxGreeting = 4 << 10
)

// ErrNoGreeting means that what came from the other end of a byte stream is not a greeting.
var ErrNoGreeting = errors.New("no greeting")

// Greeting is what each end of a tunnel says first, where nothing else has settled that the
// other end speaks porthole.v1: on the standard streams of a program. The server begins.
type Greeting struct {
	// Version is that of the program, for people.
	Version string
	// Features are what the end can do beyond what every end of porthole.v1 can.
	Features []string
}

// Has reports whether the end has a feature.
func (g Greeting) Has(feature string) bool { return slices.Contains(g.Features, feature) }

// Append appends the greeting as it is sent: the magic, a length of 16 bits, and a text of
// lines KEY=VALUE.
func (g Greeting) Append(to []byte) []byte {
	var text bytes.Buffer
	for _, line := range []struct{ key, value string }{{"version", g.Version}, {"features", strings.Join(g.Features, ",")}} {
		fmt.Fprintf(&text, "%s=%s\n", line.key, strings.Map(printable, line.value))
	}
	text.Truncate(min(text.Len(), maxGreeting))
	to = append(to, greetingMagic...)
	to = binary.BigEndian.AppendUint16(to, uint16(text.Len()))
	return append(to, text.Bytes()...)
}

// printable drops what would end a line.
func printable(r rune) rune {
	if r < ' ' {
		return -1
	}
	return r
}

// GreetClient exchanges greetings as a server does, which begins. It returns the stream of what follows, whose
// Close is that of stream, and the client's greeting.
func GreetClient(stream io.ReadWriteCloser, mine Greeting) (io.ReadWriteCloser, Greeting, error) {
	if _, err := stream.Write(mine.Append(nil)); err != nil {
		return nil, Greeting{}, fmt.Errorf("greet: %w", err)
	}
	buffered := bufio.NewReader(stream)
	theirs, err := ReadGreeting(buffered)
	return bufferedStream{buffered, stream}, theirs, err
}

// GreetServer is GreetClient for a client, which sends nothing before it has read the server's greeting.
func GreetServer(stream io.ReadWriteCloser, mine Greeting) (io.ReadWriteCloser, Greeting, error) {
	buffered := bufio.NewReader(stream)
	theirs, err := ReadGreeting(buffered)
	if err == nil {
		_, err = stream.Write(mine.Append(nil))
	}
	return bufferedStream{buffered, stream}, theirs, err
}

// bufferedStream is a stream of which some bytes were read ahead, with the greeting.
type bufferedStream struct {
	*bufio.Reader
	stream io.ReadWriteCloser
}

func (s bufferedStream) Write(p []byte) (int, error) { return s.stream.Write(p) }
func (s bufferedStream) Close() error                { return s.stream.Close() }

// ReadGreeting skips what comes before the other end's greeting and reads that. Nothing behind
// it is read. The error wraps ErrNoGreeting and has what came instead, unless reading failed.
func ReadGreeting(r *bufio.Reader) (Greeting, error) {
	noise, err := skipNoise(r)
	if err != nil {
		return Greeting{}, &NoiseError{Noise: noise, Err: err}
	}
	var size [2]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return Greeting{}, fmt.Errorf("read greeting: %w", err)
	}
	length := binary.BigEndian.Uint16(size[:])
	if length > maxGreeting {
		return Greeting{}, fmt.Errorf("%w: its length is %d bytes, of %d at most", ErrNoGreeting, length, maxGreeting)
	}
	text := make([]byte, length)
	if _, err := io.ReadFull(r, text); err != nil {
		return Greeting{}, fmt.Errorf("read greeting: %w", err)
	}
	return parseGreeting(string(text)), nil
}

// parseGreeting reads the text of a greeting. Lines that are not known here are ignored.
func parseGreeting(text string) (g Greeting) {
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(strings.Map(printable, strings.ToValidUTF8(line, "")), "=")
		switch key {
		case "version":
			g.Version = value
		case "features":
			g.Features = strings.FieldsFunc(value, func(r rune) bool { return r == ',' })
		}
	}
	return g
}

// skipNoise reads up to the end of the magic, and returns what came before it.
func skipNoise(r *bufio.Reader) (noise []byte, err error) {
	for len(noise) < maxNoise+len(greetingMagic) {
		part, err := r.ReadSlice('\n')
		noise = append(noise, part...)
		if before, found := bytes.CutSuffix(noise, []byte(greetingMagic)); found {
			return before, nil
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return noise, err
		}
	}
	return noise, fmt.Errorf("%w within %d KiB", ErrNoGreeting, maxNoise>>10)
}

// NoiseError is a greeting that never came.
type NoiseError struct {
	Noise []byte // what came instead, as the other end chose it
	Err   error  // of reading it, io.EOF at its end
}

func (e *NoiseError) Error() string {
	if errors.Is(e.Err, ErrNoGreeting) {
		return e.Err.Error()
	}
	return fmt.Sprintf("%v: %v", ErrNoGreeting, e.Err)
}

// Unwrap returns Err.
func (e *NoiseError) Unwrap() error { return e.Err }

// Is reports that it is ErrNoGreeting.
func (e *NoiseError) Is(err error) bool { return err == ErrNoGreeting }
