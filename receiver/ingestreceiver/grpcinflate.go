package ingestreceiver

import (
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"

	"github.com/klauspost/compress/zstd"
	_ "go.opentelemetry.io/collector/config/configgrpc" // registers the compressors that are wrapped here
	"google.golang.org/grpc/encoding"
)

// gRPC finds a compressor by its name, for the whole process, and decompresses a message before the receiver sees it, and before its bytes are reserved. So
// as many messages are decompressed at once as there are CPUs: more would not be done sooner, and hold more memory.
func init() {
	places := make(chan struct{}, runtime.GOMAXPROCS(0))
	for _, c := range []encoding.Compressor{
		&grpcGzip{Compressor: encoding.GetCompressor(encodingGzip)},
		&grpcZstd{Compressor: encoding.GetCompressor(encodingZstd)},
		encoding.GetCompressor(encodingSnappy),
	} {
		encoding.RegisterCompressor(&inTurn{c, places})
	}
}

// inTurn decompresses when it has a place among those that do. The compressed message has come whole, so that a place is held while there is work.
type inTurn struct {
	encoding.Compressor
	places chan struct{}
}

func (c *inTurn) Decompress(r io.Reader) (io.Reader, error) {
	c.places <- struct{}{}
	out, err := c.Compressor.Decompress(r)
	if err != nil {
		<-c.places
		return nil, err
	}
	return &place{Reader: out, of: c.places}, nil
}

// place is given back at the end, at an error and at Close, which gRPC calls where it has read enough.
type place struct {
	io.Reader
	of   chan struct{} // nil: given back
	done int           // bytes decompressed
}

func (p *place) Read(b []byte) (int, error) {
	n, err := p.Reader.Read(b)
	p.done += n
	if err != nil {
		p.giveBack()
	}
	if err != nil && !errors.Is(err, io.EOF) {
		err = fmt.Errorf("after %d decompressed bytes: %w", p.done, err)
	}
	return n, err
}

func (p *place) giveBack() {
	if p.of != nil {
		<-p.of
		p.of = nil
	}
}

func (p *place) Close() error {
	p.giveBack()
	if c, ok := p.Reader.(io.Closer); ok {
		return c.Close()
	}
	return nil
}

// grpcZstd is gRPC's zstd. configgrpc's decoder allocates the window that a frame's header asks for, up to 512 MiB for a message of ten bytes; this one refuses
// more than zstdMaxWindow, as for HTTP's streams. Clients of OTLP/gRPC make windows of 512 KiB (Collector) to 8 MiB.
type grpcZstd struct {
	encoding.Compressor
	decoders sync.Pool // *zstd.Decoder
}

func (c *grpcZstd) Decompress(r io.Reader) (io.Reader, error) {
	z, _ := c.decoders.Get().(*zstd.Decoder)
	if z == nil {
		var err error
		if z, err = newZstd(zstdMaxWindow, zstdMaxWindow); err != nil {
			return nil, err
		}
	}
	out := &pooledZstd{z, &c.decoders}
	if err := z.Reset(r); err != nil {
		out.end()
		return nil, err
	}
	return out, nil
}

// pooledZstd gives its decoder back when it has been read to the end, or failed.
type pooledZstd struct {
	decoder *zstd.Decoder // nil: given back
	pool    *sync.Pool
}

func (p *pooledZstd) Read(b []byte) (int, error) {
	if p.decoder == nil {
		return 0, io.EOF
	}
	n, err := p.decoder.Read(b)
	if err != nil {
		p.end()
	}
	return n, err
}

// Close ends it where it has not been read to the end.
func (p *pooledZstd) Close() error {
	if p.decoder != nil {
		p.end()
	}
	return nil
}

func (p *pooledZstd) end() {
	if p.decoder.Reset(nil) == nil {
		p.pool.Put(p.decoder)
	}
	p.decoder = nil
}
