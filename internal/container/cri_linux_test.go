package container_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"porthole.dev/porthole/internal/container"
	"porthole.dev/porthole/internal/route"
	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/testenv"
)

// kubelet makes pods by the CRI of a containerd.
type kubelet struct {
	*testing.T
	runtime.RuntimeServiceClient
	containerd *testenv.Containerd
}

func newKubelet(t *testing.T, c *testenv.Containerd) *kubelet {
	t.Helper()
	conn, err := grpc.NewClient("unix://"+c.Socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return &kubelet{t, runtime.NewRuntimeServiceClient(conn), c}
}

// pod runs a pod, which has no containers yet, and returns its sandbox' ID and configuration.
func (k *kubelet) pod(namespace, name string, attempt uint32, network runtime.NamespaceMode) (id string, config *runtime.PodSandboxConfig) {
	k.Helper()
	config = &runtime.PodSandboxConfig{
		Metadata: &runtime.PodSandboxMetadata{Namespace: namespace, Name: name, Uid: namespace + name, Attempt: attempt},
		Linux: &runtime.LinuxPodSandboxConfig{
			CgroupParent:    "/" + k.containerd.Namespace,
			SecurityContext: &runtime.LinuxSandboxSecurityContext{NamespaceOptions: &runtime.NamespaceOption{Network: network}},
		},
	}
	if network == runtime.NamespaceMode_POD {
		config.Hostname = name
	}
	answer, err := k.RunPodSandbox(k.Context(), &runtime.RunPodSandboxRequest{Config: config})
	if err != nil {
		k.Fatal("run a pod: ", err)
	}
	return answer.GetPodSandboxId(), config
}

// container runs a container in a pod, and returns its process.
func (k *kubelet) container(sandbox string, config *runtime.PodSandboxConfig, name string, command ...string) (pid int) {
	k.Helper()
	made, err := k.CreateContainer(k.Context(), &runtime.CreateContainerRequest{PodSandboxId: sandbox, SandboxConfig: config, Config: &runtime.ContainerConfig{
		Metadata: &runtime.ContainerMetadata{Name: name}, Image: &runtime.ImageSpec{Image: "docker.io/library/" + testenv.Image}, Command: command,
		Linux: &runtime.LinuxContainerConfig{},
	}})
	if err == nil {
		_, err = k.StartContainer(k.Context(), &runtime.StartContainerRequest{ContainerId: made.GetContainerId()})
	}
	if err != nil {
		k.Fatal("run a container: ", err)
	}
	answer, err := k.ContainerStatus(k.Context(), &runtime.ContainerStatusRequest{ContainerId: made.GetContainerId(), Verbose: true})
	var info struct{ PID int }
	if err == nil {
		err = json.Unmarshal([]byte(answer.GetInfo()["info"]), &info)
	}
	if err != nil || info.PID == 0 {
		k.Fatalf("process %d of a container: %v", info.PID, err)
	}
	return info.PID
}

// web runs a pod that tells its name.
func (k *kubelet) web(namespace, name string, attempt uint32, answer string) (id string) {
	k.Helper()
	id, config := k.pod(namespace, name, attempt, runtime.NamespaceMode_POD)
	testenv.AwaitWeb(k, k.container(id, config, "web", testenv.WebAs(answer)...))
	return id
}

// remove removes a pod's sandbox.
func (k *kubelet) remove(id string) {
	k.Helper()
	_, err := k.StopPodSandbox(context.Background(), &runtime.StopPodSandboxRequest{PodSandboxId: id})
	if err == nil {
		_, err = k.RemovePodSandbox(context.Background(), &runtime.RemovePodSandboxRequest{PodSandboxId: id})
	}
	if err != nil {
		k.Error("remove a pod: ", err)
	}
}

// A pod is reached by its name or its sandbox' ID, and followed to its next sandbox.
func testCRI(t *testing.T, c *testenv.Containerd) {
	k := newKubelet(t, c)
	first := k.web("default", "web", 0, "one")
	other := k.web("other", "db", 0, "db")
	defer k.remove(other)
	testenv.NoLeaks(t)
	o := opener(t)
	for text, want := range map[string]string{"web": "one", "default/web": "one", first: "one", first[:10]: "one", "db": "db"} {
		r, log := open(t, o, "cri://"+text)
		answers(t, r, want)
		if kinds := log.kinds(); kinds != "ready" {
			t.Errorf("%s: events %s", text, kinds)
		}
	}
	r, log := open(t, o, "cri://web")
	byID, _ := open(t, o, "cri://"+first[:10])
	k.remove(first)
	goes(t, log, "ready reconnecting")
	ctx, cancel := context.WithTimeout(t.Context(), testenv.Patience)
	defer cancel()
	if err := byID.Wait(ctx); !errors.Is(err, container.ErrRemoved) {
		t.Errorf("the sandbox is removed: %v", err)
	}
	second := k.web("default", "web", 1, "two")
	defer k.remove(second)
	answers(t, r, "two")
	goes(t, log, "ready reconnecting ready")
}

// A pod on its node's network is reached there, which is told; what is meant by a name that several pods have is asked.
func testCRINames(t *testing.T, c *testenv.Containerd) {
	k := newKubelet(t, c)
	host, _ := k.pod("kube-system", "proxy", 0, runtime.NamespaceMode_NODE)
	defer k.remove(host)
	one := k.web("one", "web", 0, "one")
	defer k.remove(one)
	two := k.web("two", "web", 0, "two")
	defer k.remove(two)
	stopped, _ := k.pod("one", "stopped", 0, runtime.NamespaceMode_POD)
	defer k.remove(stopped)
	if _, err := k.StopPodSandbox(t.Context(), &runtime.StopPodSandboxRequest{PodSandboxId: stopped}); err != nil {
		t.Fatal(err)
	}
	testenv.NoLeaks(t)
	o := opener(t)
	r, log := open(t, o, "cri://proxy")
	if kinds := log.kinds(); kinds != "carried ready" || !errors.Is(log.all[0].Err, container.ErrHostNetwork) {
		t.Errorf("events %s", kinds)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := r.Dial(t.Context(), target.TCPPort(testenv.Port(l)))
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	r, _ = open(t, o, "cri://two/web")
	answers(t, r, "two")
	for text, want := range map[string]struct {
		err  error
		text string
	}{
		"web":       {container.ErrAmbiguous, fmt.Sprintf("several pods are called web: one/web (%.12s), two/web (%.12s)", one, two)},
		"nothing":   {container.ErrNoContainer, "no such pod: nothing"},
		"three/web": {container.ErrNoContainer, "no such pod: web"},
		"stopped":   {container.ErrNotRunning, "pod one/stopped is not running (not ready)"},
	} {
		_, err := tryOpen(t, o, "cri://"+text, func(route.Event) {})
		if !errors.Is(err, want.err) || err.Error() != want.text {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// The Unix sockets of a pod are those of its containers: of the one that is named, or of the first that has one.
func testCRIUnixSockets(t *testing.T, c *testenv.Containerd) {
	k := newKubelet(t, c)
	id, config := k.pod("default", "db", 0, runtime.NamespaceMode_POD)
	defer k.remove(id)
	for name, sockets := range map[string][]string{"a": {"only-a"}, "b": {"only-b", "both"}, "c": {"both"}} {
		pid := k.container(id, config, name, "sleep", "1000")
		for _, socket := range sockets {
			l, err := net.Listen("unix", filepath.Join("/proc", fmt.Sprint(pid), "root/run", socket))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(l.Addr().String(), 0o777); err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			go say(l, name)
		}
	}
	testenv.NoLeaks(t)
	o := opener(t)
	for _, c := range []struct {
		container, socket, want string
		err                     error
	}{
		{"", "only-a", "a", nil},
		{"", "only-b", "b", nil},
		{"c", "both", "c", nil},
		{"b", "both", "b", nil},
		{"a", "both", "", syscall.ENOENT},
		{"", "none", "", syscall.ENOENT},
		{"x", "both", "", container.ErrNoContainer},
	} {
		f := target.Forward{Target: target.Target{Scheme: target.CRI, Name: "db"}, Container: c.container}
		r, err := o.Open(t.Context(), f, func(route.Event) {})
		if err != nil {
			t.Fatal(err)
		}
		who, err := askUnix(t.Context(), r, "/run/"+c.socket)
		if who != c.want || !errors.Is(err, c.err) {
			t.Errorf("%+v: %q, %v", c, who, err)
		}
		r.Close()
	}
}

// say tells everybody who connects a name.
func say(l net.Listener, name string) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		_, _ = io.WriteString(conn, name)
		conn.Close()
	}
}

func askUnix(ctx context.Context, r route.Dialer, path string) (string, error) {
	conn, err := r.Dial(ctx, target.Address{Network: target.Unix, Path: path})
	if err != nil {
		return "", err
	}
	defer conn.Close()
	answer, err := io.ReadAll(conn)
	return string(answer), err
}
