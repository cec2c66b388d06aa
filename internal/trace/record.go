package trace

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
)

// The head of a record, as exec.bpf.c lays it out in the byte order of the
// machine: offsets in bytes.
const (
	atTime     = 0  // u64, ns of CLOCK_MONOTONIC
	atPID      = 8  // s32
	atPPID     = 12 // s32
	atRet      = 16 // s32
	atDir      = 20 // s32, descriptor of a directory that the file's name starts at, or atCWD
	atFlags    = 24 // u32
	atFile     = 28 // u16 offset, u16 size of the file's name
	atArgs     = 32 // u16 offset, u16 size of the arguments
	atComm     = 36 // 16 bytes, padded with NUL
	headLength = 56
)

const (
	truncated   = 1 << 0
	interpreted = 1 << 1

	commLength = 16
	atCWD      = -100 // AT_FDCWD
)

var errRecord = errors.New("malformed record")

// decode reads a record. The time is apart, in nanoseconds of CLOCK_MONOTONIC.
func decode(record []byte) (e Exec, ns uint64, err error) {
	if len(record) < headLength {
		return Exec{}, 0, fmt.Errorf("%w: %d bytes", errRecord, len(record))
	}
	file, err := part(record, atFile)
	if err != nil {
		return Exec{}, 0, err
	}
	args, err := part(record, atArgs)
	if err != nil {
		return Exec{}, 0, err
	}
	flags := binary.NativeEndian.Uint32(record[atFlags:])
	name, _, _ := bytes.Cut(file, []byte{0})
	return Exec{
		Comm:      comm(record[atComm : atComm+commLength]),
		PID:       number(record, atPID),
		PPID:      number(record, atPPID),
		Ret:       number(record, atRet),
		Args:      arguments(inDir(string(name), number(record, atDir)), split(args), flags&interpreted != 0),
		Truncated: flags&truncated != 0,
	}, binary.NativeEndian.Uint64(record[atTime:]), nil
}

// part is a piece of a record whose offset and size are at a place of the head.
func part(record []byte, at int) ([]byte, error) {
	from := int(binary.NativeEndian.Uint16(record[at:]))
	to := from + int(binary.NativeEndian.Uint16(record[at+2:]))
	if from < headLength || to > len(record) {
		return nil, fmt.Errorf("%w: bytes %d to %d of %d", errRecord, from, to, len(record))
	}
	return record[from:to], nil
}

func number(record []byte, at int) int {
	return int(int32(binary.NativeEndian.Uint32(record[at:])))
}

func comm(padded []byte) string {
	name, _, _ := bytes.Cut(padded, []byte{0})
	return string(name)
}

// split separates the arguments, each of which ends with a NUL, except maybe the last.
func split(args []byte) []string {
	if len(args) == 0 {
		return nil
	}
	return strings.Split(strings.TrimSuffix(string(args), "\x00"), "\x00")
}

// inDir names a file that execveat(2) found through a descriptor, as the kernel does.
func inDir(file string, dir int) string {
	if dir == atCWD || path.IsAbs(file) {
		return file
	}
	return strings.TrimSuffix(fmt.Sprintf("/dev/fd/%d/%s", dir, file), "/")
}

// arguments replaces the first argument, which can be anything, by the file. An
// interpreter's arguments are its own, the script, and then the script's without the
// first.
func arguments(file string, argv []string, interpreted bool) []string {
	if interpreted && len(argv) > 1 {
		if i := slices.Index(argv[1:], file); i >= 0 {
			return argv[1+i:]
		}
	}
	if len(argv) == 0 {
		return []string{file}
	}
	return append([]string{file}, argv[1:]...)
}
