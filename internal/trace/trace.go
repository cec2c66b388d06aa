// Package trace reports which process on this machine executes which program, as the kernel sees it through eBPF.
// It must not know who asks, nor anything of containers or port-forwarding.
package trace

import (
	"errors"
	"time"
)

// Errors of Run, each with its cause.
var (
	// ErrUnsupported: not Linux, or neither amd64 nor arm64.
	ErrUnsupported = errors.New("tracing works on Linux only, on amd64 and arm64")
	// ErrPermission: bpf(2), perf_event_open(2) or the files of tracefs are refused.
	ErrPermission = errors.New("not permitted to trace")
	// ErrNoRingBuffer: the kernel has no eBPF, or no ring buffer for it, which came with Linux 5.8.
	ErrNoRingBuffer = errors.New("the kernel has no eBPF ring buffer")
	// ErrNoBTF: the kernel does not describe its own types.
	ErrNoBTF = errors.New("the kernel has no type information (BTF)")
	// ErrNoTracepoints: the kernel has no tracepoints of system calls.
	ErrNoTracepoints = errors.New("no tracepoints of system calls")
)

// Exec is one finished call of execve or execveat, or one program that the kernel started
// by itself.
type Exec struct {
	// Time is when the call ended.
	Time time.Time
	// Comm is the name of the process, at most 15 bytes: that of the new
	// program, or of the old one when the call failed.
	Comm string
	// PID and PPID are the process and its parent, in the first PID
	// namespace of the machine. A thread counts as its process.
	PID, PPID int
	// Ret is 0, or an errno, negated.
	Ret int
	// Args are the file as the caller named it, followed by the arguments without
	// the first. Those of a script are its own, not its interpreter's. Anybody
	// on the machine can choose these bytes.
	Args []string
	// Truncated says that arguments are missing at the end: they are long
	// (more than 4096 bytes in all), many (more than 256 of a call that
	// failed), or could not be read. The last one may be cut.
	Truncated bool
}

// Execs traces all programs that are run on this machine, in all containers.
type Execs struct {
	// Event is called for each one, in their order, from the goroutine of
	// Run. An error ends Run. Until it returns, events wait in a buffer of
	// 4 MiB, and are dropped when that is full.
	Event func(Exec) error
	// Ready is called once tracing has begun, so that nothing after it is missed.
	// An error ends Run. Nil: not called.
	Ready func() error
	// Lost is called with how many events were lost since its last call. Nil: not called.
	Lost func(n uint64)
}
