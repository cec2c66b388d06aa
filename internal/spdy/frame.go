package spdy

import "encoding/binary"

// Section numbers in this file are those of draft-mbelshe-httpbis-spdy-00;
// SPDY/3.1 changes only the session window of section 2.6.8.

// version is the protocol version in every control frame; SPDY/3.1 kept 3.
const version = 3

// frameKind is the type field of a control frame.
type frameKind uint16

const (
	kindSynStream    frameKind = 1
	kindSynReply     frameKind = 2
	kindRstStream    frameKind = 3
	kindSettings     frameKind = 4
	kindPing         frameKind = 6
	kindGoAway       frameKind = 7
	kindHeaders      frameKind = 8
	kindWindowUpdate frameKind = 9
)

const (
	flagFin            = 0x01 // SYN_STREAM, SYN_REPLY, HEADERS, DATA: sender is done
	flagUnidirectional = 0x02 // SYN_STREAM: receiver may not answer
	flagClearSettings  = 0x01 // SETTINGS: forget persisted values; there are none
)

// The status codes of RST_STREAM that this package sends or tells apart
// (section 2.6.3).
const (
	statusProtocolError       = 1
	statusInvalidStream       = 2
	statusRefusedStream       = 3
	statusCancel              = 5
	statusFlowControlError    = 7
	statusStreamAlreadyClosed = 9
)

// The status codes of GOAWAY (section 2.6.6).
const (
	goAwayOK            = 0
	goAwayProtocolError = 1
)

// settingInitialWindow is the SETTINGS id of SETTINGS_INITIAL_WINDOW_SIZE.
const settingInitialWindow = 7

const (
	headerSize    = 8         // bytes of every frame's header
	maxStreamID   = 1<<31 - 1 // ids and window sizes have 31 bits
	maxWindow     = 1<<31 - 1
	maxDataLength = 1<<24 - 1
	// maxControlLength caps a control frame's payload: the largest header
	// block with the fixed fields of SYN_STREAM before it.
	maxControlLength = maxHeaderBlock + 10
)

// frameHeader is the 8 bytes before every frame (section 2.2).
type frameHeader []byte

func (h frameHeader) control() bool    { return h[0]&0x80 != 0 }
func (h frameHeader) version() uint16  { return binary.BigEndian.Uint16(h) & 0x7fff }
func (h frameHeader) kind() frameKind  { return frameKind(binary.BigEndian.Uint16(h[2:])) }
func (h frameHeader) streamID() uint32 { return binary.BigEndian.Uint32(h) & maxStreamID }
func (h frameHeader) flags() uint8     { return h[4] }
func (h frameHeader) length() int      { return int(binary.BigEndian.Uint32(h[4:]) & maxDataLength) }

// appendDataHeader appends the header of a DATA frame of n bytes.
func appendDataHeader(dst []byte, id uint32, flags uint8, n int) []byte {
	dst = binary.BigEndian.AppendUint32(dst, id)
	return binary.BigEndian.AppendUint32(dst, uint32(flags)<<24|uint32(n))
}

// control is one control frame, its header block still compressed. Which fields
// mean something depends on kind; the others are zero.
type control struct {
	kind     frameKind
	flags    uint8
	streamID uint32 // GOAWAY: last stream accepted; WINDOW_UPDATE: 0 is the session
	related  uint32 // SYN_STREAM: the stream it is associated to
	priority uint8  // SYN_STREAM: 0 highest to 7
	slot     uint8  // SYN_STREAM: credential slot
	value    uint32 // RST_STREAM, GOAWAY: status; WINDOW_UPDATE: delta; PING: id
	settings []setting
	block    []byte // SYN_STREAM, SYN_REPLY, HEADERS; aliases the parsed payload
}

// setting is one entry of a SETTINGS frame.
type setting struct {
	flags uint8
	id    uint32 // 24 bits
	value uint32
}

// known reports whether parseControl understands the kind. Section 2.2.1 wants
// other kinds skipped.
func (k frameKind) known() bool {
	return k >= kindSynStream && k <= kindWindowUpdate && k != 5
}

// parseControl reads the payload of a control frame of a known kind. It takes
// only what append writes: a reserved bit or an undefined flag that is set, a
// length that does not fit, or a zero where zero is reserved is ErrProtocol.
func parseControl(h frameHeader, payload []byte) (control, error) {
	f := control{kind: h.kind(), flags: h.flags()}
	if h.version() != version {
		return f, protocolError("version %d", h.version())
	}
	if f.flags&^f.kind.allowedFlags() != 0 {
		return f, protocolError("flags %#x on control frame %d", f.flags, f.kind)
	}
	if !f.kind.fits(len(payload)) {
		return f, protocolError("control frame %d with %d bytes", f.kind, len(payload))
	}
	f.parsePayload(payload)
	return f, f.check(payload)
}

func (k frameKind) allowedFlags() uint8 {
	switch k {
	case kindSynStream:
		return flagFin | flagUnidirectional
	case kindSynReply, kindHeaders:
		return flagFin
	case kindSettings:
		return flagClearSettings
	}
	return 0
}

// fits reports whether a payload of n bytes holds the fields of the kind.
func (k frameKind) fits(n int) bool {
	switch k {
	case kindSynStream:
		return n >= 10
	case kindSynReply, kindHeaders:
		return n >= 4
	case kindSettings:
		return n >= 4 && n%8 == 4
	case kindPing:
		return n == 4
	}
	return n == 8
}

func (f *control) parsePayload(p []byte) {
	first := binary.BigEndian.Uint32(p)
	switch f.kind {
	case kindSynStream:
		f.streamID, f.related = first, binary.BigEndian.Uint32(p[4:])
		f.priority, f.slot, f.block = p[8]>>5, p[9], p[10:]
	case kindSynReply, kindHeaders:
		f.streamID, f.block = first, p[4:]
	case kindSettings:
		for p = p[4:]; len(p) >= 8; p = p[8:] {
			word := binary.BigEndian.Uint32(p)
			f.settings = append(f.settings, setting{
				flags: uint8(word >> 24), id: word & 0xffffff, value: binary.BigEndian.Uint32(p[4:]),
			})
		}
	case kindPing:
		f.value = first
	default:
		f.streamID, f.value = first, binary.BigEndian.Uint32(p[4:])
	}
}

// check refuses the values that section 2.6 reserves.
func (f *control) check(payload []byte) error {
	bad := f.streamID > maxStreamID
	switch f.kind {
	case kindSynStream:
		bad = bad || f.streamID == 0 || f.related > maxStreamID || payload[8]&0x1f != 0
	case kindSynReply, kindHeaders:
		bad = bad || f.streamID == 0
	case kindRstStream:
		bad = bad || f.streamID == 0 || f.value == 0
	case kindSettings:
		bad = int(binary.BigEndian.Uint32(payload)) != len(f.settings)
	case kindWindowUpdate:
		bad = bad || f.value == 0 || f.value > maxWindow
	case kindPing:
		bad = f.value == 0
	}
	if bad {
		return protocolError("reserved value in control frame %d", f.kind)
	}
	return nil
}

// append appends the frame as it goes over the wire.
func (f *control) append(dst []byte) []byte {
	dst = binary.BigEndian.AppendUint16(dst, 0x8000|version)
	dst = binary.BigEndian.AppendUint16(dst, uint16(f.kind))
	at := len(dst)
	dst = binary.BigEndian.AppendUint32(dst, 0) // flags and length
	switch f.kind {
	case kindSynStream:
		dst = binary.BigEndian.AppendUint32(dst, f.streamID)
		dst = binary.BigEndian.AppendUint32(dst, f.related)
		dst = append(dst, f.priority<<5, f.slot)
		dst = append(dst, f.block...)
	case kindSynReply, kindHeaders:
		dst = append(binary.BigEndian.AppendUint32(dst, f.streamID), f.block...)
	case kindSettings:
		dst = binary.BigEndian.AppendUint32(dst, uint32(len(f.settings)))
		for _, s := range f.settings {
			dst = binary.BigEndian.AppendUint32(dst, uint32(s.flags)<<24|s.id)
			dst = binary.BigEndian.AppendUint32(dst, s.value)
		}
	case kindPing:
		dst = binary.BigEndian.AppendUint32(dst, f.value)
	default:
		dst = binary.BigEndian.AppendUint32(dst, f.streamID)
		dst = binary.BigEndian.AppendUint32(dst, f.value)
	}
	length := uint32(len(dst) - at - 4)
	binary.BigEndian.PutUint32(dst[at:], uint32(f.flags)<<24|length)
	return dst
}
