package node

import (
	"context"
	"errors"
	"io"
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

// proxy passes calls on to the runtime, whatever they are, and answers PortForward.
type proxy struct {
	upstream    *upstream
	portForward func(context.Context, *runtime.PortForwardRequest) (*runtime.PortForwardResponse, error)
	observe     func(method string, code codes.Code)
	methods     map[string]criMethod
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

// server makes the gRPC server; whoever serves with it stops it.
func (p *proxy) server() *grpc.Server {
	return grpc.NewServer(
		grpc.UnknownServiceHandler(p.handle),
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
	switch {
	case method == runtime.RuntimeService_PortForward_FullMethodName:
		err = p.answer(down)
	case p.methods[method].unary:
		err = p.passOne(method, down)
	default:
		err = p.pass(method, down)
	}
	p.observe(method, status.Code(err))
	return err
}

// answer is our own PortForward.
func (p *proxy) answer(down grpc.ServerStream) error {
	var in frame
	if err := down.RecvMsg(&in); err != nil {
		return err
	}
	var request runtime.PortForwardRequest
	err := proto.Unmarshal(in.octets.Materialize(), &request)
	in.octets.Free()
	if err != nil {
		return status.Errorf(codes.InvalidArgument, "porthole node: read PortForward request: %v", err)
	}
	if err := p.upstream.await(down.Context()); err != nil {
		return err
	}
	response, err := p.portForward(down.Context(), &request)
	if err != nil {
		return err
	}
	octets, err := proto.Marshal(response)
	if err != nil {
		return err
	}
	return down.SendMsg(&frame{mem.BufferSlice{mem.SliceBuffer(octets)}})
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
func (p *proxy) passOne(method string, down grpc.ServerStream) error {
	var in, out frame
	if err := down.RecvMsg(&in); err != nil {
		return err
	}
	ctx := onward(down)
	if err := p.upstream.await(ctx); err != nil {
		return err
	}
	var header, trailer metadata.MD
	err := p.upstream.conn.Invoke(ctx, method, &in, &out,
		grpc.ForceCodecV2(frameCodec{}), grpc.Header(&header), grpc.Trailer(&trailer))
	_ = down.SetHeader(header) // fails only if it was sent
	down.SetTrailer(trailer)
	if err != nil {
		return err
	}
	return down.SendMsg(&out)
}

// pass passes on any call, as two streams of messages.
func (p *proxy) pass(method string, down grpc.ServerStream) error {
	ctx, cancel := context.WithCancel(onward(down))
	defer cancel()
	if err := p.upstream.await(ctx); err != nil {
		return err
	}
	up, err := p.upstream.conn.NewStream(ctx, bidirectional, method, grpc.ForceCodecV2(frameCodec{}))
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
