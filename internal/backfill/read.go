package backfill

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"
	"unicode"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/gzip"
	"gocloud.dev/blob"
	"gocloud.dev/gcerrors"

	"github.com/pulsegrid/pulsegrid/internal/sleep"
)

const (
	readBuffer  = 64 << 10
	sniffed     = 512 // bytes that are looked at to tell text from other formats
	readTries   = 6
	readBackoff = 500 * time.Millisecond
)

// chunk is what becomes a block of each stream: lines of one object.
type chunk struct {
	object int
	lines  []line
	raw    []byte // that the lines lie in
	next   int64  // offset behind its last line; at the end of an object, of the next object
	ended  bool   // the object ends with it
	state  string // of the object, where it has ended
	reason string
}

// line is a line of a chunk, which is not empty.
type line struct {
	offset   int64
	from, to int   // in chunk.raw; at most Settings.MaxLineBytes, and what is beyond is not kept
	size     int64 // of all of it
}

func (c *chunk) text(l line) []byte { return c.raw[l.from:l.to] }

// reader reads the objects of a plan as chunks.
type reader struct {
	plan    *Plan
	objects *blob.Bucket
	tries   int // of an object that cannot be read now
	backoff time.Duration
	read    atomic.Int64 // compressed bytes of the objects, for the progress
}

func newReader(p *Plan, objects *blob.Bucket) *reader {
	return &reader{plan: p, objects: objects, tries: readTries, backoff: readBackoff}
}

// errStopped ends reading where the caller takes no more chunks.
var errStopped = errors.New("stopped")

// object passes on the chunks of an object behind an offset, which is 0 or lies where a chunk ended. An object that cannot be read, for good, ends with a
// state that says so. An error says that it could not be read now.
func (r *reader) object(ctx context.Context, object int, from int64, each func(*chunk) error) error {
	for try := 1; ; try++ {
		err := r.try(ctx, object, &from, each)
		if err == nil || ctx.Err() != nil || errors.Is(err, errStopped) || try == r.tries {
			return err
		}
		if sleep.For(ctx, r.backoff<<try) != nil {
			return err
		}
	}
}

// try is one try. from moves with the chunks that were passed on.
func (r *reader) try(ctx context.Context, object int, from *int64, each func(*chunk) error) error {
	o := r.plan.Objects[object]
	name := r.plan.Spec.name(o.Key)
	var passed error
	pass := func(c *chunk) error {
		if passed = each(c); passed == nil {
			*from = c.next
		}
		return passed
	}
	end := func(state, reason string) error {
		return pass(&chunk{object: object, next: offsetOf(object+1, 0), ended: true, state: state, reason: reason})
	}
	b, err := r.objects.NewReader(ctx, o.Key, nil)
	switch {
	case gcerrors.Code(err) == gcerrors.NotFound:
		return end(StateMissing, "it was deleted after the plan was made")
	case err != nil:
		return fmt.Errorf("open %s: %w", name, err)
	}
	defer func() { _ = b.Close() }() // it was only read
	if got := openedVersion(b); got != o.Version {
		return end(StateChanged, fmt.Sprintf("its version is %s, that of the plan is %s", got, o.Version))
	}
	source := &counted{from: b, all: &r.read}
	defer source.rewind(&err) // what a failed try has read is read again
	var text io.Reader
	if text, err = decompressed(source); err == nil {
		if reason := foreign(text.(*bufio.Reader)); reason != "" {
			return end(StateUnknown, reason)
		}
		err = r.lines(object, *from, text.(*bufio.Reader), pass)
	}
	switch {
	case err == nil, passed != nil:
		return err
	case source.err != nil:
		return fmt.Errorf("read %s: %w", name, source.err) // not the object's fault
	case errors.Is(err, io.ErrUnexpectedEOF):
		err = nil
		return end(StateTruncated, "its gzip stream ends in the middle; the lines before are loaded")
	case errors.Is(err, gzip.ErrHeader), errors.Is(err, gzip.ErrChecksum), isCorrupt(err):
		reason := fmt.Sprintf("its gzip stream is damaged (%v); the lines before are loaded", err)
		err = nil
		return end(StateCorrupt, reason)
	}
	return fmt.Errorf("read %s: %w", name, err)
}

func isCorrupt(err error) bool {
	_, corrupt := errors.AsType[flate.CorruptInputError](err)
	return corrupt
}

// counted counts what is read of an object, and keeps the error that the store answered with.
type counted struct {
	from io.Reader
	all  *atomic.Int64
	n    int64
	err  error
}

func (c *counted) Read(b []byte) (int, error) {
	n, err := c.from.Read(b)
	c.n += int64(n)
	c.all.Add(int64(n))
	if err != nil && err != io.EOF {
		c.err = err
	}
	return n, err
}

func (c *counted) rewind(err *error) {
	if *err != nil && !errors.Is(*err, errStopped) {
		c.all.Add(-c.n)
	}
}

var gzipMagic = []byte{0x1f, 0x8b}

// decompressed returns the text of an object, whether it is compressed by gzip or not at all.
func decompressed(r io.Reader) (*bufio.Reader, error) {
	b := bufio.NewReaderSize(r, readBuffer)
	head, err := b.Peek(len(gzipMagic))
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if !bytes.Equal(head, gzipMagic) {
		return b, nil
	}
	z, err := gzip.NewReader(b)
	if err != nil {
		return nil, err
	}
	return bufio.NewReaderSize(z, readBuffer), nil
}

// magics begin files of formats that look like text at first, or not.
var magics = []struct{ name, begin string }{
	{"gzip in gzip", "\x1f\x8b"}, {"zstd", "\x28\xb5\x2f\xfd"}, {"bzip2", "BZh"}, {"xz", "\xfd7zXZ"}, {"lz4", "\x04\x22\x4d\x18"}, {"zip", "PK\x03\x04"},
	{"Parquet", "PAR1"}, {"Avro", "Obj\x01"}, {"ORC", "ORC"},
}

// foreign says why something is no text; empty: it may be.
func foreign(b *bufio.Reader) string {
	head, _ := b.Peek(sniffed) // what is wrong with the rest shows when it is read
	for _, m := range magics {
		if bytes.HasPrefix(head, []byte(m.begin)) {
			return "it looks like " + m.name + ", want lines of JSON, compressed by gzip or not"
		}
	}
	if at := bytes.IndexByte(head, 0); at >= 0 {
		return fmt.Sprintf("it is no text: byte %d is zero; want lines of JSON, compressed by gzip or not", at)
	}
	return ""
}

// lines passes on the chunks behind an offset. What comes behind the last line's end, in a stream that breaks off, is no line.
func (r *reader) lines(object int, from int64, text *bufio.Reader, pass func(*chunk) error) error {
	s := r.plan.Settings
	c := &chunk{object: object}
	for number := int64(1); ; number++ {
		at := offsetOf(object, number)
		start := len(c.raw)
		size, err := c.readLine(text, s.MaxLineBytes)
		if err != nil && err != io.EOF { //nolint:errorlint // bufio's, as it is
			if len(c.lines) > 0 {
				if err := pass(c); err != nil {
					return err
				}
			}
			return err
		}
		kept := bytes.TrimSpace(c.raw[start:])
		if long := size > int64(s.MaxLineBytes); at < from || len(kept) == 0 && !long {
			c.raw = c.raw[:start]
		} else {
			begin := len(c.raw) - len(bytes.TrimLeftFunc(c.raw[start:], unicode.IsSpace))
			c.lines = append(c.lines, line{offset: at, from: begin, to: begin + len(kept), size: size})
			c.next = at + 1
		}
		if err != nil {
			c.next, c.ended, c.state = offsetOf(object+1, 0), true, StateLoaded
			return pass(c)
		}
		if len(c.lines) >= s.BlockLines || len(c.raw) >= s.BlockBytes {
			if err := pass(c); err != nil {
				return err
			}
			c = &chunk{object: object}
		}
	}
}

// readLine appends a line to raw, without its end, and returns how long it is. It keeps no more than most bytes. io.EOF: it is the last one.
func (c *chunk) readLine(text *bufio.Reader, most int) (size int64, err error) {
	start := len(c.raw)
	for {
		part, err := text.ReadSlice('\n')
		size += int64(len(part))
		c.raw = append(c.raw, part[:min(len(part), most+1-(len(c.raw)-start))]...)
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if n := len(c.raw); err == nil && n > start && c.raw[n-1] == '\n' {
			c.raw = c.raw[:n-1]
		}
		if err == nil {
			size--
		}
		if len(c.raw)-start > most {
			c.raw = c.raw[:start+most]
		}
		return size, err
	}
}
