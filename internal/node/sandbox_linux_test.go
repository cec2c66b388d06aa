package node

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"porthole.dev/porthole/internal/netns"
	"porthole.dev/porthole/internal/proc"
	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/testenv"
	"porthole.dev/porthole/internal/tunnel"
)

func itoa(n int) string { return strconv.Itoa(n) }

// What the runtimes put under "info", as far as it matters, with the rest in little.
const (
	containerdInfo = `{"pid":%d,"processStatus":"running","netNamespaceClosed":false,"image":"pause","snapshotter":"overlayfs",` +
		`"config":{"metadata":{"name":"kuard"}},"runtimeSpec":{"ociVersion":"1.3.0","process":{"args":["/pause"]},` +
		`"linux":{"namespaces":[{"type":"pid"},{"type":"ipc"},{"type":"network","path":"%s"}]}},"cniResult":null}`
	containerdHostInfo = `{"pid":%d,"processStatus":"running","runtimeSpec":{"linux":{"namespaces":[{"type":"pid"},{"type":"ipc"}]}}}`
	crioInfo           = `{"image":"pause","pid":%d,"runtimeSpec":{"linux":{"namespaces":[{"type":"network","path":"%s"}]}}}`
)

func FuzzReadInspect(f *testing.F) {
	f.Add(`{"State":{"Pid":4947}}`)
	f.Fuzz(func(t *testing.T, answer string) {
		if c, err := readInspect(strings.NewReader(answer)); err == nil && c.State.Pid < 0 {
			t.Errorf("readInspect(%q) = %+v, %v", answer, c, err)
		}
	})
}

// startSandboxes asks r, and Docker at a socket that inspects with the answer.
func startSandboxes(t *testing.T, r *runtimeServer, inspect func(id string) (int, string)) *sandboxes {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "runtime.sock")
	r.start(t, socket)
	pods := &sandboxes{cri: cri.NewRuntimeServiceClient(callSocket(t, socket))}
	if inspect == nil {
		return pods
	}
	socket = filepath.Join(t.TempDir(), "docker.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /containers/{id}/json", func(w http.ResponseWriter, r *http.Request) {
		code, body := inspect(r.PathValue("id"))
		w.WriteHeader(code)
		_, _ = io.WriteString(w, body)
	})
	server := &http.Server{Handler: mux}
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close(); <-done })
	pods.docker = newDocker(socket)
	return pods
}

func TestFind(t *testing.T) {
	testenv.NoLeaks(t)
	self := os.Getpid()
	stat, err := proc.ReadStat(self)
	if err != nil {
		t.Fatal(err)
	}
	started := stat.Started
	const path = "/proc/self/ns/net"
	var r runtimeServer
	host := func(s *cri.PodSandboxStatus) {
		s.Linux.Namespaces.Options.Network = cri.NamespaceMode_NODE
	}
	r.add("containerd", fmt.Sprintf(containerdInfo, self, path))
	host(r.add("containerd-host", fmt.Sprintf(containerdHostInfo, self)))
	r.add("crio", fmt.Sprintf(crioInfo, self, path))
	host(r.add("crio-host-without-process", "{}"))
	r.add("docker", "").State = cri.PodSandboxState_SANDBOX_NOTREADY // as some cri-dockerds say of a pod with one address
	host(r.add("docker-host", ""))
	pods := startSandboxes(t, &r, func(string) (int, string) { return 200, fmt.Sprintf(`{"State":{"Pid":%d}}`, self) })
	for id, want := range map[string]netnsRef{
		"containerd":                {path: path, pid: self, started: started},
		"containerd-host":           {pid: self, started: started},
		"crio":                      {path: path, pid: self, started: started},
		"docker":                    {pid: self, started: started},
		"docker-host":               {pid: self, started: started},
		"crio-host-without-process": {pid: self, started: started}, // of Docker, for want of a CRI-O without
	} {
		s, err := pods.find(t.Context(), id)
		if err != nil || s.netns != want || s.pod != "kuard" || s.namespace != "default" || s.id != id || s.hostNetwork != strings.Contains(id, "host") {
			t.Errorf("find(%s) = %+v, %v, want %+v", id, s, err, want)
		}
	}
	pods.docker = newDocker("/nowhere")
	if s, err := pods.find(t.Context(), "crio-host-without-process"); err != nil || s.netns.path != nodeNamespace {
		t.Errorf("find(host network, without process or Docker) = %+v, %v", s, err)
	}
}

// Pods of gVisor and Kata have a namespace with nothing in it that could be reached. By
// what the runtimes tell, they are known.
func TestFindPassThrough(t *testing.T) {
	testenv.NoLeaks(t)
	self := os.Getpid()
	const containerd = `{"pid":%d,"processStatus":"running","netNamespaceClosed":false,"image":"registry.k8s.io/pause:3.10","snapshotKey":"x",` +
		`"snapshotter":"overlayfs","runtimeType":"%s","runtimeOptions":%s,"config":{"metadata":{"name":"kuard"}},` +
		`"runtimeSpec":{"ociVersion":"1.3.0","linux":{"namespaces":[{"type":"network","path":"/proc/self/ns/net"}]}}}`
	const crio = `{"image":"pause","pid":%d,"runtimeSpec":{"annotations":{"io.kubernetes.cri-o.RuntimeHandler":"%s"},` +
		`"linux":{"namespaces":[{"type":"network","path":"/proc/self/ns/net"}]}}}`
	sandboxes := map[string]struct {
		handler, info string
		passThrough   bool
	}{
		"runc":                    {"", fmt.Sprintf(containerd, self, "io.containerd.runc.v2", `{"systemd_cgroup":true}`), false},
		"runc without options":    {"runc", fmt.Sprintf(containerd, self, "io.containerd.runc.v2", `null`), false},
		"runc of old":             {"", fmt.Sprintf(containerd, self, "io.containerd.runtime.v1.linux", `{}`), false},
		"crun":                    {"crun", fmt.Sprintf(containerd, self, "io.containerd.runc.v2", `{"binary_name":"/usr/bin/crun"}`), false},
		"nvidia":                  {"nvidia", fmt.Sprintf(containerd, self, "io.containerd.runc.v2", `{"binary_name":"/usr/bin/nvidia-container-runtime"}`), false},
		"gvisor":                  {"gvisor", fmt.Sprintf(containerd, self, "io.containerd.runsc.v1", `{"TypeUrl":"io.containerd.runsc.v1.options","ConfigPath":"/etc/containerd/runsc.toml"}`), true},
		"gvisor in runc's place":  {"sandboxed", fmt.Sprintf(containerd, self, "io.containerd.runc.v2", `{"binary_name":"/usr/local/bin/runsc"}`), true},
		"kata":                    {"kata", fmt.Sprintf(containerd, self, "io.containerd.kata.v2", `{"config_path":"/opt/kata/share/defaults/kata-containers/configuration.toml"}`), true},
		"kata by default":         {"", fmt.Sprintf(containerd, self, "io.containerd.kata-qemu.v2", `null`), true},
		"one that nobody knows":   {"new", fmt.Sprintf(containerd, self, "io.example.unikernel.v1", `[1]`), true},
		"named kata, but is runc": {"kata", fmt.Sprintf(containerd, self, "io.containerd.runc.v2", `{}`), false},
		"crio":                    {"", fmt.Sprintf(crio, self, ""), false},
		"crio, crun":              {"", fmt.Sprintf(crio, self, "crun"), false},
		"crio, kata":              {"", fmt.Sprintf(crio, self, "kata-remote"), true},
		"crio, gvisor":            {"", fmt.Sprintf(crio, self, "runsc-kvm"), true},
		"by hand":                 {"", fmt.Sprintf(crio, self, "mine"), true},
		"docker":                  {"", "", false},
		"docker, kata":            {"", "", true},
	}
	var r runtimeServer
	for id, s := range sandboxes {
		r.add(id, s.info).RuntimeHandler = s.handler
	}
	pods := startSandboxes(t, &r, func(id string) (int, string) {
		handler := map[bool]string{false: "runc", true: "io.containerd.kata.v2"}[id == "docker, kata"]
		return 200, fmt.Sprintf(`{"State":{"Pid":%d},"HostConfig":{"Runtime":%q}}`, self, handler)
	})
	pods.passThrough = []string{"mine"}
	for id, want := range sandboxes {
		if s, err := pods.find(t.Context(), id); err != nil || s.passThrough != want.passThrough {
			t.Errorf("find(%s) = %+v, %v, want passThrough %v", id, s, err, want.passThrough)
		}
	}
}

// CRI-O tells nothing of a sandbox without a process, but its containers do.
func TestFindByContainer(t *testing.T) {
	r := runtimeServer{containers: map[string]string{"c1": `{}`, "c2": fmt.Sprintf(crioInfo, 1, "/run/netns/x")}}
	r.add("crio", "{}")
	s, err := startSandboxes(t, &r, nil).find(t.Context(), "crio")
	if err != nil || s.netns.path != "/run/netns/x" {
		t.Errorf("find = %+v, %v", s, err)
	}
}

func TestFindNot(t *testing.T) {
	testenv.NoLeaks(t)
	var r runtimeServer
	r.add("stopped", fmt.Sprintf(containerdInfo, 0, "/run/netns/x")).State = cri.PodSandboxState_SANDBOX_NOTREADY
	r.add("no-process", fmt.Sprintf(containerdHostInfo, 1<<22+1))
	for _, id := range []string{"docker-stopped", "docker-unknown", "docker-broken", "docker-odd"} {
		r.add(id, "")
	}
	pods := startSandboxes(t, &r, func(id string) (int, string) {
		switch id {
		case "docker-stopped":
			return 200, `{"State":{"Running":false,"Pid":0}}`
		case "docker-unknown":
			return 404, `{"message":"No such container"}`
		case "docker-odd":
			return 200, `[]`
		}
		return 500, `{"message":"broken"}`
	})
	for id, want := range map[string]codes.Code{
		"unknown":        codes.NotFound,
		"stopped":        codes.FailedPrecondition,
		"no-process":     codes.FailedPrecondition,
		"docker-stopped": codes.FailedPrecondition,
		"docker-unknown": codes.FailedPrecondition,
		"docker-broken":  codes.FailedPrecondition,
		"docker-odd":     codes.FailedPrecondition,
	} {
		if s, err := pods.find(t.Context(), id); status.Code(err) != want {
			t.Errorf("find(%s) = %+v, %v, want %v", id, s, err, want)
		}
	}
}

// A process that has got the number of another is not taken for it.
func TestNumberUsedAgain(t *testing.T) {
	testenv.NoLeaks(t)
	pod := testenv.NewPod(t)
	p, err := netnsOfProcess("x", pod.PID)
	if err != nil {
		t.Fatal(err)
	}
	ns, err := p.open(nil)
	if err != nil {
		t.Fatal(err)
	}
	ns.Close()
	p.started++ // as if it had begun later
	if _, err := p.open(nil); !errors.Is(err, tunnel.ErrNoSandbox) || !errors.Is(err, netns.ErrExited) {
		t.Errorf("open = %v, want ErrNoSandbox", err)
	}
	if err := p.check(nil); !errors.Is(err, tunnel.ErrNoSandbox) {
		t.Errorf("check = %v, want ErrNoSandbox", err)
	}
}

// A namespace that is not mounted here is found by its process.
func TestMountElsewhere(t *testing.T) {
	testenv.NoLeaks(t)
	pod := testenv.NewPod(t)
	port := echoing(t, pod)
	p, err := netnsOfProcess("x", pod.PID)
	if err != nil {
		t.Fatal(err)
	}
	p.path = "/run/netns/elsewhere"
	conn, err := new(native).dial(t.Context(), &sandbox{netns: p}, target.TCPPort(port))
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	pod.Kill()
	if _, err := new(native).dial(t.Context(), &sandbox{netns: p}, target.TCPPort(port)); !errors.Is(err, tunnel.ErrNoSandbox) || !errors.Is(err, netns.ErrNotExist) {
		t.Errorf("dial = %v, want ErrNoSandbox for the path", err)
	}
}

// What is missing in the runtime's answer stands for nothing: not for a sandbox that
// is ready, nor for the containers of all pods.
func TestFindMissingFields(t *testing.T) {
	testenv.NoLeaks(t)
	const path = "/proc/self/ns/net"
	r := runtimeServer{containers: map[string]string{"other": fmt.Sprintf(crioInfo, os.Getpid(), path)}}
	r.add("no-id", "").Id = ""
	r.add("no-status", fmt.Sprintf(crioInfo, os.Getpid(), path))
	r.sandboxes["no-status"].Status = nil
	pods := startSandboxes(t, &r, nil)
	if s, err := pods.find(t.Context(), "no-id"); err != nil || s.id != "no-id" || s.netns.path != path {
		t.Errorf("without an id: %+v, %v", s, err)
	}
	if s, err := pods.find(t.Context(), "no-status"); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("without a status: %+v, %v, want FailedPrecondition", s, err)
	}
	r.container = "another pod"
	if s, err := pods.find(t.Context(), "no-id"); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("with containers of another pod: %+v, %v, want FailedPrecondition", s, err)
	}
}
