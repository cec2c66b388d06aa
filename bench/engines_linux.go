package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"porthole.dev/porthole/internal/container"
	"porthole.dev/porthole/internal/proc"
	"porthole.dev/porthole/internal/route"
	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/testenv"
)

const (
	enginePort = ":7000"
	// idleTime is how long --all is watched while nothing changes.
	idleTime = 20 * time.Second
)

// preparation is what the code that starts the tests' engines takes for a test. What fails panics, for withEngine.
type preparation struct {
	testing.TB // nil
	cleanups   []func()
}

type failure string

func (p *preparation) Helper()           {}
func (p *preparation) Cleanup(f func())  { p.cleanups = append(p.cleanups, f) }
func (p *preparation) Fatal(args ...any) { panic(failure(fmt.Sprint(args...))) }
func (p *preparation) Fatalf(format string, args ...any) {
	panic(failure(fmt.Sprintf(format, args...)))
}
func (p *preparation) Skipf(format string, args ...any) { p.Fatalf(format, args...) }
func (p *preparation) Errorf(format string, args ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", args...)
}

// benchEngine is an engine of its own whose containers run this program. DOCKER_HOST, or podman's variable, names it.
type benchEngine struct {
	*testenv.Engine
	t      testing.TB
	scheme string
	self   string // this program, where whoever runs the engine may read it
}

// withEngine starts docker or podman, and ends it after use.
func withEngine(scheme string, use func(benchEngine) error) error {
	start, variable := testenv.NewDocker, "DOCKER_HOST"
	if scheme == "podman" {
		start, variable = testenv.NewPodman, "CONTAINER_HOST"
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	return withEngineBy(start, variable, func(e benchEngine) error {
		e.scheme, e.self = scheme, self
		return use(e)
	})
}

// withEngineBy starts an engine which a variable names then, and ends it after use.
func withEngineBy(start func(testing.TB) *testenv.Engine, variable string, use func(benchEngine) error) (err error) {
	t := &preparation{}
	defer func() {
		if failed, ok := recover().(failure); ok {
			err = errors.New(string(failed))
		}
	}()
	defer func() {
		for _, undo := range slices.Backward(t.cleanups) {
			undo()
		}
	}()
	e := benchEngine{Engine: start(t), t: t}
	if err := os.Setenv(variable, e.Host); err != nil {
		return err
	}
	defer os.Unsetenv(variable)
	return use(e)
}

// serve starts a container that serves.
func (e benchEngine) serve(name string) {
	e.Run(e.t, append(e.withThisProgram(), "--name", name), "/bench", "serve", enginePort[1:])
}

// withThisProgram are the options that give a container this program as /bench.
func (e benchEngine) withThisProgram() []string { return []string{"-v", e.self + ":/bench:ro"} }

// forwardTo starts a porthole to a target of the server's port.
func (b *bench) forwardTo(ctx context.Context, to string, flags ...string) (*peer, error) {
	p, err := startPortholeAs(exec.CommandContext(ctx, b.porthole, append([]string{"forward", "--address", "127.0.0.1", to, enginePort}, flags...)...))
	if err == nil {
		p.name = to
	}
	return p, err
}

// engines measures containers by the names that engines give them, beside the same process by its number.
func (b *bench) engines(ctx context.Context) error {
	for _, scheme := range []string{"docker", "podman"} {
		if err := withEngine(scheme, func(e benchEngine) error { return b.engine(ctx, e) }); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) engine(ctx context.Context, e benchEngine) error {
	e.serve("porthole-bench")
	name := e.scheme + "://porthole-bench"
	named, err := b.forwardTo(ctx, name)
	if err != nil {
		return err
	}
	defer named.close()
	numbered, err := b.forwardTo(ctx, fmt.Sprintf("pid://%d", e.PID(e.t, "porthole-bench")))
	if err != nil {
		return err
	}
	defer numbered.close()
	if err := b.likeNumbered(e.scheme+"://", named, numbered, 0.97); err != nil {
		return err
	}
	if err := b.resolve(ctx, name); err != nil {
		return err
	}
	if err := b.allIdle(ctx, exec.CommandContext(ctx, b.porthole, "forward", "--address", "127.0.0.31", name, "--all"), name); err != nil {
		return err
	}
	list := func() *exec.Cmd { return exec.CommandContext(ctx, b.porthole, "targets") }
	return b.listMany(e, e.scheme, list)
}

// likeNumbered compares downloads and connections: the first way has to reach a part of the second.
func (b *bench) likeNumbered(what string, first, second *peer, part float64) error {
	rates, err := b.alternate([]dialer{first.dial, second.dial}, b.download)
	if err != nil {
		return err
	}
	b.compare(second, what+" download, MB/s", rates, "%.0f", fmt.Sprintf("at least %.2f", part), func(r float64) bool { return r >= part })
	times, err := b.alternate([]dialer{first.dial, second.dial}, func(d dialer) (float64, error) { return connectP50(d, 300) })
	if err != nil {
		return err
	}
	b.compare(second, what+" connect to first byte, p50, ms", times, "%.3f", fmt.Sprintf("at most %.2f", 2-part), func(r float64) bool { return r <= 2-part })
	return nil
}

// resolve measures how long it takes until a container is found, for the first time in a process.
func (b *bench) resolve(ctx context.Context, name string) error {
	to, err := target.Parse(name)
	if err != nil {
		return err
	}
	var times []float64
	for range max(b.runs, 7) {
		opener := &container.Opener{}
		start := time.Now()
		opened, err := opener.Open(ctx, target.Forward{Target: to}, func(route.Event) {})
		if err != nil {
			return err
		}
		times = append(times, time.Since(start).Seconds()*1e3)
		_ = opened.Close()
		opener.Close()
	}
	b.add(row{string(to.Scheme) + ": name to namespace, the first time, ms", fmt.Sprintf("%.1f", median(times)), "-", "-", "at most 20", median(times) <= 20})
	return nil
}

// allIdle measures what it costs a porthole to watch what listens.
func (b *bench) allIdle(ctx context.Context, cmd *exec.Cmd, what string) error {
	p, err := startPortholeAs(cmd)
	if err != nil {
		return err
	}
	defer p.close()
	before := cpuSeconds(p.cmd.Process.Pid)
	select {
	case <-time.After(idleTime):
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if stat, err := proc.ReadStat(p.cmd.Process.Pid); err != nil || stat.Exited() {
		return fmt.Errorf("%s has not run for %v", cmd, idleTime)
	}
	used := 100 * (cpuSeconds(p.cmd.Process.Pid) - before) / idleTime.Seconds()
	b.add(row{what + " --all: processor while nothing changes", fmt.Sprintf("%.3f %%", used), "-", "-", "at most 0.1 %", used <= 0.1})
	return nil
}

// listMany lists many containers.
func (b *bench) listMany(e benchEngine, engine string, porthole func() *exec.Cmd) error {
	for i := 1; i < b.containers; i++ { // beside the first
		e.serve(fmt.Sprintf("porthole-bench-%d", i))
	}
	var times []float64
	for range max(b.runs, 7) {
		start := time.Now()
		list := porthole()
		list.Env = append(list.Environ(), "KUBECONFIG=/dev/null")
		out, err := list.Output()
		if err != nil {
			return fmt.Errorf("porthole targets: %w", err)
		}
		if n := strings.Count(string(out), e.scheme+"://porthole-bench"); n != b.containers {
			return fmt.Errorf("porthole targets lists %d containers, want %d", n, b.containers)
		}
		times = append(times, time.Since(start).Seconds()*1e3)
	}
	b.add(row{fmt.Sprintf("porthole targets, %d containers of %s, ms", b.containers, engine), fmt.Sprintf("%.0f", median(times)), "-", "-", "under 300", median(times) < 300})
	return nil
}

// helper measures a helper container beside `docker run -i ... cat`, which the same kind of connection to the engine carries:
// both send back what they get.
func (b *bench) helper(ctx context.Context) error {
	return withEngine("docker", func(e benchEngine) error {
		e.serve("porthole-bench")
		helper, err := b.forwardTo(ctx, "docker://porthole-bench", "--via", "agent")
		if err != nil {
			return err
		}
		defer helper.close()
		rates, err := b.alternate([]dialer{helper.dial, e.cat}, b.thereAndBack)
		if err != nil {
			return err
		}
		b.compare(&peer{name: "docker run -i ... cat"}, "helper container: there and back, MB/s", rates, "%.0f", "at least 0.8", func(r float64) bool { return r >= 0.8 })
		return nil
	})
}

// thereAndBack measures how fast bytes come back, in MB/s. What only echoes gives back the head of the conversation as well.
func (b *bench) thereAndBack(dial dialer) (float64, error) {
	c, err := dial()
	if err != nil {
		return 0, err
	}
	defer c.Close()
	start := time.Now()
	sent := make(chan error, 1)
	go func() {
		err := ask(c, 0)
		buf := make([]byte, chunk)
		for left := b.bytes; left > 0 && err == nil; left -= chunk {
			_, err = c.Write(buf)
		}
		sent <- err
	}()
	if _, err := io.CopyN(io.Discard, c, b.bytes); err != nil {
		return 0, err
	}
	return float64(b.bytes) / 1e6 / time.Since(start).Seconds(), <-sent
}

// attached is a connection to the standard input and output of a command.
type attached struct {
	net.Conn // nil
	io.Reader
	io.WriteCloser
	cmd *exec.Cmd
}

func (a attached) Read(p []byte) (int, error)  { return a.Reader.Read(p) }
func (a attached) Write(p []byte) (int, error) { return a.WriteCloser.Write(p) }
func (a attached) Close() error                { return errors.Join(a.WriteCloser.Close(), a.cmd.Wait()) }

// serveCat is cat(1) with large steps, once it has told that it runs.
func serveCat() error {
	if _, err := os.Stdout.Write([]byte{0}); err != nil {
		return err
	}
	_, err := io.CopyBuffer(struct{ io.Writer }{os.Stdout}, struct{ io.Reader }{os.Stdin}, make([]byte, chunk))
	return err
}

// cat is a container that is attached to, as soon as it runs.
func (e benchEngine) cat() (net.Conn, error) {
	a := attached{cmd: e.Command(append(append([]string{"run", "-i", "--rm", "--network", "none"}, e.withThisProgram()...), testenv.Image, "/bench", "cat")...)}
	a.cmd.Stderr = os.Stderr
	var err error
	if a.WriteCloser, err = a.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if a.Reader, err = a.cmd.StdoutPipe(); err != nil {
		return nil, err
	}
	if err := a.cmd.Start(); err != nil {
		return nil, err
	}
	_, err = io.ReadFull(a, make([]byte, 1))
	return a, err
}
