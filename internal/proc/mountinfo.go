package proc

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
)

// Mount is one mount, as a process' list of them has it (proc_pid_mountinfo(5)).
type Mount struct {
	ID     uint64
	Device string // MAJOR:MINOR of the filesystem
	Root   string // the directory or file of the filesystem that is mounted
	Point  string // where it is mounted, as the process sees it
	Type   string // of the filesystem, such as overlay
}

// ParseMounts reads a list of mounts.
func ParseMounts(list []byte) (all []Mount, err error) {
	for line := range bytes.Lines(list) {
		m, ok := parseMount(string(line))
		if !ok {
			return nil, fmt.Errorf("malformed mount: %.200q", line)
		}
		all = append(all, m)
	}
	return all, nil
}

// parseMount reads ID PARENT DEVICE ROOT POINT OPTIONS [TAG...] - TYPE SOURCE OPTIONS.
func parseMount(line string) (m Mount, ok bool) {
	fields, rest, found := strings.Cut(line, " - ")
	before, after := strings.Split(fields, " "), strings.Split(rest, " ") // other white space may be in them
	if !found || len(before) < 6 || len(after) < 3 {
		return m, false
	}
	id, err := strconv.ParseUint(before[0], 10, 64)
	return Mount{ID: id, Device: before[2], Root: unescape(before[3]), Point: unescape(before[4]), Type: unescape(after[0])}, err == nil
}

// unescape replaces \040 and its kind, which stand for what would end a field.
func unescape(field string) string {
	if !strings.Contains(field, `\`) {
		return field
	}
	var b strings.Builder
	for len(field) > 0 {
		if field[0] == '\\' && len(field) >= 4 {
			if code, err := strconv.ParseUint(field[1:4], 8, 8); err == nil {
				b.WriteByte(byte(code))
				field = field[4:]
				continue
			}
		}
		b.WriteByte(field[0])
		field = field[1:]
	}
	return b.String()
}
