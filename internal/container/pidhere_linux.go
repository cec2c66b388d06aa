package container

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"porthole.dev/porthole/internal/netns"
	"porthole.dev/porthole/internal/proc"
)

// pidHere returns the number here of a process that an engine knows by a number of its own: the engine may be in a PID
// namespace below this one, as one that RootlessKit has started with --pidns. engine is the engine's process,
// as it is seen from here. Errors: ErrElsewhere.
func pidHere(engine, pid int) (int, error) {
	if engine <= 0 {
		return 0, fmt.Errorf("%w: the engine is in a PID namespace that is not seen from here", ErrElsewhere)
	}
	numbers := numbersOf(engine)
	switch len(numbers) {
	case 0:
		return 0, fmt.Errorf("%w: the engine's process %d is gone", ErrElsewhere, engine)
	case 1:
		return pid, nil
	}
	depth := len(numbers) - 1
	theirs, err := netns.IDOf(fmt.Sprintf("/proc/%d/ns/pid", engine))
	if err != nil {
		return 0, fmt.Errorf("%w: the engine is in another PID namespace: %w", ErrElsewhere, err)
	}
	for _, here := range proc.All() {
		numbers := numbersOf(here)
		if len(numbers) > depth && numbers[depth] == pid && isBelow(fmt.Sprintf("/proc/%d/ns/pid", here), len(numbers)-1-depth, theirs) {
			return here, nil
		}
	}
	return 0, fmt.Errorf("%w: process %d of the engine's PID namespace is not seen from here", ErrElsewhere, pid)
}

// numbersOf returns the numbers that a process has in each PID namespace, from this one to its own (NSpid of
// proc_pid_status(5)); none if there is no such process.
func numbersOf(pid int) (numbers []int) {
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for line := range strings.Lines(string(status)) {
		list, ok := strings.CutPrefix(line, "NSpid:")
		if !ok {
			continue
		}
		for _, field := range strings.Fields(list) {
			number, _ := strconv.Atoi(field)
			numbers = append(numbers, number)
		}
	}
	return numbers
}

// isBelow reports whether a PID namespace is so many levels below another one.
func isBelow(path string, levels int, above netns.ID) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer func() { f.Close() }()
	for range levels {
		fd, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_PARENT)
		if err != nil {
			return false
		}
		f.Close()
		f = os.NewFile(uintptr(fd), path)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return false
	}
	return netns.ID{Device: st.Dev, Inode: st.Ino} == above
}
