package e2e

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// program is one running porthole, or kubectl.
type program struct {
	cmd   *exec.Cmd
	ended chan struct{} // closed when it has

	mu          sync.Mutex
	out, errors bytes.Buffer
}

// command is the program with the administrator's kubeconfig. Environment variables stand before its arguments.
func command(name string, args ...string) *exec.Cmd {
	environment := append(os.Environ(), "KUBECONFIG="+c.Kubeconfig())
	for len(args) > 0 && strings.Contains(args[0], "=") && !strings.HasPrefix(args[0], "-") {
		environment, args = append(environment, args[0]), args[1:]
	}
	cmd := exec.Command(name, args...)
	cmd.Env = environment
	return cmd
}

func start(t *testing.T, args ...string) *program { return startCommand(t, command(porthole, args...)) }

// startCommand starts a program that ends with the test.
func startCommand(t *testing.T, cmd *exec.Cmd) *program {
	t.Helper()
	p := launch(t, cmd)
	t.Cleanup(func() { p.kill(t) })
	return p
}

// launch starts a program; the caller ends it.
func launch(t *testing.T, cmd *exec.Cmd) *program {
	t.Helper()
	p := &program{cmd: cmd, ended: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = locked{p, &p.out}, locked{p, &p.errors}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.ended)
		_ = cmd.Wait()
	}()
	return p
}

// kill ends the program if it runs still, and shows what it said if the test has failed.
func (p *program) kill(t *testing.T) {
	_ = p.cmd.Process.Kill()
	<-p.ended
	if t.Failed() {
		t.Logf("%v\nstdout: %s\nstderr: %s", p.cmd.Args[1:], p.stdout(), p.stderr())
	}
}

type locked struct {
	p  *program
	to *bytes.Buffer
}

func (l locked) Write(b []byte) (int, error) {
	l.p.mu.Lock()
	defer l.p.mu.Unlock()
	return l.to.Write(b)
}

func (p *program) stdout() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.String()
}

func (p *program) stderr() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.errors.String()
}

// await waits until a stream has a line that the pattern matches, and returns the pattern's groups.
func (p *program) await(t *testing.T, stream func() string, pattern string) []string {
	t.Helper()
	re := regexp.MustCompile("(?m)" + pattern)
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if m := re.FindStringSubmatch(stream()); m != nil {
			return m[1:]
		}
		select {
		case <-p.ended:
			if m := re.FindStringSubmatch(stream()); m != nil {
				return m[1:]
			}
			t.Fatalf("%v ended without a line like %q", p.cmd.Args, pattern)
		default:
		}
	}
	t.Fatalf("no line like %q", pattern)
	return nil
}

// address is where the program listens on IPv4 for the nth port of its command line, from 0 on.
func (p *program) address(t *testing.T, nth int) string {
	t.Helper()
	pattern := `(?s)\A` + strings.Repeat(`.*?^Forwarding from 127`, nth) + `.*?^Forwarding from (127\S+) ->`
	return p.await(t, p.stdout, pattern)[0]
}

// interrupt is Ctrl-C; it wants a clean end.
func (p *program) interrupt(t *testing.T) {
	t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if code := p.exit(t); code != 0 {
		t.Errorf("after Ctrl-C: exit status %d", code)
	}
}

// exit waits for the program's end.
func (p *program) exit(t *testing.T) int {
	t.Helper()
	select {
	case <-p.ended:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(patience):
		t.Fatal("the program goes on")
		return 0
	}
}

// patience is how long what has to come may take, on a busy machine.
const patience = 2 * time.Minute

func dial(t *testing.T, address string) *net.TCPConn {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return conn.(*net.TCPConn)
}

// say sends a request, ends its side and returns the answer. What is no clean end of it is an error.
func say(address, request string) (string, error) {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	if _, err := io.WriteString(conn, request); err != nil {
		return "", err
	}
	// A reset may have come by now; what is read says so.
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil && !errors.Is(err, syscall.ENOTCONN) {
		return "", err
	}
	answer, err := io.ReadAll(conn)
	return string(answer), err
}

// ask wants an answer.
func ask(t *testing.T, address, request string) string {
	t.Helper()
	answer, err := say(address, request)
	if err != nil {
		t.Fatalf("%q: %q, %v", request, answer, err)
	}
	if answer == "" {
		t.Fatalf("%q: a clean end and no answer", request)
	}
	return strings.TrimSpace(answer)
}

// who is the name of the pod that answers.
func who(t *testing.T, address string) string {
	t.Helper()
	pod, _, _ := strings.Cut(ask(t, address, "who\n"), " ")
	return pod
}

// wantReset wants a connection to end otherwise than cleanly.
func wantReset(t *testing.T, answer string, err error) {
	t.Helper()
	if !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
		t.Errorf("got %q and %v, want a reset", answer, err)
	}
}

// echoer keeps a connection busy with one byte to and fro, and says how long that took.
type echoer struct {
	conn *net.TCPConn
	r    *bufio.Reader
	owed int // echoes that were asked for and have not come
}

func newEchoer(t *testing.T, address string) *echoer {
	t.Helper()
	e, err := dialEcho(address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.conn.Close() })
	return e
}

func dialEcho(address string) (*echoer, error) {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return nil, err
	}
	e := &echoer{conn: conn.(*net.TCPConn), r: bufio.NewReader(conn)}
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return nil, err
	}
	_, err = io.WriteString(conn, "echo\n")
	return e, err
}

func (e *echoer) round() (time.Duration, error) {
	began := time.Now()
	if _, err := e.conn.Write([]byte("x")); err != nil {
		return 0, err
	}
	_, err := e.r.ReadByte()
	return time.Since(began), err
}
