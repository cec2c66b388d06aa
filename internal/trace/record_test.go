package trace

import (
	"encoding/binary"
	"errors"
	"reflect"
	"strings"
	"testing"
)

// raw is a record as exec.bpf.c writes it.
type raw struct {
	time           uint64
	pid, ppid, ret int32
	dir            int32
	flags          uint32
	comm           string
	file, args     string // with their NULs
}

// encode lays a record out, with room to spare between and behind file and arguments.
func (r raw) encode() []byte {
	const gap = 3
	fileAt := headLength
	argsAt := fileAt + len(r.file) + gap
	b := make([]byte, argsAt+len(r.args)+gap)
	order := binary.NativeEndian
	order.PutUint64(b[0:], r.time)
	for i, n := range []int32{r.pid, r.ppid, r.ret, r.dir} {
		order.PutUint32(b[8+4*i:], uint32(n))
	}
	order.PutUint32(b[24:], r.flags)
	for i, n := range []int{fileAt, len(r.file), argsAt, len(r.args)} {
		order.PutUint16(b[28+2*i:], uint16(n))
	}
	copy(b[36:52], r.comm)
	copy(b[fileAt:], r.file)
	copy(b[argsAt:], r.args)
	return b
}

func TestDecode(t *testing.T) {
	for _, tt := range []struct {
		name string
		raw  raw
		want Exec
	}{
		{"a success", raw{pid: 24546, ppid: 24545, dir: atCWD, comm: "nsenter", file: "/usr/bin/nsenter\x00", args: "nsenter\x00-t\x004947\x00"},
			Exec{Comm: "nsenter", PID: 24546, PPID: 24545, Args: []string{"/usr/bin/nsenter", "-t", "4947"}}},
		{"a failure", raw{pid: 1, ret: -2, dir: atCWD, comm: "sixteen bytes ha", file: "x\x00", args: "x\x00"},
			Exec{Comm: "sixteen bytes ha", PID: 1, Ret: -2, Args: []string{"x"}}},
		{"empty arguments", raw{dir: atCWD, file: "x\x00", args: "\x00\x00\x00"}, Exec{Args: []string{"x", "", ""}}},
		{"no arguments", raw{dir: atCWD, file: "x\x00"}, Exec{Args: []string{"x"}}},
		{"truncated", raw{dir: atCWD, flags: truncated, file: "x\x00", args: "x\x00abc"}, Exec{Args: []string{"x", "abc"}, Truncated: true}},
		{"nothing could be read", raw{dir: atCWD, flags: truncated}, Exec{Args: []string{""}, Truncated: true}},
		{"in a directory", raw{dir: 3, file: "x\x00", args: "y\x00z\x00"}, Exec{Args: []string{"/dev/fd/3/x", "z"}}},
		{"a descriptor", raw{dir: 3, file: "\x00", args: "y\x00z\x00"}, Exec{Args: []string{"/dev/fd/3", "z"}}},
		{"absolute in spite of a directory", raw{dir: 3, file: "/x\x00", args: "y\x00"}, Exec{Args: []string{"/x"}}},
		{"a script", raw{dir: atCWD, flags: interpreted, file: "/x\x00", args: "/bin/sh\x00-e\x00/x\x00a\x00"}, Exec{Args: []string{"/x", "a"}}},
		{"a script by another name", raw{dir: atCWD, flags: interpreted, file: "/x\x00", args: "/bin/sh\x00/y\x00a\x00"}, Exec{Args: []string{"/x", "/y", "a"}}},
		{"a script without arguments", raw{dir: atCWD, flags: interpreted, file: "/x\x00"}, Exec{Args: []string{"/x"}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.raw.time = 12345
			got, ns, err := decode(tt.raw.encode())
			if err != nil || ns != 12345 {
				t.Fatalf("decode: %d, %v", ns, err)
			}
			if !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got  %+v\nwant %+v", got, tt.want)
			}
		})
	}
}

func TestDecodeMalformed(t *testing.T) {
	whole := raw{dir: atCWD, file: "x\x00", args: "x\x00"}.encode()
	outside := func(at int, value uint16) []byte {
		b := append([]byte(nil), whole...)
		binary.NativeEndian.PutUint16(b[at:], value)
		return b
	}
	for name, record := range map[string][]byte{
		"empty":                     nil,
		"half a head":               whole[:headLength-1],
		"a head alone":              whole[:headLength],
		"a file in the head":        outside(atFile, headLength-1),
		"a file beyond the end":     outside(atFile, uint16(len(whole))),
		"a file that is too long":   outside(atFile+2, 0xffff),
		"arguments in the head":     outside(atArgs, 0),
		"arguments beyond the end":  outside(atArgs, 0xffff),
		"arguments that are longer": outside(atArgs+2, uint16(len(whole))),
	} {
		if got, _, err := decode(record); !errors.Is(err, errRecord) {
			t.Errorf("%s: %+v, %v, want %v", name, got, err, errRecord)
		}
	}
}

// FuzzDecode: whatever the kernel says, nothing panics, there is a file, and
// nothing is made up. What was understood is understood again.
func FuzzDecode(f *testing.F) {
	f.Add(raw{dir: atCWD, comm: "x", file: "x\x00", args: "x\x00\x00a"}.encode())
	f.Add(raw{dir: 3, flags: truncated | interpreted, file: "/x\x00", args: "sh\x00/x\x00a\x00"}.encode())
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, record []byte) {
		e, ns, err := decode(record)
		if err != nil {
			if !errors.Is(err, errRecord) {
				t.Fatal(err)
			}
			return
		}
		if len(e.Args) == 0 || len(e.Comm) > commLength {
			t.Fatalf("%+v", e)
		}
		if all := strings.Join(append(e.Args, e.Comm), ""); len(all) > 2*len(record)+len("/dev/fd/-2147483648/") {
			t.Fatalf("%d bytes of %d", len(all), len(record))
		}
		again := raw{
			time: ns, pid: int32(e.PID), ppid: int32(e.PPID), ret: int32(e.Ret), dir: atCWD, comm: e.Comm,
			file: e.Args[0] + "\x00", args: strings.Join(append([]string{"argv0"}, e.Args[1:]...), "\x00") + "\x00",
		}
		if e.Truncated {
			again.flags = truncated
		}
		if len(again.file)+len(again.args) > 60_000 {
			return // more than an offset can say
		}
		twice, nsTwice, err := decode(again.encode())
		if err != nil || nsTwice != ns || !reflect.DeepEqual(twice, e) {
			t.Fatalf("%v: got  %+v\nwant %+v", err, twice, e)
		}
	})
}
