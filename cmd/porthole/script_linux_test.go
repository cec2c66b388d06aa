package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"porthole.dev/porthole/internal/testenv"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"porthole": main})
}

// TestScripts runs testdata/script, a file for each behaviour of the command
// line. Each script has a pod of its own: $PID is its process, and inside it
// $ECHO is the port of a server that echoes, $LATE of one that answers 3
// seconds after the end of the request, $RESET of one that answers "half" and
// resets.
func TestScripts(t *testing.T) {
	testenv.Root(t)
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			pod := testenv.NewPod(t)
			env.Setenv("PID", fmt.Sprint(pod.PID))
			for name, answer := range map[string]func(*net.TCPConn){"ECHO": echo, "LATE": late, "RESET": reset} {
				l := pod.Listen(t, "127.0.0.1:0")
				env.Setenv(name, fmt.Sprint(testenv.Port(l)))
				go serveEach(l, answer)
			}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"freeport": freePort,
			"listens":  listens,
			"say":      say,
		},
	})
}

func serveEach(l net.Listener, answer func(*net.TCPConn)) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() { defer c.Close(); answer(c.(*net.TCPConn)) }()
	}
}

func echo(c *net.TCPConn) { _, _ = io.Copy(c, c) }

func late(c *net.TCPConn) {
	request, _ := io.ReadAll(c)
	time.Sleep(3 * time.Second)
	_, _ = fmt.Fprintf(c, "late answer to %s", request)
}

func reset(c *net.TCPConn) {
	_, _ = c.Read(make([]byte, 1))
	_, _ = io.WriteString(c, "half")
	time.Sleep(50 * time.Millisecond)
	_ = c.SetLinger(0)
}

// freePort sets variables to ports that nobody uses until the script ends: `freeport A B`.
func freePort(ts *testscript.TestScript, _ bool, names []string) {
	for _, name := range names {
		port, release, err := testenv.ReservePort()
		ts.Check(err)
		ts.Defer(release)
		ts.Setenv(name, fmt.Sprint(port))
	}
}

// listens waits until somebody listens on a port of 127.0.0.1, or, negated,
// until nobody does: `listens PORT`. It looks, and does not connect.
func listens(ts *testscript.TestScript, neg bool, args []string) {
	var port int
	_, err := fmt.Sscan(args[0], &port)
	ts.Check(err)
	entry := fmt.Sprintf(" 0100007F:%04X 00000000:0000 0A ", port)
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		table, err := os.ReadFile("/proc/net/tcp")
		ts.Check(err)
		if strings.Contains(string(table), entry) != neg {
			return
		}
	}
	ts.Fatalf("listens on port %d: want %v", port, !neg)
}

// say sends a text, ends its side and prints the answer: `say ADDRESS TEXT`.
// Negated, it wants the answer to end in a reset.
func say(ts *testscript.TestScript, neg bool, args []string) {
	answer, err := converse(args[0], args[1])
	_, _ = io.WriteString(ts.Stdout(), answer)
	if neg != errors.Is(err, syscall.ECONNRESET) || (!neg && err != nil) {
		ts.Fatalf("say %v: %q, %v", args, answer, err)
	}
}

func converse(address, text string) (string, error) {
	c, err := net.Dial("tcp", address)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if _, err := io.WriteString(c, text); err != nil {
		return "", err
	}
	// A reset may have come by now; what is read says so.
	if err := c.(*net.TCPConn).CloseWrite(); err != nil && !errors.Is(err, syscall.ENOTCONN) {
		return "", err
	}
	answer, err := io.ReadAll(c)
	return string(answer), err
}
