// Package manifest reads the file of "porthole forward -f": many targets at once, each with ports of its own.
// It must not know whether what the file names exists, nor how it is reached.
package manifest

import (
	"fmt"
	"io"

	"porthole.dev/porthole/internal/target"
)

// Manifest is one file. The tags of its fields, and of Forward's, are the keys
// that the file may have.
type Manifest struct {
	Forwards []Forward `yaml:"forwards"` // at least one, in the file's order
}

// Forward is one target and the ports of it to make reachable. All of them
// together ask for no local address and port twice, save for those that only
// show once a port's name has its number.
type Forward struct {
	// Name stands for the forward in messages and variables: a lower-case
	// letter, then such letters, digits and dashes, 63 at most. No two of a
	// file have the same; "" when none was given.
	Name   string        `yaml:"name"`
	Target target.Target `yaml:"target"`
	// Context and Namespace are those of Kubernetes, "" for whatever is in
	// use. They and Pin are never set where Target is not of Kubernetes.
	Context   string `yaml:"context"`
	Namespace string `yaml:"namespace"`
	// Ports has at least one. Only a target of Kubernetes has ports by name.
	Ports []target.Port `yaml:"ports"`
	// Addresses is what ports without an address of their own listen on, as
	// target.ParseAddress returns them; localhost alone when none was given.
	Addresses []string `yaml:"address"`
	// Pin asks to stay with the pod that was chosen first.
	Pin bool `yaml:"pin"`
	// Line is where the forward begins in the file, from 1, for messages
	// about it that come later.
	Line int `yaml:"-"`
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
	if err := d.err(); err != nil {
		return nil, err
	}
	return m, nil
}
