package node

import (
	"os"
	"runtime/debug"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// proxyNice is the nice value of the process that the kubelet's calls pass through. It
// uses little of a processor, but on a busy node each call would wait for one twice.
const proxyNice = -10

// Prioritize has the kernel prefer this process to others when a call wakes it up, if it
// may and nobody has given it a nice value (setpriority(2)). The data path does not
// inherit that.
func Prioritize() {
	if nice(0) == 0 {
		renice(proxyNice)
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

// nameProcess sets the short name by which ps and top show a process.
func nameProcess(name string) { _ = os.WriteFile("/proc/self/comm", []byte(name), 0) }

// raiseOOMScore has the kernel end this process before its parent when memory is short,
// and no later than an ordinary program (oom_score_adj of proc(5)).
func raiseOOMScore() {
	const path, more, most = "/proc/self/oom_score_adj", 100, 1000
	text, err := os.ReadFile(path)
	if err != nil {
		return
	}
	score, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return
	}
	_ = os.WriteFile(path, []byte(strconv.Itoa(min(max(score+more, 0), most))), 0)
}

// limitHeap has the garbage collector work harder as the heap nears what the forwards
// may hold: chunks that are half full at worst, and 128 MiB for all else. GOMEMLIMIT
// in the environment overrides it.
func limitHeap(memory int) {
	if os.Getenv("GOMEMLIMIT") == "" && memory > 0 {
		debug.SetMemoryLimit(2*int64(memory) + 128<<20)
	}
}
