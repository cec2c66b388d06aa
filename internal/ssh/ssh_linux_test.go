package ssh_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/nettest"

	"porthole.dev/porthole/internal/agent"
	"porthole.dev/porthole/internal/forward"
	"porthole.dev/porthole/internal/pipe"
	"porthole.dev/porthole/internal/route"
	"porthole.dev/porthole/internal/ssh"
	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/testenv"
	"porthole.dev/porthole/internal/tunnel"
)

// This test's program is the agent on the other host, when it is started as that.
func TestMain(m *testing.M) {
	if slicesEnd(os.Args, "agent", "--stdio") {
		a := &agent.Agent{Version: "test", Openers: map[target.Scheme]route.Opener{target.PID: openHere, target.NetNS: openHere}}
		if err := a.Serve(context.Background(), agent.Stdio()); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	testenv.Main(m)
}

func slicesEnd(s []string, end ...string) bool {
	return len(s) >= len(end) && strings.Join(s[len(s)-len(end):], " ") == strings.Join(end, " ")
}

// here is the loopback of the host that the agent is on.
type here struct{ gone chan struct{} }

func openHere(_ context.Context, f target.Forward, _ func(route.Event)) (*route.Result, error) {
	if f.Target.Scheme == target.PID && !alive(f.Target.PID) {
		return nil, fmt.Errorf("process %d: no such process", f.Target.PID)
	}
	return &route.Result{Route: &here{make(chan struct{})}, Bind: forward.Bind}, nil
}

func alive(pid int) bool {
	_, err := os.Stat("/proc/" + strconv.Itoa(pid))
	return err == nil
}

func (*here) Dial(ctx context.Context, to target.Address) (pipe.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, "tcp", "127.0.0.1:"+to.String())
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), nil
}

func (h *here) Wait(ctx context.Context) error { <-ctx.Done(); return context.Cause(ctx) }
func (h *here) Close() error                   { return nil }

// server is a real sshd on loopback.
type server struct {
	*testenv.SSHServer
	t testing.TB
}

func (s *server) write(name, text string, mode os.FileMode) {
	s.t.Helper()
	if err := os.WriteFile(s.File(name), []byte(text), mode); err != nil {
		s.t.Fatal(err)
	}
}

func newServer(t testing.TB) *server {
	t.Helper()
	testenv.Root(t)
	if _, err := testenv.SSHD(); err != nil {
		testenv.Lacking(t, "an ssh server: "+err.Error())
	}
	s := &server{&testenv.SSHServer{Address: "127.0.0.1", Port: testenv.FreePort(t), Dir: t.TempDir()}, t}
	s.start()
	t.Cleanup(func() { s.Stop() })
	s.write("ssh", fmt.Sprintf("#!/bin/sh\nexec ssh -F %s \"$@\"\n", s.File("config")), 0o700)
	return s
}

func (s *server) start() {
	s.t.Helper()
	if err := s.Start(); err != nil {
		s.t.Fatal(err)
	}
}

// opener is one of the user of the server; the other end is this test's program.
func (s *server) opener() *ssh.Opener {
	s.t.Helper()
	self, err := os.Executable()
	if err != nil {
		s.t.Fatal(err)
	}
	o := &ssh.Opener{Version: "test", Program: s.File("ssh"), RemoteCommand: self}
	s.t.Cleanup(o.Close)
	return o
}

// journal collects events.
type journal struct {
	mu   sync.Mutex
	told []route.Event
}

func (j *journal) note(e route.Event) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.told = append(j.told, e)
}

func (j *journal) count(kind route.Kind) (n int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, e := range j.told {
		if e.Kind == kind {
			n++
		}
	}
	return n
}

func forwardOf(t testing.TB, to string) target.Forward {
	t.Helper()
	parsed, err := target.Parse(to)
	if err != nil {
		t.Fatal(err)
	}
	return target.Forward{Target: parsed, Host: target.Host{Name: "box"}}
}

func (s *server) open(o *ssh.Opener, to string, events func(route.Event)) *route.Result {
	s.t.Helper()
	r, err := o.Open(s.t.Context(), forwardOf(s.t, to), events)
	if err != nil {
		log, _ := os.ReadFile(s.File("log"))
		s.t.Fatalf("open: %v\n%s", err, log)
	}
	s.t.Cleanup(func() { r.Close() })
	return r
}

func exchange(t testing.TB, r route.Dialer, port uint16, text string) error {
	t.Helper()
	conn, err := r.Dial(t.Context(), target.TCPPort(port))
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, text); err != nil {
		return err
	}
	if err := conn.CloseWrite(); err != nil {
		return err
	}
	got, err := io.ReadAll(conn)
	if err == nil && string(got) != text {
		err = fmt.Errorf("got %q", got)
	}
	return err
}

func TestThroughSSH(t *testing.T) {
	testenv.NoLeaks(t)
	s := newServer(t)
	o := s.opener()
	r := s.open(o, "netns://a", func(route.Event) {})
	other := s.open(o, "pid://1", func(route.Event) {})
	port := testenv.ServeTCP(t, testenv.Echo)
	for range 3 {
		for _, to := range []*route.Result{r, other} {
			if err := exchange(t, to, port, "hello"); err != nil {
				t.Error(err)
			}
		}
	}
	log, err := os.ReadFile(s.File("log"))
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(log), "Accepted publickey"); n != 1 {
		t.Errorf("%d connections to the host, want one", n)
	}
	nettest.TestConn(t, func() (net.Conn, net.Conn, func(), error) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, nil, nil, err
		}
		c1, err := r.Dial(t.Context(), target.TCPPort(testenv.Port(l)))
		if err != nil {
			return nil, nil, nil, err
		}
		c2, err := l.Accept()
		return c1.(net.Conn), c2, func() { _ = c1.Close(); _ = c2.Close(); _ = l.Close() }, err
	})
}

// An agent of another version serves, and its version is told.
func TestOtherVersion(t *testing.T) {
	testenv.NoLeaks(t)
	s := newServer(t)
	for ours, told := range map[string]string{"test": "", "newer": "test"} {
		o := s.opener()
		o.Version = ours
		var j journal
		r := s.open(o, "netns://a", j.note)
		if err := exchange(t, r, testenv.ServeTCP(t, testenv.Echo), "hello"); err != nil {
			t.Error(err)
		}
		if got := j.told[0]; got.Kind != route.Ready || got.Version != told {
			t.Errorf("version %s is told of %+v", ours, got)
		}
		r.Close()
		o.Close()
	}
}

// A tunnel that is lost comes back, and connections made meanwhile wait for it.
func TestComesBack(t *testing.T) {
	testenv.NoLeaks(t)
	s := newServer(t)
	var j journal
	r := s.open(s.opener(), "pid://"+strconv.Itoa(os.Getpid()), j.note)
	port := testenv.ServeTCP(t, testenv.Echo)
	if err := exchange(t, r, port, "before"); err != nil {
		t.Fatal(err)
	}
	s.Stop()
	s.killSessions()
	testenv.Await(t, "the loss is told", func() bool { return j.count(route.Reconnecting) == 1 })
	waits := make(chan error, 1)
	go func() { waits <- exchange(t, r, port, "meanwhile") }()
	testenv.Await(t, "an attempt has failed", func() bool { return j.count(route.Waiting) >= 1 })
	s.start()
	if err := <-waits; err != nil {
		t.Error(err)
	}
	testenv.Await(t, "it is told to be back", func() bool { return j.count(route.Ready) == 2 })
}

func (s *server) killSessions() {
	s.t.Helper()
	if err := s.KillSessions(); err != nil {
		s.t.Fatal(err)
	}
}

// A process that has ended while the tunnel was lost is gone for good.
func TestGoneMeanwhile(t *testing.T) {
	testenv.NoLeaks(t)
	s := newServer(t)
	sleep := exec.Command("sleep", "1000")
	if err := sleep.Start(); err != nil {
		t.Fatal(err)
	}
	var j journal
	r := s.open(s.opener(), "pid://"+strconv.Itoa(sleep.Process.Pid), j.note)
	s.Stop()
	_ = sleep.Process.Kill()
	_ = sleep.Wait()
	s.killSessions()
	s.start()
	ctx, cancel := context.WithTimeout(t.Context(), testenv.Patience)
	defer cancel()
	if err := r.Wait(ctx); err == nil || ctx.Err() != nil || !strings.Contains(err.Error(), "no such process") {
		t.Errorf("Wait = %v", err)
	}
	if _, err := r.Dial(ctx, target.TCPPort(1)); err == nil || ctx.Err() != nil {
		t.Errorf("Dial = %v", err)
	}
}

// What fails is told in ssh's words, or the other host's.
func TestSSHFails(t *testing.T) {
	testenv.NoLeaks(t)
	s := newServer(t)
	for name, c := range map[string]struct {
		edit    func(*ssh.Opener, *target.Forward)
		want    string
		missing bool
	}{
		"no such program": {func(o *ssh.Opener, _ *target.Forward) { o.RemoteCommand = "no-such-porthole" }, "the agent has not started: ", true},
		"another program": {func(o *ssh.Opener, _ *target.Forward) { o.RemoteCommand = "echo hello" }, "hello agent --stdio", false},
		"no such host":    {func(_ *ssh.Opener, f *target.Forward) { f.Host.Name = "no-such-host.invalid" }, "ssh failed: ", false},
		"nobody listens":  {func(_ *ssh.Opener, f *target.Forward) { f.Host.Port = 1 }, "ssh failed: ssh: connect to host 127.0.0.1 port 1: Connection refused", false},
		"another user":    {func(_ *ssh.Opener, f *target.Forward) { f.Host.User = "nobody-there" }, "Permission denied", false},
		"no such process": {func(_ *ssh.Opener, f *target.Forward) { f.Target.PID = 1 << 30 }, "no such process", false},
		"no ssh":          {func(o *ssh.Opener, _ *target.Forward) { o.Program = "/no/such/ssh" }, "no such file", false},
		"the wrong target": {func(_ *ssh.Opener, f *target.Forward) {
			f.Target = target.Target{Scheme: target.Kubernetes, Name: "web"}
		}, "unknown form of target", false},
	} {
		t.Run(name, func(t *testing.T) {
			o, f := s.opener(), forwardOf(t, "pid://1")
			c.edit(o, &f)
			r, err := o.Open(t.Context(), f, func(route.Event) {})
			if err == nil {
				r.Close()
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("open: %v, want %q", err, c.want)
			}
			var failed *ssh.Error
			if errors.As(err, &failed) && failed.Missing() != c.missing {
				t.Errorf("missing is %v", failed.Missing())
			}
		})
	}
}

// An ssh that comes back without an agent is given up, and the next one is tried.
func TestStallsWhenBack(t *testing.T) {
	testenv.NoLeaks(t)
	s := newServer(t)
	o := s.opener()
	o.Silence = 5 * time.Second // enough for the next one
	stalls := s.File("stalls")
	o.RemoteCommand = fmt.Sprintf("test -e %s && rm %[1]s && exec sleep 20; ", stalls) + o.RemoteCommand
	var j journal
	r := s.open(o, "netns://a", j.note)
	s.write("stalls", "", 0o600)
	s.killSessions()
	testenv.Await(t, "the attempt is given up", func() bool { return j.count(route.Waiting) >= 1 })
	if err := exchange(t, r, testenv.ServeTCP(t, testenv.Echo), "hello"); err != nil {
		t.Error(err)
	}
}

// A login that prints without end is told as such.
func TestTooMuchNoise(t *testing.T) {
	testenv.NoLeaks(t)
	s := newServer(t)
	o := s.opener()
	o.RemoteCommand = "head -c 70000 /dev/urandom; " + o.RemoteCommand
	r, err := o.Open(t.Context(), forwardOf(t, "netns://a"), func(route.Event) {})
	if err == nil {
		r.Close()
	}
	if err == nil || !strings.Contains(err.Error(), "no greeting within 64 KiB") {
		t.Errorf("open: %v", err)
	}
}

// What a login shell prints before the agent begins does no harm.
func TestNoise(t *testing.T) {
	testenv.NoLeaks(t)
	s := newServer(t)
	o := s.opener()
	o.RemoteCommand = "echo Welcome; head -c 60000 /dev/urandom; " + o.RemoteCommand
	r := s.open(o, "netns://a", func(route.Event) {})
	if err := exchange(t, r, testenv.ServeTCP(t, testenv.Echo), "hello"); err != nil {
		t.Error(err)
	}
}

// Close leaves no program behind, here or there.
func TestCloseEndsAll(t *testing.T) {
	s := newServer(t)
	o := s.opener()
	r := s.open(o, "netns://a", func(route.Event) {})
	if n := s.agents(); n == 0 {
		t.Fatal("there is no agent")
	}
	r.Close()
	o.Close()
	testenv.Await(t, "the agent ends", func() bool { return s.agents() == 0 })
}

// Close ends an ssh whose host has not answered yet, and returns after it.
func TestCloseEndsAttempt(t *testing.T) {
	testenv.NoLeaks(t)
	s := newServer(t)
	s.write("ssh", fmt.Sprintf("#!/bin/sh\necho $$ > %s\nexec ssh -F %s \"$@\"\n", s.File("pid"), s.File("config")), 0o700)
	o := s.opener()
	o.RemoteCommand = fmt.Sprintf("touch %s; exec sleep 60;", s.File("started"))
	opened := make(chan error, 1)
	go func() {
		_, err := o.Open(context.Background(), forwardOf(t, "netns://a"), func(route.Event) {})
		opened <- err
	}()
	testenv.Await(t, "the command has started there", func() bool {
		_, err := os.Stat(s.File("started"))
		return err == nil
	})
	o.Close()
	text, err := os.ReadFile(s.File("pid"))
	if err != nil {
		t.Fatal(err)
	}
	if pid, err := strconv.Atoi(strings.TrimSpace(string(text))); err != nil || alive(pid) {
		t.Errorf("ssh, process %d, has not ended: %v", pid, err)
	}
	if err := <-opened; err == nil {
		t.Error("there is no agent, and it was opened")
	}
}

// agents counts the agents that this test's program is.
func (s *server) agents() (n int) {
	self, _ := os.Executable()
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		cmdline, _ := os.ReadFile("/proc/" + e.Name() + "/cmdline")
		if strings.HasPrefix(string(cmdline), self+"\x00agent") {
			n++
		}
	}
	return n
}

// listenThere binds a port of the host that the agent is on, through the route.
func listenThere(t testing.TB, r *route.Result, port uint16) (*route.Listener, error) {
	t.Helper()
	l, err := r.Bind(t.Context(), target.Endpoint{AddrPort: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port)})
	if err == nil {
		t.Cleanup(func() { l.Close() })
	}
	return l, err
}

// What connects to a port of the other host arrives here, also through the next tunnel, whose agent finds the
// port free.
func TestBackThroughSSH(t *testing.T) {
	testenv.NoLeaks(t)
	s := newServer(t)
	o := s.opener()
	defer o.Close()
	r := s.open(o, "netns:///here", func(route.Event) {})
	defer r.Close()
	port := testenv.FreePort(t)
	for range 2 {
		l, err := listenThere(t, r, port)
		if err != nil {
			t.Fatal(err)
		}
		there, err := net.Dial("tcp", l.Local.AddrPort.String())
		if err != nil {
			t.Fatal(err)
		}
		defer there.Close()
		here, err := l.Streams.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer here.Close()
		io.WriteString(there, "hello")
		if p := make([]byte, 5); here.RemoteAddr().String() != there.LocalAddr().String() {
			t.Errorf("it comes from %v", here.RemoteAddr())
		} else if _, err := io.ReadFull(here, p); err != nil || string(p) != "hello" {
			t.Errorf("read %q, %v", p, err)
		}
		if other, err := listenThere(t, r, port); err == nil {
			// The same session takes it over, and what it had before is reset.
			l = other
		} else {
			t.Errorf("the same session: %v", err)
		}
		s.killSessions()
		if _, err := l.Streams.Accept(); !errors.Is(err, tunnel.ErrTunnel) {
			t.Errorf("the session of ssh has ended: %v", err)
		}
	}
}
