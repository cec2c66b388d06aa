package spdy

import "time"

// Config says how one end of a tunnel behaves. The zero value is a client of a
// stock peer.
type Config struct {
	// Server makes this end the one that accepted the connection. It decides
	// who has the odd stream ids, and must differ between the two ends.
	Server bool

	// MaxStreams caps the streams open at once, for those opened by the peer
	// and those opened here each. One port-forwarded connection is two. The
	// peer's further streams are refused; ours fail with ErrTooManyStreams.
	// 0 means 2048.
	MaxStreams int

	// FlowControl keeps the windows of SPDY/3.1, so that a stream that is not
	// read holds up nobody but its own sender. Both ends must set it: stock
	// Kubernetes ends never widen a window, and would stop for ever after the
	// first 64 KiB. Without it a stream whose ReceiveBuffer is full holds up
	// the whole tunnel; see Conn.Stalled.
	FlowControl bool

	// ReceiveBuffer is how many bytes wait per stream until they are read;
	// with FlowControl it is the window that a stream begins with, and at least
	// 64 KiB, since that much may come before the peer knows better. The window
	// of a stream whose reader keeps up grows to 8 MiB, all of a tunnel by 64
	// MiB together. So memory is bounded by ReceiveBuffer times MaxStreams and
	// that. 0 means 256 KiB.
	ReceiveBuffer int

	// Share, if set, is the tunnel's part of what a server may hold unread. It
	// pays for each stream, for windows as they are granted, and without
	// FlowControl for what is unread. Where that is short, windows do not grow,
	// new streams get less, 16 KiB at first, or are refused, and without
	// FlowControl the tunnel waits. Streams of this side fail with ErrNoMemory.
	Share *Share

	// Batch is how many bytes of data wait for one write to the transport, and at most 512 KiB.
	// 0 means 128 KiB. Behind it as many again may be being written.
	Batch int

	// Splicer, if set, sends over the transport what SpliceFrom has it take from sockets,
	// and nil means that SpliceFrom takes nothing.
	Splicer Splicer

	// PingInterval is how often this end sends a PING. 0 means never. The
	// peer's are answered always.
	PingInterval time.Duration

	// PingTimeout is how long the tunnel may bring nothing at all after a PING
	// before it is given up with ErrPingTimeout. 0 means for ever. A stock
	// peer with one stalled stream may stop answering although it lives.
	PingTimeout time.Duration

	// Probe makes pings that want no answer: what they are for is to be written,
	// by which the way to the peer finds out that it is gone. A stock client
	// handles frames with few workers, and each PING that it cannot answer, for a
	// stalled stream of its own, holds up one of them. PingTimeout means nothing.
	Probe bool

	// PeerClosed, if set, reports whether the transport has lost its peer, although there
	// may be bytes left to read. While the tunnel reads nothing because a stream's
	// buffer is full, a frame is written four times a second so that it can know; it
	// is asked when that has lasted for two seconds, and true ends the tunnel.
	PeerClosed func() bool
}

func (cfg Config) withDefaults() Config {
	if cfg.MaxStreams <= 0 {
		cfg.MaxStreams = 2048
	}
	if cfg.ReceiveBuffer <= 0 {
		cfg.ReceiveBuffer = 256 << 10
	}
	cfg.ReceiveBuffer = min(cfg.ReceiveBuffer, maxWindow)
	if cfg.Batch <= 0 {
		cfg.Batch = batchSize
	}
	cfg.Batch = min(cfg.Batch, LargeBatch)
	if cfg.FlowControl {
		cfg.ReceiveBuffer = max(cfg.ReceiveBuffer, initialWindow)
	}
	if cfg.Probe {
		cfg.PingTimeout = 0
	}
	return cfg
}

// probe is a PING that the peer must ignore: the answer to one that it will not have
// sent (section 2.6.5).
func (cfg Config) probe() control {
	return control{kind: kindPing, value: maxStreamID - cfg.firstID()&1}
}

// firstID is the first stream or ping id of this end; the peer has the other
// parity (sections 2.3.2 and 2.6.5).
func (cfg Config) firstID() uint32 {
	if cfg.Server {
		return 2
	}
	return 1
}
