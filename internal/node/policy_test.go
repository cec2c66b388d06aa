package node

import (
	"errors"
	"strings"
	"testing"

	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/tunnel"
)

func TestParsePaths(t *testing.T) {
	for list, want := range map[string]int{"": 0, "/run/x.sock": 1, "/run/postgresql/.s.PGSQL.*,/tmp/*.sock": 2, "/*": 1} {
		if got, err := ParsePaths(list); len(got) != want || err != nil {
			t.Errorf("ParsePaths(%q) = %v, %v", list, got, err)
		}
	}
	for _, list := range []string{
		",", "run/x.sock", "./x", "/", "/run/", "/run//x", "/run/../x", "/run/./x", "/run/..", "..", "/a,", "/a,,/b", "/run/[x", `/run/x\`, "*", " /run/x",
	} {
		if got, err := ParsePaths(list); !errors.Is(err, ErrPaths) {
			t.Errorf("ParsePaths(%q) = %v, %v, want ErrPaths", list, got, err)
		}
	}
}

func TestPolicyUnix(t *testing.T) {
	paths, err := ParsePaths("/run/postgresql/.s.PGSQL.*,/tmp/*.sock")
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		policy      Policy
		hostNetwork bool
		path, want  string // the path that is opened, or what is in the error
	}{
		{Policy{}, false, "/tmp/x.sock", "--allow-unix"},
		{Policy{AllowUnix: paths}, false, "/tmp/x.sock", "/tmp/x.sock"},
		{Policy{AllowUnix: paths}, false, "/run/postgresql/.s.PGSQL.5432", "/run/postgresql/.s.PGSQL.5432"},
		{Policy{AllowUnix: paths}, false, "//tmp/./y/../x.sock", "/tmp/x.sock"},
		{Policy{AllowUnix: paths}, false, "/tmp/../run/containerd/containerd.sock", "--allow-unix"},
		{Policy{AllowUnix: paths}, false, "/tmp/sub/x.sock", "--allow-unix"},
		{Policy{AllowUnix: paths}, false, "/tmp/x.sock/", "/tmp/x.sock"},
		{Policy{AllowUnix: paths}, false, "tmp/x.sock", "--allow-unix"},
		{Policy{AllowUnix: paths}, false, "/tmp/x.sock.other", "--allow-unix"},
		{Policy{AllowUnix: paths, DenyHostNetwork: true}, true, "/tmp/x.sock", "--deny-host-network"},
	} {
		got, err := test.policy.checkUnix(test.hostNetwork, test.path)
		denied := strings.HasPrefix(test.want, "--")
		if denied && (!errors.Is(err, tunnel.ErrDenied) || !strings.Contains(err.Error(), test.want)) || !denied && (err != nil || got != test.want) {
			t.Errorf("checkUnix(%q) = %q, %v, want %s", test.path, got, err, test.want)
		}
	}
}

func TestPolicy(t *testing.T) {
	web, _ := target.ParsePortSet("80,8000-9000")
	ssh, _ := target.ParsePortSet("22")
	for _, test := range []struct {
		policy      Policy
		hostNetwork bool
		port        uint16
		want        string
	}{
		{Policy{}, true, 22, ""},
		{Policy{Deny: ssh}, false, 22, "port 22 is denied by the node's policy (--deny-ports)"},
		{Policy{Deny: ssh}, false, 80, ""},
		{Policy{Allow: web}, false, 8500, ""},
		{Policy{Allow: web}, false, 22, "port 22 is denied by the node's policy (--allow-ports)"},
		{Policy{Allow: web, Deny: web}, false, 80, "port 80 is denied by the node's policy (--deny-ports)"},
		{Policy{DenyHostNetwork: true}, false, 80, ""},
		{Policy{DenyHostNetwork: true}, true, 80, "the pod uses the node's network, which is denied by the node's policy (--deny-host-network)"},
	} {
		err := test.policy.check(test.hostNetwork, test.port)
		if (err == nil) != (test.want == "") || err != nil && (err.Error() != test.want || !errors.Is(err, tunnel.ErrDenied)) {
			t.Errorf("%+v: port %d, host network %v: %v, want %q", test.policy, test.port, test.hostNetwork, err, test.want)
		}
	}
}
