package netns_test

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"porthole.dev/porthole/internal/netns"
	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/testenv"
)

// installHelper installs a helper without capabilities, and a copy of this program beside it.
func installHelper(t *testing.T) (program string) {
	t.Helper()
	testenv.Root(t)
	folder, err := os.MkdirTemp("/tmp", "porthole-enter")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(folder) })
	helper := filepath.Join(folder, netns.HelperName)
	program = filepath.Join(folder, "test")
	for _, err := range []error{
		os.Chmod(folder, 0o755),
		os.WriteFile(helper, netns.HelperProgram(), 0o755),
		copyFile("/proc/self/exe", program),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return program
}

// installPrivileged gives an installed helper its capabilities, for the ordinary user's group alone.
func installPrivileged(t *testing.T) (program string) {
	t.Helper()
	program = installHelper(t)
	helper := filepath.Join(filepath.Dir(program), netns.HelperName)
	// As setcap cap_sys_admin,cap_sys_ptrace=ep does (VFS_CAP_REVISION_2 in linux/capability.h).
	var capabilities [20]byte
	binary.LittleEndian.PutUint32(capabilities[0:], 0x02000001)
	binary.LittleEndian.PutUint32(capabilities[4:], 1<<unix.CAP_SYS_ADMIN|1<<unix.CAP_SYS_PTRACE)
	for _, err := range []error{
		os.Chmod(helper, 0o750),
		os.Chown(helper, 0, testenv.UserID),
		unix.Setxattr(helper, "security.capability", capabilities[:], 0),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return program
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// Where no program is run from memory, an installed helper is, which takes no capabilities for one's own namespaces and
// enters no others without.
func TestInstalledInsteadOfMemory(t *testing.T) {
	if !asUser() {
		testenv.NoLeaks(t)
		t.Setenv("ROOTS_POD", strconv.Itoa(testenv.NewPod(t).PID))
		t.Setenv("INSTEAD", "yes")
		testenv.AsUserFrom(t, installHelper(t), "^TestInstalledInsteadOfMemory$")
		return
	}
	if os.Getenv("INSTEAD") == "" {
		return
	}
	testenv.NoLeaks(t)
	defer netns.WithoutHelperProgram()()
	pod := testenv.NewPod(t)
	l := pod.Listen(t, "127.0.0.1:0")
	conn, err := pod.NS.Dial(t.Context(), target.TCPPort(testenv.Port(l)))
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if now := helpers(t); len(now) != 1 {
		t.Errorf("helpers %v, want one", now)
	}
	number, _ := strconv.Atoi(os.Getenv("ROOTS_POD"))
	roots, err := netns.OpenPID(number)
	if err != nil {
		t.Fatal(err)
	}
	defer roots.Close()
	if err := roots.Check(); !errors.Is(err, netns.ErrPermission) || !strings.Contains(err.Error(), "runs as user 0") {
		t.Errorf("root's process: %v", err)
	}
}

// Whoever may run a helper that is installed with capabilities reaches all namespaces but the host's.
func TestInstalledHelper(t *testing.T) {
	if asUser() {
		if os.Getenv("ROOTS_PORT") != "" {
			useInstalledHelper(t)
		}
		return
	}
	testenv.NoLeaks(t)
	pod := testenv.NewPod(t)
	l := pod.Listen(t, "127.0.0.1:0")
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
	udp := testenv.EchoUDP(pod.ListenUDP(t, "127.0.0.1:0"))
	t.Setenv("ROOTS_POD", strconv.Itoa(pod.PID))
	t.Setenv("ROOTS_PORT", strconv.Itoa(int(testenv.Port(l))))
	t.Setenv("ROOTS_UDP", strconv.Itoa(int(udp)))
	testenv.AsUserFrom(t, installPrivileged(t), "^TestInstalledHelper$")
}

func useInstalledHelper(t *testing.T) {
	testenv.NoLeaks(t)
	number := func(variable string) int { n, _ := strconv.Atoi(os.Getenv(variable)); return n }
	ns, err := netns.OpenPID(number("ROOTS_POD"))
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	for range 3 {
		conn, err := ns.Dial(t.Context(), target.TCPPort(uint16(number("ROOTS_PORT"))))
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
	}
	if err := reach(t, ns, target.Address{Network: target.UDP, Port: uint16(number("ROOTS_UDP"))}); err != nil {
		t.Error("UDP:", err)
	}
	if found, err := ns.Listening(); err != nil || len(found) != 2 {
		t.Errorf("listening: %v, %v", found, err)
	}
	if _, err := ns.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP); !errors.Is(err, syscall.EPERM) {
		t.Errorf("a raw socket: %v", err)
	}
	host, err := netns.OpenPID(os.Getppid())
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	if err := host.Check(); !errors.Is(err, netns.ErrPermission) || !strings.Contains(err.Error(), "host's own") {
		t.Errorf("the host's network: %v", err)
	}
}

// A helper that is installed does for nobody what it is not for.
func TestInstalledHelperRefuses(t *testing.T) {
	if asUser() {
		if os.Getenv("ROOTS_POD") != "" && os.Getenv("REFUSES") != "" {
			attackInstalledHelper(t)
		}
		return
	}
	testenv.NoLeaks(t)
	pod := testenv.NewPod(t)
	t.Setenv("REFUSES", "yes")
	t.Setenv("ROOTS_POD", strconv.Itoa(pod.PID))
	testenv.AsUserFrom(t, installPrivileged(t), "^TestInstalledHelperRefuses$")
}

// exchange starts a helper, and returns the answer to a message with descriptors, as its step and error; or -1 if it
// ends, and the number of descriptors that came back.
func exchange(t *testing.T, message []byte, fds ...int) (step int32, received int) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[0])
	far := os.NewFile(uintptr(pair[1]), "channel")
	defer far.Close()
	cmd := exec.Command(filepath.Join(filepath.Dir(self), netns.HelperName))
	cmd.ExtraFiles = []*os.File{far}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	far.Close()
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	if err := unix.Sendmsg(pair[0], message, unix.UnixRights(fds...), nil, 0); err != nil {
		t.Fatal(err)
	}
	answer, control := make([]byte, 64), make([]byte, 256)
	n, size, _, _, err := unix.Recvmsg(pair[0], answer, control, unix.MSG_CMSG_CLOEXEC)
	if err != nil && !errors.Is(err, syscall.ECONNRESET) {
		t.Fatal(err)
	}
	if n != 8 {
		return -1, 0
	}
	messages, _ := unix.ParseSocketControlMessage(control[:size])
	for _, m := range messages {
		rights, _ := unix.ParseUnixRights(&m)
		for _, fd := range rights {
			unix.Close(fd)
			received++
		}
	}
	return int32(binary.NativeEndian.Uint32(answer)), received
}

func attackInstalledHelper(t *testing.T) {
	testenv.NoLeaks(t)
	pod, _ := strconv.Atoi(os.Getenv("ROOTS_POD"))
	open := func(pid int) int {
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(fd) })
		return fd
	}
	inside, host := open(pod), open(os.Getppid())
	own, err := os.Open("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	mount, err := os.Open("/proc/self/ns/mnt")
	if err != nil {
		t.Fatal(err)
	}
	defer mount.Close()
	request := func(numbers ...uint32) (b []byte) { // of one socket
		for _, n := range numbers {
			b = binary.NativeEndian.AppendUint32(b, n)
		}
		return binary.NativeEndian.AppendUint32(b, 1)
	}
	tcp := request(unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_TCP)
	with := func(count uint32) []byte { return binary.NativeEndian.AppendUint32(tcp[:12:12], count) }
	const ends, done, enter, hosts, refused = -1, 0, 2, 3, 4
	for name, test := range map[string]struct {
		message []byte
		fds     []int
		want    int32
	}{
		"TCP":                     {tcp, []int{inside}, done},
		"UDP":                     {request(unix.AF_INET6, unix.SOCK_DGRAM, unix.IPPROTO_UDP), []int{inside}, done},
		"sock_diag":               {request(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_SOCK_DIAG), []int{inside}, done},
		"this network":            {tcp, []int{int(own.Fd())}, hosts},
		"the host's":              {tcp, []int{host}, hosts},
		"own process":             {tcp, []int{open(os.Getpid())}, hosts},
		"raw":                     {request(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP), []int{inside}, refused},
		"raw IPv6":                {request(unix.AF_INET6, unix.SOCK_RAW, unix.IPPROTO_RAW), []int{inside}, refused},
		"packet":                  {request(unix.AF_PACKET, unix.SOCK_RAW, 0), []int{inside}, refused},
		"ping":                    {request(unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_ICMP), []int{inside}, refused},
		"default protocol":        {request(unix.AF_INET, unix.SOCK_STREAM, 0), []int{inside}, refused},
		"MPTCP":                   {request(unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_MPTCP), []int{inside}, refused},
		"Unix":                    {request(unix.AF_UNIX, unix.SOCK_STREAM, 0), []int{inside}, refused},
		"route":                   {request(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE), []int{inside}, refused},
		"netfilter":               {request(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_NETFILTER), []int{inside}, refused},
		"VSOCK":                   {request(unix.AF_VSOCK, unix.SOCK_STREAM, 0), []int{inside}, refused},
		"flags":                   {request(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, unix.IPPROTO_TCP), []int{inside}, refused},
		"negative":                {request(^uint32(0), ^uint32(0), ^uint32(0)), []int{inside}, refused},
		"mount namespace":         {tcp, []int{int(mount.Fd())}, enter},
		"no namespace":            {tcp, []int{0}, enter},
		"none":                    {tcp, nil, ends},
		"two":                     {tcp, []int{inside, inside}, ends},
		"too short":               {tcp[:15], []int{inside}, ends},
		"too long":                {append(tcp[:16:16], 0), []int{inside}, ends},
		"no socket":               {with(0), []int{inside}, refused},
		"too many sockets":        {with(17), []int{inside}, refused},
		"many sockets":            {with(^uint32(0)), []int{inside}, refused},
		"empty":                   {nil, []int{inside}, ends},
		"much":                    {make([]byte, 4096), []int{inside}, ends},
		"refused before all else": {request(unix.AF_PACKET, unix.SOCK_RAW, 0), []int{host}, refused},
	} {
		step, received := exchange(t, test.message, test.fds...)
		if step != test.want || received > 0 != (test.want == done) {
			t.Errorf("%s: step %d and %d descriptors, want step %d", name, step, received, test.want)
		}
	}
	if _, err := net.Dial("tcp", "127.0.0.1:1"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("this process' own network: %v", err)
	}
}
