package node

import (
	"fmt"

	"google.golang.org/grpc/mem"
)

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
