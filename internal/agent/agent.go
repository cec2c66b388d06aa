// Package agent is the far end of a tunnel, on the streams of a program or on a port of the pod that it runs in: it opens
// what the other end names. It must not know how the other end gets there, and decides by a key alone who it is.
package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"porthole.dev/porthole/internal/pipe"
	"porthole.dev/porthole/internal/proc"
	"porthole.dev/porthole/internal/route"
	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/tunnel"
)

// Agent serves the targets of a host, or what the program reaches itself. One of Openers and
// Dialer is needed.
type Agent struct {
	Version string // of the program, for the other end
	// Openers open the targets that the other end names.
	Openers map[target.Scheme]route.Opener
	// Dialer leads to what is reached without a target, and Bind listens there, for the way back.
	Dialer route.Dialer
	Bind   route.Binder
	// Silence is after how long without a sign of life the other end of Serve's tunnel is given up,
	// also while it greets; 0 means 4 minutes, and no limit to greeting.
	Silence time.Duration
	// Listening tells what listens where Dialer leads.
	Listening route.Watch
}

// ErrGone means that a target is not the one that was opened before.
var ErrGone = errors.New("it is not the one that was there before")

// Serve greets the other end and serves its tunnel, until it ends or ctx does. It owns the
// stream, whose Close has to end its reads and writes.
func (a *Agent) Serve(ctx context.Context, stream io.ReadWriteCloser) error {
	defer context.AfterFunc(ctx, func() { stream.Close() })()
	greeted, err := a.greetInTime(stream)
	if err != nil {
		stream.Close()
		return err
	}
	var copier pipe.Copier
	defer copier.Close()
	cfg := a.config()
	cfg.Copier = &copier
	cfg.SPDY.PingInterval, cfg.SPDY.PingTimeout = a.Silence/2, a.Silence/2
	_ = tunnel.NewServer(greeted, cfg).Run(ctx) // the error says how the other end went away, which is how every session ends
	return nil
}

// greetInTime is greet for a stream without deadlines.
func (a *Agent) greetInTime(stream io.ReadWriteCloser) (io.ReadWriteCloser, error) {
	if a.Silence > 0 {
		defer time.AfterFunc(a.Silence, func() { stream.Close() }).Stop()
	}
	return a.greet(stream)
}

// greet exchanges greetings, and returns the stream of what follows.
func (a *Agent) greet(stream io.ReadWriteCloser) (io.ReadWriteCloser, error) {
	mine := tunnel.Greeting{Version: a.Version}
	if a.Openers != nil {
		mine.Features = append(mine.Features, tunnel.FeatureTargets)
	}
	if a.Openers != nil || a.Bind != nil {
		mine.Features = append(mine.Features, tunnel.FeatureListen)
	}
	if a.Openers != nil || a.Listening != nil {
		mine.Features = append(mine.Features, tunnel.FeatureListening)
	}
	greeted, _, err := tunnel.GreetClient(stream, mine)
	return greeted, err
}

// config is that of a tunnel, without its Copier.
func (a *Agent) config() tunnel.ServerConfig {
	cfg := tunnel.ServerConfig{Proxy: tunnel.Proxy{Dialer: a.Dialer}, Bind: a.Bind, Listening: a.Listening}
	if a.Openers != nil {
		cfg.OpenTarget = a.open
		cfg.Listeners = &tunnel.Listeners{Claim: claim, Hold: hold}
	}
	return cfg
}

// openTarget is a target of this host that is open for the other end.
type openTarget struct {
	*route.Result
	identity string
}

func (t openTarget) Identity() string     { return t.identity }
func (t openTarget) Binder() route.Binder { return t.Bind }
func (t openTarget) Watch() route.Watch   { return t.Listening }

// open opens a target. With an identity it is the process of that identity, or none.
func (a *Agent) open(ctx context.Context, name, identity string) (tunnel.ServerTarget, error) {
	to, err := target.Parse(name)
	if err != nil {
		return nil, err
	}
	open := a.Openers[to.Scheme]
	if open == nil {
		return nil, fmt.Errorf("target %q: %w", name, target.ErrUnknown)
	}
	opened, err := open(ctx, target.Forward{Target: to}, func(route.Event) {})
	if err != nil {
		return nil, err
	}
	t := openTarget{opened, identityOf(to)}
	if identity != "" && identity != t.identity {
		t.Close()
		return nil, fmt.Errorf("target %s: %w", name, ErrGone)
	}
	return t, nil
}

// identityOf tells a process from a later one of the same number, also across a restart of the
// machine. Call it while the process is held open. Other targets have no identity: a namespace
// is whatever is at its path.
func identityOf(to target.Target) string {
	if to.Scheme != target.PID {
		return ""
	}
	stat, err := proc.ReadStat(to.PID)
	if err != nil {
		return ""
	}
	boot, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return fmt.Sprintf("%s/%d", strings.TrimSpace(string(boot)), stat.Started)
}
