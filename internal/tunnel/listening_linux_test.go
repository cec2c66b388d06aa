package tunnel

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/testenv"
)

var sockets = []target.Socket{
	{Endpoint: target.Endpoint{AddrPort: netip.MustParseAddrPort("127.0.0.1:8080")}, UID: 1000, Inode: 4711, PID: 12, Command: "nginx"},
	{Endpoint: target.Endpoint{Network: target.UDP, AddrPort: netip.MustParseAddrPort("[fe80::1%2]:53")}},
	{Endpoint: target.Endpoint{Network: target.Unix, Path: "/run/x.sock"}},
}

// A client is told at first, and of each change, until it asks no more.
func TestListening(t *testing.T) {
	testenv.NoLeaks(t)
	changes, ended := make(chan []target.Socket), make(chan struct{})
	watch := func(ctx context.Context, tell func([]target.Socket)) error {
		defer close(ended)
		for {
			select {
			case now := <-changes:
				tell(now)
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
	}
	c, _ := open(t, ServerConfig{Listening: watch}, ClientConfig{})
	ctx, cancel := context.WithCancel(t.Context())
	told, done := make(chan []target.Socket), make(chan error, 1)
	go func() { done <- c.Listening(ctx, func(now []target.Socket) { told <- now }) }()
	for _, want := range [][]target.Socket{sockets, {}, sockets[1:]} {
		changes <- want
		if got := <-told; !reflect.DeepEqual(got, want) {
			t.Errorf("told %+v, want %+v", got, want)
		}
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("ended with %v", err)
	}
	<-ended
}

// Who cannot tell says so, and why it tells no more; a tunnel asks for no more than a share.
func TestListeningRefused(t *testing.T) {
	testenv.NoLeaks(t)
	never := func([]target.Socket) { t.Error("told") }
	c, _ := open(t, ServerConfig{}, ClientConfig{})
	if err := c.Listening(t.Context(), never); !errors.Is(err, ErrUnsupported) {
		t.Errorf("%v, want ErrUnsupported", err)
	}
	c, _ = open(t, ServerConfig{Listening: func(context.Context, func([]target.Socket)) error { return ErrDenied }}, ClientConfig{})
	if err := c.Listening(t.Context(), never); !errors.Is(err, ErrDenied) {
		t.Errorf("%v, want ErrDenied", err)
	}
	begun := make(chan struct{}, maxWatches+1)
	c, _ = open(t, ServerConfig{Listening: func(ctx context.Context, _ func([]target.Socket)) error {
		begun <- struct{}{}
		<-ctx.Done()
		return context.Cause(ctx)
	}}, ClientConfig{})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, maxWatches)
	for range maxWatches {
		go func() { done <- c.Listening(ctx, never) }()
	}
	for range maxWatches {
		<-begun
	}
	if err := c.Listening(ctx, never); err == nil || !strings.Contains(err.Error(), errManyWatches.Error()) {
		t.Errorf("one more: %v", err)
	}
	cancel()
	for range maxWatches {
		<-done
	}
}

// The vectors of docs/protocol.md.
func TestListeningVectors(t *testing.T) {
	const line = `{"sockets":[{"network":"tcp","address":"127.0.0.1:8080","uid":1000,"inode":4711,"pid":12,"command":"nginx"},` +
		`{"network":"udp","address":"[fe80::1%2]:53","uid":0},{"network":"unix","path":"/run/x.sock","uid":0}]}` + "\n"
	if got := string(appendListing(nil, sockets)); got != line {
		t.Errorf("the line is %s", got)
	}
	const block = "7820e3c6a7c2" + "001c00e3ff00000001000000076e6574776f726b000000096c697374656e696e67000000ffff"
	got := hex.EncodeToString(firstBlockOf(t, func(c *Client) error {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := c.Listening(ctx, func([]target.Socket) {}); !errors.Is(err, context.Canceled) {
			return err
		}
		return nil
	}))
	if got != block {
		t.Errorf("the header block is %s", got)
	}
}

// A list is as long as may be, and no longer.
func TestListingLimits(t *testing.T) {
	long := target.Socket{
		Endpoint: target.Endpoint{Network: target.Unix, Path: "/" + strings.Repeat("<", maxUnixPath-1)},
		UID:      1<<32 - 1, Inode: 1<<32 - 1, PID: 1<<31 - 1, Command: strings.Repeat("\x01", 16),
	}
	short := target.Socket{Endpoint: target.Endpoint{AddrPort: netip.MustParseAddrPort("127.0.0.1:65535")}, PID: 4711, Command: "docker-proxy"}
	const most = 5000 // as on a host with containers whose ports are published
	for what, test := range map[string]struct {
		sockets []target.Socket
		want    int
	}{
		"too many":     {slices.Repeat([]target.Socket{short}, maxSockets+1), maxSockets},
		"too long":     {append(slices.Repeat([]target.Socket{short}, most), slices.Repeat([]target.Socket{long}, most)...), most},
		"all too long": {slices.Repeat([]target.Socket{long}, maxSockets), 1},
	} {
		line := appendListing(nil, test.sockets)
		got, err := parseListing(line)
		if err != nil || len(line) > maxListing || len(got) < test.want || !slices.Equal(got, test.sockets[:len(got)]) {
			t.Errorf("%s: %d bytes, %d sockets, %v", what, len(line), len(got), err)
		}
		if omitted := fmt.Sprintf(`"omitted":%d}`, len(test.sockets)-len(got)); !strings.HasSuffix(string(line), omitted+"\n") {
			t.Errorf("%s: %s is not told", what, omitted)
		}
	}
	foreign := target.Socket{Endpoint: target.Endpoint{Network: target.Unix, Path: "/\xff"}}
	if got, err := parseListing(appendListing(nil, []target.Socket{foreign})); err != nil || len(got) != 0 {
		t.Errorf("a path that is not UTF-8: %v, %v", got, err)
	}
	for _, wrong := range []string{
		"", "[]", `{"sockets":1}`, `{"sockets":[{"network":"tcp"}]}`, `{"sockets":[{"network":"tcp","address":"1.2.3.4:0"}]}`,
		`{"sockets":[{"network":"unix","path":"x"}]}`, `{"sockets":[{"network":"unix","path":"/a\u0000"}]}`,
		`{"sockets":[{"network":"tcp","address":"1.2.3.4:5","path":"/x"}]}`, `{"sockets":[{"network":"tcp","address":"1.2.3.4:5","pid":-1}]}`,
	} {
		if got, err := parseListing([]byte(wrong)); !errors.Is(err, errListing) {
			t.Errorf("%s: %v, %v", wrong, got, err)
		}
	}
	if got, err := parseListing([]byte(`{"sockets":[{"network":"vsock","cid":3}],"more":1}`)); err != nil || len(got) != 0 {
		t.Errorf("what is not known is not ignored: %v, %v", got, err)
	}
}

// Whatever is read as a list can be sent again.
func FuzzParseListing(f *testing.F) {
	f.Add(appendListing(nil, sockets))
	f.Add([]byte(`{"sockets":[{"network":"unix","path":"/\ud800"}]}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		got, err := parseListing(line)
		if err != nil {
			return
		}
		if again, err := parseListing(appendListing(nil, got)); err != nil || !slices.Equal(again, got) {
			t.Errorf("%q is read as %+v, and that as %+v, %v", line, got, again, err)
		}
	})
}
