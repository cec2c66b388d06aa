package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"porthole.dev/porthole/internal/forward"
)

// writeReady writes the ready file, if it has a name: a line ADDRESS:PORT REMOTE for each
// listener, all at once, so that whoever sees the file can read all of it.
func writeReady(path string, listeners []*forward.Listener) (remove func(), err error) {
	if path == "" {
		return func() {}, nil
	}
	var text bytes.Buffer
	for _, l := range listeners {
		fmt.Fprintf(&text, "%s %d\n", l.Local, l.Remote)
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".porthole-ready-*")
	if err != nil {
		return nil, fmt.Errorf("ready file: %w", err)
	}
	_, err = f.Write(text.Bytes())
	err = errors.Join(err, f.Chmod(0o644), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return nil, fmt.Errorf("ready file: %w", err)
	}
	return func() { _ = os.Remove(path) }, nil
}
