package demo

import (
	"errors"
	"net/netip"
	"slices"
	"sync"
)

// Pod is a running sandbox with the application as its process 1.
// Only [Start] makes one; its methods are safe to call at any time, from
// any goroutine. Whoever started it must Close it, even after it died.
type Pod struct {
	// PID is the application's process, as the host numbers it. It stays
	// this pod's until Done.
	PID int

	// IP is the pod's address, and BridgeIP the host's on the same link.
	IP, BridgeIP netip.Addr

	// Bridge names the link that carries BridgeIP.
	Bridge string

	done chan struct{} // closed once the process is reaped
	err  error         // how it ended; read after done

	undo     []func() error // what Close does, last first
	closing  sync.Once
	closeErr error
}

// Done is closed once the application has ended and been reaped.
func (p *Pod) Done() <-chan struct{} { return p.done }

// Wait blocks until Done and says how the application ended: nil for exit
// status 0, otherwise an *exec.ExitError.
func (p *Pod) Wait() error {
	<-p.done
	return p.err
}

// Close kills the application and removes all that Start made: processes,
// links, mounts, files. Later calls return what the first returned.
func (p *Pod) Close() error {
	p.closing.Do(func() {
		var errs []error
		for _, undo := range slices.Backward(p.undo) {
			errs = append(errs, undo())
		}
		p.closeErr = errors.Join(errs...)
	})
	return p.closeErr
}

func (p *Pod) onClose(undo func() error) { p.undo = append(p.undo, undo) }
