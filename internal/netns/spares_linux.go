package netns

import (
	"time"

	"golang.org/x/sys/unix"
)

// spareTime is how long spare sockets are kept. They keep their network namespace alive.
const spareTime = time.Second

// spares are TCP sockets that a helper has made beyond the one that was asked for: to ask takes longer than to make
// some more. They are made for whoever asks twice within spareTime.
type spares struct {
	network ID
	fds     []int
	timer   *time.Timer
}

// takeSpare returns a spare socket of the network namespace that ns refers to now.
func (ns *Namespace) takeSpare(domain, kind int) (fd int, ok bool) {
	s := ns.spares[domain]
	if s == nil || kind != unix.SOCK_STREAM || len(s.fds) == 0 {
		return -1, false
	}
	if !ns.isStill(s.network) {
		ns.dropSpares(domain)
		return -1, false
	}
	fd, s.fds = s.fds[0], s.fds[1:]
	return fd, true
}

// isStill reports whether ns refers to the network namespace that it did spareTime ago at most. A process hardly moves to
// another one, and that it has exited is seen faster than where it is.
func (ns *Namespace) isStill(network ID) bool {
	if ns.process != nil {
		return !ns.process.exited()
	}
	id, err := ns.ID()
	return err == nil && id == network
}

// sparesWanted returns how many sockets are asked for at once.
func (ns *Namespace) sparesWanted(domain, kind int) int {
	if ns.spares[domain] == nil || kind != unix.SOCK_STREAM {
		return 1
	}
	return mostSockets
}

// keepSpares keeps sockets for a while. That there are none is kept as well: see sparesWanted.
func (ns *Namespace) keepSpares(domain, kind int, network ID, fds []int) {
	if kind != unix.SOCK_STREAM {
		return
	}
	ns.dropSpares(domain)
	s := &spares{network: network, fds: fds}
	s.timer = time.AfterFunc(spareTime, func() {
		ns.entering.Lock()
		defer ns.entering.Unlock()
		if ns.spares[domain] == s {
			ns.dropSpares(domain)
		}
	})
	if ns.spares == nil {
		ns.spares = map[int]*spares{}
	}
	ns.spares[domain] = s
}

// dropSpares closes spare sockets. The caller has ns.entering.
func (ns *Namespace) dropSpares(domain int) {
	s := ns.spares[domain]
	if s == nil {
		return
	}
	s.timer.Stop()
	for _, fd := range s.fds {
		_ = unix.Close(fd)
	}
	delete(ns.spares, domain)
}
