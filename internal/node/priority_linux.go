package node

import (
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// haste is the nice value of the process that the kubelet's calls pass through. It takes
// little of a processor, but on a busy node each call would wait for one twice.
const haste = -10

// Prioritize has the kernel prefer this process to others when a call wakes it up, if it
// may and nobody has given it a nice value (setpriority(2)). The data path does not
// inherit that.
func Prioritize() {
	if nice(0) == 0 {
		renice(haste)
	}
}

// unprioritize undoes it in a child.
func unprioritize() {
	if nice(0) < 0 {
		renice(0)
	}
}

// nice is the nice value of a thread, 0 for this one.
func nice(thread int) int {
	const offset = 20 // of what the system call returns, which is never negative
	raw, err := unix.Getpriority(unix.PRIO_PROCESS, thread)
	if err != nil {
		return 0
	}
	return offset - raw
}

// renice changes the nice value of all threads, for in Linux each has its own. Those that
// are made meanwhile may have the old one from the thread that made them.
func renice(value int) {
	for changed := true; changed; {
		changed = false
		entries, err := os.ReadDir("/proc/self/task")
		if err != nil {
			return
		}
		for _, e := range entries {
			thread, err := strconv.Atoi(e.Name())
			if err == nil && nice(thread) != value {
				changed = unix.Setpriority(unix.PRIO_PROCESS, thread, value) == nil || changed
			}
		}
	}
}
