package node

import (
	"context"
	"errors"
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

// bidirectional fits any call: for gRPC's transport a message is a message.
var bidirectional = &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}

// criMethod is a method of the CRI that this version knows.
type criMethod struct {
	name  string
	unary bool
}

// criMethods are all of them, by their full names.
func criMethods() map[string]criMethod {
	methods := map[string]criMethod{}
	for _, service := range []grpc.ServiceDesc{runtime.RuntimeService_ServiceDesc, runtime.ImageService_ServiceDesc} {
		for _, m := range service.Methods {
			methods["/"+service.ServiceName+"/"+m.MethodName] = criMethod{m.MethodName, true}
		}
		for _, s := range service.Streams {
			methods["/"+service.ServiceName+"/"+s.StreamName] = criMethod{name: s.StreamName}
		}
	}
	return methods
}

// streamWorkers is how many goroutines serve one call after the other. A new one for each
// call would have its stack grow each time.
const streamWorkers = 4

// newServer makes a gRPC server that hands all calls to handle as frames; whoever
// serves with it stops it.
func newServer(handle grpc.StreamHandler) *grpc.Server {
	return grpc.NewServer(
		grpc.UnknownServiceHandler(handle),
		grpc.NumStreamWorkers(streamWorkers),
		grpc.ForceServerCodecV2(frameCodec{}),
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.MaxSendMsgSize(maxMessage),
		grpc.InitialWindowSize(window),
		grpc.InitialConnWindowSize(window),
		// How often a caller may ask whether we live is the runtime's to say.
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Second, PermitWithoutStream: true}),
	)
}

func (p *proxy) handle(_ any, down grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(down) // a server's stream always has it
	var err error
	switch method {
	case runtime.RuntimeService_PortForward_FullMethodName:
		err = p.passURL(p.askDataPath, method, down)
	case runtime.RuntimeService_Exec_FullMethodName, runtime.RuntimeService_Attach_FullMethodName:
		err = p.passURL(p.upstream.invoke, method, down)
	default:
		if p.methods[method].unary {
			err = p.upstream.passOne(method, down)
		} else {
			err = p.upstream.pass(method, down)
		}
	}
	p.observe(method, status.Code(err))
	return err
}

// onward is the context for the runtime's part of a call: it brings the call's
// metadata, deadline and cancellation along.
func onward(down grpc.ServerStream) context.Context {
	ctx := down.Context()
	if md, ok := metadata.FromIncomingContext(ctx); ok {
		delete(md, "grpc-accept-encoding") // the transport says its own
		ctx = metadata.NewOutgoingContext(ctx, md)
	}
	return ctx
}

// passOne passes on a call that is known to be one message each way, which saves
// most of the writes and wake-ups that pass takes.
func (u *upstream) passOne(method string, down grpc.ServerStream) error {
	var in frame
	if err := down.RecvMsg(&in); err != nil {
		return err
	}
	out, err := u.invoke(method, down, &in)
	if err != nil {
		return err
	}
	return down.SendMsg(out)
}

// passURL is passOne for calls whose answer is an address for the kubelet. It repairs
// those of cri-dockerd.
func (p *proxy) passURL(invoke func(string, grpc.ServerStream, *frame) (*frame, error), method string, down grpc.ServerStream) error {
	var in frame
	if err := down.RecvMsg(&in); err != nil {
		return err
	}
	out, err := invoke(method, down, &in)
	if err != nil {
		return err
	}
	if !p.keepURLs {
		out = withScheme(out)
	}
	return down.SendMsg(out)
}

// askDataPath asks a second time if the data path has ended meanwhile: the next one is
// there soon.
func (p *proxy) askDataPath(method string, down grpc.ServerStream, in *frame) (*frame, error) {
	if err := p.upstream.await(onward(down)); err != nil {
		return nil, err
	}
	in.octets.Ref()
	out, err := p.dataPath.invoke(method, down, in)
	if status.Code(err) == codes.Unavailable && down.Context().Err() == nil {
		return p.dataPath.invoke(method, down, in)
	}
	in.octets.Free()
	return out, err
}

// withScheme adds the scheme to a URL that has none, //127.0.0.1:35417/cri/exec/TOKEN
// (Mirantis/cri-dockerd#569), which kubelets from 1.36 on take for one of https. Other
// answers are left as they are.
func withScheme(f *frame) *frame {
	var answer runtime.ExecResponse // the three have the same field
	if proto.Unmarshal(f.octets.Materialize(), &answer) != nil || !strings.HasPrefix(answer.GetUrl(), "//") {
		return f
	}
	answer.Url = "http:" + answer.GetUrl()
	octets, err := proto.Marshal(&answer)
	if err != nil {
		return f
	}
	f.octets.Free()
	return &frame{mem.BufferSlice{mem.SliceBuffer(octets)}}
}

// invoke passes on one message and returns the answer, of which it has passed back
// all that is not the message.
func (u *upstream) invoke(method string, down grpc.ServerStream, in *frame) (*frame, error) {
	ctx := onward(down)
	if err := u.await(ctx); err != nil {
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

// pass passes on any call, as two streams of messages.
func (u *upstream) pass(method string, down grpc.ServerStream) error {
	ctx, cancel := context.WithCancel(onward(down))
	defer cancel()
	if err := u.await(ctx); err != nil {
		return err
	}
	up, err := u.conn.NewStream(ctx, bidirectional, method, grpc.ForceCodecV2(frameCodec{}))
	if err != nil {
		return err
	}
	// It ends by itself once this call has returned, if not before.
	go passUp(up, down, cancel)
	return passDown(down, up)
}

// passUp passes on what the caller sends, and its end.
func passUp(up grpc.ClientStream, down grpc.ServerStream, cancel func()) {
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
			return // passDown gets the reason
		}
	}
}

// passDown passes on what the runtime answers: header, messages, trailer, status.
func passDown(down grpc.ServerStream, up grpc.ClientStream) error {
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
