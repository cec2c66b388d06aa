// Package local tests the built program end to end on this machine: as its
// users start it, with the browser that they open. It knows the command line
// and nothing of what is behind it.
package local

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sync"
	"syscall"
	"testing"
	"time"

	"porthole.dev/porthole/internal/testenv"
)

// porthole is the program under test: $PORTHOLE_BIN, or else one that is built for this run.
var porthole = os.Getenv("PORTHOLE_BIN")

func TestMain(m *testing.M) {
	if porthole != "" {
		os.Exit(m.Run())
	}
	dir, err := os.MkdirTemp("", "porthole-local")
	if err != nil {
		panic(err)
	}
	porthole = filepath.Join(dir, "porthole")
	build := exec.Command("go", "build", "-o", porthole, "porthole.dev/porthole/cmd/porthole")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build porthole: %v\n%s", err, out)
		os.Exit(1)
	}
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// program is one running porthole.
type program struct {
	cmd   *exec.Cmd
	lines chan string

	mu     sync.Mutex
	stderr bytes.Buffer
}

func start(t *testing.T, args ...string) *program {
	t.Helper()
	return startCommand(t, exec.Command(porthole, args...))
}

func startCommand(t *testing.T, cmd *exec.Cmd) *program {
	t.Helper()
	testenv.Root(t)
	p := &program{cmd: cmd, lines: make(chan string, 1000)}
	p.cmd.Stderr = p
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			p.lines <- s.Text()
		}
	}()
	t.Cleanup(func() { _ = p.cmd.Process.Kill(); _ = p.cmd.Wait() })
	return p
}

// Write keeps what comes on stderr.
func (p *program) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stderr.Write(b)
}

func (p *program) errors() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stderr.String()
}

// await returns what a pattern's group matches in the first line of stdout that it matches.
func (p *program) await(t *testing.T, pattern string) string {
	t.Helper()
	re := regexp.MustCompile(pattern)
	timeout := time.After(time.Minute)
	for {
		select {
		case line, ok := <-p.lines:
			if m := re.FindStringSubmatch(line); m != nil {
				return m[len(m)-1]
			}
			if !ok {
				t.Fatalf("porthole ended without a line like %q; stderr: %s", pattern, p.errors())
			}
		case <-timeout:
			t.Fatalf("no line like %q; stderr: %s", pattern, p.errors())
		}
	}
}

// interrupt is Ctrl-C; it wants a clean end.
func (p *program) interrupt(t *testing.T) {
	t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		for range p.lines { // Wait closes the pipe: read it to its end first
		}
		done <- p.cmd.Wait()
	}()
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("after Ctrl-C: %v; stderr: %s", err, p.errors())
		}
	case <-time.After(time.Minute):
		t.Fatal("porthole goes on after Ctrl-C")
	}
}
