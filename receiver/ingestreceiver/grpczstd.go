package ingestreceiver

import (
	"io"
	"sync"

	"github.com/klauspost/compress/zstd"
	_ "go.opentelemetry.io/collector/config/configgrpc" // registers the compressor that is wrapped here
	"google.golang.org/grpc/encoding"
)

// gRPC finds a compressor by its name, for the whole process. configgrpc's decoder allocates the window that a frame's header asks for, up to 512 MiB for a
// message of ten bytes; this one refuses more than zstdMaxWindow, as for HTTP's streams. Clients of OTLP/gRPC make windows of 512 KiB (Collector) to 8 MiB.
func init() {
	encoding.RegisterCompressor(&grpcZstd{Compressor: encoding.GetCompressor(encodingZstd)})
}

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

func (p *pooledZstd) end() {
	if p.decoder.Reset(nil) == nil {
		p.pool.Put(p.decoder)
	}
	p.decoder = nil
}
