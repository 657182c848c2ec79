package ingestreceiver

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/snappy"
	"github.com/klauspost/compress/zlib"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// Content encodings: those that the Collector's exporters write.
const (
	encodingNone          = ""
	encodingGzip          = "gzip"
	encodingZstd          = "zstd"
	encodingZlib          = "zlib"
	encodingSnappy        = "snappy"
	encodingSnappyFramed  = "x-snappy-framed"
	encodingLZ4           = "lz4"
	lz4Buffers            = 8 * mib // a block of the largest kind, compressed and not
	wideFirst, wideGrowth = 1 * mib, 8
)

var encodings = []string{encodingGzip, encodingZstd, encodingZlib, encodingSnappy, encodingSnappyFramed, encodingLZ4}

// contentEncoding is how the body is compressed. Codings are case-insensitive, x-gzip is gzip (RFC 9110, 8.4.1), and deflate is the zlib format.
func contentEncoding(h http.Header) (string, error) {
	v := h.Values("Content-Encoding")
	if len(v) == 0 {
		return encodingNone, nil
	}
	if len(v) == 1 {
		switch coding := strings.ToLower(v[0]); coding {
		case encodingNone, "identity":
			return encodingNone, nil
		case "x-gzip":
			return encodingGzip, nil
		case "deflate":
			return encodingZlib, nil
		default:
			if slices.Contains(encodings, coding) {
				return coding, nil
			}
		}
	}
	return "", refusedEncoding.because("content encoding %.100q is not one of %s, deflate, identity", v, strings.Join(encodings, ", "))
}

func (d *reader) decompress(encoding string, in []byte, held *reservation) (out []byte, err error) {
	defer func() {
		if p := recover(); p != nil { // decoders have been seen to, and a connection that breaks has its sender come again for ever
			out, err = nil, refusedCompression.because("body is not %s: its decoder failed", encoding)
		}
	}()
	switch encoding {
	case encodingGzip:
		out, err = d.gunzip(in, held)
	case encodingZstd:
		out, err = d.unzstd(in, held)
	case encodingZlib:
		var z io.Reader
		if z, err = zlib.NewReader(&source{in}); err == nil {
			out, err = d.inflate(z, in, held)
		}
	case encodingSnappy:
		out, err = d.unsnappy(in, held)
	case encodingSnappyFramed:
		out, err = d.inflate(snappy.NewReader(&source{in}), in, held)
	case encodingLZ4:
		if !held.grow(lz4Buffers) {
			return nil, refusedMemory
		}
		out, err = d.inflate(lz4.NewReader(&source{in}), in, held)
	}
	switch {
	case err == nil:
		return out, nil
	case errors.Is(err, errMemory):
		return nil, refusedMemory
	case errors.Is(err, errLimit), errors.Is(err, zstd.ErrDecoderSizeExceeded):
		return nil, d.limits.overAllowed(len(in))
	case errors.Is(err, zstd.ErrWindowSizeExceeded):
		return nil, refusedCompression.because("body is zstd with a window of more than the %d bytes that are allowed", zstdWideWindow)
	}
	return nil, refusedCompression.because("body is not %s: %s", encoding, strings.TrimPrefix(err.Error(), encoding+": "))
}

// inflate reads a stream whose decompressed size nobody tells.
func (d *reader) inflate(z io.Reader, in []byte, held *reservation) ([]byte, error) {
	limit, _ := d.limits.allowed(len(in))
	return readAll(z, nil, expected{first: min(4*len(in), limit+1)}, limit, held)
}

func (d *reader) gunzip(in []byte, held *reservation) ([]byte, error) {
	limit, _ := d.limits.allowed(len(in))
	first := 0
	if len(in) > gzipSizeOfTail { // right for nearly all: one member. It is a hint, bounded like everything.
		first = min(int(binary.LittleEndian.Uint32(in[len(in)-gzipSizeOfTail:]))+1, limit+1)
	}
	z, _ := d.gzips.Get().(*gzip.Reader)
	if z == nil {
		z = new(gzip.Reader)
	}
	defer d.gzips.Put(z)
	if err := z.Reset(&source{in}); err != nil {
		return nil, err
	}
	return readAll(z, nil, expected{first, first}, limit, held)
}

// snappyFrames is how a stream in snappy's framing format begins. Older Collectors send it as `snappy`, which is the block format.
var snappyFrames = []byte("\xff\x06\x00\x00sNaPpY")

func (d *reader) unsnappy(in []byte, held *reservation) ([]byte, error) {
	if bytes.HasPrefix(in, snappyFrames) {
		return d.inflate(snappy.NewReader(&source{in}), in, held)
	}
	n, err := snappy.DecodedLen(in)
	if err != nil {
		return nil, err
	}
	if limit, _ := d.limits.allowed(len(in)); n > limit {
		return nil, errLimit
	}
	if !held.grow(n) {
		return nil, errMemory
	}
	return snappy.Decode(nil, in)
}

func (d *reader) unzstd(in []byte, held *reservation) ([]byte, error) {
	out, err := d.unzstdNarrow(in, held)
	if errors.Is(err, zstd.ErrWindowSizeExceeded) {
		return d.unzstdWide(in, held)
	}
	return out, err
}

// newZstd: with concurrency 1 there are no goroutines, so that a decoder which the pool drops needs no Close.
func newZstd(window, memory int) (*zstd.Decoder, error) {
	z, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(uint64(window)), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxMemory(uint64(max(memory, window))), zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		return nil, fmt.Errorf("zstd decoder: %w", err)
	}
	return z, nil
}

func (d *reader) unzstdNarrow(in []byte, held *reservation) ([]byte, error) {
	limit, _ := d.limits.allowed(len(in))
	z, _ := d.zstds.Get().(*zstd.Decoder)
	if z == nil {
		var err error
		if z, err = newZstd(zstdMaxWindow, d.limits.MaxDecompressedBytes); err != nil {
			return nil, err
		}
	}
	defer d.zstds.Put(z)
	var h zstd.Header
	if err := h.Decode(in); err == nil && h.HasFCS && !h.Skippable && h.FrameContentSize > 0 {
		if h.FrameContentSize > uint64(limit) {
			return nil, errLimit
		}
		size := int(h.FrameContentSize)
		if !held.grow(size) {
			return nil, errMemory
		}
		out, err := z.DecodeAll(in, make([]byte, 0, size))
		if err == nil || errors.Is(err, zstd.ErrWindowSizeExceeded) {
			return out, err
		}
		// There may be more frames than the first one, which the decoder has several errors for: read them as a stream.
	}
	if !held.grow(int(min(h.WindowSize, zstdMaxWindow))) { // a stream is decoded through a window
		return nil, errMemory
	}
	if err := z.Reset(&source{in}); err != nil {
		return nil, err
	}
	out, err := readAll(z, nil, expected{first: min(4*len(in), limit+1)}, limit, held)
	return out, errors.Join(err, z.Reset(nil)) // a pooled decoder must not keep the body
}

// unzstdWide decodes frames that ask for a large window, which would have to be allocated for a stream: what they hold is decoded in one piece, which
// serves as the window. Its size is tried, since the frames need not tell it, and the decoder's errors do not tell damage from too little room.
func (d *reader) unzstdWide(in []byte, held *reservation) ([]byte, error) {
	limit, _ := d.limits.allowed(len(in))
	z, _ := d.wides.Get().(*zstd.Decoder)
	if z == nil {
		var err error
		if z, err = newZstd(zstdWideWindow, zstdWideWindow); err != nil {
			return nil, err
		}
	}
	defer d.wides.Put(z)
	reserved := 0
	for size := min(limit, max(wideFirst, wideGrowth*len(in))); ; size = min(limit, wideGrowth*size) {
		if !held.grow(size - reserved) {
			return nil, errMemory
		}
		reserved = size
		out, err := z.DecodeAll(in, make([]byte, 0, size))
		if err == nil || size == limit || errors.Is(err, zstd.ErrWindowSizeExceeded) {
			return out, err
		}
	}
}
