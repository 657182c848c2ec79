package ingestreceiver

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"

	"github.com/pulsegrid/pulsegrid/internal/zstdframe"
)

const (
	// ratioFloor is the decompressed bytes up to which the ratio is not judged: a storm of one error compresses 300 times. It is what the stock otlp receiver
	// takes of any body.
	ratioFloor     = 20 * mib
	firstBuffer    = 64 << 10  // what a body gets before any of it has come, whatever its headers claim
	pooledMax      = 1 * mib   // larger compressed buffers are left to the garbage collector
	zstdMaxWindow  = 8 * mib   // what the specification of zstd asks a decoder to support; a stream costs as much
	zstdWideWindow = 128 * mib // what zstd -22 --ultra makes, and the most that the zstd program decompresses unasked
	gzipSizeOfTail = 4         // a gzip member ends with its size modulo 2^32
	minBuffer      = 512
)

// reader reads bodies within the limits.
type reader struct {
	limits *LimitsConfig
	// passFrames keeps the zstd frames of bodies for the next hop.
	passFrames bool
	// keepUndecompressed returns bodies that cannot be decompressed beside the error.
	keepUndecompressed bool

	bufs  sync.Pool // *[]byte, compressed bodies
	gzips sync.Pool // *gzip.Reader
	zstds sync.Pool // *zstd.Decoder for streams and DecodeAll, used by one request at a time
	wides sync.Pool // *zstd.Decoder for DecodeAll of frames whose window is larger
}

func newReader(l *LimitsConfig, passFrames bool) *reader {
	return &reader{limits: l, passFrames: passFrames}
}

// body is a request as it was read.
type body struct {
	bytes      []byte // decompressed; allocated for this request
	compressed int    // bytes that came
	frames     []byte // the zstd frames that bytes came out of, if they can be passed on as they are; allocated for this request
	// undecompressed is what came, if it cannot be decompressed and is wanted all the same; allocated for this request.
	undecompressed []byte
}

// read returns the decompressed body of a request. Its bytes are reserved in held as they come.
func (d *reader) read(req *http.Request, encoding string, held *reservation) (body, error) {
	if encoding == encodingNone {
		if req.ContentLength > int64(d.limits.MaxDecompressedBytes) {
			return body{}, tooLarge("body", req.ContentLength, d.limits.MaxDecompressedBytes, keyDecompressed)
		}
		b, err := readAll(req.Body, nil, announced(req.ContentLength, d.limits.MaxDecompressedBytes), d.limits.MaxDecompressedBytes, held)
		if errors.Is(err, errLimit) {
			err = tooLarge("body", -1, d.limits.MaxDecompressedBytes, keyDecompressed)
		}
		return body{bytes: b, compressed: len(b)}, d.readError(err, len(b))
	}
	if req.ContentLength > int64(d.limits.MaxCompressedBytes) {
		return body{}, tooLarge("compressed body", req.ContentLength, d.limits.MaxCompressedBytes, keyCompressed)
	}
	var pooled *[]byte
	if !d.passFrames || encoding != encodingZstd { // else the next hop may keep what came
		if pooled, _ = d.bufs.Get().(*[]byte); pooled == nil {
			pooled = new([]byte)
		}
	}
	var buf []byte
	if pooled != nil {
		buf = (*pooled)[:0]
	}
	in, err := readAll(req.Body, buf, announced(req.ContentLength, d.limits.MaxCompressedBytes), d.limits.MaxCompressedBytes, held)
	defer func() {
		if pooled != nil && cap(in) <= pooledMax {
			*pooled = in[:0]
			d.bufs.Put(pooled)
		}
	}()
	if errors.Is(err, errLimit) {
		err = tooLarge("compressed body", -1, d.limits.MaxCompressedBytes, keyCompressed)
	}
	if err != nil {
		return body{}, d.readError(err, len(in))
	}
	b := body{compressed: len(in)}
	b.bytes, err = d.decompress(encoding, in, held)
	if d.keepUndecompressed && errors.Is(err, refusedCompression) {
		b.undecompressed = in
		if pooled != nil {
			if !held.grow(len(in)) {
				return body{}, refusedMemory
			}
			b.undecompressed = bytes.Clone(in)
		}
	}
	if err == nil && pooled == nil && zstdframe.Plain(in, zstdMaxWindow) {
		b.frames = in
	}
	return b, err
}

// Keys of limits, for whoever has to raise them.
const (
	keyCompressed   = "max_compressed_bytes"
	keyDecompressed = "max_decompressed_bytes"
)

// tooLarge is the refusal of n bytes; -1: nobody knows how many there are.
func tooLarge(what string, n int64, limit int, key string) *refusal {
	if n < 0 {
		return refusedTooLarge.because("%s has more than the %d bytes that are allowed (%s)", what, limit, key)
	}
	return refusedTooLarge.because("%s has %d bytes, at most %d are allowed (%s)", what, n, limit, key)
}

var (
	errLimit  = errors.New("limit reached") // more bytes than were allowed
	errMemory = errors.New("no room in flight")
)

// expected is how large a body will probably be. Senders and compressed data claim it; nothing is trusted for more than it costs.
type expected struct{ first, total int }

// announced by a header: the sender must have sent a quarter of what it gets, beyond the first buffer.
func announced(contentLength int64, limit int) expected {
	total := int(min(max(contentLength, 0), int64(limit))) + 1 // room to see the end
	return expected{min(total, firstBuffer), total}
}

// readAll appends to buf what r holds, at most limit bytes. It reserves what it allocates, or what it fills of a buf it is given.
func readAll(r io.Reader, buf []byte, want expected, limit int, held *reservation) ([]byte, error) {
	reserved := 0
	reserve := func(n int) bool {
		if n <= reserved {
			return true
		}
		if !held.grow(n - reserved) {
			return false
		}
		reserved = n
		return true
	}
	for {
		if len(buf) == cap(buf) {
			size := max(want.first, minBuffer, 2*cap(buf))
			if want.total > size {
				size = min(want.total, max(want.first, 4*cap(buf)))
			}
			size = min(size, limit+1) // one byte more shows that there is more
			if !reserve(size) {
				return buf, errMemory
			}
			bigger := make([]byte, len(buf), size)
			copy(bigger, buf)
			buf = bigger
		}
		n, err := r.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if len(buf) > limit {
			return buf, errLimit
		}
		if !reserve(len(buf)) {
			return buf, errMemory
		}
		if err == io.EOF {
			return buf, nil
		}
		if err != nil {
			return buf, err
		}
	}
}

// readError is what became of reading from the network, after n bytes.
func (d *reader) readError(err error, n int) error {
	var r *refusal
	var timeout net.Error
	switch {
	case err == nil || errors.As(err, &r):
		return err
	case errors.Is(err, errMemory):
		return refusedMemory
	case errors.Is(err, os.ErrDeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout():
		return refusedSlow.because("only %d bytes of the body came within %v (read_timeout)", n, d.limits.ReadTimeout)
	}
	return refusedGone.because("the body ended early, after %d bytes: %v", n, err)
}

// allowed is how many bytes a body of so many compressed bytes may become; ratio tells whether the ratio is what bounds it.
func (l *LimitsConfig) allowed(compressed int) (n int, ratio bool) {
	if byRatio := max(ratioFloor, compressed*l.MaxCompressionRatio); byRatio < l.MaxDecompressedBytes {
		return byRatio, true
	}
	return l.MaxDecompressedBytes, false
}

func (l *LimitsConfig) overAllowed(compressed int) error {
	if n, ratio := l.allowed(compressed); ratio {
		return refusedRatio.because("%d compressed bytes hold more than the %d that are allowed, a ratio of %d (max_compression_ratio)", compressed, n, l.MaxCompressionRatio)
	}
	return tooLarge(fmt.Sprintf("what %d compressed bytes hold", compressed), -1, l.MaxDecompressedBytes, keyDecompressed)
}

// source is a bytes.Reader that a decompressor can drop.
type source struct {
	b []byte
}

func (s *source) Read(p []byte) (int, error) {
	if len(s.b) == 0 {
		return 0, io.EOF
	}
	n := copy(p, s.b)
	s.b = s.b[n:]
	return n, nil
}

// ReadByte makes source what gzip wants to read from without another buffer.
func (s *source) ReadByte() (byte, error) {
	if len(s.b) == 0 {
		return 0, io.EOF
	}
	c := s.b[0]
	s.b = s.b[1:]
	return c, nil
}
