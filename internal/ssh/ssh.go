// Package ssh opens targets of other hosts: porthole's agent there, through the system's ssh.
// It must not know any kind of target, which are the agent's to open.
package ssh

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"porthole.dev/porthole/internal/route"
	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/tunnel"
)

// Opener opens routes to targets of other hosts. Those of one host share a tunnel. Set the
// fields, all of which may be zero, before the first Open; Close it after the last route.
type Opener struct {
	// Version is that of this program, for the agent.
	Version string
	// RemoteCommand is a shell's command for porthole on the other host; "" means porthole.
	RemoteCommand string
	// Program is ssh's; "" means ssh.
	Program string
	// Silence is after how long without a sign of life the tunnel is given up; 0 means
	// 30 s, negative is never.
	Silence time.Duration

	once  sync.Once
	life  context.Context
	end   context.CancelFunc
	mu    sync.Mutex
	hosts map[target.Host]*host
	work  sync.WaitGroup // each ssh until it has ended
}

const (
	defaultSilence = 30 * time.Second
	// tellAfter is after how long it is told that a host has not answered yet.
	tellAfter = 10 * time.Second
)

func (o *Opener) init() {
	o.life, o.end = context.WithCancel(context.Background())
	o.hosts = map[target.Host]*host{}
	switch {
	case o.Silence == 0:
		o.Silence = defaultSilence
	case o.Silence < 0:
		o.Silence = 0
	}
}

func (o *Opener) program() string       { return cmp.Or(o.Program, "ssh") }
func (o *Opener) remoteCommand() string { return cmp.Or(o.RemoteCommand, "porthole") }

// Close ends the tunnels and attempts. It returns when each ssh has ended: one that does not end by
// itself, because it waits for its host, would be left behind by a program that exits first.
func (o *Opener) Close() {
	o.once.Do(o.init)
	o.end()
	o.mu.Lock()
	for _, h := range o.hosts {
		o.work.Go(h.shared.Close)
	}
	o.mu.Unlock()
	o.work.Wait()
}

// Open is a route.Opener.
func (o *Opener) Open(ctx context.Context, f target.Forward, events func(route.Event)) (*route.Result, error) {
	o.once.Do(o.init)
	r := &Route{host: o.host(f.Host), name: f.Target.String(), events: events, session: tunnel.NewSession()}
	r.life, r.end = context.WithCancelCause(o.life)
	slow := time.AfterFunc(tellAfter, func() { events(route.Event{Kind: route.Waiting, Err: r.host.failure(errNoAnswer)}) })
	t, err := r.open(ctx)
	slow.Stop()
	if err != nil {
		r.end(nil)
		var refused *tunnel.PortError
		if f.Target.Scheme == target.PID && errors.As(err, &refused) {
			err = &route.FinalError{Err: err} // later its number may be another process'
		}
		return nil, err
	}
	events(route.Event{Kind: route.Ready, Version: r.host.otherVersion()})
	r.work.Go(func() { r.keep(t) })
	return &route.Result{Route: r, Ports: f.Ports, Bind: r.Bind, Listening: r.Listening}, nil
}

// host returns the state of a host.
func (o *Opener) host(name target.Host) *host {
	o.mu.Lock()
	defer o.mu.Unlock()
	h := o.hosts[name]
	if h == nil {
		h = &host{opener: o, name: name}
		h.shared = tunnel.Shared{Open: h.open, MinPause: minPause, MaxPause: maxPause}
		o.hosts[name] = h
	}
	return h
}

// VersionError is that of an agent which is too old, or no agent of these targets.
type VersionError struct {
	Host         target.Host
	Theirs, Ours string
}

func (e *VersionError) Error() string {
	return fmt.Sprintf("%s: porthole %s there cannot open targets for porthole %s here", e.Host, e.Theirs, e.Ours)
}
