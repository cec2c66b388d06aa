// Package proc reads from /proc what tells one process from a later one with the same number.
// It must not know whose processes they are.
package proc

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
)

// Stat is what /proc/PID/stat says of a process, as far as it is needed here.
type Stat struct {
	// State is a letter of proc_pid_stat(5), 'Z' for one that has exited.
	State byte
	// Started is when the process began, in clock ticks since boot: with its number
	// it names one process for good.
	Started uint64
}

// ReadStat reads the Stat of a process. The error is os.ErrNotExist if there is none.
func ReadStat(pid int) (Stat, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return Stat{}, err
	}
	return ParseStat(text)
}

// ParseStat reads the contents of a stat file.
func ParseStat(text []byte) (s Stat, err error) {
	// The second field is the command in parentheses, which may have anything in it.
	const state, started = 0, 19 // the fields 3 and 22, counted from the third
	fields := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
	if len(fields) <= started {
		return Stat{}, fmt.Errorf("malformed stat of a process: %q", text)
	}
	s.State = fields[state][0]
	s.Started, err = strconv.ParseUint(string(fields[started]), 10, 64)
	return s, err
}

// Exited says whether the process has, although it may not have been reaped.
func (s Stat) Exited() bool { return s.State == 'Z' || s.State == 'X' }
