package stored

import (
	"bufio"
	"cmp"
	"container/heap"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"slices"
)

// sortRows is how many rows are sorted in memory (48 bytes each); more go to temporary files.
const sortRows = 1 << 20

const (
	digestSize = 4 + 8 + 4 + 16 + 8
	rowSize    = digestSize + 8
)

// Sorter takes rows in any order and gives them back by place. It is used by one goroutine: Add..., Rows, Next..., Close.
type Sorter struct {
	dir   string
	limit int
	buf   []Row
	runs  []*os.File
	count int64
}

// NewSorter puts its files into dir; empty: the system's.
func NewSorter(dir string) *Sorter { return &Sorter{dir: dir, limit: sortRows} }

// Add takes a row.
func (s *Sorter) Add(r Row) error {
	if len(s.buf) >= s.limit {
		if err := s.spill(); err != nil {
			return err
		}
	}
	s.buf = append(s.buf, r)
	s.count++
	return nil
}

// byPlace also orders the rows of one place, so that a digest over them does not depend on the order in which they came.
func byPlace(a, b Row) int {
	if c := a.Place().Compare(b.Place()); c != 0 {
		return c
	}
	return cmp.Or(cmp.Compare(a.Hash, b.Hash), slices.Compare(a.ID[:], b.ID[:]), cmp.Compare(a.Received, b.Received))
}

func (s *Sorter) spill() error {
	slices.SortFunc(s.buf, byPlace)
	f, err := os.CreateTemp(s.dir, "pulsegrid-audit-*")
	if err != nil {
		return fmt.Errorf("temporary file for %d rows: %w", len(s.buf), err)
	}
	s.runs = append(s.runs, f)
	_ = os.Remove(f.Name()) // it lives as long as it is open
	w := bufio.NewWriterSize(f, 1<<20)
	var b [rowSize]byte
	for _, r := range s.buf {
		r.encode(&b)
		if _, err := w.Write(b[:]); err != nil {
			return fmt.Errorf("temporary file for %d rows: %w", len(s.buf), err)
		}
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("temporary file for %d rows: %w", len(s.buf), err)
	}
	s.buf = s.buf[:0]
	_, err = f.Seek(0, io.SeekStart)
	return err
}

// Digest writes place, id and hash of the row to a hash.
func (r Row) Digest(h hash.Hash) {
	var b [rowSize]byte
	r.encode(&b)
	_, _ = h.Write(b[:digestSize]) // a hash never fails
}

func (r Row) encode(b *[rowSize]byte) {
	binary.LittleEndian.PutUint32(b[0:], uint32(r.Partition))
	binary.LittleEndian.PutUint64(b[4:], uint64(r.Offset))
	binary.LittleEndian.PutUint32(b[12:], uint32(r.Index))
	copy(b[16:32], r.ID[:])
	binary.LittleEndian.PutUint64(b[32:], r.Hash)
	binary.LittleEndian.PutUint64(b[40:], uint64(r.Received))
}

func (r *Row) decode(b *[rowSize]byte) {
	r.Partition = int32(binary.LittleEndian.Uint32(b[0:]))
	r.Offset = int64(binary.LittleEndian.Uint64(b[4:]))
	r.Index = int32(binary.LittleEndian.Uint32(b[12:]))
	copy(r.ID[:], b[16:32])
	r.Hash = binary.LittleEndian.Uint64(b[32:])
	r.Received = int64(binary.LittleEndian.Uint64(b[40:]))
}

// Close frees memory and files.
func (s *Sorter) Close() {
	for _, f := range s.runs {
		_ = f.Close() // it was only read
	}
	s.buf, s.runs = nil, nil
}

// Rows begins to give the rows back. Nothing may be added any more.
func (s *Sorter) Rows() (*Cursor, error) {
	slices.SortFunc(s.buf, byPlace)
	c := &Cursor{}
	if len(s.buf) > 0 {
		c.heap = append(c.heap, &runReader{memory: s.buf})
	}
	for _, f := range s.runs {
		c.heap = append(c.heap, &runReader{file: bufio.NewReaderSize(f, 64<<10)})
	}
	for _, r := range c.heap {
		if err := r.advance(); err != nil {
			return nil, err
		}
	}
	heap.Init(&c.heap)
	return c, nil
}

// Cursor merges sorted runs.
type Cursor struct{ heap runHeap }

// Peek is the next row; false: there is none.
func (c *Cursor) Peek() (Row, bool) {
	if len(c.heap) == 0 {
		return Row{}, false
	}
	return c.heap[0].row, true
}

// Next goes on after the row that Peek showed.
func (c *Cursor) Next() error {
	r := c.heap[0]
	if err := r.advance(); err != nil {
		return err
	}
	if r.done {
		heap.Pop(&c.heap)
	} else {
		heap.Fix(&c.heap, 0)
	}
	return nil
}

type runReader struct {
	memory []Row
	file   *bufio.Reader
	row    Row
	done   bool
}

func (r *runReader) advance() error {
	if r.file == nil {
		if r.done = len(r.memory) == 0; !r.done {
			r.row, r.memory = r.memory[0], r.memory[1:]
		}
		return nil
	}
	var b [rowSize]byte
	_, err := io.ReadFull(r.file, b[:])
	switch {
	case errors.Is(err, io.EOF):
		r.done = true
		return nil
	case err != nil:
		return fmt.Errorf("read a temporary file: %w", err)
	}
	r.row.decode(&b)
	return nil
}

type runHeap []*runReader

func (h runHeap) Len() int           { return len(h) }
func (h runHeap) Less(i, j int) bool { return byPlace(h[i].row, h[j].row) < 0 }
func (h runHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *runHeap) Push(x any)        { *h = append(*h, x.(*runReader)) }
func (h *runHeap) Pop() any {
	old := *h
	x := old[len(old)-1]
	*h = old[:len(old)-1]
	return x
}
