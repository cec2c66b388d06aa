package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
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
// resets. $SILENT is the port of a server of this host that never says anything, and
// $HOSTILE the URL of an API server whose words are for terminals. At port 53 of all of
// the pod's addresses is a name server, which knows that db.test is 10.9.0.2.
func TestScripts(t *testing.T) {
	t.Parallel()
	testenv.Root(t)
	// What is started from here does not ignore SIGHUP, also where this is run by nohup.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP)
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("HOME", filepath.Join(env.WorkDir, ".home")) // and not /no-home, which root would make
			pod := testenv.NewPod(t)
			env.Setenv("PID", fmt.Sprint(pod.PID))
			silent, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				return err
			}
			env.Defer(func() { _ = silent.Close() })
			env.Setenv("SILENT", fmt.Sprint(testenv.Port(silent)))
			for name, answer := range map[string]func(*net.TCPConn){"ECHO": echo, "LATE": late, "RESET": reset} {
				l := pod.Listen(t, "127.0.0.1:0")
				env.Setenv(name, fmt.Sprint(testenv.Port(l)))
				go serveEach(l, answer)
			}
			serveNames(t, pod)
			env.Setenv("HOSTILE", hostile(t))
			packaging, err := filepath.Abs("../../packaging")
			env.Setenv("PACKAGING", packaging)
			if err != nil {
				return err
			}
			return nil
		},
		Cmds: scriptCommands,
	})
}

// scriptCommands are those that all scripts have.
var scriptCommands = map[string]func(*testscript.TestScript, bool, []string){
	"freeport": freePort,
	"has":      has,
	"until":    until,
	"listens":  listens,
	"say":      say,
	"hold":     hold,
}

// serveNames answers questions for names inside a pod, until the test ends.
func serveNames(t *testing.T, pod *testenv.Pod) {
	var udp net.PacketConn
	err := pod.NS.Do(func() (err error) {
		udp, err = net.ListenPacket("udp", "[::]:53")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	server := &dns.Server{PacketConn: udp, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, query *dns.Msg) {
		reply := new(dns.Msg).SetRcode(query, dns.RcodeNameError)
		if q := query.Question[0]; q.Name == "db.test." {
			if reply.Rcode = dns.RcodeSuccess; q.Qtype == dns.TypeA {
				reply.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Name, Rrtype: q.Qtype, Class: q.Qclass}, A: net.IPv4(10, 9, 0, 2)}}
			}
		}
		_ = w.WriteMsg(reply)
	})}
	go func() { _ = server.ActivateAndServe() }()
	t.Cleanup(func() { udp.Close() })
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

// hostile is an API server that has control characters in all that it says, the
// user's name among it. It forbids the pod "forbidden".
func hostile(t *testing.T) string {
	const words = "\x1b]0;owned\a\r\x1b[2J\u009b31m\x7f\u202etxt.\x9b"
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		code, answer := http.StatusTeapot, map[string]any{"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": words}
		switch {
		case strings.HasSuffix(r.URL.Path, "/selfsubjectreviews"):
			code, answer = http.StatusOK, map[string]any{"status": map[string]any{"userInfo": map[string]string{"username": "eve; id " + words}}}
		case strings.Contains(r.URL.RawQuery+r.URL.Path, "forbidden"):
			code = http.StatusForbidden
		}
		answer["code"] = code
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Warning", "299 - \"old \u202e\"")
		w.WriteHeader(code)
		_ = json.NewEncoder(w).Encode(answer)
	}))
	t.Cleanup(server.Close)
	return server.URL
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

// patience is how long what a script waits for may take. It does as a rule not take any time; an engine that loads an image on a
// busy machine does.
const patience = 3 * testenv.Patience

// listens waits until somebody listens on a port of 127.0.0.1, or of ::1, or,
// negated, until nobody does: `listens PORT`, `listens [::1]:PORT`. It looks, and does not connect.
func listens(ts *testscript.TestScript, neg bool, args []string) {
	table, entry, port := "/proc/net/tcp", " 0100007F:%04X 00000000:0000 0A ", args[0]
	if six, ok := strings.CutPrefix(args[0], "[::1]:"); ok {
		table, entry, port = "/proc/net/tcp6", " 00000000000000000000000001000000:%04X 00000000000000000000000000000000:0000 0A ", six
	}
	number, err := strconv.Atoi(port)
	ts.Check(err)
	entry = fmt.Sprintf(entry, number)
	within(ts, fmt.Sprintf("somebody listens on %s: %v", args[0], !neg), func() bool {
		sockets, err := os.ReadFile(table)
		ts.Check(err)
		return strings.Contains(string(sockets), entry) != neg
	})
}

// has waits until a file has what a pattern matches: `has FILE PATTERN`. It is
// for the output of what runs in the background.
func has(ts *testscript.TestScript, neg bool, args []string) {
	if neg {
		ts.Fatalf("has: what is not there yet may come")
	}
	pattern, err := regexp.Compile("(?m)" + args[1])
	ts.Check(err)
	within(ts, fmt.Sprintf("%s has %s", args[0], pattern), func() bool {
		text, err := os.ReadFile(ts.MkAbs(args[0]))
		return err == nil && pattern.Match(text)
	})
}

// until runs a program again and again until it succeeds, as exec does: `until PROGRAM [ARGUMENT ...]`.
func until(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: until PROGRAM [ARGUMENT ...]")
	}
	within(ts, strings.Join(args, " ")+" succeeds", func() bool { return ts.Exec(args[0], args[1:]...) == nil })
}

func within(ts *testscript.TestScript, what string, ok func() bool) {
	for end := time.Now().Add(patience); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			ts.Fatalf("after %v it is still not so that %s", patience, what)
		}
	}
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

// hold sends a text and keeps the connection open until the script's end: `hold ADDRESS TEXT`.
func hold(ts *testscript.TestScript, _ bool, args []string) {
	c, err := net.Dial("tcp", args[0])
	ts.Check(err)
	ts.Defer(func() { _ = c.Close() })
	_, err = io.WriteString(c, args[1])
	ts.Check(err)
}

func converse(address, text string) (string, error) {
	c, err := net.Dial("tcp", address)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return "", err
	}
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
