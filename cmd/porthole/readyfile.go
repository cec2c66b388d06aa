package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"porthole.dev/porthole/internal/leftovers"
	"porthole.dev/porthole/internal/session"
)

// readyFile is the file of --ready-file. Its methods are safe to call at the same
// time; without a path they do nothing.
type readyFile struct {
	path  string
	noted *leftovers.List // of this process' files, or nil

	mu      sync.Mutex
	text    string      // as it was written last
	mine    os.FileInfo // of the file that was written last; nil for none
	removed bool        // for good: write does nothing any more
}

// newReadyFile removes the file that a porthole which was killed has left, because it
// would say that this one is ready. It fails early if the file could not be written later.
func newReadyFile(path string) (*readyFile, error) {
	r := &readyFile{path: path}
	if path == "" {
		return r, nil
	}
	if old, err := os.Lstat(path); err == nil && !old.Mode().IsRegular() {
		return nil, fmt.Errorf("ready file: %s: not a regular file", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("ready file: %w", err)
	}
	trial, err := createBeside(path)
	if err != nil {
		return nil, fmt.Errorf("ready file: %w", err)
	}
	_ = trial.Close()
	_ = os.Remove(trial.Name())
	return r, nil
}

// createBeside creates a temporary file in the directory of path, so that it can be renamed to path.
func createBeside(path string) (*os.File, error) {
	return os.CreateTemp(filepath.Dir(path), ".porthole-ready-*")
}

// write writes a line ADDRESS:PORT REMOTE for each listener of the forwards that are
// open, with the name of its pod behind it where each pod has listeners of its own. The file appears complete: nobody can read half of it.
func (r *readyFile) write(all []session.State) error {
	var text bytes.Buffer
	for _, state := range all {
		for _, l := range state.Listeners {
			fmt.Fprintln(&text, strings.TrimSpace(fmt.Sprintf("%s %s %s", l.Local, l.Remote, state.Member)))
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.path == "" || r.removed || r.mine != nil && r.text == text.String() {
		return nil
	}
	mine, err := replaceFile(r.path, text.Bytes())
	if err != nil {
		return fmt.Errorf("ready file: %w", err)
	}
	r.text, r.mine = text.String(), mine
	if r.noted != nil {
		_ = r.noted.NoteFile(r.path) // only for those who clean up after a kill
	}
	return nil
}

// replaceFile writes a new file and renames it to path.
func replaceFile(path string, text []byte) (os.FileInfo, error) {
	f, err := createBeside(path)
	if err != nil {
		return nil, err
	}
	_, err = f.Write(text)
	info, statErr := f.Stat()
	err = errors.Join(err, statErr, f.Chmod(0o644), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return info, err
}

// remove removes the file for good, unless another process has replaced it.
func (r *readyFile) remove() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.removed = true
	if r.mine == nil {
		return
	}
	if now, err := os.Lstat(r.path); err == nil && os.SameFile(now, r.mine) {
		_ = os.Remove(r.path)
	}
	r.mine = nil
}
