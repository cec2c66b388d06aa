package nonblock

import (
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// pipeSize is what a pipe is asked to hold, so that both its ends move much at once.
const pipeSize = 1 << 20

// File returns a reader and writer of one end of a pipe that does not block, or of another such
// file, by the calls of this package. A pipe is made larger where the user may have that.
// Deadlines and Close remain those of f.
func File(f *os.File) io.ReadWriter {
	if raw, err := f.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { _, _ = unix.FcntlInt(fd, unix.F_SETPIPE_SZ, pipeSize) })
	}
	return Of(f)
}
