//go:build !linux

package nonblock

import (
	"io"
	"net"
	"os"
)

// Of returns c itself: only Linux' calls are made here.
func Of(c io.ReadWriter) io.ReadWriter { return c }

// File returns f itself, for the same reason.
func File(f *os.File) io.ReadWriter { return f }

// Burst returns c: only Linux lets a socket wait for many bytes.
func Burst(c net.Conn) net.Conn { return c }
