package ingestreceiver

import "google.golang.org/grpc/mem"

// clientFrame is a message that a test sends as it is.
type clientFrame struct{ b []byte }

type clientCodec struct{ rawCodec }

func (clientCodec) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(v.(*clientFrame).b)}, nil
}

func (clientCodec) Unmarshal(mem.BufferSlice, any) error { return nil }
