package node

import (
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"
)

const (
	// maxReaders is how many may read events at once.
	maxReaders = 32
	// backlog is how many Records wait for a slow reader.
	backlog = 1024
)

// events sends Records to whoever connects to its socket. Nothing that a reader
// does delays a forwarded connection.
type events struct {
	log *slog.Logger

	mu      sync.Mutex
	readers map[*reader]struct{}
	closed  bool
	work    sync.WaitGroup // readers
}

// reader is one connection to the socket.
type reader struct {
	conn    net.Conn
	records chan Record
	gone    chan struct{} // closed when it has hung up
	lost    int64         // Records dropped since the last one; guarded by events.mu
}

func newEvents(log *slog.Logger) *events {
	return &events{log: log, readers: map[*reader]struct{}{}}
}

// serve accepts readers until l is closed.
func (e *events) serve(l net.Listener) {
	for {
		conn, err := l.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			e.log.Warn("node: accept a reader of events", "err", err)
			time.Sleep(retryInterval) // no descriptors left, for instance
		default:
			e.addReader(conn)
		}
	}
}

func (e *events) addReader(conn net.Conn) {
	r := &reader{conn: conn, records: make(chan Record, backlog), gone: make(chan struct{})}
	r.records <- Record{Time: time.Now().UTC(), Event: EventFollowing}
	e.mu.Lock()
	full := e.closed || len(e.readers) == maxReaders
	if !full {
		e.readers[r] = struct{}{}
		e.work.Add(2)
	}
	e.mu.Unlock()
	if full {
		e.log.Warn("node: too many readers of events", "max", maxReaders)
		_ = conn.Close()
		return
	}
	go r.awaitHangup(&e.work)
	go e.write(r)
}

// awaitHangup waits for the reader to hang up; what it sends is discarded.
func (r *reader) awaitHangup(work *sync.WaitGroup) {
	defer work.Done()
	_, _ = io.Copy(io.Discard, r.conn)
	close(r.gone)
	_ = r.conn.Close() // which ends a Write that is stuck
}

// write sends Records to a reader until it is gone.
func (e *events) write(r *reader) {
	defer e.work.Done()
	defer func() {
		_ = r.conn.Close()
		e.mu.Lock()
		defer e.mu.Unlock()
		delete(e.readers, r)
	}()
	out := json.NewEncoder(r.conn)
	for {
		select {
		case record := <-r.records:
			if out.Encode(record) != nil {
				return
			}
		case <-r.gone:
			return
		}
	}
}

// publish queues a Record for each reader, or counts it as lost.
func (e *events) publish(record Record) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for r := range e.readers {
		record.Lost = r.lost
		select {
		case r.records <- record:
			r.lost = 0
		default:
			r.lost++
		}
	}
}

// close disconnects all readers; the caller closes the listener.
func (e *events) close() {
	e.mu.Lock()
	e.closed = true
	for r := range e.readers {
		_ = r.conn.Close()
	}
	e.mu.Unlock()
	e.work.Wait()
}
