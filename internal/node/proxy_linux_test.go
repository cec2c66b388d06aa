package node

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"porthole.dev/porthole/internal/testenv"
)

// behindProxy starts a runtime and a proxy in front of it, and connects to that.
func behindProxy(t testing.TB, r *runtimeServer, more ...func(*grpc.Server)) *grpc.ClientConn {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "runtime.sock")
	r.start(t, socket, more...)
	return callSocket(t, startProxy(t, socket, waitTime))
}

func TestUnary(t *testing.T) {
	testenv.NoLeaks(t)
	conn := behindProxy(t, &runtimeServer{version: func(ctx context.Context, q *cri.VersionRequest) (*cri.VersionResponse, error) {
		md, _ := metadata.FromIncomingContext(ctx)
		_ = grpc.SetHeader(ctx, metadata.Pairs("header", "one", "header", "two"))
		_ = grpc.SetTrailer(ctx, metadata.Pairs("trailer-bin", "\x00\xff"))
		return &cri.VersionResponse{Version: q.GetVersion(), RuntimeName: strings.Join(append(md["asked"], md["asked-bin"]...), "+")}, nil
	}})
	ctx := metadata.AppendToOutgoingContext(t.Context(), "asked", "a", "asked", "b", "asked-bin", "\x00\x01")
	var header, trailer metadata.MD
	v, err := cri.NewRuntimeServiceClient(conn).Version(ctx, &cri.VersionRequest{Version: "v1"}, grpc.Header(&header), grpc.Trailer(&trailer))
	if err != nil || v.GetVersion() != "v1" || v.GetRuntimeName() != "a+b+\x00\x01" {
		t.Errorf("Version = %v, %v", v, err)
	}
	if got := header["header"]; !slices.Equal(got, []string{"one", "two"}) {
		t.Errorf("header %q", got)
	}
	if got := trailer["trailer-bin"]; !slices.Equal(got, []string{"\x00\xff"}) {
		t.Errorf("trailer %q", got)
	}
}

// The runtime cannot tell by what comes with a call who makes it, but for one line.
func TestMetadataIsTheSame(t *testing.T) {
	var seen, got []metadata.MD
	r := &runtimeServer{version: func(ctx context.Context, _ *cri.VersionRequest) (*cri.VersionResponse, error) {
		md, _ := metadata.FromIncomingContext(ctx)
		delete(md, "user-agent")
		seen = append(seen, md)
		return &cri.VersionResponse{}, nil
	}, events: func(s grpc.ServerStreamingServer[cri.ContainerEventResponse]) error {
		md, _ := metadata.FromIncomingContext(s.Context())
		delete(md, "user-agent")
		seen = append(seen, md)
		return nil
	}}
	socket := filepath.Join(t.TempDir(), "runtime.sock")
	r.start(t, socket)
	for _, path := range []string{socket, startProxy(t, socket, waitTime)} {
		client := cri.NewRuntimeServiceClient(callSocket(t, path))
		ctx := metadata.AppendToOutgoingContext(t.Context(), "traceparent", "00-1")
		var header, trailer metadata.MD
		if _, err := client.Version(ctx, &cri.VersionRequest{}, grpc.Header(&header), grpc.Trailer(&trailer)); err != nil {
			t.Fatal(err)
		}
		got = append(got, header, trailer)
		stream, err := client.GetContainerEvents(ctx, &cri.GetEventsRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
	}
	for i, md := range seen[2:] {
		if !reflect.DeepEqual(md, seen[i]) {
			t.Errorf("through the proxy %v, else %v", md, seen[i])
		}
	}
	for i, md := range got[2:] {
		if !reflect.DeepEqual(md, got[i]) {
			t.Errorf("what comes back is %v through the proxy, else %v", md, got[i])
		}
	}
}

func TestStatusWithDetails(t *testing.T) {
	detail := &errdetails.ErrorInfo{Reason: "NO_SPACE", Domain: "test"}
	conn := behindProxy(t, &runtimeServer{version: func(ctx context.Context, _ *cri.VersionRequest) (*cri.VersionResponse, error) {
		_ = grpc.SetTrailer(ctx, metadata.Pairs("why", "disk"))
		s, _ := status.New(codes.ResourceExhausted, "no space: 100 % full\n").WithDetails(detail)
		return nil, s.Err()
	}})
	var trailer metadata.MD
	_, err := cri.NewRuntimeServiceClient(conn).Version(t.Context(), &cri.VersionRequest{}, grpc.Trailer(&trailer))
	s := status.Convert(err)
	if s.Code() != codes.ResourceExhausted || s.Message() != "no space: 100 % full\n" {
		t.Errorf("status %v", s)
	}
	if d := s.Details(); len(d) != 1 || !proto.Equal(d[0].(proto.Message), detail) {
		t.Errorf("details %v", d)
	}
	if got := trailer["why"]; !slices.Equal(got, []string{"disk"}) {
		t.Errorf("trailer %q", got)
	}
}

func TestImageServiceAndLargeMessages(t *testing.T) {
	const size = 12 << 20
	conn := behindProxy(t, &runtimeServer{listImages: func(_ context.Context, q *cri.ListImagesRequest) (*cri.ListImagesResponse, error) {
		return &cri.ListImagesResponse{Images: []*cri.Image{{Id: q.GetFilter().GetImage().GetImage()}}}, nil
	}})
	big := strings.Repeat("x", size)
	list, err := cri.NewImageServiceClient(conn).ListImages(t.Context(), &cri.ListImagesRequest{
		Filter: &cri.ImageFilter{Image: &cri.ImageSpec{Image: big}},
	})
	if err != nil || list.GetImages()[0].GetId() != big {
		t.Errorf("12 MiB there and back: %v", err)
	}
}

// What the ends forbid stays forbidden, by them.
func TestMessageTooLargeForTheCaller(t *testing.T) {
	conn := behindProxy(t, &runtimeServer{version: func(context.Context, *cri.VersionRequest) (*cri.VersionResponse, error) {
		return &cri.VersionResponse{RuntimeName: strings.Repeat("x", 17<<20)}, nil
	}})
	_, err := cri.NewRuntimeServiceClient(conn).Version(t.Context(), &cri.VersionRequest{})
	if status.Code(err) != codes.ResourceExhausted {
		t.Errorf("17 MiB to a caller that takes 16: %v", err)
	}
}

func TestUnimplementedPasses(t *testing.T) {
	conn := behindProxy(t, &runtimeServer{})
	for _, method := range []string{
		"/runtime.v1alpha2.RuntimeService/Version", "/runtime.v1.RuntimeService/Status", "/runtime.v2.RuntimeService/PortForward",
	} {
		err := conn.Invoke(t.Context(), method, &cri.StatusRequest{}, &cri.StatusResponse{})
		if status.Code(err) != codes.Unimplemented || strings.Contains(err.Error(), "porthole") {
			t.Errorf("%s: %v, want the runtime's Unimplemented", method, err)
		}
	}
}

func TestServerStreaming(t *testing.T) {
	testenv.NoLeaks(t)
	next, ended := make(chan string), make(chan error, 1)
	conn := behindProxy(t, &runtimeServer{events: func(s grpc.ServerStreamingServer[cri.ContainerEventResponse]) error {
		_ = s.SendHeader(metadata.Pairs("began", "yes"))
		for {
			select {
			case id := <-next:
				_ = s.Send(&cri.ContainerEventResponse{ContainerId: id})
			case <-s.Context().Done():
				ended <- s.Context().Err()
				return s.Context().Err()
			}
		}
	}})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stream, err := cri.NewRuntimeServiceClient(conn).GetContainerEvents(ctx, &cri.GetEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if header, err := stream.Header(); err != nil || !slices.Equal(header["began"], []string{"yes"}) {
		t.Errorf("header before the first message: %v, %v", header, err)
	}
	for _, id := range []string{"one", "two"} {
		next <- id
		if e, err := stream.Recv(); err != nil || e.GetContainerId() != id {
			t.Fatalf("event %v, %v, want %s", e, err, id)
		}
	}
	cancel()
	select {
	case err := <-ended:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("the runtime's call ended with %v", err)
		}
	case <-time.After(waitTime):
		t.Error("the cancellation does not reach the runtime")
	}
}

// echoService is a service of which nobody here knows anything, with a call that
// streams both ways.
var echoService = &grpc.ServiceDesc{
	ServiceName: "runtime.v9.Echo", HandlerType: (*any)(nil),
	Streams: []grpc.StreamDesc{{StreamName: "Echo", ServerStreams: true, ClientStreams: true, Handler: func(_ any, s grpc.ServerStream) error {
		for {
			m := new(wrapperspb.StringValue)
			if err := s.RecvMsg(m); errors.Is(err, io.EOF) {
				return s.SendMsg(wrapperspb.String("the end"))
			} else if err != nil {
				return err
			}
			if err := s.SendMsg(m); err != nil {
				return err
			}
		}
	}}},
}

// The caller's half-close arrives, and what the runtime says after it comes back.
func TestBidirectional(t *testing.T) {
	testenv.NoLeaks(t)
	conn := behindProxy(t, &runtimeServer{}, func(s *grpc.Server) { s.RegisterService(echoService, nil) })
	stream, err := conn.NewStream(t.Context(), &echoService.Streams[0], "/runtime.v9.Echo/Echo")
	if err != nil {
		t.Fatal(err)
	}
	exchange := func(want string) {
		t.Helper()
		got := new(wrapperspb.StringValue)
		if err := stream.RecvMsg(got); err != nil || got.GetValue() != want {
			t.Fatalf("got %q, %v, want %q", got.GetValue(), err, want)
		}
	}
	for _, s := range []string{"one", "", "three"} {
		if err := stream.SendMsg(wrapperspb.String(s)); err != nil {
			t.Fatal(err)
		}
		exchange(s)
	}
	_ = stream.CloseSend()
	exchange("the end")
	if err := stream.RecvMsg(new(wrapperspb.StringValue)); !errors.Is(err, io.EOF) {
		t.Errorf("the end is %v", err)
	}
}

// The runtime knows how long the caller waits, and that it has gone.
func TestDeadlineAndCancel(t *testing.T) {
	testenv.NoLeaks(t)
	seen, ended := make(chan time.Duration, 1), make(chan error, 1)
	conn := behindProxy(t, &runtimeServer{version: func(ctx context.Context, _ *cri.VersionRequest) (*cri.VersionResponse, error) {
		deadline, _ := ctx.Deadline()
		seen <- time.Until(deadline)
		<-ctx.Done()
		ended <- ctx.Err()
		return nil, status.FromContextError(ctx.Err()).Err()
	}})
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	answer := make(chan error, 1)
	go func() {
		_, err := cri.NewRuntimeServiceClient(conn).Version(ctx, &cri.VersionRequest{})
		answer <- err
	}()
	if left := <-seen; left <= 0 || left > time.Hour {
		t.Errorf("the runtime sees a deadline in %v", left)
	}
	cancel()
	if err := <-answer; status.Code(err) != codes.Canceled {
		t.Errorf("Version = %v, want Canceled", err)
	}
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("the runtime's call ended with %v", err)
	}
}

// A call made before the runtime is there waits for it.
func TestRuntimeComesLate(t *testing.T) {
	testenv.NoLeaks(t)
	socket := filepath.Join(t.TempDir(), "runtime.sock")
	conn := callSocket(t, startProxy(t, socket, waitTime))
	answer := make(chan error, 1)
	go func() {
		_, err := cri.NewRuntimeServiceClient(conn).Version(context.Background(), &cri.VersionRequest{})
		answer <- err
	}()
	select {
	case err := <-answer:
		t.Fatal("the call did not wait:", err)
	case <-time.After(500 * time.Millisecond):
	}
	(&runtimeServer{}).start(t, socket)
	if err := <-answer; err != nil {
		t.Error(err)
	}
}

func TestRuntimeIsNotThere(t *testing.T) {
	testenv.NoLeaks(t)
	socket := filepath.Join(t.TempDir(), "runtime.sock")
	conn := callSocket(t, startProxy(t, socket, 3*time.Second))
	_, err := cri.NewRuntimeServiceClient(conn).Version(t.Context(), &cri.VersionRequest{})
	want := "the container runtime is not there: dial unix " + socket + ": connect: no such file or directory"
	if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), want) {
		t.Errorf("Version = %v, want Unavailable: %s", err, want)
	}
}

// Each restart is followed at once, not after a backoff that has grown.
func TestRuntimeRestarts(t *testing.T) {
	testenv.NoLeaks(t)
	socket := filepath.Join(t.TempDir(), "runtime.sock")
	var r runtimeServer
	stop := r.start(t, socket)
	client := cri.NewRuntimeServiceClient(callSocket(t, startProxy(t, socket, waitTime)))
	for range 3 {
		if _, err := client.Version(t.Context(), &cri.VersionRequest{}); err != nil {
			t.Fatal(err)
		}
		stop()
		_ = os.Remove(socket)
		time.Sleep(500 * time.Millisecond) // some attempts in vain
		stop = r.start(t, socket)
		start := time.Now()
		if _, err := client.Version(t.Context(), &cri.VersionRequest{}); err != nil {
			t.Fatal(err)
		}
		t.Logf("back after %v", time.Since(start))
	}
}

func BenchmarkVersion(b *testing.B) {
	socket := filepath.Join(b.TempDir(), "runtime.sock")
	(&runtimeServer{}).start(b, socket)
	for name, path := range map[string]string{"direct": socket, "proxy": startProxy(b, socket, waitTime)} {
		b.Run(name, func(b *testing.B) {
			client := cri.NewRuntimeServiceClient(callSocket(b, path))
			var took []time.Duration
			for b.Loop() {
				start := time.Now()
				if _, err := client.Version(b.Context(), &cri.VersionRequest{}); err != nil {
					b.Fatal(err)
				}
				took = append(took, time.Since(start))
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-us")
		})
	}
}
