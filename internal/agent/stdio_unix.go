//go:build unix

package agent

import (
	"errors"
	"io"
	"os"
	"syscall"

	"porthole.dev/porthole/internal/nonblock"
)

// stdio are the standard streams as one stream.
type stdio struct {
	io.Reader
	io.Writer
	in, out *os.File // of which these are
}

// Stdio returns the standard streams of this process as one stream, which ends reads and writes
// when it is closed. Nothing else may use them from here on.
func Stdio() io.ReadWriteCloser {
	in, out := pollable(os.Stdin), pollable(os.Stdout)
	return stdio{nonblock.File(in), nonblock.File(out), in, out}
}

// pollable returns a file whose Close ends its reads and writes, which wait in the runtime's
// poller.
func pollable(f *os.File) *os.File {
	fd := int(f.Fd())
	if syscall.SetNonblock(fd, true) != nil {
		return f
	}
	return os.NewFile(uintptr(fd), f.Name())
}

func (s stdio) Close() error { return errors.Join(s.in.Close(), s.out.Close()) }
