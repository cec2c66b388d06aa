package ssh

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"

	"porthole.dev/porthole/internal/nonblock"
	"porthole.dev/porthole/internal/tail"
	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/tunnel"
)

const (
	// maxOutput is how many bytes are kept for an error of what comes instead of a greeting.
	maxOutput = 2 << 10
	// endTime is how long ssh may take to end once its input is closed.
	endTime = 500 * time.Millisecond
)

// process is an ssh that runs a command on another host, such as an agent: what it reads and writes is the tunnel.
type process struct {
	io.Writer     // to its standard input
	*bufio.Reader // of its standard output
	input, output io.Closer
	greeting      tunnel.Greeting
	stderr        *tail.Tail // the end of its standard error
	ended         chan struct{}
	status        error // set before ended is closed
	kill          context.CancelFunc
	closing       sync.Once
}

// arguments are those of ssh. The user's own configuration counts, but for what would do
// something else beside the command or in its place.
func arguments(host target.Host, remoteCommand string) []string {
	args := []string{"-T", "-a", "-x", "-e", "none", "-o", "ClearAllForwardings=yes", "-o", "RemoteCommand=none", "-o", "PermitLocalCommand=no"}
	if host.User != "" {
		args = append(args, "-l", host.User)
	}
	if host.Port != 0 {
		args = append(args, "-p", strconv.Itoa(int(host.Port)))
	}
	return append(args, "--", host.Name, remoteCommand)
}

// start runs ssh and waits for the agent's greeting. ctx ends the wait.
func start(ctx context.Context, program string, host target.Host, remoteCommand string, mine tunnel.Greeting) (*process, error) {
	p, err := run(program, arguments(host, remoteCommand+" agent --stdio"))
	if err != nil {
		return nil, &HostError{host, fmt.Errorf("start ssh: %w", err)}
	}
	stop := context.AfterFunc(ctx, func() { p.Close() })
	p.greeting, err = tunnel.ReadGreeting(p.Reader)
	if err == nil {
		_, err = p.Write(mine.Append(nil))
	}
	if !stop() && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		p.Close()
		return nil, p.explain(host, err)
	}
	return p, nil
}

// run starts the program.
func run(program string, args []string) (*process, error) {
	program, err := exec.LookPath(program)
	if err != nil {
		return nil, err
	}
	life, kill := context.WithCancel(context.Background())
	cmd := command(life, program, args)
	cmd.WaitDelay = endTime
	p := &process{stderr: &tail.Tail{}, ended: make(chan struct{}), kill: kill}
	cmd.Stderr = p.stderr
	// Not StdinPipe and StdoutPipe, which Wait closes although an end has not been read.
	theirIn, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer theirIn.Close()
	out, theirOut, err := os.Pipe()
	if err != nil {
		in.Close()
		return nil, err
	}
	defer theirOut.Close()
	cmd.Stdin, cmd.Stdout = theirIn, theirOut
	p.input, p.output = in, out
	p.Writer, p.Reader = nonblock.File(in), bufio.NewReader(nonblock.File(out))
	if err := cmd.Start(); err != nil {
		p.Close()
		return nil, err
	}
	go func() {
		p.status = cmd.Wait()
		close(p.ended)
	}()
	return p, nil
}

// Close closes ssh's input, and kills it if it has not ended by itself after endTime.
func (p *process) Close() error {
	p.closing.Do(func() {
		p.input.Close()
		go func() {
			select {
			case <-p.ended:
			case <-time.After(endTime):
			}
			p.kill()
			p.output.Close()
		}()
	})
	return nil
}

// explain returns why there is no agent, by what ssh printed if it printed something.
func (p *process) explain(host target.Host, err error) error {
	<-p.ended
	var noise *tunnel.NoiseError
	if !errors.As(err, &noise) {
		return fmt.Errorf("%s: %w", host, err)
	}
	if errors.Is(noise.Err, tunnel.ErrNoGreeting) { // what was said when that ended is not the reason
		return &HostError{host, fmt.Errorf("%w of what came from there: does a login print so much?", noise.Err)}
	}
	e := &Error{Host: host, Output: p.stderr.String(), Err: err}
	var exit *exec.ExitError
	if errors.As(p.status, &exit) {
		e.Status = exit.ExitCode()
	}
	if e.Output == "" {
		e.Output = strings.TrimSpace(string(noise.Noise[max(0, len(noise.Noise)-maxOutput):]))
	}
	return e
}
