package ingestreceiver

import (
	"bufio"
	"errors"
	"io"
	"sync"

	"github.com/klauspost/compress/gzip"
	"google.golang.org/grpc/encoding"
)

// grpcGzip is gRPC's gzip. The library's inflates with the standard library, byte by byte out of the message's buffers: half of the gateway's CPU on gRPC.
// This one reads through a buffer, with the inflater that OTLP/HTTP uses here.
type grpcGzip struct {
	encoding.Compressor
	readers sync.Pool // *inflater
}

const inflateBuffer = 32 << 10

// inflater goes back to its pool when its message has been read to the end; one that met an error is left to the garbage collector.
type inflater struct {
	gzip.Reader
	in   *bufio.Reader
	pool *sync.Pool
}

// Decompress implements encoding.Compressor. Whoever reads bounds how much.
func (g *grpcGzip) Decompress(r io.Reader) (io.Reader, error) {
	z, _ := g.readers.Get().(*inflater)
	if z == nil {
		z = &inflater{in: bufio.NewReaderSize(nil, inflateBuffer), pool: &g.readers}
	}
	z.in.Reset(r)
	if err := z.Reset(z.in); err != nil {
		return nil, err
	}
	return z, nil
}

func (z *inflater) Read(p []byte) (int, error) {
	n, err := z.Reader.Read(p)
	if errors.Is(err, io.EOF) {
		z.in.Reset(nil) // a pooled inflater must not keep the message
		z.pool.Put(z)
	}
	return n, err
}
