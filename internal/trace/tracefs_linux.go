//go:build amd64 || arm64

package trace

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// syscallTracepoints is the folder of tracefs that has the tracepoints of system
// calls.
const syscallTracepoints = "events/syscalls"

// openTracepoints opens syscallTracepoints. If tracefs is not mounted it is mounted for
// the caller only: without a path, for as long as something of it is open.
//
// An existing mount is preferred: all mounts of tracefs share one instance, and a new
// mount resets the options that an administrator has given it.
func openTracepoints() (*os.File, error) {
	var failed []error
	for _, path := range tracefsMounts() {
		f, err := os.Open(path + "/" + syscallTracepoints)
		if err == nil {
			return f, nil
		}
		failed = append(failed, err) // something else may be mounted over it
	}
	f, err := openDetached()
	if err != nil {
		return nil, errors.Join(append(failed, err)...)
	}
	return f, nil
}

// tracefsMounts lists where tracefs is mounted. The one in debugfs is not among them
// until somebody has used it: accessing it would mount it permanently.
func tracefsMounts() (paths []string) {
	table, err := os.ReadFile("/proc/thread-self/mountinfo")
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(table)) {
		mount, source, _ := strings.Cut(line, " - ") // proc_pid_mountinfo(5)
		fields := strings.Fields(mount)
		if strings.HasPrefix(source, "tracefs ") && len(fields) > 4 && fields[3] == "/" {
			paths = append(paths, fields[4])
		}
	}
	return paths
}

// openDetached opens syscallTracepoints in a tracefs that it mounts without a path,
// with fsopen(2) of Linux 5.2. It takes CAP_SYS_ADMIN.
func openDetached() (*os.File, error) {
	config, err := unix.Fsopen("tracefs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, &fs.PathError{Op: "fsopen", Path: "tracefs", Err: err}
	}
	defer unix.Close(config)
	if err := unix.FsconfigCreate(config); err != nil {
		return nil, &fs.PathError{Op: "fsconfig", Path: "tracefs", Err: err}
	}
	attributes := unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC
	root, err := unix.Fsmount(config, unix.FSMOUNT_CLOEXEC, attributes)
	if err != nil {
		return nil, &fs.PathError{Op: "fsmount", Path: "tracefs", Err: err}
	}
	defer unix.Close(root)
	return openAt(root, syscallTracepoints)
}

func openAt(folder int, path string) (*os.File, error) {
	fd, err := unix.Openat(folder, path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// tracepointID is the kernel's number for a tracepoint, such as sys_enter_execve, of a folder.
func tracepointID(folder *os.File, name string) (uint64, error) {
	f, err := openAt(int(folder.Fd()), name+"/id")
	if err != nil {
		return 0, err
	}
	defer f.Close()
	text, err := io.ReadAll(f)
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
}

// attachTracepoint runs a program whenever any process reaches a tracepoint, until the
// result is closed. The library does the same, but finds the tracepoint's number only
// where tracefs is mounted.
func attachTracepoint(folder *os.File, name string, program *ebpf.Program) (io.Closer, error) {
	id, err := tracepointID(folder, name)
	if err != nil {
		return nil, err
	}
	attr := unix.PerfEventAttr{Type: unix.PERF_TYPE_TRACEPOINT, Config: id, Sample_type: unix.PERF_SAMPLE_RAW, Sample: 1, Wakeup: 1}
	// The event counts on one processor; the program runs on all.
	fd, err := unix.PerfEventOpen(&attr, -1, 0, -1, unix.PERF_FLAG_FD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, os.NewSyscallError("perf_event_open", err))
	}
	event := os.NewFile(uintptr(fd), "perf event")
	err = errors.Join(
		unix.IoctlSetInt(fd, unix.PERF_EVENT_IOC_SET_BPF, program.FD()),
		unix.IoctlSetInt(fd, unix.PERF_EVENT_IOC_ENABLE, 0))
	if err != nil {
		_ = event.Close()
		return nil, fmt.Errorf("%s: attach: %w", name, err)
	}
	return event, nil
}
