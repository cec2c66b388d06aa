package main

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"time"

	"porthole.dev/porthole/internal/container"
	"porthole.dev/porthole/internal/route"
	"porthole.dev/porthole/internal/target"
)

const (
	engineImage = "porthole-bench:1"
	enginePort  = ":7000"
	// manyContainers are those that `porthole targets` lists.
	manyContainers = 200
	// idleTime is how long --all is watched while nothing changes.
	idleTime = 20 * time.Second
)

// benchEngine is docker or podman, as its own command finds it. Its containers run this program, from an image without files.
type benchEngine struct {
	program string
	ids     []string
}

// startEngine prepares an engine. It is nil, and a line says why, where there is none.
func startEngine(ctx context.Context, program string) *benchEngine {
	var image bytes.Buffer
	w := tar.NewWriter(&image)
	err := w.WriteHeader(&tar.Header{Name: "tmp/", Typeflag: tar.TypeDir, Mode: 0o1777})
	err = errors.Join(err, w.Close())
	load := exec.CommandContext(ctx, program, "import", "-", engineImage)
	load.Stdin = &image
	out, failed := load.CombinedOutput()
	if err = errors.Join(err, failed); err != nil {
		fmt.Fprintf(os.Stderr, "engines: %s is left out: %v: %s\n", program, err, bytes.TrimSpace(out))
		return nil
	}
	return &benchEngine{program: program}
}

// arguments are those of a container that runs a part of this program.
func (e *benchEngine) arguments(options []string, part ...string) ([]string, error) {
	self, err := os.Executable()
	args := append([]string{"run", "--network", "none", "-v", self + ":/bench:ro"}, options...)
	return append(append(args, engineImage, "/bench"), part...), err
}

// run starts a container that serves, and returns its process.
func (e *benchEngine) run(ctx context.Context, name string) (pid string, err error) {
	args, err := e.arguments([]string{"-d", "--name", name}, "serve", enginePort[1:])
	if err != nil {
		return "", err
	}
	out, err := exec.CommandContext(ctx, e.program, args...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s run: %w: %s", e.program, err, out)
	}
	e.ids = append(e.ids, name)
	out, err = exec.CommandContext(ctx, e.program, "inspect", "-f", "{{.State.Pid}}", name).Output()
	return strings.TrimSpace(string(out)), err
}

// close removes the containers and the image.
func (e *benchEngine) close() {
	_ = exec.Command(e.program, append([]string{"rm", "-f"}, e.ids...)...).Run()
	_ = exec.Command(e.program, "rmi", engineImage).Run()
}

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
	for _, program := range []string{"docker", "podman"} {
		e := startEngine(ctx, program)
		if e == nil {
			continue
		}
		err := b.engine(ctx, e)
		e.close()
		if err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) engine(ctx context.Context, e *benchEngine) error {
	pid, err := e.run(ctx, "porthole-bench")
	if err != nil {
		return err
	}
	name := e.program + "://porthole-bench"
	named, err := b.forwardTo(ctx, name)
	if err != nil {
		return err
	}
	defer named.close()
	numbered, err := b.forwardTo(ctx, "pid://"+pid)
	if err != nil {
		return err
	}
	defer numbered.close()
	if err := b.likeNumbered(e.program+"://", named, numbered, 0.97); err != nil {
		return err
	}
	if err := b.resolve(ctx, name); err != nil {
		return err
	}
	if err := b.allIdle(ctx, name); err != nil || e.program != "docker" {
		return err
	}
	return b.listMany(ctx, e)
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

// allIdle measures what it costs to watch what listens.
func (b *bench) allIdle(ctx context.Context, name string) error {
	p, err := startPortholeAs(exec.CommandContext(ctx, b.porthole, "forward", "--address", "127.0.0.31", name, "--all"))
	if err != nil {
		return err
	}
	defer p.close()
	before := cpuSeconds(p.cmd.Process.Pid)
	select {
	case <-time.After(idleTime):
	case <-ctx.Done():
		return ctx.Err()
	}
	used := 100 * (cpuSeconds(p.cmd.Process.Pid) - before) / idleTime.Seconds()
	b.add(row{name + " --all: processor while nothing changes", fmt.Sprintf("%.2f %%", used), "-", "-", "at most 0.1 %", used <= 0.1})
	return nil
}

// listMany lists many containers.
func (b *bench) listMany(ctx context.Context, e *benchEngine) error {
	for i := len(e.ids); i < manyContainers; i++ {
		if _, err := e.run(ctx, fmt.Sprintf("porthole-bench-%d", i)); err != nil {
			return err
		}
	}
	var times []float64
	for range max(b.runs, 7) {
		start := time.Now()
		list := exec.CommandContext(ctx, b.porthole, "targets")
		list.Env = append(os.Environ(), "KUBECONFIG=/dev/null")
		out, err := list.Output()
		if err != nil {
			return fmt.Errorf("porthole targets: %w", err)
		}
		if n := strings.Count(string(out), e.program+"://porthole-bench"); n != manyContainers {
			return fmt.Errorf("porthole targets lists %d containers, want %d", n, manyContainers)
		}
		times = append(times, time.Since(start).Seconds()*1e3)
	}
	b.add(row{fmt.Sprintf("porthole targets, %d containers, ms", manyContainers), fmt.Sprintf("%.0f", median(times)), "-", "-", "under 300", median(times) < 300})
	return nil
}

// helper measures a helper container beside a program of a container that is attached to, as `docker run -i` does.
func (b *bench) helper(ctx context.Context) error {
	e := startEngine(ctx, "docker")
	if e == nil {
		return nil
	}
	defer e.close()
	if _, err := e.run(ctx, "porthole-bench"); err != nil {
		return err
	}
	helper, err := b.forwardTo(ctx, "docker://porthole-bench", "--via", "agent")
	if err != nil {
		return err
	}
	defer helper.close()
	rates, err := b.alternate([]dialer{helper.dial, func() (net.Conn, error) { return e.attach(ctx) }}, b.download)
	if err != nil {
		return err
	}
	b.compare(&peer{name: "docker run -i"}, "helper container: download, MB/s", rates, "%.0f", "at least 0.8", func(r float64) bool { return r >= 0.8 })
	return nil
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

// attach starts a container whose program serves one conversation, and waits until it does.
func (e *benchEngine) attach(ctx context.Context) (net.Conn, error) {
	args, err := e.arguments([]string{"-i", "--rm"}, "stdio", "-")
	if err != nil {
		return nil, err
	}
	a := attached{cmd: exec.CommandContext(ctx, e.program, args...)}
	a.cmd.Stderr = os.Stderr
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

// serveStdio is the server of attach.
func serveStdio() error {
	if _, err := os.Stdout.Write([]byte{0}); err != nil {
		return err
	}
	return answer(attached{Reader: os.Stdin, WriteCloser: os.Stdout})
}
