package mskexporter

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"golang.org/x/sync/errgroup"

	"github.com/pulsegrid/pulsegrid/internal/envelope"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire/otlptest"
	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/internal/testkit/kafkatest"
)

func testSplicer(t testing.TB) *splicer {
	t.Helper()
	whole, err := kgo.DefaultCompressor(kgo.ZstdCompression())
	require.NoError(t, err)
	s, err := newSplicer(whole, 1)
	require.NoError(t, err)
	return s
}

// batch is records as kgo lays them out before it compresses them.
func batch(values [][]byte, headers [][]kgo.RecordHeader) []byte {
	var out []byte
	for i, v := range values {
		r := kmsg.Record{OffsetDelta: int32(i), Key: fmt.Appendf(nil, "source-%d", i), Value: v}
		if i%3 == 2 {
			r.Key = nil
		}
		for _, h := range headers[i] {
			r.Headers = append(r.Headers, kmsg.Header{Key: h.Key, Value: h.Value})
		}
		length := len(r.AppendTo(nil)) - 1 // its own length, 0, took a byte
		r.Length = int32(length)
		out = r.AppendTo(out)
	}
	return out
}

// Scenario: batches of records of which some, all or none have frames, which are registered, or were forgotten.
// Guarantees: the batch is one zstd stream that another decoder reads back byte for byte; registered frames are in it as they came.
func TestASplicedBatchDecodesToTheSameRecords(t *testing.T) {
	s := testSplicer(t)
	enc, err := zstd.NewWriter(nil)
	require.NoError(t, err)
	dec, err := zstd.NewReader(nil)
	require.NoError(t, err)
	defer dec.Close()
	for name, has := range map[string]func(i int) (frames, forgotten bool){
		"all":       func(int) (bool, bool) { return true, false },
		"none":      func(int) (bool, bool) { return false, false },
		"every 2nd": func(i int) (bool, bool) { return i%2 == 0, false },
		"the last":  func(i int) (bool, bool) { return i == 6, false },
		"forgotten": func(i int) (bool, bool) { return true, i%2 == 0 },
	} {
		t.Run(name, func(t *testing.T) {
			var values, kept [][]byte
			var headers [][]kgo.RecordHeader
			for i := range 7 {
				v := otlptest.Logs(uint64(i+1), 1+i*5)
				hs := []kgo.RecordHeader{{Key: envelope.HeaderTenant, Value: []byte("t")}}
				if frames, forgotten := has(i); frames {
					f := enc.EncodeAll(v, nil)
					h, forget := s.register(f)
					hs = append(hs, h)
					if forgotten {
						forget()
					} else {
						kept = append(kept, f)
						defer forget()
					}
				}
				values, headers = append(values, v), append(headers, hs)
			}
			src := batch(values, headers)
			out, codec := s.Compress(&bytes.Buffer{}, bytes.Clone(src))
			require.Equal(t, kgo.CodecZstd, codec)
			got, err := dec.DecodeAll(out, nil)
			require.NoError(t, err)
			require.True(t, bytes.Equal(src, got), "the batch decodes to other bytes")
			for _, f := range kept {
				require.True(t, bytes.Contains(out, f), "frames are not as they came")
			}
		})
	}
	require.Empty(t, s.frames, "frames are forgotten")
}

// FuzzCompress: whatever is to be compressed comes back; nothing panics.
func FuzzCompress(f *testing.F) {
	s := testSplicer(f)
	enc, err := zstd.NewWriter(nil)
	require.NoError(f, err)
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1))
	require.NoError(f, err)
	v := otlptest.Logs(1, 1)
	h, _ := s.register(enc.EncodeAll(v, nil))
	good := batch([][]byte{v, {}, v}, [][]kgo.RecordHeader{{h}, nil, nil})
	for n := 0; n < len(good); n += 97 {
		f.Add(good[:n])
	}
	s.frames = map[uint64][]byte{} // else any bytes that name the number would stand for v
	f.Fuzz(func(t *testing.T, src []byte) {
		out, codec := s.Compress(&bytes.Buffer{}, bytes.Clone(src))
		require.Equal(t, kgo.CodecZstd, codec)
		got, err := dec.DecodeAll(out, nil)
		require.NoError(t, err)
		require.True(t, bytes.Equal(src, got))
	})
}

// passedFrames: requests with and without frames share batches on a real broker, and another client reads them all back byte for byte.
func passedFrames(t *testing.T, k *kafkatest.Cluster) {
	r := newRig(t, k.Brokers(), func(c *Config) { topics("frames")(c); c.Linger = 50 * time.Millisecond })
	levels := []zstd.EncoderLevel{zstd.SpeedFastest, zstd.SpeedDefault, zstd.SpeedBetterCompression}
	sent := map[string][]byte{}
	var g errgroup.Group
	for i := range 60 {
		e := request(signal.Logs, "t", fmt.Sprintf("source-%d", i), 1+i)
		e.Body = otlptest.Logs(uint64(i+1), 1+i)
		sent[e.Source] = e.Body
		ctx := t.Context()
		if i%3 != 0 {
			enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(levels[i%len(levels)]), zstd.WithEncoderCRC(i%2 == 0))
			require.NoError(t, err)
			ctx = envelope.WithFrame(ctx, e.Body, enc.EncodeAll(e.Body, nil))
		}
		g.Go(func() error { return r.sendCtx(ctx, e) })
	}
	require.NoError(t, g.Wait())
	ms := readAll(t, k.Brokers(), "frames.logs")
	require.Len(t, ms, len(sent))
	for _, m := range ms {
		require.True(t, bytes.Equal(sent[string(m.Key)], m.Value), "the record of %s is not what was sent", m.Key)
	}
	require.Empty(t, r.logs.client.splicer.frames, "frames are forgotten")
}
