package zstdframe

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/klauspost/compress/zstd"
)

const maxWindow = 8 << 20

func random(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.UintN(20)) // compresses, but not to nothing
	}
	return b
}

func decode(t testing.TB, b []byte) []byte {
	t.Helper()
	d, err := zstd.NewReader(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	out, err := d.DecodeAll(b, nil)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// Scenario: bytes of every size around the borders of the size fields.
// Guarantees: a decoder of other make reads raw frames back, and they are plain.
func TestRawFramesHoldTheirBytes(t *testing.T) {
	for _, n := range []int{1, 255, 256, 257, 511, 512, rawChunk - 1, rawChunk, rawChunk + 1, 3*rawChunk + 7} {
		want := random(uint64(n), n)
		raw := AppendRaw(nil, want)
		if got := decode(t, raw); !bytes.Equal(got, want) {
			t.Errorf("%d bytes come back as %d", n, len(got))
		}
		if !Plain(raw, maxWindow) {
			t.Errorf("%d bytes: raw frames are not plain", n)
		}
	}
}

// Scenario: frames of an encoder of other make, at each level, as one call and as a stream, between raw frames.
// Guarantees: they are plain, and the whole decodes to the concatenation.
func TestFramesOfAnEncoderCanBeSpliced(t *testing.T) {
	for level := zstd.SpeedFastest; level <= zstd.SpeedBestCompression; level++ {
		for _, n := range []int{1, 300, 70_000, 1 << 20} {
			want := random(uint64(n), n)
			enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(level), zstd.WithWindowSize(1<<20))
			if err != nil {
				t.Fatal(err)
			}
			var stream bytes.Buffer
			enc.Reset(&stream)
			if _, err := enc.Write(want); err != nil {
				t.Fatal(err)
			}
			if err := enc.Close(); err != nil {
				t.Fatal(err)
			}
			for name, frames := range map[string][]byte{"one call": enc.EncodeAll(want, nil), "stream": stream.Bytes()} {
				if !Plain(frames, maxWindow) {
					t.Errorf("level %v, %d bytes, %s: not plain", level, n, name)
				}
				spliced := AppendRaw(append(AppendRaw(nil, []byte("before")), frames...), []byte("after"))
				if got := decode(t, spliced); string(got) != "before"+string(want)+"after" {
					t.Errorf("level %v, %d bytes, %s: the splice decodes to %d bytes", level, n, name, len(got))
				}
			}
		}
	}
}

// Scenario: what must not be spliced.
// Guarantees: it is not plain: cut off at any byte, followed by anything, with a window too large, with a dictionary, skippable.
func TestWhatCannotBeSplicedIsNotPlain(t *testing.T) {
	enc, err := zstd.NewWriter(nil, zstd.WithWindowSize(16<<20), zstd.WithSingleSegment(false))
	if err != nil {
		t.Fatal(err)
	}
	good := enc.EncodeAll(random(1, 3000), nil)
	if !Plain(good, maxWindow) {
		t.Fatal("a small frame is not plain")
	}
	for n := range good {
		if Plain(good[:n], maxWindow) {
			t.Errorf("cut at %d of %d: plain", n, len(good))
		}
	}
	var stream bytes.Buffer
	enc.Reset(&stream)
	_, _ = enc.Write(random(2, 100)) // a bytes.Buffer takes everything
	_ = enc.Flush()
	_ = enc.Close()
	withDictionary := bytes.Clone(good)
	withDictionary[4] |= 1
	for name, b := range map[string][]byte{
		"nothing":            {},
		"trailing bytes":     append(bytes.Clone(good), 0),
		"a window of 16 MiB": stream.Bytes(),
		"a dictionary":       withDictionary,
		"a skippable frame":  append([]byte{0x50, 0x2A, 0x4D, 0x18, 1, 0, 0, 0, 9}, good...),
		"not zstd":           []byte("hello, hello"),
	} {
		if Plain(b, maxWindow) {
			t.Errorf("%s: plain", name)
		}
	}
}

// FuzzPlain: what is plain and decodes, decodes to the same between raw frames; nothing panics.
func FuzzPlain(f *testing.F) {
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(enc.EncodeAll(random(1, 1000), nil))
	f.Add(AppendRaw(nil, random(2, 300)))
	d, err := zstd.NewReader(nil, zstd.WithDecoderMaxMemory(64<<20))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if !Plain(b, maxWindow) {
			return
		}
		want, err := d.DecodeAll(b, nil)
		if err != nil {
			return
		}
		got, err := d.DecodeAll(AppendRaw(append(AppendRaw(nil, []byte("x")), b...), []byte("y")), nil)
		if err != nil || string(got) != "x"+string(want)+"y" {
			t.Errorf("the splice of %x decodes to %q, %v", b, got, err)
		}
	})
}
