package agent

import (
	"errors"
	"io"
	"os"
)

// stdio are the standard streams as one stream.
type stdio struct{}

// Stdio returns the standard streams of this process as one stream. Nothing else may use them
// from here on.
func Stdio() io.ReadWriteCloser { return stdio{} }

func (stdio) Read(p []byte) (int, error)  { return os.Stdin.Read(p) }
func (stdio) Write(p []byte) (int, error) { return os.Stdout.Write(p) }
func (stdio) Close() error                { return errors.Join(os.Stdin.Close(), os.Stdout.Close()) }
