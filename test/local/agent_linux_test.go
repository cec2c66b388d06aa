package local

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"porthole.dev/porthole/internal/pinned"
	"porthole.dev/porthole/internal/pipe"
	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/testenv"
	"porthole.dev/porthole/internal/tunnel"
)

// agentUser is whom agents in pods and their targets run as here.
const agentUser = 65532

// agentPort is where agents listen, in namespaces of their own.
const agentPort = 4711

// agent is a `porthole agent` in a container: its root has the program and nothing else, and is
// read-only; it runs as an ordinary user, with an empty environment.
type agent struct {
	*program
	pod    *testenv.Pod
	client pinned.Key
	key    pinned.PublicKey
}

// contain returns a command that runs in the pod's network, below a root that has /proc, as agentUser.
func contain(t *testing.T, pod *testenv.Pod, root string, argv ...string) *exec.Cmd {
	t.Helper()
	testenv.Root(t)
	if err := os.MkdirAll(filepath.Join(root, "proc"), 0o755); err != nil {
		t.Fatal(err)
	}
	const script = `set -e
		mount --rbind "$0" "$0"
		mount --rbind /proc "$0/proc"
		mount -o remount,bind,ro "$0"
		root=$0 user=$1
		shift
		exec env -i "$(command -v chroot)" --userspec="$user:$user" --groups= "$root" "$@"`
	enter := []string{fmt.Sprintf("--net=/proc/%d/ns/net", pod.PID), "--", "unshare", "--mount", "--propagation", "private",
		"setpriv", "--no-new-privs", "sh", "-c", script, root, strconv.Itoa(agentUser)}
	return exec.Command("nsenter", append(enter, argv...)...)
}

// agentRoot is a folder with the program alone.
func agentRoot(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	copyFile(t, porthole, filepath.Join(root, "porthole"))
	for dir := root; dir != os.TempDir(); dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// copyFile copies a program in pieces, as those who unpack images do. Of what was written in one piece, the
// kernel would map more than is needed (Linux 6.18).
func copyFile(t *testing.T, from, to string) {
	t.Helper()
	src, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE, 0o555)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.CopyBuffer(struct{ io.Writer }{dst}, struct{ io.Reader }{src}, make([]byte, 32<<10))
	if err = errors.Join(err, dst.Close()); err != nil {
		t.Fatal(err)
	}
}

func newKey(t *testing.T) pinned.Key {
	t.Helper()
	k, err := pinned.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// startAgent starts an agent in a pod, and reads its key.
func startAgent(t *testing.T, pod *testenv.Pod, flags ...string) *agent {
	t.Helper()
	return startAgentIn(t, pod, agentRoot(t), flags...)
}

func startAgentIn(t *testing.T, pod *testenv.Pod, root string, flags ...string) *agent {
	t.Helper()
	a := &agent{pod: pod, client: newKey(t)}
	argv := []string{"/porthole", "agent", fmt.Sprintf("--listen=127.0.0.1:%d", agentPort), "--client-key=" + a.client.Public().String()}
	a.program = startCommand(t, contain(t, pod, root, append(argv, flags...)...))
	key, err := pinned.ParsePublicKey(a.await(t, `^porthole agent key=(\S+) version=\S+$`))
	if err != nil {
		t.Fatal(err)
	}
	a.key = key
	return a
}

// connect connects to a port of the pod's loopback.
func (a *agent) connect(t *testing.T, port uint16) net.Conn {
	t.Helper()
	conn, err := a.pod.NS.Dial(t.Context(), target.Address{Port: port})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn.(net.Conn)
}

// tunnelBy opens a tunnel through a port where the agent is, or something that passes everything on.
func (a *agent) tunnelBy(t *testing.T, port uint16) *tunnel.Client {
	t.Helper()
	secure, err := pinned.Client(t.Context(), a.connect(t, port), a.client, a.key)
	if err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(secure)
	if _, err := tunnel.ReadGreeting(r); err != nil {
		t.Fatal(err)
	}
	if _, err := secure.Write(tunnel.Greeting{}.Append(nil)); err != nil {
		t.Fatal(err)
	}
	client := tunnel.NewClient(struct {
		io.Reader
		io.WriteCloser
	}{r, secure}, tunnel.ClientConfig{})
	t.Cleanup(func() { client.Close() })
	return client
}

// echoed sends some bytes to an address where they are echoed, and wants them back.
func echoed(client *tunnel.Client, to target.Address, sent []byte) error {
	conn, err := client.Dial(to)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer time.AfterFunc(testenv.Patience, func() { conn.Close() }).Stop()
	if to.Network == target.UDP {
		return echoedDatagram(conn, sent)
	}
	go func() {
		_, _ = conn.Write(sent)
		_ = conn.CloseWrite()
	}()
	got, err := io.ReadAll(conn)
	if err == nil && !bytes.Equal(got, sent) {
		err = fmt.Errorf("%d bytes came back of %d", len(got), len(sent))
	}
	return err
}

func echoedDatagram(conn pipe.Conn, sent []byte) error {
	if _, err := conn.Write(sent); err != nil {
		return err
	}
	got := make([]byte, len(sent)+1)
	n, err := conn.Read(got)
	if err == nil && !bytes.Equal(got[:n], sent) {
		err = fmt.Errorf("%q came back of %q", got[:n], sent)
	}
	return err
}

// An agent needs nothing but its program, and reaches what the pod does.
func TestAgent(t *testing.T) {
	pod := testenv.NewPod(t)
	l := pod.Listen(t, "127.0.0.1:0")
	go echoEach(l)
	udp := testenv.EchoUDP(pod.ListenUDP(t, "127.0.0.1:0"))
	a := startAgent(t, pod)
	client := a.tunnelBy(t, agentPort)
	for _, to := range []target.Address{{Port: testenv.Port(l)}, {Host: "localhost", Port: testenv.Port(l)}, {Network: target.UDP, Port: udp}} {
		if err := echoed(client, to, []byte("hello")); err != nil {
			t.Errorf("%s: %v", to, err)
		}
	}
	if err := a.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if line, more := <-a.lines; more {
		t.Errorf("stdout has a second line: %q", line)
	}
	if err := a.cmd.Wait(); err != nil {
		t.Errorf("after SIGTERM: %v; stderr: %s", err, a.errors())
	}
}

// An agent whose port is taken says so at once, and prints no key.
func TestAgentPortTaken(t *testing.T) {
	pod := testenv.NewPod(t)
	pod.Listen(t, fmt.Sprintf("127.0.0.1:%d", agentPort))
	cmd := contain(t, pod, agentRoot(t), "/porthole", "agent", fmt.Sprintf("--listen=127.0.0.1:%d", agentPort), "--client-key="+newKey(t).Public().String())
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	var failed *exec.ExitError
	if err := cmd.Run(); !errors.As(err, &failed) || failed.ExitCode() != 1 {
		t.Errorf("%v, want exit status 1", err)
	}
	if text := stderr.String(); stdout.Len() > 0 || strings.Count(text, "\n") != 1 || !strings.Contains(text, "address already in use") {
		t.Errorf("stdout %q, stderr %q", stdout.String(), text)
	}
}

// A squatter on the port is found out by its key; one that passes everything on is no harm.
func TestAgentSquatters(t *testing.T) {
	pod := testenv.NewPod(t)
	l := pod.Listen(t, "127.0.0.1:0")
	go echoEach(l)
	a := startAgent(t, pod)

	squatter := newKey(t)
	squat := pod.Listen(t, "127.0.0.1:0")
	go func() {
		for {
			conn, err := squat.Accept()
			if err != nil {
				return
			}
			_, _ = pinned.Server(t.Context(), conn, squatter, a.client.Public())
			conn.Close()
		}
	}()
	if _, err := pinned.Client(t.Context(), a.connect(t, testenv.Port(squat)), a.client, a.key); !errors.Is(err, pinned.ErrStranger) {
		t.Errorf("at a squatter: %v, want ErrStranger", err)
	}
	stranger, err := pinned.Client(t.Context(), a.connect(t, agentPort), newKey(t), a.key)
	if err == nil {
		_, err = stranger.Read(make([]byte, 1))
	}
	if !pinned.Refused(err) {
		t.Errorf("a stranger reads %v, want a refusal", err)
	}

	const middle = 4712
	relay := startCommand(t, exec.Command("nsenter", fmt.Sprintf("--net=/proc/%d/ns/net", pod.PID), "--",
		"socat", "-d", "-d", fmt.Sprintf("TCP-LISTEN:%d,bind=127.0.0.1,fork", middle), fmt.Sprintf("TCP:127.0.0.1:%d", agentPort)))
	testenv.Await(t, "socat listens", func() bool { return strings.Contains(relay.errors(), "listening on") })
	secret := []byte("what only the two ends may know")
	if err := echoed(a.tunnelBy(t, middle), target.Address{Port: testenv.Port(l)}, secret); err != nil {
		t.Errorf("through one that passes everything on: %v", err)
	}
}

// startContainer starts a process of agentUser with a root of its own, in a cgroup that a container's ID names.
func startContainer(t *testing.T, pod *testenv.Pod, id string) (root string) {
	t.Helper()
	root = t.TempDir()
	for dir := root; dir != os.TempDir(); dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{"bin", "lib", "lib64", "usr"} {
		if real, err := filepath.EvalSymlinks("/" + dir); err == nil {
			mount(t, real, filepath.Join(root, dir))
		}
	}
	cgroup := testenv.NewCgroup(t, "docker-"+id+".scope")
	p := startCommand(t, contain(t, pod, root, "/bin/sh", "-c", "echo started; exec sleep 1000"))
	p.await(t, "^started$")
	if err := os.WriteFile(filepath.Join(cgroup, "cgroup.procs"), []byte(strconv.Itoa(p.cmd.Process.Pid)), 0); err != nil {
		t.Fatal(err)
	}
	return root
}

func mount(t *testing.T, from, to string) {
	t.Helper()
	if err := os.MkdirAll(to, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount(from, to, "", syscall.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(to, syscall.MNT_DETACH) })
}

// With --container-id the Unix sockets inside another container are reached.
func TestAgentContainer(t *testing.T) {
	pod := testenv.NewPod(t)
	id := rand.Text()
	root := startContainer(t, pod, id)
	l, err := net.Listen("unix", filepath.Join(root, "a.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := os.Chmod(filepath.Join(root, "a.sock"), 0o666); err != nil {
		t.Fatal(err)
	}
	go echoEach(l)
	client := startAgent(t, pod, "--container-id", id).tunnelBy(t, agentPort)
	if err := echoed(client, target.Address{Network: target.Unix, Path: "/a.sock"}, []byte("hello")); err != nil {
		t.Error(err)
	}
}

// Names do not lead to metadata servers where that is denied; who writes such an address means it.
func TestAgentDeniesLinkLocal(t *testing.T) {
	pod := testenv.NewPod(t)
	root := agentRoot(t)
	if err := os.Mkdir(filepath.Join(root, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "etc/hosts"), []byte("169.254.169.254 metadata\nfd00:ec2::254 metadata6\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	client := startAgentIn(t, pod, root, "--deny-link-local").tunnelBy(t, agentPort)
	for _, network := range []target.Network{target.TCP, target.UDP} {
		for host, denied := range map[string]bool{"metadata": true, "metadata6": true, "169.254.169.254": false, "fd00:ec2::254": false} {
			err := echoed(client, target.Address{Network: network, Host: host, Port: 80}, []byte("x"))
			if errors.Is(err, tunnel.ErrDenied) != denied || errors.Is(err, syscall.ENETUNREACH) == denied {
				t.Errorf("%s by %s: %v, denied %v", host, network, err, denied)
			}
		}
	}
}

// Other processes of the agent's user can neither read its memory nor find its log.
func TestAgentIsProtected(t *testing.T) {
	pod := testenv.NewPod(t)
	a := startAgent(t, pod)
	plain := exec.Command("sleep", "1000")
	plain.SysProcAttr = asAgentUser()
	startCommand(t, plain)
	for _, attempt := range []string{"readlink /proc/$0/fd/1", ": </proc/$0/mem", ": </proc/$0/environ", "cd /proc/$0/root"} {
		for _, c := range []struct {
			who  *exec.Cmd
			want bool
		}{{plain, true}, {a.cmd, false}} {
			try := exec.Command("sh", "-c", attempt, strconv.Itoa(c.who.Process.Pid))
			try.SysProcAttr = asAgentUser()
			if out, err := try.CombinedOutput(); (err == nil) != c.want {
				t.Errorf("%s of %s: %v, %s", attempt, c.who.Args[0], err, out)
			}
		}
	}
}

func asAgentUser() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: agentUser, Gid: agentUser}}
}

// An agent that nobody uses gives back its memory: what ps(1) shows is below 12 MiB then.
func TestAgentMemory(t *testing.T) {
	pod := testenv.NewPod(t)
	l := pod.Listen(t, "127.0.0.1:0")
	go echoEach(l)
	a := startAgent(t, pod, "--idle-time=3s")
	client := a.tunnelBy(t, agentPort)
	payload := make([]byte, 1<<20)
	var all sync.WaitGroup
	for range 100 {
		all.Go(func() {
			if err := echoed(client, target.Address{Port: testenv.Port(l)}, payload); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	used := testenv.Status(t, a.cmd.Process.Pid, "VmRSS")
	testenv.Await(t, "its memory is given back", func() bool { return testenv.Status(t, a.cmd.Process.Pid, "VmRSS") < 14<<10 })
	t.Logf("VmRSS %d kB in use, %d kB of which %d kB anonymous when idle", used,
		testenv.Status(t, a.cmd.Process.Pid, "VmRSS"), testenv.Status(t, a.cmd.Process.Pid, "RssAnon"))
	if err := echoed(client, target.Address{Port: testenv.Port(l)}, payload); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}
