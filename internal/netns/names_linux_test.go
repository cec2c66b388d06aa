package netns_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"porthole.dev/porthole/internal/netns"
	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/testenv"
)

// far is a pod that a namespace is joined to, with servers on all of its addresses.
type far struct {
	*testenv.Pod
	tcp, udp uint16 // that echo
}

func newFar(t *testing.T, near *netns.Namespace) far {
	t.Helper()
	f := far{Pod: testenv.NewPod(t)}
	testenv.Join(t, near, f.Pod)
	l := f.Listen(t, "[::]:0")
	f.tcp, f.udp = testenv.Port(l), testenv.EchoUDP(f.ListenUDP(t, "[::]:0"))
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			// Not by splice(2), whose pipes Go keeps until its next garbage collection.
			go func() { _, _ = io.Copy(struct{ io.Writer }{c}, c); c.Close() }()
		}
	}()
	return f
}

// serveDNS answers questions inside the pod with records.
func (f far) serveDNS(t *testing.T, records ...string) {
	t.Helper()
	udp := f.ListenUDP(t, "[::]:53")
	server := &dns.Server{PacketConn: udp, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, query *dns.Msg) {
		reply := new(dns.Msg).SetRcode(query, dns.RcodeNameError)
		for _, line := range records {
			record, _ := dns.NewRR(line)
			if strings.EqualFold(record.Header().Name, query.Question[0].Name) {
				if reply.Rcode = dns.RcodeSuccess; record.Header().Rrtype == query.Question[0].Qtype {
					reply.Answer = append(reply.Answer, record)
				}
			}
		}
		_ = w.WriteMsg(reply)
	})}
	started := make(chan struct{})
	server.NotifyStartedFunc = func() { close(started) }
	go func() { _ = server.ActivateAndServe() }()
	<-started
	t.Cleanup(func() { _ = server.Shutdown() })
}

// etc writes a file of a root's /etc.
func etc(t *testing.T, root, name, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Join(root, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "etc", name), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// reach sends a word to a host's port and awaits it back.
func reach(t *testing.T, ns *netns.Namespace, to target.Address) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testenv.Patience)
	defer cancel()
	conn, err := ns.Dial(ctx, to)
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.(net.Conn).SetDeadline(time.Now().Add(testenv.Patience))
	if _, err := io.WriteString(conn, "hello"); err != nil {
		return err
	}
	got := make([]byte, 5)
	if _, err := io.ReadFull(conn, got); err != nil {
		return err
	}
	if string(got) != "hello" {
		return fmt.Errorf("got %q", got)
	}
	return nil
}

func (f far) at(host string, network target.Network) target.Address {
	if network == target.UDP {
		return target.Address{Network: network, Host: host, Port: f.udp}
	}
	return target.Address{Host: host, Port: f.tcp}
}

// Hosts are reached by their addresses and by their names, as the process finds them.
func TestDialHost(t *testing.T) {
	testenv.Root(t)
	testenv.NoLeaks(t)
	ns, root := rooted(t)
	f := newFar(t, ns)
	etc(t, root, "hosts", testenv.Far4+" four\n"+testenv.Far6+" six\n192.0.2.1 second\n"+testenv.Far6+" second\n")
	etc(t, root, "resolv.conf", "nameserver "+testenv.Far4+"\nsearch test\n")
	f.serveDNS(t, "db.test. A "+testenv.Far4, "db6.test. AAAA "+testenv.Far6)
	for _, network := range []target.Network{target.TCP, target.UDP} {
		for _, host := range []string{testenv.Far4, testenv.Far6, "::ffff:" + testenv.Far4, testenv.FarLocal + "%eth0", "four", "six", "SIX.", "second", "db", "db.test", "db6"} {
			if err := reach(t, ns, f.at(host, network)); err != nil {
				t.Errorf("%s: %v", f.at(host, network), err)
			}
		}
	}
	etc(t, root, "hosts", testenv.Far4+" moved\n")
	if err := reach(t, ns, f.at("moved", target.TCP)); err != nil {
		t.Errorf("after a change: %v", err)
	}
}

// An address that does not answer leaves time for the next one.
func TestDialHostShares(t *testing.T) {
	testenv.Root(t)
	testenv.NoLeaks(t)
	ns, root := rooted(t) // its loopback is down, so that the kernel does not tell that nobody is there
	f := newFar(t, ns)
	etc(t, root, "hosts", "10.9.0.9 db\n"+testenv.Far6+" db\n")
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	conn, err := ns.Dial(ctx, f.at("db", target.TCP))
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
}

// A host at which nobody listens refuses, also by UDP.
func TestDialHostRefused(t *testing.T) {
	testenv.Root(t)
	testenv.NoLeaks(t)
	ns, root := rooted(t)
	newFar(t, ns)
	etc(t, root, "hosts", testenv.Far4+" both\n"+testenv.Far6+" both\n")
	for _, network := range []target.Network{target.TCP, target.UDP} {
		for _, host := range []string{testenv.Far4, testenv.Far6, "both"} {
			if err := reach(t, ns, target.Address{Network: network, Host: host, Port: 9}); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("%s by %s: %v, want ECONNREFUSED", host, network, err)
			}
		}
		for _, host := range []string{"192.0.2.1", "2001:db8::1", "fe80::1%nowhere"} {
			err := reach(t, ns, target.Address{Network: network, Host: host, Port: 9})
			if want := unreachable(host); !errors.Is(err, want) {
				t.Errorf("%s by %s: %v, want %v", host, network, err, want)
			}
		}
	}
}

func unreachable(host string) error {
	if strings.Contains(host, "%") {
		return syscall.ENODEV
	}
	return syscall.ENETUNREACH
}

// Where a namespace has only sockets of one family each, both are reached all the same.
func TestDialUDPBindV6Only(t *testing.T) {
	testenv.Root(t)
	testenv.NoLeaks(t)
	pod := testenv.NewPod(t)
	port := testenv.EchoUDP(pod.ListenUDP(t, "127.0.0.1:0"))
	err := pod.NS.Do(func() error { return os.WriteFile("/proc/sys/net/ipv6/bindv6only", []byte("1"), 0) })
	if err != nil {
		t.Fatal(err)
	}
	if err := reach(t, pod.NS, target.Address{Network: target.UDP, Port: port}); err != nil {
		t.Error(err)
	}
}

// What a name is not found for is told.
func TestDialHostErrors(t *testing.T) {
	testenv.Root(t)
	testenv.NoLeaks(t)
	ns, root := rooted(t)
	f := newFar(t, ns)
	etc(t, root, "resolv.conf", "nameserver "+testenv.Far4+"\n")
	for _, c := range []struct {
		conf, want string
		is         error
	}{
		{"nameserver " + testenv.Far4, "lookup db on 10.9.0.2: connection refused", target.ErrLookup},
		{"nameserver 192.0.2.1", "lookup db on 192.0.2.1: network is unreachable", target.ErrLookup},
		{"", "lookup db on 127.0.0.1: network is unreachable", target.ErrLookup}, // its loopback is down
	} {
		etc(t, root, "resolv.conf", c.conf)
		if err := reach(t, ns, f.at("db", target.TCP)); err == nil || err.Error() != c.want || !errors.Is(err, c.is) {
			t.Errorf("%q: %v, want %s", c.conf, err, c.want)
		}
	}
	f.serveDNS(t, "db. A "+testenv.Far4)
	etc(t, root, "resolv.conf", "nameserver "+testenv.Far6)
	if err := reach(t, ns, f.at("dc", target.UDP)); err == nil || err.Error() != "lookup dc on fd09::2: no such host" || !errors.Is(err, target.ErrNoHost) {
		t.Error(err)
	}
}

// The files are those in the process' root, and what is no file there is not opened.
func TestHostsFileStaysInside(t *testing.T) {
	testenv.Root(t)
	testenv.NoLeaks(t)
	ns, root := rooted(t)
	f := newFar(t, ns)
	outside := filepath.Join(t.TempDir(), "hosts")
	if err := os.WriteFile(outside, []byte(testenv.Far4+" outside\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	etc(t, root, "resolv.conf", "nameserver 192.0.2.1\n")
	hosts := filepath.Join(root, "etc/hosts")
	link := func(to string) func() error { return func() error { return os.Symlink(to, hosts) } }
	for name, c := range map[string]struct {
		make func() error
		want string
	}{
		"link to the outside":   {link(outside), "192.0.2.1: network is unreachable"}, // as if there were none
		"link upwards":          {link("../../../../../../../.." + outside), "192.0.2.1: network is unreachable"},
		"link to this process":  {link("/proc/self/root" + outside), "192.0.2.1: network is unreachable"},
		"link to itself":        {link("hosts"), "too many levels of symbolic links"},
		"FIFO":                  {func() error { return unix.Mkfifo(hosts, 0o644) }, "/etc/hosts: not a regular file"},
		"device":                {func() error { return unix.Mknod(hosts, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5))) }, "/etc/hosts: not a regular file"}, // /dev/zero
		"folder":                {func() error { return os.Mkdir(hosts, 0o755) }, "/etc/hosts: not a regular file"},
		"file of somebody else": {func() error { return os.WriteFile(hosts, []byte(testenv.Far4+" outside\n"), 0o600) }, "permission denied"},
	} {
		t.Run(name, func(t *testing.T) {
			if err := c.make(); err != nil {
				t.Fatal(err)
			}
			defer os.Remove(hosts)
			if err := reach(t, ns, f.at("outside", target.TCP)); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
	if err := os.WriteFile(filepath.Join(root, "other"), []byte(testenv.Far4+" inside\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/other", hosts); err != nil {
		t.Fatal(err)
	}
	if err := reach(t, ns, f.at("inside", target.TCP)); err != nil {
		t.Errorf("a link inside: %v", err)
	}
}

// A namespace that has a name has files of its own in /etc/netns, as for `ip netns exec`.
func TestFilesOfNamedNamespace(t *testing.T) {
	testenv.Root(t)
	testenv.NoLeaks(t)
	pod := testenv.NewPod(t)
	f := newFar(t, pod.NS)
	name := fmt.Sprintf("porthole-test-%d", os.Getpid())
	if out, err := exec.Command("ip", "netns", "attach", name, fmt.Sprint(pod.PID)).CombinedOutput(); err != nil {
		t.Fatalf("ip netns attach: %v: %s", err, out)
	}
	t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", name).Run() })
	ns, err := netns.OpenPath("/run/netns/" + name)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	if err := reach(t, ns, f.at(name+".invalid", target.TCP)); err == nil {
		t.Fatal("this host knows the name")
	}
	own := filepath.Join("/etc/netns", name)
	if err := os.MkdirAll(own, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(own); _ = os.Remove("/etc/netns") })
	if err := os.WriteFile(filepath.Join(own, "hosts"), []byte(testenv.Far4+" "+name+".invalid\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := reach(t, ns, f.at(name+".invalid", target.TCP)); err != nil {
		t.Error(err)
	}
}

// A file system that never answers holds up whoever asks for a name, for as long as they
// wait, and no more than one thread.
func TestFilesNeverAnswer(t *testing.T) {
	testenv.Root(t)
	testenv.NoLeaks(t)
	ns, root := rooted(t)
	f := newFar(t, ns)
	folder := filepath.Join(root, "etc")
	if err := os.Mkdir(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	release := neverAnswer(t, folder)
	threads := testenv.Threads(t)
	for range 50 {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		_, err := ns.Dial(ctx, f.at("db", target.TCP))
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("got %v, want DeadlineExceeded", err)
		}
	}
	if now := testenv.Threads(t); now > threads+20 {
		t.Errorf("%d threads, %d before", now, threads)
	}
	release()
	etc(t, root, "hosts", testenv.Far4+" db\n")
	if err := reach(t, ns, f.at("db", target.TCP)); err != nil {
		t.Errorf("when it is over: %v", err)
	}
}

// neverAnswer mounts a file system at a folder whose server does nothing (fuse(4)).
func neverAnswer(t *testing.T, folder string) (release func()) {
	t.Helper()
	server, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		testenv.Lacking(t, "FUSE: "+err.Error())
	}
	options := fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other", server.Fd())
	if err := unix.Mount("fuse", folder, "fuse", 0, options); err != nil {
		server.Close()
		t.Fatal(err)
	}
	release = func() { server.Close(); _ = unix.Unmount(folder, unix.MNT_DETACH) }
	t.Cleanup(release)
	return release
}
