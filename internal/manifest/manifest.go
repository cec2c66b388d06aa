// Package manifest reads the file of "porthole forward -f": many targets at once, each with ports of its own.
// It must not know whether what the file names exists, nor how it is reached.
package manifest

import (
	"fmt"
	"io"

	"porthole.dev/porthole/internal/target"
)

// Manifest is one file. The tags of its fields, and of target.Forward's, are the keys
// that the file may have.
type Manifest struct {
	Forwards []target.Forward `yaml:"forwards"` // at least one, in the file's order
}

// Read reads a file to its end; file is its name for messages. What is wrong
// with the text comes as up to 20 errors joined, each an *Error, in the file's
// order; what target says about a part of it is wrapped in them. An error of r
// is returned with the file's name before it.
func Read(r io.Reader, file string) (*Manifest, error) {
	// One byte more than may be shows that there is more.
	text, err := io.ReadAll(io.LimitReader(r, maxSize+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	root, fault := parse(text)
	if fault != nil {
		fault.File = file
		return nil, fault
	}
	d := newDecoder(file, text)
	m := d.manifest(root)
	if err := join(d.errs); err != nil {
		return nil, err
	}
	return m, nil
}
