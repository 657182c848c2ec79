package envelope

import (
	"context"
	"unsafe"
)

type frameKey struct{}

type frame struct {
	of    *byte // the first byte of the body
	size  int   // of the body
	bytes []byte
}

// WithFrame returns ctx carrying the zstd frames that body was decompressed from, so that the next hop can pass them on as they are. They
// must be plain (zstdframe.Plain), and nobody may write to them any more, even after the Consume call has returned: a client that gave up a
// record may still be writing it.
func WithFrame(ctx context.Context, body, frames []byte) context.Context {
	if len(body) == 0 {
		return ctx
	}
	return context.WithValue(ctx, frameKey{}, frame{unsafe.SliceData(body), len(body), frames})
}

// Frame returns the zstd frames of a body; nil where there are none, or where the body is no longer the very bytes that came out of them.
func Frame(ctx context.Context, body []byte) []byte {
	f, ok := ctx.Value(frameKey{}).(frame)
	if !ok || len(body) == 0 || unsafe.SliceData(body) != f.of || len(body) != f.size {
		return nil
	}
	return f.bytes
}
