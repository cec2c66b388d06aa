package netns_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"porthole.dev/porthole/internal/netns"
	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/testenv"
)

// listenUnixInside listens at a path, or an abstract name, inside the namespace.
func listenUnixInside(t *testing.T, ns *netns.Namespace, network, path string) {
	t.Helper()
	var closer interface{ Close() error }
	err := ns.Do(func() (err error) {
		at := &net.UnixAddr{Name: path, Net: network}
		if network == "unixgram" {
			closer, err = net.ListenUnixgram(network, at)
		} else {
			closer, err = net.ListenUnix(network, at)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closer.Close() })
}

// What can be connected to is listed, and nothing else.
func TestListening(t *testing.T) {
	testenv.Root(t)
	testenv.NoLeaks(t)
	pod := testenv.NewPod(t)
	folder := t.TempDir()
	addrs := map[string]bool{}
	for _, at := range []string{"127.0.0.1:0", "0.0.0.0:0", "[::]:0", "[::1]:0", "127.0.0.7:0"} {
		l := pod.Listen(t, at)
		addrs["tcp "+netip.MustParseAddrPort(l.Addr().String()).String()] = true
		c := pod.ListenUDP(t, at)
		addrs["udp "+c.LocalAddr().String()] = true
	}
	conn, err := pod.NS.Dial(t.Context(), target.Address{Network: target.UDP, Port: 9}) // a UDP socket that is connected
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	listenUnixInside(t, pod.NS, "unix", filepath.Join(folder, "a.sock"))
	listenUnixInside(t, pod.NS, "unix", "@porthole-test-"+filepath.Base(folder))
	listenUnixInside(t, pod.NS, "unixpacket", filepath.Join(folder, "packet.sock"))
	listenUnixInside(t, pod.NS, "unixgram", filepath.Join(folder, "datagram.sock"))
	addrs["unix "+filepath.Join(folder, "a.sock")] = true

	sockets, err := pod.NS.Listening()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range sockets {
		name := s.Network.String() + " " + s.AddrPort.String()
		if s.Network == target.Unix {
			name = "unix " + s.Path
		}
		if !addrs[name] {
			t.Errorf("%s is listed, and is not there, or not to be reached", name)
		}
		delete(addrs, name)
		if s.UID != uint32(os.Getuid()) || s.Inode == 0 {
			t.Errorf("%s: user %d, inode %d", name, s.UID, s.Inode)
		}
	}
	for name := range addrs {
		t.Errorf("%s is not listed", name)
	}
	if !slices.IsSortedFunc(sockets, target.CompareSockets) {
		t.Errorf("not sorted: %v", sockets)
	}
}

// A namespace without any socket lists none, and one that is gone says so.
func TestListeningNothing(t *testing.T) {
	testenv.NoLeaks(t)
	pod := testenv.NewPod(t)
	if sockets, err := pod.NS.Listening(); err != nil || len(sockets) != 0 {
		t.Errorf("%v, %v", sockets, err)
	}
	pod.Kill()
	if _, err := pod.NS.Listening(); !errors.Is(err, netns.ErrExited) {
		t.Errorf("%v, want ErrExited", err)
	}
	if _, err := pod.NS.ID(); !errors.Is(err, netns.ErrExited) {
		t.Errorf("ID: %v, want ErrExited", err)
	}
}

// More sockets than one message of the kernel's holds.
func TestListeningMany(t *testing.T) {
	testenv.NoLeaks(t)
	pod := testenv.NewPod(t)
	const many = 1000
	for range many {
		pod.Listen(t, "127.0.0.1:0")
	}
	if sockets, err := pod.NS.Listening(); err != nil || len(sockets) != many {
		t.Errorf("%d sockets, %v, want %d", len(sockets), err, many)
	}
}

// A link-local address has the number of its interface as its zone.
func TestListeningZone(t *testing.T) {
	testenv.Root(t)
	testenv.NoLeaks(t)
	pod := testenv.NewPod(t)
	var l net.Listener
	err := pod.NS.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		f := os.NewFile(uintptr(fd), "")
		defer f.Close()
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_FREEBIND, 1); err != nil {
			return err
		}
		at := &unix.SockaddrInet6{Addr: netip.MustParseAddr("fe80::5").As16(), Port: 5000, ZoneId: 1}
		if err := errors.Join(unix.Bind(fd, at), unix.Listen(fd, 1)); err != nil {
			return err
		}
		l, err = net.FileListener(f)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	sockets, err := pod.NS.Listening()
	if err != nil || len(sockets) != 1 || sockets[0].Address() != (target.Address{Host: "fe80::5%1", Port: 5000}) {
		t.Errorf("%v, %v", sockets, err)
	}
}

// What changes is told, with the process that has it open, and nothing is told twice.
func TestWatchListening(t *testing.T) {
	testenv.NoLeaks(t)
	ctx, cancel := context.WithCancel(t.Context())
	told, done := make(chan []target.Socket, 100), make(chan error, 1)
	go func() {
		done <- netns.Here().WatchWithProcesses(ctx, func(now []target.Socket) { told <- now })
	}()
	<-told
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	here := func(s target.Socket) bool { return s.Network == target.TCP && s.AddrPort.String() == l.Addr().String() }
	await := func(listens bool) (s target.Socket) { // others on this machine may come and go meanwhile
		for late := time.After(testenv.Patience); ; {
			select {
			case now := <-told:
				if i := slices.IndexFunc(now, here); listens == (i >= 0) {
					if listens {
						s = now[i]
					}
					return s
				}
			case <-late:
				t.Fatalf("that somebody listens (%v) was not told", listens)
			}
		}
	}
	command, err := os.ReadFile("/proc/self/comm")
	if err != nil {
		t.Fatal(err)
	}
	if s := await(true); s.PID != os.Getpid() || s.Command+"\n" != string(command) {
		t.Errorf("process %d %q, want %d %q", s.PID, s.Command, os.Getpid(), command)
	}
	l.Close()
	await(false)
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("watch: %v", err)
	}
}

// watched is a watch of the namespace that a link leads to.
type watched struct {
	link string
	told chan []target.Socket
	done chan error
}

// watchLink begins one of a pod's, which ends with the test.
func watchLink(t *testing.T, pod *testenv.Pod) *watched {
	t.Helper()
	w := &watched{filepath.Join(t.TempDir(), "blue"), make(chan []target.Socket, 100), make(chan error, 1)}
	w.point(t, pod)
	ns, err := netns.OpenPath(w.link)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		defer close(w.done)
		w.done <- ns.WatchListening(ctx, func(now []target.Socket) { w.told <- now })
	}()
	t.Cleanup(func() {
		cancel()
		for range w.done {
		}
		ns.Close()
	})
	return w
}

// point has the link lead to a pod, without a moment at which it leads nowhere. That takes no descriptor.
func (w *watched) point(t *testing.T, to *testenv.Pod) {
	t.Helper()
	next := w.link + ".next"
	if err := errors.Join(os.Symlink(fmt.Sprintf("/proc/%d/ns/net", to.PID), next), os.Rename(next, w.link)); err != nil {
		t.Fatal(err)
	}
}

// await waits until exactly these are told.
func (w *watched) await(t *testing.T, want ...net.Listener) {
	t.Helper()
	ports := map[target.Address]bool{}
	for _, l := range want {
		ports[target.TCPPort(testenv.Port(l))] = true
	}
	for late := time.After(testenv.Patience); ; {
		select {
		case err := <-w.done:
			t.Fatalf("the watch has ended: %v", err)
		case now := <-w.told:
			others := slices.ContainsFunc(now, func(s target.Socket) bool { return !ports[s.Address()] })
			if len(now) == len(ports) && !others {
				return
			}
		case <-late:
			t.Fatalf("%v are not told", want)
		}
	}
}

// netlinkSockets are those that this process has open.
func netlinkSockets(t *testing.T) (sockets []string) {
	t.Helper()
	for _, d := range testenv.Descriptors(t) {
		number, _, _ := strings.Cut(d, ":")
		fd, err := strconv.Atoi(number)
		if err != nil {
			t.Fatal(err)
		}
		if domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN); err == nil && domain == unix.AF_NETLINK {
			sockets = append(sockets, d)
		}
	}
	return sockets
}

// A watch looks through the same socket for as long as the path leads to the same namespace, and keeps no other one alive.
func TestWatchFollowsPath(t *testing.T) {
	testenv.NoLeaks(t)
	first, second := testenv.NewPod(t), testenv.NewPod(t)
	w := watchLink(t, first)
	one := first.Listen(t, "127.0.0.1:0")
	w.await(t, one)
	before := netlinkSockets(t)
	w.await(t, one, first.Listen(t, "127.0.0.1:0"))
	if now := netlinkSockets(t); len(now) != 1 || !slices.Equal(now, before) {
		t.Errorf("the sockets %q are %q one look later", before, now)
	}
	other := second.Listen(t, "127.0.0.1:0")
	w.point(t, second)
	w.await(t, other)
	if now := netlinkSockets(t); len(now) != 1 || slices.Equal(now, before) {
		t.Errorf("the socket of another namespace is kept: %q, and %q before", now, before)
	}
	if err := os.Remove(w.link); err != nil {
		t.Fatal(err)
	}
	w.await(t)
	if now := netlinkSockets(t); len(now) != 0 {
		t.Errorf("%q keep a namespace that is gone", now)
	}
}

// A watch ends with its process, and keeps its namespace no longer.
func TestWatchEndsWithProcess(t *testing.T) {
	testenv.NoLeaks(t)
	pod := testenv.NewPod(t)
	told, done := make(chan []target.Socket, 100), make(chan error, 1)
	go func() {
		done <- pod.NS.WatchListening(t.Context(), func(now []target.Socket) { told <- now })
	}()
	<-told
	pod.Kill()
	if err := <-done; !errors.Is(err, netns.ErrExited) {
		t.Errorf("%v, want ErrExited", err)
	}
	if now := netlinkSockets(t); len(now) != 0 {
		t.Errorf("%q are kept", now)
	}
}

// That there are no descriptors for a while ends no watch, and closes nothing.
func TestWatchWithoutDescriptors(t *testing.T) {
	testenv.NoLeaks(t)
	first, second := testenv.NewPod(t), testenv.NewPod(t)
	w := watchLink(t, first)
	w.await(t, first.Listen(t, "127.0.0.1:0"))
	other := second.Listen(t, "127.0.0.1:0")
	var before unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	none := before
	none.Cur = 3
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &none); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Setrlimit(unix.RLIMIT_NOFILE, &before) }()
	w.point(t, second) // which takes a socket of its own
	select {
	case err := <-w.done:
		t.Fatalf("the watch has ended: %v", err)
	case now := <-w.told:
		t.Fatalf("%v are told while none can be listed", now)
	case <-time.After(2 * time.Second): // two looks
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	w.await(t, other)
}

func BenchmarkListening(b *testing.B) {
	pod := testenv.NewPod(b)
	pod.Listen(b, "127.0.0.1:0")
	for b.Loop() {
		if _, err := pod.NS.Listening(); err != nil {
			b.Fatal(err)
		}
	}
}

// What the kernel lacks is told by its name, and what it lists is listed.
func TestListeningUnlisted(t *testing.T) {
	testenv.Root(t)
	testenv.NoLeaks(t)
	pod := testenv.NewPod(t)
	tcp := target.TCPPort(testenv.Port(pod.Listen(t, "127.0.0.1:0")))
	pod.ListenUDP(t, "127.0.0.1:0")
	path := filepath.Join(t.TempDir(), "a.sock")
	listenUnixInside(t, pod.NS, "unix", path)
	for what, test := range map[string]struct {
		want error
		kept []target.Network
	}{
		"sock_diag": {netns.ErrNoSockDiag, nil},
		"tcp_diag":  {netns.ErrNoSockDiag, nil},
		"udp_diag":  {netns.ErrNotListed, []target.Network{target.TCP, target.Unix}},
		"unix_diag": {netns.ErrNotListed, []target.Network{target.TCP, target.UDP}},
	} {
		restore := netns.OnKernelWithout(what)
		found, err := pod.NS.Listening()
		var kept []target.Network
		for _, s := range found {
			kept = append(kept, s.Network)
		}
		if !errors.Is(err, test.want) || !slices.Equal(kept, test.kept) || what != "sock_diag" && !strings.Contains(err.Error(), what) {
			t.Errorf("without %s: %v, %v", what, found, err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		told := false
		err = pod.NS.WatchListening(ctx, func(now []target.Socket) {
			told = len(now) > 0 && now[0].Address() == tcp
			cancel()
		})
		cancel()
		if told != (test.kept != nil) || !errors.Is(err, test.want) {
			t.Errorf("without %s, watched: told %v, %v", what, told, err)
		}
		restore()
	}
}
