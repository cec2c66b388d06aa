package spdy

import (
	"bytes"
	"encoding/hex"
	"errors"
	"reflect"
	"strings"
	"testing"
)

// vectors are frames of each kind, byte for byte after the specification.
// TestStockReadsVectors holds that the stock library takes them.
var vectors = []struct {
	name  string
	frame control
	wire  string
}{
	{"syn_stream", control{kind: kindSynStream, flags: flagFin, streamID: 5, related: 3, priority: 7, slot: 1, block: []byte{0xaa, 0xbb}},
		"80030001 0100000c 00000005 00000003 e001 aabb"},
	{"syn_reply", control{kind: kindSynReply, streamID: 5, block: []byte{0xcc}},
		"80030002 00000005 00000005 cc"},
	{"rst_stream", control{kind: kindRstStream, streamID: 7, value: statusCancel},
		"80030003 00000008 00000007 00000005"},
	{"settings", control{kind: kindSettings, settings: []setting{{flags: 1, id: settingInitialWindow, value: 1 << 20}}},
		"80030004 0000000c 00000001 01000007 00100000"},
	{"ping", control{kind: kindPing, value: 9},
		"80030006 00000004 00000009"},
	{"goaway", control{kind: kindGoAway, streamID: 11, value: goAwayProtocolError},
		"80030007 00000008 0000000b 00000001"},
	{"headers", control{kind: kindHeaders, flags: flagFin, streamID: 5, block: []byte{}},
		"80030008 01000004 00000005"},
	{"window_update", control{kind: kindWindowUpdate, streamID: 0, value: maxWindow},
		"80030009 00000008 00000000 7fffffff"},
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestControlVectors(t *testing.T) {
	for _, v := range vectors {
		t.Run(v.name, func(t *testing.T) {
			wire := unhex(t, v.wire)
			if got := v.frame.append(nil); !bytes.Equal(got, wire) {
				t.Errorf("written as %x, want %x", got, wire)
			}
			got, err := parseControl(wire[:headerSize], wire[headerSize:])
			if err != nil || !reflect.DeepEqual(got, v.frame) {
				t.Errorf("read as %+v, %v; want %+v", got, err, v.frame)
			}
		})
	}
}

func TestDataVector(t *testing.T) {
	got := appendDataHeader(nil, 3, flagFin, 0x012345)
	if want := unhex(t, "00000003 01012345"); !bytes.Equal(got, want) {
		t.Fatalf("written as %x, want %x", got, want)
	}
	h := frameHeader(got)
	if h.control() || h.streamID() != 3 || h.flags() != flagFin || h.length() != 0x012345 {
		t.Fatalf("read as %d %d %d", h.streamID(), h.flags(), h.length())
	}
}

func TestControlRefuses(t *testing.T) {
	for name, wire := range map[string]string{
		"version 2":                 "80020006 00000004 00000001",
		"ping with a flag":          "80030006 01000004 00000001",
		"ping 0":                    "80030006 00000004 00000000",
		"ping too long":             "80030006 00000005 0000000100",
		"rst_stream too short":      "80030003 00000004 00000007",
		"rst_stream of stream 0":    "80030003 00000008 00000000 00000005",
		"rst_stream without reason": "80030003 00000008 00000001 00000000",
		"settings count":            "80030004 0000000c ffffffff 01000007 00100000",
		"settings cut":              "80030004 00000006 00000001 0100",
		"window_update of 0":        "80030009 00000008 00000001 00000000",
		"window_update of 2^31":     "80030009 00000008 00000001 80000000",
		"syn_stream 0":              "80030001 0000000a 00000000 00000000 0000",
		"syn_stream with 32-bit id": "80030001 0000000a 80000001 00000000 0000",
		"syn_stream reserved bits":  "80030001 0000000a 00000001 00000000 0100",
		"headers too short":         "80030008 00000003 000000",
		"goaway reserved bit":       "80030007 00000008 80000000 00000000",
	} {
		wire := unhex(t, wire)
		if f, err := parseControl(wire[:headerSize], wire[headerSize:]); !errors.Is(err, ErrProtocol) {
			t.Errorf("%s: %+v, %v", name, f, err)
		}
	}
}

// FuzzControl holds that what is accepted is written back byte for byte.
func FuzzControl(f *testing.F) {
	for _, v := range vectors {
		f.Add(unhex(f, v.wire))
	}
	f.Fuzz(func(t *testing.T, wire []byte) {
		if len(wire) < headerSize {
			return
		}
		h := frameHeader(wire)
		if !h.control() || !h.kind().known() || h.length() != len(wire)-headerSize {
			return
		}
		got, err := parseControl(h, wire[headerSize:])
		if err != nil {
			if !errors.Is(err, ErrProtocol) {
				t.Fatal(err)
			}
			return
		}
		if again := got.append(nil); !bytes.Equal(again, wire) {
			t.Fatalf("read %x\nwrote %x", wire, again)
		}
	})
}
