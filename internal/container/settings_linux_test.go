package container

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/grpc"
)

// write makes a file with some text, and returns its path.
func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// The environment goes before nerdctl's file, and that before what is usual.
func TestContainerdSettings(t *testing.T) {
	const file = "debug = false\n# address = \"/no\"\naddress = \"unix:///run/k3s/containerd/containerd.sock\" # k3s\nnamespace = 'k8s.io'\n[x]\naddress = \"/no\"\n"
	for _, c := range []struct{ address, namespace, file, wantSocket, wantNamespace string }{
		{"", "", "", defaultContainerd, "default"},
		{"", "", file, "/run/k3s/containerd/containerd.sock", "k8s.io"},
		{"/x.sock", "mine", file, "/x.sock", "mine"},
		{"unix:///x.sock", "", file, "/x.sock", "k8s.io"},
	} {
		t.Setenv("CONTAINERD_ADDRESS", c.address)
		t.Setenv("CONTAINERD_NAMESPACE", c.namespace)
		t.Setenv("NERDCTL_TOML", write(t, c.file))
		t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
		socket, namespace, err := containerdSettings()
		if err != nil || socket != c.wantSocket || namespace != c.wantNamespace {
			t.Errorf("%+v: %q, %q, %v", c, socket, namespace, err)
		}
	}
	t.Setenv("CONTAINERD_ADDRESS", "tcp://10.0.0.7:1")
	if _, _, err := containerdSettings(); !errors.Is(err, ErrEndpoint) {
		t.Errorf("an address of TCP: %v", err)
	}
	t.Setenv("NERDCTL_TOML", write(t, `address = "no end`))
	if _, _, err := containerdSettings(); err == nil || !strings.Contains(err.Error(), "nerdctl's settings") {
		t.Errorf("a damaged file: %v", err)
	}
}

// A rootless containerd's paths are below the root of RootlessKit's child.
func TestRootlessPath(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "containerd-rootless"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "containerd-rootless/child_pid"), []byte(strconv.Itoa(os.Getpid())), 0o600); err != nil {
		t.Fatal(err)
	}
	want := "/proc/" + strconv.Itoa(os.Getpid()) + "/root/run/x.sock"
	for dir, paths := range map[string][2]string{dir: {"/run/x.sock", want}, "": {"/run/x.sock", "/run/x.sock"}, "/none": {"/run/x.sock", "/run/x.sock"}} {
		if got := rootlessPath(dir, paths[0]); got != paths[1] {
			t.Errorf("%q: %s, want %s", dir, got, paths[1])
		}
	}
	if got := rootlessPath(dir, want); got != want {
		t.Errorf("a path that leads inside already: %s", got)
	}
}

// The environment goes before crictl's file, and that before the usual search.
func TestCRIEndpoints(t *testing.T) {
	for _, c := range []struct {
		env, file string
		want      []string
	}{
		{"", "", criSockets},
		{"", "runtime-endpoint: \"\"\ntimeout: 2\n", criSockets},
		{"", "runtime-endpoint: unix:///run/crio/crio.sock\nimage-endpoint: \"\"\ndebug: false\n", []string{"/run/crio/crio.sock"}},
		{"unix:///x.sock", "runtime-endpoint: unix:///run/crio/crio.sock", []string{"/x.sock"}},
		{"/x.sock", "", []string{"/x.sock"}},
	} {
		t.Setenv("CONTAINER_RUNTIME_ENDPOINT", c.env)
		t.Setenv("CRI_CONFIG_FILE", write(t, c.file))
		if got, err := criEndpoints(); err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%+v: %v, %v", c, got, err)
		}
	}
	t.Setenv("CONTAINER_RUNTIME_ENDPOINT", "npipe:////./pipe/containerd-containerd")
	if _, err := criEndpoints(); !errors.Is(err, ErrEndpoint) {
		t.Errorf("a pipe of Windows: %v", err)
	}
	t.Setenv("CRI_CONFIG_FILE", write(t, "- runtime-endpoint"))
	if _, err := criEndpoints(); err == nil {
		t.Error("a file that is a list")
	}
}

// A containerd that serves no pods has none to be listed, unless it was named.
func TestListsNoPods(t *testing.T) {
	dir := t.TempDir()
	l, err := net.Listen("unix", filepath.Join(dir, "docker's"))
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	go server.Serve(l)
	defer server.Stop()
	usual := &pods{endpoints: []string{filepath.Join(dir, "none"), l.Addr().String()}}
	if all, err := usual.list(t.Context()); len(all) > 0 || err != nil {
		t.Errorf("%v, %v", all, err)
	}
	named := &pods{endpoints: usual.endpoints[1:]}
	if _, err := named.list(t.Context()); !errors.Is(err, ErrNoInterface) {
		t.Errorf("it was named: %v", err)
	}
}
