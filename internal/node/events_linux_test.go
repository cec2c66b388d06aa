package node

import (
	"bytes"
	"context"
	"errors"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"porthole.dev/porthole/internal/testenv"
)

// startEvents serves events at a socket until the test ends.
func startEvents(t *testing.T) (*events, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "events.sock")
	l, err := listenSocket(path)
	if err != nil {
		t.Fatal(err)
	}
	e := newEvents(quiet)
	var work sync.WaitGroup
	work.Go(func() { e.serve(l) })
	t.Cleanup(func() { _ = l.Close(); e.close(); work.Wait() })
	return e, path
}

var errEnough = errors.New("enough")

func TestFollow(t *testing.T) {
	testenv.NoLeaks(t)
	e, path := startEvents(t)
	want := Record{
		Time: time.Now().UTC().Round(0), Event: EventClosed, Namespace: "default", Pod: "kuard", Sandbox: "s1", Port: 8080,
		Client: "127.0.0.1", UserAgent: "kubectl\x1b[2J", Protocol: "portforward.k8s.io",
		ConnectSeconds: .001, Sent: 5, Received: 7, Seconds: 1.5, Result: resultRefused, Error: "no\nway",
	}
	err := Follow(t.Context(), "unix://"+path, func(r Record) error {
		if r.Event == EventFollowing {
			e.publish(want)
			return nil
		}
		if r != want {
			t.Errorf("got %+v, want %+v", r, want)
		}
		return errEnough
	})
	if !errors.Is(err, errEnough) {
		t.Error(err)
	}
}

func TestFollowNobody(t *testing.T) {
	testenv.NoLeaks(t)
	stale := filepath.Join(t.TempDir(), "stale.sock")
	leaveStale(t, stale)
	never := func(Record) error { return errEnough }
	for _, path := range []string{"/nowhere/events.sock", stale} {
		if err := Follow(t.Context(), path, never); !errors.Is(err, ErrNoNode) {
			t.Errorf("Follow(%s) = %v, want ErrNoNode", path, err)
		}
	}
	if err := Follow(t.Context(), "tcp://x", never); !errors.Is(err, ErrEndpoint) {
		t.Errorf("Follow = %v, want ErrEndpoint", err)
	}
}

func TestFollowEnds(t *testing.T) {
	testenv.NoLeaks(t)
	e, path := startEvents(t)
	err := Follow(t.Context(), path, func(Record) error { go e.close(); return nil })
	if !errors.Is(err, ErrNoNode) {
		t.Errorf("Follow of a node that ends = %v, want ErrNoNode", err)
	}
	_, path = startEvents(t)
	ctx, cancel := context.WithCancel(t.Context())
	if err := Follow(ctx, path, func(Record) error { cancel(); return nil }); err != nil {
		t.Errorf("Follow until cancelled = %v", err)
	}
}

// A reader that does not read loses Records, which are counted, and holds nobody up.
func TestSlowReader(t *testing.T) {
	testenv.NoLeaks(t)
	e, path := startEvents(t)
	const many = 20_000 // far more than queue and socket take
	got, lost := 0, int64(0)
	err := Follow(t.Context(), path, func(r Record) error {
		switch r.Event {
		case EventFollowing:
			start := time.Now()
			for range many {
				e.publish(Record{Event: EventOpened, Pod: "kuard"})
			}
			if took := time.Since(start); took > waitTime {
				t.Errorf("telling took %v", took)
			}
			e.publish(Record{Event: EventFailed}) // lost, too, unless the reader was quick
			go func() {                           // there is room again once it reads
				for e.room() == 0 {
					time.Sleep(time.Millisecond)
				}
				e.publish(Record{Event: EventClosed})
			}()
			return nil
		case EventClosed:
			lost += r.Lost
			return errEnough
		}
		got++
		lost += r.Lost
		return nil
	})
	if !errors.Is(err, errEnough) {
		t.Fatal(err)
	}
	if lost == 0 || int64(got)+lost != many+1 {
		t.Errorf("%d read and %d lost of %d", got, lost, many+1)
	}
}

// room is how much the first reader's queue takes.
func (e *events) room() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	for r := range e.readers {
		return cap(r.records) - len(r.records)
	}
	return 1
}

func TestTooManyReaders(t *testing.T) {
	testenv.NoLeaks(t)
	_, path := startEvents(t)
	var conns []net.Conn
	for range maxReaders {
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
		_, _ = c.Read(make([]byte, 1)) // it was accepted
	}
	err := Follow(t.Context(), path, func(Record) error { return errEnough })
	if !errors.Is(err, ErrNoNode) {
		t.Errorf("one too many: %v", err)
	}
	for _, c := range conns {
		_ = c.Close()
	}
	for end := time.Now().Add(waitTime); ; time.Sleep(10 * time.Millisecond) {
		err := Follow(t.Context(), path, func(Record) error { return errEnough })
		if errors.Is(err, errEnough) {
			return
		}
		if time.Now().After(end) {
			t.Fatal("readers that hung up still count:", err)
		}
	}
}

func FuzzReadRecords(f *testing.F) {
	f.Add([]byte(`{"event":"opened","port":80}` + "\n" + `{"event":"closed","sent":5}`))
	f.Fuzz(func(t *testing.T, lines []byte) {
		if err := readRecords(bytes.NewReader(lines), func(Record) error { return nil }); err == nil {
			t.Error("no error at the end")
		}
	})
}
