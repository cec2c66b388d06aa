package tunnel

import (
	"encoding/binary"
	"encoding/hex"
	"io"
	"net"
	"net/textproto"
	"strings"
	"testing"

	"porthole.dev/porthole/internal/spdy"
	"porthole.dev/porthole/internal/target"
)

// received returns headers as their receiver has them.
func received(h spdy.Header) spdy.Header {
	got := spdy.Header{}
	for name, values := range h {
		got[textproto.CanonicalMIMEHeaderKey(name)] = values
	}
	return got
}

func TestParseAddress(t *testing.T) {
	for _, to := range []target.Address{
		target.TCPPort(80), {Network: target.UDP, Port: 53}, {Host: "db.internal", Port: 5432}, {Host: "fe80::1%eth0", Port: 1},
		{Network: target.UDP, Host: "10.0.0.1", Port: 65535}, {Network: target.Unix, Path: "/run/x:y z.sock"}, {Network: target.Unix, Path: "@abstract"},
	} {
		if got, err := parseAddress(received(addressHeader(to))); err != nil || got != to {
			t.Errorf("%+v is read as %+v, %v", to, got, err)
		}
	}
	for name, h := range map[string]spdy.Header{
		"nothing":    {},
		"a network":  {"network": {"sctp"}, "port": {"80"}},
		"no port":    {"network": {"tcp"}},
		"port 0":     {"network": {"udp"}, "port": {"0"}},
		"no path":    {"network": {"unix"}},
		"long path":  {"network": {"unix"}, "path": {"/" + strings.Repeat("x", maxPath)}},
		"zero bytes": {"network": {"unix"}, "path": {"/a\x00b"}},
		"long host":  {"network": {"tcp"}, "port": {"1"}, "host": {strings.Repeat("a", maxHost+1)}},
		"spaces":     {"network": {"tcp"}, "port": {"1"}, "host": {"a b"}},
	} {
		if got, err := parseAddress(received(h)); err == nil {
			t.Errorf("%s: read as %+v", name, got)
		}
	}
}

// The vectors of docs/protocol.md: the header block of a tunnel's first connection, without the
// zlib header before it.
func TestAddressVectors(t *testing.T) {
	for text, to := range map[string]target.Address{
		"00 2600 d9ff 00000002 00000007 6e6574776f726b 00000003 746370 00000004 706f7274 00000004 38303830 00 0000 ffff":                                 target.TCPPort(8080),
		"00 2400 dbff 00000002 00000007 6e6574776f726b 00000003 756470 00000004 706f7274 00000002 3533 00 0000 ffff":                                     {Network: target.UDP, Port: 53},
		"00 3400 cbff 00000003 00000004 686f7374 00000002 6462 00000007 6e6574776f726b 00000003 746370 00000004 706f7274 00000004 35343332 00 0000 ffff": {Host: "db", Port: 5432},
		"00 2e00 d1ff 00000002 00000007 6e6574776f726b 00000004 756e6978 00000004 70617468 0000000b 2f72756e2f782e736f636b 00 0000 ffff":                 {Network: target.Unix, Path: "/run/x.sock"},
	} {
		const zlibHeader = "7820e3c6a7c2"
		if got := hex.EncodeToString(firstBlock(t, to)); got != zlibHeader+strings.ReplaceAll(text, " ", "") {
			t.Errorf("%s: %s", to, got)
		}
	}
}

// firstBlock returns the header block of the first SYN_STREAM of a client that connects.
func firstBlock(t *testing.T, to target.Address) []byte {
	t.Helper()
	return firstBlockOf(t, func(c *Client) error {
		_, err := c.Dial(to)
		return err
	})
}

// firstBlockOf returns the header block of the first SYN_STREAM of a client.
func firstBlockOf(t *testing.T, open func(*Client) error) []byte {
	t.Helper()
	near, far := net.Pipe()
	client := NewClient(near, ClientConfig{})
	defer client.Close()
	defer far.Close()
	if err := open(client); err != nil {
		t.Fatal(err)
	}
	for {
		head := make([]byte, 8)
		if _, err := io.ReadFull(far, head); err != nil {
			t.Fatal(err)
		}
		payload := make([]byte, binary.BigEndian.Uint32(head[4:])&0xffffff)
		if _, err := io.ReadFull(far, payload); err != nil {
			t.Fatal(err)
		}
		if kind := binary.BigEndian.Uint16(head[2:]); kind == 1 { // SYN_STREAM
			return payload[10:]
		}
	}
}

// Whatever is read as an address can be sent again, and names nothing that a header could not hold.
func FuzzParseAddress(f *testing.F) {
	f.Add("tcp", "80", "db", "")
	f.Add("unix", "", "", "/run/x.sock")
	f.Fuzz(func(t *testing.T, network, port, host, path string) {
		h := spdy.Header{"Network": {network}, "Port": {port}, "Host": {host}, "Path": {path}}
		to, err := parseAddress(h)
		if err != nil {
			return
		}
		if again, err := parseAddress(received(addressHeader(to))); err != nil || again != to {
			t.Errorf("%+v is read again as %+v, %v", to, again, err)
		}
		if len(to.Host) > maxHost || len(to.Path) > maxPath || strings.ContainsRune(to.Host+to.Path, 0) || (to.Port == 0) == (to.Network != target.Unix) {
			t.Errorf("read as %+v", to)
		}
	})
}
