package ingestreceiver

import (
	"bytes"
	"io"
	"runtime"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/encoding"
)

// Scenario: messages of nine bytes whose header asks for a window of 512 MiB, and others around the bound.
// Guarantee: what a message costs before anything is decoded does not depend on what its header asks for.
func TestAMessageDoesNotSayHowMuchIsAllocatedForIt(t *testing.T) {
	c := encoding.GetCompressor(encodingZstd)
	for exponent := range byte(22) { // a window of 1 KiB << exponent
		frame := []byte{0x28, 0xb5, 0x2f, 0xfd, 0, exponent << 3, 1, 0, 0}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		err := decompress(c, frame)
		runtime.ReadMemStats(&after)
		require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(3*zstdMaxWindow), "a window of 1 KiB << %d", exponent)
		if 1<<(10+exponent) <= zstdMaxWindow {
			require.NoError(t, err, exponent)
		} else {
			require.ErrorIs(t, err, zstd.ErrWindowSizeExceeded, exponent)
		}
	}
}

// Guarantee: what other encoders make is read, in any order of good and bad messages, and read again after its end it is at its end.
func TestGRPCsZstdReadsWhatIsSent(t *testing.T) {
	c := encoding.GetCompressor(encodingZstd)
	text := bytes.Repeat([]byte("payment declined for order "), 1<<20)
	for range 3 {
		for _, level := range []zstd.EncoderLevel{zstd.SpeedFastest, zstd.SpeedDefault} {
			var b bytes.Buffer
			w, err := zstd.NewWriter(&b, zstd.WithEncoderLevel(level))
			require.NoError(t, err)
			_, err = w.Write(text)
			require.NoError(t, err)
			require.NoError(t, w.Close())
			require.Error(t, decompress(c, b.Bytes()[:b.Len()/2]))
			r, err := c.Decompress(&b)
			require.NoError(t, err)
			got, err := io.ReadAll(r)
			require.NoError(t, err)
			require.True(t, bytes.Equal(text, got))
			n, err := r.Read(make([]byte, 1))
			require.Zero(t, n)
			require.ErrorIs(t, err, io.EOF)
		}
	}
}

func decompress(c encoding.Compressor, b []byte) error {
	r, err := c.Decompress(bytes.NewReader(b))
	if err == nil {
		_, err = io.Copy(io.Discard, r)
	}
	return err
}
