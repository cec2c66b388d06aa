package netns_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"porthole.dev/porthole/internal/netns"
	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/testenv"
)

// asNobody runs a test of this package again with less than root has, by flags of setpriv(1).
func asNobody(t *testing.T, test string, flags ...string) (out string, err error) {
	t.Helper()
	testenv.Root(t)
	if _, err := exec.LookPath("setpriv"); err != nil {
		testenv.Lacking(t, "setpriv")
	}
	program := filepath.Join(t.TempDir(), "netns.test") // which others may execute
	if out, err := exec.Command("cp", os.Args[0], program).CombinedOutput(); err != nil {
		t.Fatalf("cp: %v\n%s", err, out)
	}
	for dir := filepath.Dir(program); dir != os.TempDir(); dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("setpriv", append(flags, program, "-test.run", "^"+test+"$", "-test.v")...)
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), "AS_NOBODY=1")
	text, err := cmd.CombinedOutput()
	return string(text), err
}

// The namespace that one is in takes no permission, and no way back.
func TestHere(t *testing.T) {
	if os.Getenv("AS_NOBODY") == "" {
		if out, err := asNobody(t, "TestHere", "--reuid=4004", "--regid=4004", "--clear-groups", "--no-new-privs"); err != nil {
			t.Errorf("as another user: %v\n%s", err, out)
		}
	}
	testenv.NoLeaks(t)
	ns := netns.Here()
	defer ns.Close()
	if err := ns.Check(); err != nil {
		t.Error(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, host := range []string{"", "localhost", "127.0.0.1"} {
		conn, err := ns.Dial(t.Context(), target.Address{Host: host, Port: testenv.Port(l)})
		if err != nil {
			t.Errorf("%q: %v", host, err)
			continue
		}
		conn.Close()
	}
}

// Names lead to no address that is refused; who writes such an address has chosen it.
func TestRefuseNames(t *testing.T) {
	testenv.Root(t)
	testenv.NoLeaks(t)
	ns, root := rooted(t)
	f := newFar(t, ns)
	etc(t, root, "hosts", testenv.Far4+" far both\n192.0.2.9 both mixed\n"+testenv.FarLocal+" local\n")
	ns.RefuseNames(func(a netip.Addr) bool { return a != netip.MustParseAddr("192.0.2.9") })
	for _, network := range []target.Network{target.TCP, target.UDP} {
		for _, host := range []string{"far", "FAR.", "local", "localhost"} {
			err := reach(t, ns, f.at(host, network))
			if !errors.Is(err, netns.ErrRefusedAddress) || !errors.Is(err, os.ErrPermission) {
				t.Errorf("%s by %s: %v, want ErrRefusedAddress", host, network, err)
			}
		}
		if err := reach(t, ns, f.at(testenv.Far4, network)); err != nil {
			t.Errorf("a literal address, by %s: %v", network, err)
		}
		if err := reach(t, ns, f.at("both", network)); !errors.Is(err, syscall.ENETUNREACH) {
			t.Errorf("a name with an address that is not refused, by %s: %v, want that one tried", network, err)
		}
	}
}

// Who may not look into a process is told what is missing.
func TestAccess(t *testing.T) {
	if os.Getenv("AS_NOBODY") != "" {
		pid, _ := strconv.Atoi(os.Getenv("LOOK_INTO"))
		ns, err := netns.OpenPID(pid)
		if err != nil {
			t.Fatal(err)
		}
		defer ns.Close()
		_, err = dialUnix(t, ns, "/a.sock")
		var access *netns.AccessError
		if !errors.As(err, &access) || !errors.Is(err, os.ErrPermission) {
			t.Fatalf("%v, want an AccessError", err)
		}
		fmt.Println("missing:", access.Missing)
		return
	}
	for name, c := range map[string]struct{ theirs, mine, want string }{
		"user":         {"--reuid=4000 --regid=4000 --clear-groups", "--reuid=4004 --regid=4000 --clear-groups", "it runs as user 4000, and porthole as user 4004"},
		"group":        {"--reuid=4004 --regid=4000 --clear-groups", "--reuid=4004 --regid=4004 --clear-groups", "it runs in group 4000, and porthole in group 4004"},
		"capabilities": {"--bounding-set=-all,+net_raw,+chown", "--bounding-set=-all,+chown", "it has capabilities that porthole lacks: NET_RAW"},
	} {
		t.Run(name, func(t *testing.T) {
			testenv.Root(t)
			process := exec.Command("setpriv", append(strings.Fields(c.theirs), "sh", "-c", "echo; exec sleep 1000")...)
			stdout, err := process.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := process.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() { _ = process.Process.Kill(); _ = process.Wait() }()
			if _, err := stdout.Read(make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
			t.Setenv("LOOK_INTO", strconv.Itoa(process.Process.Pid))
			out, err := asNobody(t, "TestAccess", strings.Fields(c.mine)...)
			if err != nil || !strings.Contains(out, "missing: "+c.want+"\n") {
				t.Errorf("%v, want %q:\n%s", err, c.want, out)
			}
		})
	}
}
