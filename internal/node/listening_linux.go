package node

import (
	"context"
	"sync"

	"porthole.dev/porthole/internal/netns"
	"porthole.dev/porthole/internal/target"
)

// listening tells what listens in the sandbox, as far as a Dial of this client would reach it by the policy: no more
// than where it is, since whose it is on the node is not the client's to know.
func (d *sandboxDialer) listening(ctx context.Context, tell func([]target.Socket)) error {
	if d.sandbox.hostNetwork && d.policy.DenyHostNetwork {
		return errHostNetwork
	}
	return d.watches.follow(ctx, d.sandbox.netns, d.unix.forbidden, func(all []target.Socket) {
		reached := []target.Socket{}
		for _, s := range all {
			if d.reaches(s) {
				reached = append(reached, target.Socket{Endpoint: s.Endpoint})
			}
		}
		tell(reached)
	})
}

// reaches reports whether a Dial to a socket is allowed.
func (d *sandboxDialer) reaches(s target.Socket) bool {
	to := s.Address()
	if to.Network == target.Unix {
		_, err := d.policy.checkUnix(d.sandbox.hostNetwork, to.Path)
		return err == nil
	}
	return to.Host == "" && d.policy.check(d.sandbox.hostNetwork, to.Port) == nil
}

// listeningWatches look at what listens in sandboxes: at each of them once, however many clients ask. The zero value
// is ready to use.
type listeningWatches struct {
	mu  sync.Mutex
	all map[netnsRef]*listeningWatch
}

// listeningWatch is what all who ask for one sandbox share. The lock of listeningWatches guards all but over.
type listeningWatch struct {
	users   int
	end     context.CancelFunc
	sockets []target.Socket // as they were told last; nil before that
	err     error           // why no more is told
	changed chan struct{}   // closed when one of these two changes
	over    chan struct{}   // closed when nothing is looked at any more
}

// follow tells what listens in a sandbox, which tell must not change, at first and whenever that has changed. One
// whose tell takes long holds up no other, and is told what there is by then.
func (w *listeningWatches) follow(ctx context.Context, ref netnsRef, forbidden []netns.ID, tell func([]target.Socket)) error {
	s := w.join(ref, forbidden)
	defer w.leave(ref, s)
	for {
		w.mu.Lock()
		sockets, err, changed := s.sockets, s.err, s.changed
		w.mu.Unlock()
		if err != nil {
			return err
		}
		if sockets != nil {
			tell(sockets)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// join returns the watch of a sandbox, which the first user begins.
func (w *listeningWatches) join(ref netnsRef, forbidden []netns.ID) *listeningWatch {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.all[ref]
	if s == nil {
		if w.all == nil {
			w.all = map[netnsRef]*listeningWatch{}
		}
		ctx, end := context.WithCancel(context.Background())
		s = &listeningWatch{end: end, changed: make(chan struct{}), over: make(chan struct{})}
		w.all[ref] = s
		go w.look(ctx, ref, forbidden, s)
	}
	s.users++
	return s
}

// leave ends the watch with its last user.
func (w *listeningWatches) leave(ref netnsRef, s *listeningWatch) {
	w.mu.Lock()
	s.users--
	last := s.users == 0
	if last && w.all[ref] == s {
		delete(w.all, ref)
	}
	w.mu.Unlock()
	if last {
		s.end()
		<-s.over
	}
}

// look looks at what listens until ctx ends, or the sandbox is gone: whoever asks after that has it looked at anew.
func (w *listeningWatches) look(ctx context.Context, ref netnsRef, forbidden []netns.ID, s *listeningWatch) {
	defer close(s.over)
	ns, err := ref.open(forbidden)
	if err == nil {
		defer ns.Close()
		err = entryError(ns.WatchListening(ctx, func(now []target.Socket) {
			w.change(func() { s.sockets = append([]target.Socket{}, now...) }, s)
		}))
	}
	w.change(func() {
		s.err = err
		if w.all[ref] == s {
			delete(w.all, ref)
		}
	}, s)
}

// change wakes the users of a watch after it has changed.
func (w *listeningWatches) change(do func(), s *listeningWatch) {
	w.mu.Lock()
	defer w.mu.Unlock()
	do()
	close(s.changed)
	s.changed = make(chan struct{})
}
