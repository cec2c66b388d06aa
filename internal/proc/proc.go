// Package proc reads from /proc what tells one process from a later one with the same number, and tells which one is at
// the other end of a Unix socket. It must not know what the processes are for.
package proc

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strconv"
)

// Stat is what /proc/PID/stat says of a process, as far as it is needed here.
type Stat struct {
	// State is a letter of proc_pid_stat(5), 'Z' for one that has exited.
	State byte
	// Parent is the number of its parent, 0 for none that is seen from here.
	Parent int
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
	const state, parent, started = 0, 1, 19 // the fields 3, 4 and 22, counted from the third
	fields := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
	if len(fields) <= started {
		return Stat{}, fmt.Errorf("malformed stat of a process: %q", text)
	}
	s.State = fields[state][0]
	if s.Parent, err = strconv.Atoi(string(fields[parent])); err != nil {
		return Stat{}, err
	}
	s.Started, err = strconv.ParseUint(string(fields[started]), 10, 64)
	return s, err
}

// Exited says whether the process has, although it may not have been reaped.
func (s Stat) Exited() bool { return s.State == 'Z' || s.State == 'X' }

// All returns the numbers of all processes that /proc shows, the lowest first.
func All() (pids []int) {
	folders, _ := os.ReadDir("/proc") // and no pattern, for which each process' folder would be read
	for _, folder := range folders {
		if pid, err := strconv.Atoi(folder.Name()); err == nil {
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids)
	return pids
}
