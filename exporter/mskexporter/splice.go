package mskexporter

import (
	"bytes"
	"encoding/binary"
	"sync"
	"sync/atomic"

	"github.com/klauspost/compress/zstd"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/pulsegrid/pulsegrid/internal/envelope"
	"github.com/pulsegrid/pulsegrid/internal/zstdframe"
)

// splicer compresses record batches with zstd, and lays the frames that agents sent into them as they came: compressing again what an
// agent has compressed took two thirds of the gateway's CPU. A batch becomes one zstd stream, which any consumer reads.
//
// A record with frames carries their number in the header envelope.HeaderFrame, because a batch reaches a kgo.Compressor as bytes: that
// is how it finds them. Frames stay registered until their record is acknowledged or given up; a batch that is written after that, for a
// record that was given up, is compressed like any other.
type splicer struct {
	whole  kgo.Compressor // for batches without frames
	encode *zstd.Encoder  // for what lies between frames; EncodeAll may be called by several goroutines
	next   atomic.Uint64
	mu     sync.RWMutex
	frames map[uint64][]byte // guarded by mu
}

const (
	// rawBelow is the size up to which bytes between frames are not worth compressing: a record's key and headers.
	rawBelow         = 2 << 10
	frameHeaderBytes = headerOverhead + len(envelope.HeaderFrame) + 8
)

func newSplicer(whole kgo.Compressor, level int) (*splicer, error) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.EncoderLevel(max(level, 1))), zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(64<<10))
	if err != nil {
		return nil, err
	}
	return &splicer{whole: whole, encode: enc, frames: map[uint64][]byte{}}, nil
}

// register returns the header that a record with these frames must carry, as its last one, and what forgets them.
func (s *splicer) register(frames []byte) (h kgo.RecordHeader, forget func()) {
	id := s.next.Add(1)
	s.mu.Lock()
	s.frames[id] = frames
	s.mu.Unlock()
	return kgo.RecordHeader{Key: envelope.HeaderFrame, Value: binary.BigEndian.AppendUint64(nil, id)}, func() {
		s.mu.Lock()
		delete(s.frames, id)
		s.mu.Unlock()
	}
}

// Compress implements kgo.Compressor. src is the batch's records in Kafka's format v2.
func (s *splicer) Compress(dst *bytes.Buffer, src []byte, flags ...kgo.CompressFlag) ([]byte, kgo.CompressionCodecType) {
	for _, f := range flags {
		if f == kgo.CompressDisableZstd {
			return s.whole.Compress(dst, src, flags...)
		}
	}
	out := dst.Bytes()[:0]
	from := 0 // the first byte of src that is not in out yet
	for at := 0; at < len(src); {
		r, ok := parseRecord(src[at:])
		if !ok { // cannot be: kgo has just written it
			return s.whole.Compress(dst, src, flags...)
		}
		if frames := s.framesOf(src[at:], r); frames != nil {
			out = s.append(out, src[from:at+r.value])
			out = append(out, frames...)
			from = at + r.valueEnd
		}
		at += r.end
	}
	if from == 0 {
		return s.whole.Compress(dst, src, flags...)
	}
	return s.append(out, src[from:]), kgo.CodecZstd
}

func (s *splicer) append(out, between []byte) []byte {
	if len(between) < rawBelow {
		return zstdframe.AppendRaw(out, between)
	}
	return s.encode.EncodeAll(between, out)
}

// framesOf returns the frames that the record's value came out of, nil for none.
func (s *splicer) framesOf(b []byte, r recordAt) []byte {
	name := len(envelope.HeaderFrame)
	tail := b[:r.end] // the last header: varint, name, varint, 8 bytes
	if r.headers == 0 || len(tail)-r.valueEnd < name+10 {
		return nil
	}
	tail = tail[len(tail)-name-10:]
	if tail[0] != byte(name<<1) || string(tail[1:1+name]) != envelope.HeaderFrame || tail[1+name] != 8<<1 {
		return nil
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.frames[binary.BigEndian.Uint64(tail[2+name:])]
}

// recordAt is where the parts of a record lie, from the record's beginning.
type recordAt struct {
	value, valueEnd int
	headers         int // how many
	end             int
}

// parseRecord reads a record of Kafka's message format v2: length, attributes, timestamp delta, offset delta, key, value, headers; numbers
// are zigzag varints (Kafka documentation, "Record").
func parseRecord(b []byte) (r recordAt, ok bool) {
	c := cursor{b: b}
	length := c.number()
	r.end = c.at + length
	c.skip(length)
	if c.bad || length < 0 {
		return r, false
	}
	c = cursor{b: b[:r.end], at: r.end - length}
	c.skip(1)          // attributes
	c.number()         // timestamp delta
	c.number()         // offset delta
	c.skip(c.number()) // key
	size := c.number()
	r.value = c.at
	c.skip(size)
	r.valueEnd = c.at
	r.headers = c.number()
	return r, !c.bad
}

// cursor reads forward; once it is bad it stays so.
type cursor struct {
	b   []byte
	at  int
	bad bool
}

func (c *cursor) number() int {
	if c.bad {
		return 0
	}
	n, size := binary.Varint(c.b[c.at:])
	if size <= 0 {
		c.bad = true
		return 0
	}
	c.at += size
	return int(n)
}

// skip passes over n bytes. A length below zero stands for null.
func (c *cursor) skip(n int) {
	n = max(n, 0)
	if c.bad || n > len(c.b)-c.at {
		c.bad = true
		return
	}
	c.at += n
}
