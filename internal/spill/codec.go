package spill

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"

	"github.com/klauspost/compress/zstd"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Record is a Kafka record as it is to be produced.
type Record struct {
	Topic     string
	Partition int32  // Anywhere: not known
	Key       []byte // nil: no key
	Headers   []kgo.RecordHeader
	Value     []byte
}

func (r *Record) lane() Lane { return LaneOf(r.Topic, r.Partition) }

// magic begins an object. What follows is one zstd stream of records, each preceded by its length and followed by its CRC-32C, and of
// a length of zero behind the last: an object that was cut off is not taken for a short one. Records of the first format have no
// partition; it is read for as long as an upgrade may find such objects.
const (
	magic   = "PGSPILL2"
	magicV1 = "PGSPILL1"
)

// maxEncodedRecord bounds one record of an object that is read: far above what Kafka takes, far below what would hurt.
const maxEncodedRecord = 128 << 20

// ErrDamaged is returned for bytes that are no object of this package.
var ErrDamaged = errors.New("damaged spill object")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func appendBytes(b, v []byte) []byte {
	return append(binary.AppendUvarint(b, uint64(len(v))), v...)
}

// appendRecord writes topic, partition (+ 1; 0 is Anywhere), key (length + 1; 0 is none), value, headers.
func appendRecord(b []byte, r Record) []byte {
	b = appendBytes(b, []byte(r.Topic))
	b = binary.AppendUvarint(b, uint64(r.Partition+1))
	if r.Key == nil {
		b = append(b, 0)
	} else {
		b = append(binary.AppendUvarint(b, uint64(len(r.Key))+1), r.Key...)
	}
	b = appendBytes(b, r.Value)
	b = binary.AppendUvarint(b, uint64(len(r.Headers)))
	for _, h := range r.Headers {
		b = appendBytes(appendBytes(b, []byte(h.Key)), h.Value)
	}
	return b
}

// size is about what r takes of an object before compression.
func (r *Record) size() int {
	n := len(r.Topic) + len(r.Key) + len(r.Value) + 32
	for _, h := range r.Headers {
		n += len(h.Key) + len(h.Value) + 4
	}
	return n
}

// reader reads the fields of one record; once it is bad it stays so.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) uvarint() uint64 {
	n, size := binary.Uvarint(r.b)
	if size <= 0 {
		r.bad = true
		return 0
	}
	r.b = r.b[size:]
	return n
}

func (r *reader) take(n uint64) []byte {
	if r.bad || n > uint64(len(r.b)) {
		r.bad = true
		return nil
	}
	v := r.b[:n:n]
	r.b = r.b[n:]
	return v
}

func decodeRecord(b []byte, v1 bool) (rec Record, ok bool) {
	r := reader{b: b}
	rec.Topic = string(r.take(r.uvarint()))
	rec.Partition = Anywhere
	if !v1 {
		p := r.uvarint()
		if p > math.MaxInt32 {
			return rec, false
		}
		rec.Partition = int32(p) - 1
	}
	if n := r.uvarint(); n > 0 {
		rec.Key = r.take(n - 1)
	}
	rec.Value = r.take(r.uvarint())
	n := r.uvarint()
	if n > uint64(len(r.b)) { // a header takes at least two bytes
		return rec, false
	}
	for range n {
		h := kgo.RecordHeader{Key: string(r.take(r.uvarint()))}
		h.Value = r.take(r.uvarint())
		rec.Headers = append(rec.Headers, h)
	}
	return rec, !r.bad && len(r.b) == 0
}

// encoder writes an object.
type encoder struct {
	zstd    *zstd.Encoder
	scratch []byte
}

func newEncoder(w io.Writer) (*encoder, error) {
	if _, err := io.WriteString(w, magic); err != nil {
		return nil, err
	}
	z, err := zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	return &encoder{zstd: z}, err
}

func (e *encoder) add(r Record) error {
	const room = binary.MaxVarintLen64
	b := appendRecord(append(e.scratch[:0], make([]byte, room)...), r)
	body := b[room:]
	var head [room]byte
	at := room - binary.PutUvarint(head[:], uint64(len(body)))
	copy(b[at:], head[:room-at])
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(body, castagnoli))
	e.scratch = b
	_, err := e.zstd.Write(b[at:])
	return err
}

func (e *encoder) close() error {
	_, err := e.zstd.Write([]byte{0})
	return errors.Join(err, e.zstd.Close())
}

// decoder reads an object, record by record, so that an object's expansion is never held as a whole.
type decoder struct {
	v1    bool
	store *storeReader
	zstd  *zstd.Decoder
	one   [1]byte
}

func newDecoder(r io.Reader) (*decoder, error) {
	head := make([]byte, len(magic))
	if _, err := io.ReadFull(r, head); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, fmt.Errorf("%w: it is shorter than its head", ErrDamaged)
		}
		return nil, err
	}
	if string(head) != magic && string(head) != magicV1 {
		return nil, fmt.Errorf("%w: it begins with %q", ErrDamaged, head)
	}
	store := &storeReader{r: r}
	z, err := zstd.NewReader(store, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(64<<20))
	if err != nil {
		return nil, err
	}
	return &decoder{v1: string(head) == magicV1, store: store, zstd: z}, nil
}

func (d *decoder) close() { d.zstd.Close() }

// ReadByte makes decoder what binary.ReadUvarint reads from.
func (d *decoder) ReadByte() (byte, error) {
	_, err := io.ReadFull(d.zstd, d.one[:])
	return d.one[0], err
}

// next returns the next record; io.EOF after the last. Its bytes are the caller's.
func (d *decoder) next() (Record, error) {
	n, err := binary.ReadUvarint(d)
	if err != nil {
		return Record{}, d.damaged(err)
	}
	if n == 0 {
		return Record{}, io.EOF
	}
	if n > maxEncodedRecord {
		return Record{}, fmt.Errorf("%w: a record of %d bytes", ErrDamaged, n)
	}
	b := make([]byte, n+4)
	if _, err := io.ReadFull(d.zstd, b); err != nil {
		return Record{}, d.damaged(err)
	}
	body, sum := b[:n], binary.LittleEndian.Uint32(b[n:])
	if crc32.Checksum(body, castagnoli) != sum {
		return Record{}, fmt.Errorf("%w: a record's checksum is wrong", ErrDamaged)
	}
	rec, ok := decodeRecord(body, d.v1)
	if !ok {
		return Record{}, fmt.Errorf("%w: a record's fields do not fill it", ErrDamaged)
	}
	return rec, nil
}

// damaged tells bytes that are wrong from a store that stopped answering: only the first are the object's fault.
func (d *decoder) damaged(err error) error {
	if d.store.err != nil {
		return d.store.err
	}
	if errors.Is(err, io.EOF) { // which is what next says behind the last record
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("%w: %w", ErrDamaged, err)
}

// storeReader remembers what went wrong with reading, whatever the decompressor makes of it.
type storeReader struct {
	r   io.Reader
	err error
}

func (s *storeReader) Read(b []byte) (int, error) {
	n, err := s.r.Read(b)
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}
