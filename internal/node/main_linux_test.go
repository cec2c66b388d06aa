package node

import (
	"cmp"
	"context"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"porthole.dev/porthole/internal/testenv"
)

// dataPathEnv is set where the test's own program is the data path of a Node.
const dataPathEnv = "PORTHOLE_TEST_DATA_PATH"

func TestMain(m *testing.M) {
	if os.Getenv(dataPathEnv) != "" {
		os.Exit(runDataPath())
	}
	if plan := os.Getenv(containerEnv); plan != "" {
		runContainer(plan)
	}
	os.Exit(m.Run())
}

// runDataPath runs the data path, and makes sure that it leaves nothing behind.
func runDataPath() int {
	before := openFiles()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	log := slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	err := RunDataPath(ctx, log)
	stop()
	leaks, files := error(nil), false
	for end := time.Now().Add(waitTime / 2); ; time.Sleep(10 * time.Millisecond) {
		leaks = goleak.Find(goleak.IgnoreTopFunction("os/signal.loop"), goleak.IgnoreTopFunction("os/signal.signal_recv"))
		files = len(openFiles()) > len(before)
		if leaks == nil && !files || time.Now().After(end) {
			break
		}
	}
	if err != nil || leaks != nil || files {
		log.Error("data path", "err", err, "leaks", leaks, "files", openFiles(), "before", before)
		return 1
	}
	return 0
}

// openFiles are those of this process but for what it gets from its parent, and the
// poller.
func openFiles() (files []string) {
	entries, _ := os.ReadDir("/proc/self/fd")
	for _, e := range entries {
		to, err := os.Readlink("/proc/self/fd/" + e.Name())
		if n, _ := strconv.Atoi(e.Name()); err == nil && (n < controlFD || n > eventsFD || !strings.HasPrefix(to, "socket:")) &&
			!strings.HasPrefix(to, "anon_inode:[event") {
			files = append(files, e.Name()+" "+to)
		}
	}
	return files
}

// dataPathTo is the command of a data path whose log goes to w.
func dataPathTo(w io.Writer) func() *exec.Cmd {
	return func() *exec.Cmd {
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), dataPathEnv+"=1")
		cmd.Stderr = w
		return cmd
	}
}

// waitTime is how long a test waits for what must come; on a loaded machine it
// comes late.
const waitTime = testenv.Patience

var quiet = slog.New(slog.DiscardHandler)

// runtimeServer is a container runtime of which sandboxes are all that there is:
// each method that a test needs is a field, the rest is Unimplemented.
type runtimeServer struct {
	cri.UnimplementedRuntimeServiceServer
	cri.UnimplementedImageServiceServer

	mu         sync.Mutex
	sandboxes  map[string]*cri.PodSandboxStatusResponse
	containers map[string]string // info, by id
	container  string            // the sandbox that all containers are of; "" for the one asked for
	mounts     map[string][]*cri.Mount
	created    map[string]int64
	info       func(id string) string // instead of containers' info, or nil

	version    func(context.Context, *cri.VersionRequest) (*cri.VersionResponse, error)
	listImages func(context.Context, *cri.ListImagesRequest) (*cri.ListImagesResponse, error)
	events     func(grpc.ServerStreamingServer[cri.ContainerEventResponse]) error

	portForward func(context.Context, *cri.PortForwardRequest) (*cri.PortForwardResponse, error)
	url         string      // that Exec and Attach answer with
	lists       chan string // ids that the Stream lists tell, one a message; closed at the end
}

func (r *runtimeServer) Version(ctx context.Context, q *cri.VersionRequest) (*cri.VersionResponse, error) {
	if r.version == nil {
		return &cri.VersionResponse{RuntimeName: "test"}, nil
	}
	return r.version(ctx, q)
}

func (r *runtimeServer) ListImages(ctx context.Context, q *cri.ListImagesRequest) (*cri.ListImagesResponse, error) {
	if r.listImages == nil {
		return r.UnimplementedImageServiceServer.ListImages(ctx, q)
	}
	return r.listImages(ctx, q)
}

func (r *runtimeServer) GetContainerEvents(_ *cri.GetEventsRequest, s grpc.ServerStreamingServer[cri.ContainerEventResponse]) error {
	return r.events(s)
}

// PodSandboxStatus answers as containerd does.
func (r *runtimeServer) PodSandboxStatus(_ context.Context, q *cri.PodSandboxStatusRequest) (*cri.PodSandboxStatusResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s, ok := r.sandboxes[q.GetPodSandboxId()]
	if !ok {
		return nil, status.Error(codes.NotFound, "an error occurred when try to find sandbox: not found")
	}
	if !q.GetVerbose() {
		return &cri.PodSandboxStatusResponse{Status: s.GetStatus()}, nil
	}
	return s, nil
}

func (r *runtimeServer) ListContainers(_ context.Context, q *cri.ListContainersRequest) (*cri.ListContainersResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := &cri.ListContainersResponse{}
	for id := range r.containers {
		list.Containers = append(list.Containers, &cri.Container{Id: id, CreatedAt: r.created[id], PodSandboxId: cmp.Or(r.container, q.GetFilter().GetPodSandboxId())})
	}
	return list, nil
}

func (r *runtimeServer) ContainerStatus(_ context.Context, q *cri.ContainerStatusRequest) (*cri.ContainerStatusResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	id := q.GetContainerId()
	info := r.containers[id]
	if r.info != nil {
		info = r.info(id)
	}
	return &cri.ContainerStatusResponse{
		Status: &cri.ContainerStatus{Id: id, Mounts: r.mounts[id]}, Info: map[string]string{"info": info},
	}, nil
}

// add makes a sandbox that is ready; info is what the verbose status has, "" for nothing.
func (r *runtimeServer) add(id, info string) *cri.PodSandboxStatus {
	s := &cri.PodSandboxStatus{
		Id: id, Metadata: &cri.PodSandboxMetadata{Name: "kuard", Namespace: "default"},
		State: cri.PodSandboxState_SANDBOX_READY,
		Linux: &cri.LinuxPodSandboxStatus{Namespaces: &cri.Namespace{Options: &cri.NamespaceOption{}}},
	}
	response := &cri.PodSandboxStatusResponse{Status: s}
	if info != "" {
		response.Info = map[string]string{"info": info}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.sandboxes == nil {
		r.sandboxes = map[string]*cri.PodSandboxStatusResponse{}
	}
	r.sandboxes[id] = response
	return s
}

// start serves the runtime at a socket until the test ends, or stop is called.
func (r *runtimeServer) start(t testing.TB, path string, more ...func(*grpc.Server)) (stop func()) {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(maxMessage))
	cri.RegisterRuntimeServiceServer(server, r)
	cri.RegisterImageServiceServer(server, r)
	for _, f := range more {
		f(server)
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(l) }()
	stop = sync.OnceFunc(func() { server.Stop(); <-done })
	t.Cleanup(stop)
	return stop
}

// callSocket connects to a socket as the kubelet does, until the test ends.
func callSocket(t testing.TB, path string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("unix://"+path, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithAuthority("localhost"), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(16<<20)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// startProxy puts a proxy in front of the socket at upstream, until the test ends.
func startProxy(t testing.TB, upstream string, timeout time.Duration) (path string) {
	t.Helper()
	u, err := newUpstream(upstream, quiet)
	if err != nil {
		t.Fatal(err)
	}
	u.timeout = timeout
	path = filepath.Join(t.TempDir(), "cri.sock")
	l, err := listenSocket(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	p := &proxy{upstream: u, observe: func(string, codes.Code) {}, methods: criMethods()}
	server := newServer(p.handle)
	var work sync.WaitGroup
	work.Go(func() { u.keepConnected(ctx) })
	work.Go(func() { _ = server.Serve(l) })
	t.Cleanup(func() {
		cancel()
		server.Stop()
		_ = u.conn.Close()
		work.Wait()
	})
	return path
}
