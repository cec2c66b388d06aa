// Package netns enters Linux network namespaces to make sockets there, and is the only place in the tree that calls setns.
// It must not know whose namespace it is, nor what the sockets are for.
package netns

import (
	"errors"
	"fmt"
	"os"
)

// The errors that callers tell apart with errors.Is.
var (
	// ErrNoProcess: no such process.
	ErrNoProcess = errors.New("no such process")
	// ErrNotExist: there is nothing at the path.
	ErrNotExist = errors.New("no such network namespace")
	// ErrExited: the process that was opened has exited since.
	ErrExited = errors.New("the process has exited")
	// ErrNotNamespace: the path leads to something that is no network namespace.
	ErrNotNamespace = errors.New("not a network namespace")
	// ErrPermission: entering takes CAP_SYS_ADMIN over the namespace (setns(2)).
	ErrPermission error = permissionError{}
	// ErrForbidden: the namespace is one of those that Forbid names.
	ErrForbidden = errors.New("the network namespace may not be entered")
	// ErrRefusedAddress: a name leads to addresses that RefuseNames refuses, and to no others.
	ErrRefusedAddress error = refusedError{}
	// ErrUser: connecting as another user takes CAP_SETUID and CAP_SETGID.
	ErrUser = errors.New("not permitted to become the process' user")
	// ErrMount: what a file is on cannot be told.
	ErrMount = errors.New("cannot tell what the file is mounted on")
	// ErrNoSockDiag: this kernel does not list sockets, or none of TCP.
	ErrNoSockDiag = errors.New("the kernel does not list sockets")
	// ErrNotListed: it lists those of TCP, and lacks what lists others.
	ErrNotListed = errors.New("the kernel does not list all sockets")
	// ErrUnsupported: this system has no network namespaces.
	ErrUnsupported = errors.New("network namespaces need Linux")
)

// ThreadError says that a number is that of a thread, where a process' is wanted. It
// is an ErrNoProcess.
type ThreadError struct {
	Thread  int
	Process int // that the thread is of
}

func (e *ThreadError) Error() string {
	return fmt.Sprintf("%d is a thread of process %d: %v", e.Thread, e.Process, ErrNoProcess)
}

func (e *ThreadError) Unwrap() error { return ErrNoProcess }

type refusedError struct{}

func (refusedError) Error() string { return "the name leads to an address that names may not lead to" }

// Is reports that it is an os.ErrPermission too.
func (refusedError) Is(err error) bool { return err == os.ErrPermission }

type permissionError struct{}

func (permissionError) Error() string { return "not permitted to enter the network namespace" }

// Is reports that it is an os.ErrPermission too.
func (permissionError) Is(err error) bool { return err == os.ErrPermission }

// ID tells namespaces apart for as long as they exist, and other files: the device and inode
// (namespaces(7)).
type ID struct{ Device, Inode uint64 }
