package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/testenv"
)

func (r *runtimeServer) PortForward(ctx context.Context, q *cri.PortForwardRequest) (*cri.PortForwardResponse, error) {
	if r.portForward == nil {
		return r.UnimplementedRuntimeServiceServer.PortForward(ctx, q)
	}
	return r.portForward(ctx, q)
}

func (r *runtimeServer) Exec(context.Context, *cri.ExecRequest) (*cri.ExecResponse, error) {
	return &cri.ExecResponse{Url: r.url}, nil
}

func (r *runtimeServer) Attach(context.Context, *cri.AttachRequest) (*cri.AttachResponse, error) {
	return &cri.AttachResponse{Url: r.url}, nil
}

// gvisorInfo is what containerd tells of a pod in gVisor.
const gvisorInfo = `{"pid":1,"runtimeType":"io.containerd.runsc.v1","runtimeSpec":{"linux":{"namespaces":[{"type":"network","path":"/proc/1/ns/net"}]}}}`

// A pod whose network is not here is left to its runtime: request, answer and failure
// are those that there would be without us.
func TestPassedThrough(t *testing.T) {
	testenv.NoLeaks(t)
	r := startNode(t, testenv.NewPod(t), Node{PassThrough: []string{"mine"}})
	r.runtime.add("gvisor", gvisorInfo).RuntimeHandler = "gvisor"
	r.runtime.add("byhand", `{"pid":1}`).RuntimeHandler = "mine"
	later := []byte{0xfa, 0x01, 2, 'h', 'i'} // a field that this version does not know
	r.runtime.portForward = func(ctx context.Context, q *cri.PortForwardRequest) (*cri.PortForwardResponse, error) {
		md, _ := metadata.FromIncomingContext(ctx)
		_ = grpc.SetHeader(ctx, metadata.Pairs("header", strings.Join(md["asked"], "")))
		_ = grpc.SetTrailer(ctx, metadata.Pairs("trailer", "x"))
		if q.GetPort()[0] == 1 {
			return nil, status.Error(codes.Aborted, "not this one")
		}
		answer := &cri.PortForwardResponse{Url: fmt.Sprintf("http://127.0.0.1:1/%s/%d", q.GetPodSandboxId(), q.GetPort()[0])}
		answer.ProtoReflect().SetUnknown(q.ProtoReflect().GetUnknown())
		return answer, nil
	}
	for _, id := range []string{"gvisor", "byhand"} {
		var header, trailer metadata.MD
		request := &cri.PortForwardRequest{PodSandboxId: id, Port: []int32{8080}}
		request.ProtoReflect().SetUnknown(later)
		answer, err := r.cri.PortForward(metadata.AppendToOutgoingContext(t.Context(), "asked", "a"), request, grpc.Header(&header), grpc.Trailer(&trailer))
		if err != nil || answer.GetUrl() != "http://127.0.0.1:1/"+id+"/8080" || !slices.Equal(answer.ProtoReflect().GetUnknown(), later) {
			t.Errorf("%s: PortForward = %v, %v", id, answer, err)
		}
		if !slices.Equal(header["header"], []string{"a"}) || !slices.Equal(trailer["trailer"], []string{"x"}) {
			t.Errorf("%s: header %v, trailer %v", id, header, trailer)
		}
	}
	_, err := r.cri.PortForward(t.Context(), &cri.PortForwardRequest{PodSandboxId: "gvisor", Port: []int32{1}})
	if status.Code(err) != codes.Aborted || status.Convert(err).Message() != "not this one" {
		t.Errorf("the runtime's refusal comes as %v", err)
	}
	if r.url(t).Host != r.Streaming {
		t.Error("a pod with a namespace is passed on, too")
	}
	r.wantMetrics(t, `porthole_forwards_passed_through_total{handler="gvisor"} 2`, `porthole_forwards_passed_through_total{handler="mine"} 1`,
		`porthole_cri_requests_total{code="Aborted",method="PortForward"} 1`)
	r.stop()
}

// Through which port a runtime leads is not seen, so a policy by ports refuses what it
// cannot hold, unless somebody has said so. The node's network is denied in any case.
func TestPassedThroughPolicy(t *testing.T) {
	testenv.NoLeaks(t)
	deny, _ := target.ParsePortSet("22")
	r := startNode(t, testenv.NewPod(t), Node{PassThrough: []string{"mine"}, Policy: Policy{Deny: deny, DenyHostNetwork: true}})
	r.runtime.add("gvisor", gvisorInfo).RuntimeHandler = "gvisor"
	r.runtime.add("byhand", gvisorInfo).RuntimeHandler = "mine"
	onHost := r.runtime.add("onhost", gvisorInfo)
	onHost.RuntimeHandler, onHost.Linux.Namespaces.Options.Network = "mine", cri.NamespaceMode_NODE
	untold := r.runtime.add("untold", gvisorInfo)
	untold.RuntimeHandler, untold.Linux.Namespaces.Options = "mine", nil
	r.runtime.portForward = func(context.Context, *cri.PortForwardRequest) (*cri.PortForwardResponse, error) {
		return &cri.PortForwardResponse{Url: "http://127.0.0.1:1/"}, nil
	}
	for id, want := range map[string]struct {
		code codes.Code
		text string
	}{
		"gvisor": {codes.PermissionDenied, "--pass-through gvisor"},
		"byhand": {codes.OK, ""},
		"onhost": {codes.PermissionDenied, "--deny-host-network"},
		"untold": {codes.PermissionDenied, "--deny-host-network"},
	} {
		_, err := r.cri.PortForward(t.Context(), &cri.PortForwardRequest{PodSandboxId: id})
		if status.Code(err) != want.code || !strings.Contains(fmt.Sprint(err), want.text) {
			t.Errorf("%s: PortForward = %v, want %v: %s", id, err, want.code, want.text)
		}
	}
	r.stop()
}

// URLs as in cri-dockerd's issues 560 and 569, which kubelets from 1.36 on take for
// such of https.
func TestURLsWithoutScheme(t *testing.T) {
	testenv.NoLeaks(t)
	for _, keep := range []bool{false, true} {
		r := startNode(t, testenv.NewPod(t), Node{KeepURLs: keep})
		r.runtime.add("gvisor", gvisorInfo)
		r.runtime.portForward = func(context.Context, *cri.PortForwardRequest) (*cri.PortForwardResponse, error) {
			return &cri.PortForwardResponse{Url: r.runtime.url}, nil
		}
		for url, want := range map[string]string{
			"//[::]:33733/cri/exec/p09n54Wf":             "http://[::]:33733/cri/exec/p09n54Wf",
			"//127.0.0.1:35417/cri/attach/WwJa7gGv":      "http://127.0.0.1:35417/cri/attach/WwJa7gGv",
			"http://127.0.0.1:35417/cri/attach/WwJa7gGv": "http://127.0.0.1:35417/cri/attach/WwJa7gGv",
			"https://[fd00::1]:10010/exec/x?a=//b":       "https://[fd00::1]:10010/exec/x?a=//b",
			"/cri/exec/p09n54Wf":                         "/cri/exec/p09n54Wf",
			"":                                           "",
		} {
			if keep {
				want = url
			}
			r.runtime.url = url
			exec, err1 := r.cri.Exec(t.Context(), &cri.ExecRequest{})
			attach, err2 := r.cri.Attach(t.Context(), &cri.AttachRequest{})
			forward, err3 := r.cri.PortForward(t.Context(), &cri.PortForwardRequest{PodSandboxId: "gvisor"})
			if err := errors.Join(err1, err2, err3); err != nil {
				t.Fatal(err)
			}
			for _, got := range []string{exec.GetUrl(), attach.GetUrl(), forward.GetUrl()} {
				if got != want {
					t.Errorf("%q comes as %q, want %q", url, got, want)
				}
			}
		}
		r.stop()
	}
}

// listed streams the ids of a runtimeServer as the lists of KEP-5825 do.
func listed[R any](r *runtimeServer, s grpc.ServerStreamingServer[R], of func(id string) *R) error {
	for id := range r.lists {
		if id == "error" {
			return status.Error(codes.DataLoss, "in the middle")
		}
		if err := s.Send(of(id)); err != nil {
			return err
		}
	}
	return nil
}

func (r *runtimeServer) StreamPodSandboxes(_ *cri.StreamPodSandboxesRequest, s grpc.ServerStreamingServer[cri.StreamPodSandboxesResponse]) error {
	return listed(r, s, func(id string) *cri.StreamPodSandboxesResponse {
		return &cri.StreamPodSandboxesResponse{PodSandboxes: []*cri.PodSandbox{{Id: id}}}
	})
}

func (r *runtimeServer) StreamContainers(_ *cri.StreamContainersRequest, s grpc.ServerStreamingServer[cri.StreamContainersResponse]) error {
	return listed(r, s, func(id string) *cri.StreamContainersResponse {
		return &cri.StreamContainersResponse{Containers: []*cri.Container{{Id: id}}}
	})
}

func (r *runtimeServer) StreamContainerStats(_ *cri.StreamContainerStatsRequest, s grpc.ServerStreamingServer[cri.StreamContainerStatsResponse]) error {
	return listed(r, s, func(id string) *cri.StreamContainerStatsResponse {
		return &cri.StreamContainerStatsResponse{ContainerStats: []*cri.ContainerStats{{Attributes: &cri.ContainerAttributes{Id: id}}}}
	})
}

func (r *runtimeServer) StreamPodSandboxStats(_ *cri.StreamPodSandboxStatsRequest, s grpc.ServerStreamingServer[cri.StreamPodSandboxStatsResponse]) error {
	return listed(r, s, func(id string) *cri.StreamPodSandboxStatsResponse {
		return &cri.StreamPodSandboxStatsResponse{PodSandboxStats: []*cri.PodSandboxStats{{Attributes: &cri.PodSandboxAttributes{Id: id}}}}
	})
}

func (r *runtimeServer) StreamPodSandboxMetrics(_ *cri.StreamPodSandboxMetricsRequest, s grpc.ServerStreamingServer[cri.StreamPodSandboxMetricsResponse]) error {
	return listed(r, s, func(id string) *cri.StreamPodSandboxMetricsResponse {
		return &cri.StreamPodSandboxMetricsResponse{PodSandboxMetrics: []*cri.PodSandboxMetrics{{PodSandboxId: id}}}
	})
}

func (r *runtimeServer) StreamImages(_ *cri.StreamImagesRequest, s grpc.ServerStreamingServer[cri.StreamImagesResponse]) error {
	return listed(r, s, func(id string) *cri.StreamImagesResponse {
		return &cri.StreamImagesResponse{Images: []*cri.Image{{Id: id}}}
	})
}

// opened is a stream of answers, of whatever type.
func opened[R any](s grpc.ServerStreamingClient[R], err error) (func() (proto.Message, error), error) {
	return func() (proto.Message, error) {
		m, err := s.Recv()
		return any(m).(proto.Message), err
	}, err
}

// The lists that stream, new in the CRI of Kubernetes 1.36: each message comes when it
// is sent, and the end or the failure after all of them.
func TestStreamedLists(t *testing.T) {
	testenv.NoLeaks(t)
	socket := filepath.Join(t.TempDir(), "runtime.sock")
	r := &runtimeServer{}
	r.start(t, socket)
	conn := callSocket(t, startProxy(t, socket, waitTime))
	runtime, images := cri.NewRuntimeServiceClient(conn), cri.NewImageServiceClient(conn)
	calls := map[string]func() (func() (proto.Message, error), error){
		"StreamPodSandboxes": func() (func() (proto.Message, error), error) {
			return opened(runtime.StreamPodSandboxes(t.Context(), &cri.StreamPodSandboxesRequest{}))
		},
		"StreamContainers": func() (func() (proto.Message, error), error) {
			return opened(runtime.StreamContainers(t.Context(), &cri.StreamContainersRequest{}))
		},
		"StreamContainerStats": func() (func() (proto.Message, error), error) {
			return opened(runtime.StreamContainerStats(t.Context(), &cri.StreamContainerStatsRequest{}))
		},
		"StreamPodSandboxStats": func() (func() (proto.Message, error), error) {
			return opened(runtime.StreamPodSandboxStats(t.Context(), &cri.StreamPodSandboxStatsRequest{}))
		},
		"StreamPodSandboxMetrics": func() (func() (proto.Message, error), error) {
			return opened(runtime.StreamPodSandboxMetrics(t.Context(), &cri.StreamPodSandboxMetricsRequest{}))
		},
		"StreamImages": func() (func() (proto.Message, error), error) {
			return opened(images.StreamImages(t.Context(), &cri.StreamImagesRequest{}))
		},
	}
	for _, m := range criMethods() {
		if strings.HasPrefix(m.name, "Stream") && (m.unary || calls[m.name] == nil) {
			t.Errorf("%s is not tried", m.name)
		}
	}
	for name, call := range calls {
		for _, last := range []string{"", "error"} {
			r.lists = make(chan string)
			next, err := call()
			if err != nil {
				t.Fatal(name, err)
			}
			for i := range 3 {
				id := fmt.Sprintf("%s-%d", name, i)
				r.lists <- id // not before the one before it has come
				if m, err := next(); err != nil || !strings.Contains(fmt.Sprint(m), id) {
					t.Fatalf("%s: %v, %v, want %s", name, m, err, id)
				}
			}
			if last != "" {
				r.lists <- last
			}
			close(r.lists)
			if _, err := next(); last == "" && !errors.Is(err, io.EOF) || last != "" && status.Code(err) != codes.DataLoss {
				t.Errorf("%s: after %q the end is %v", name, last, err)
			}
		}
	}
}
