// Package agent is the far end of a tunnel on the streams of a program: it opens the targets that the other end names.
// It must not know how the streams reach the other end, nor who may use them: whoever can start the program may.
package agent

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"porthole.dev/porthole/internal/pipe"
	"porthole.dev/porthole/internal/proc"
	"porthole.dev/porthole/internal/route"
	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/tunnel"
)

// Agent serves the targets of this host. The fields are needed, except Version.
type Agent struct {
	Version string // of the program, for the other end
	Openers map[target.Scheme]route.Opener
}

// features are what an agent can do beyond what every end of porthole.v1 can.
var features = []string{tunnel.FeatureTargets, tunnel.FeatureListen}

// ErrGone means that a target is not the one that was opened before.
var ErrGone = errors.New("it is not the one that was there before")

// Serve greets the other end and serves its tunnel, until it ends or ctx does. It owns the
// stream, whose Close has to end its reads and writes.
func (a *Agent) Serve(ctx context.Context, stream io.ReadWriteCloser) error {
	defer context.AfterFunc(ctx, func() { stream.Close() })()
	mine := tunnel.Greeting{Version: a.Version, Features: features}
	if _, err := stream.Write(mine.Append(nil)); err != nil {
		return fmt.Errorf("greet: %w", err)
	}
	buffered := bufio.NewReader(stream)
	if _, err := tunnel.ReadGreeting(buffered); err != nil {
		return err
	}
	var copier pipe.Copier
	defer copier.Close()
	s := tunnel.NewServer(bufferedStream{buffered, stream}, tunnel.ServerConfig{
		Proxy: tunnel.Proxy{Copier: &copier}, OpenTarget: a.open,
	})
	_ = s.Run(ctx) // the error says how the other end went away, which is how every session ends
	return nil
}

// bufferedStream is a stream of which some bytes were read ahead, with the greeting.
type bufferedStream struct {
	*bufio.Reader
	stream io.ReadWriteCloser
}

func (s bufferedStream) Write(p []byte) (int, error) { return s.stream.Write(p) }
func (s bufferedStream) Close() error                { return s.stream.Close() }

// openTarget is a target of this host that is open for the other end.
type openTarget struct {
	*route.Result
	identity string
}

func (t openTarget) Identity() string     { return t.identity }
func (t openTarget) Binder() route.Binder { return t.Bind }

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
