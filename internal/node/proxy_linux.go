package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	_ "google.golang.org/grpc/encoding/gzip" // for callers that compress
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// proxy passes calls on, whatever they are: PortForward to the data path, all others
// to the runtime.
type proxy struct {
	upstream *upstream // the runtime
	dataPath *upstream
	observe  func(method string, code codes.Code)
	methods  map[string]criMethod
	keepURLs bool
}

// bidirectional fits any call: gRPC's transport does not distinguish them.
var bidirectional = &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}

// criMethod is a method of the CRI that this version knows.
type criMethod struct {
	name       string
	unary      bool
	answersURL bool // an address for the kubelet
}

// criMethods are all of them, by their full names.
func criMethods() map[string]criMethod {
	methods := map[string]criMethod{}
	for _, service := range []grpc.ServiceDesc{runtime.RuntimeService_ServiceDesc, runtime.ImageService_ServiceDesc} {
		for _, m := range service.Methods {
			name := m.MethodName
			methods["/"+service.ServiceName+"/"+name] = criMethod{name, true, name == "PortForward" || name == "Exec" || name == "Attach"}
		}
		for _, s := range service.Streams {
			methods["/"+service.ServiceName+"/"+s.StreamName] = criMethod{name: s.StreamName}
		}
	}
	return methods
}

// streamWorkers is how many goroutines serve one call after the other. The stack of a new
// one for each call would have to grow each time.
const streamWorkers = 4

// newServer makes a gRPC server that hands all calls to handle as frames; the caller
// stops it.
func newServer(handle grpc.StreamHandler) *grpc.Server {
	return grpc.NewServer(
		grpc.UnknownServiceHandler(handle),
		grpc.NumStreamWorkers(streamWorkers),
		grpc.ForceServerCodecV2(frameCodec{}),
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.MaxSendMsgSize(maxMessage),
		grpc.InitialWindowSize(window),
		grpc.InitialConnWindowSize(window),
		// How often a caller may send keepalives is decided by the runtime.
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Second, PermitWithoutStream: true}),
	)
}

func (p *proxy) handle(_ any, down grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(down) // a server's stream always has it
	var err error
	if p.methods[method].unary {
		err = p.forwardUnary(method, down)
	} else {
		err = p.upstream.forwardStream(method, down)
	}
	p.observe(method, status.Code(err))
	return err
}

// forwardUnary passes on a call that is known to be one message each way, which saves
// most of the writes and wake-ups that forwardStream takes. It repairs the URLs in
// answers of cri-dockerd.
func (p *proxy) forwardUnary(method string, down grpc.ServerStream) error {
	var in frame
	if err := down.RecvMsg(&in); err != nil {
		return err
	}
	invoke := p.upstream.invoke
	if method == runtime.RuntimeService_PortForward_FullMethodName {
		invoke = p.invokeDataPath
	}
	out, err := invoke(method, down, &in)
	if err != nil {
		return err
	}
	if p.methods[method].answersURL && !p.keepURLs {
		out = withScheme(out)
	}
	return down.SendMsg(out)
}

// invokeDataPath tries a second time if the data path has ended meanwhile: the next one
// is there soon.
func (p *proxy) invokeDataPath(method string, down grpc.ServerStream, in *frame) (*frame, error) {
	if err := p.upstream.awaitReady(down.Context()); err != nil {
		return nil, err
	}
	in.data.Ref()
	out, err := p.dataPath.invoke(method, down, in)
	if status.Code(err) == codes.Unavailable && down.Context().Err() == nil {
		return p.dataPath.invoke(method, down, in)
	}
	in.data.Free()
	return out, err
}

// outgoingContext is the context for the runtime's part of a call: it brings the call's
// metadata, deadline and cancellation along.
func outgoingContext(down grpc.ServerStream) context.Context {
	ctx := down.Context()
	if md, ok := metadata.FromIncomingContext(ctx); ok {
		delete(md, "grpc-accept-encoding") // the transport says its own
		ctx = metadata.NewOutgoingContext(ctx, md)
	}
	return ctx
}

// withScheme adds the scheme to a URL that has none, //127.0.0.1:35417/cri/exec/TOKEN
// (Mirantis/cri-dockerd#569), which kubelets from 1.36 on read as https. Other answers are
// left as they are.
func withScheme(f *frame) *frame {
	var answer runtime.ExecResponse // the three have the same field
	if proto.Unmarshal(f.data.Materialize(), &answer) != nil || !strings.HasPrefix(answer.GetUrl(), "//") {
		return f
	}
	answer.Url = "http:" + answer.GetUrl()
	data, err := proto.Marshal(&answer)
	if err != nil {
		return f
	}
	f.data.Free()
	return &frame{mem.BufferSlice{mem.SliceBuffer(data)}}
}

// invoke passes on one message and returns the answer, whose headers and trailers it has
// passed back.
func (u *upstream) invoke(method string, down grpc.ServerStream, in *frame) (*frame, error) {
	ctx := outgoingContext(down)
	if err := u.awaitReady(ctx); err != nil {
		return nil, err
	}
	var out frame
	var header, trailer metadata.MD
	err := u.conn.Invoke(ctx, method, in, &out,
		grpc.ForceCodecV2(frameCodec{}), grpc.Header(&header), grpc.Trailer(&trailer))
	_ = down.SetHeader(header) // fails only if it was sent
	down.SetTrailer(trailer)
	return &out, err
}

// forwardStream passes on any call, as two streams of messages.
func (u *upstream) forwardStream(method string, down grpc.ServerStream) error {
	ctx, cancel := context.WithCancel(outgoingContext(down))
	defer cancel()
	if err := u.awaitReady(ctx); err != nil {
		return err
	}
	up, err := u.conn.NewStream(ctx, bidirectional, method, grpc.ForceCodecV2(frameCodec{}))
	if err != nil {
		return err
	}
	// It ends by itself once this call has returned, if not before.
	go forwardRequests(up, down, cancel)
	return forwardAnswers(down, up)
}

// forwardRequests passes on what the caller sends, and its end.
func forwardRequests(up grpc.ClientStream, down grpc.ServerStream, cancel func()) {
	for {
		var f frame
		err := down.RecvMsg(&f)
		if errors.Is(err, io.EOF) {
			_ = up.CloseSend()
			return
		}
		if err != nil {
			cancel()
			return
		}
		if up.SendMsg(&f) != nil {
			return // forwardAnswers gets the reason
		}
	}
}

// forwardAnswers passes on what the runtime answers: header, messages, trailer, status.
func forwardAnswers(down grpc.ServerStream, up grpc.ClientStream) error {
	header, err := up.Header()
	if err == nil && header != nil {
		err = down.SendHeader(header)
	}
	for err == nil {
		var f frame
		if err = up.RecvMsg(&f); err == nil {
			err = down.SendMsg(&f)
		}
	}
	down.SetTrailer(up.Trailer())
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// frame is a message as it is on the wire, not decoded. Whoever received it sends it on,
// once.
type frame struct{ data mem.BufferSlice }

// frameCodec passes frames through untouched. It has no name, so that requests go
// out as plain application/grpc, as the kubelet sends them.
type frameCodec struct{}

func (frameCodec) Name() string { return "" }

func (frameCodec) Marshal(v any) (mem.BufferSlice, error) {
	f, ok := v.(*frame)
	if !ok {
		return nil, fmt.Errorf("marshal %T: not a frame", v)
	}
	return f.data, nil // whose references the sender takes over
}

func (frameCodec) Unmarshal(data mem.BufferSlice, v any) error {
	f, ok := v.(*frame)
	if !ok {
		return fmt.Errorf("unmarshal %T: not a frame", v)
	}
	data.Ref() // the caller drops its own afterwards
	f.data = data
	return nil
}
