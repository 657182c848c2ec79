package eventid

import (
	"encoding/binary"
	"math"
	"slices"
	"sort"

	"github.com/zeebo/blake3"
)

// Digest names a request by its decompressed protobuf bytes: the first 16 bytes of their BLAKE3 hash. Nobody can make two requests that share one.
func Digest(request []byte) [16]byte {
	sum := blake3.Sum512(request)
	return [16]byte(sum[:16])
}

// Request says which request the events of a Kafka record were part of, as the gateway received it: the record's header `request` (decision 0030,
// docs/formats/kafka.md). A part has the events that were added to it.
type Request struct {
	Digest [16]byte // of the request
	Whole  bool     // the record has all events of the request: their indexes are their positions, and their ordinals are counted in the record
	Resent bool     // PulseGrid sends these events again: they are compared by Digest and index, whatever their times

	// Of a part only.
	runs     []run
	ordinals []ordinal // that are not 0, by position
}

// run is a range of indexes without a gap, of the events at positions from the end of the run before it.
type run struct{ index, end uint32 } // of its first event; the position behind its last one

type ordinal struct{ position, is uint32 }

// Version and flags of the encoded form.
const (
	requestVersion = 1
	flagWhole      = 1 << 0
	flagResent     = 1 << 1
	requestHead    = 1 + 1 + 16
)

// Add appends an event to a part: the one with this index in the request, which comes after those of the events before it, and the number of events
// before it in the request that have the same content.
func (r *Request) Add(index, nth int) {
	position := uint32(r.Events())
	if last := len(r.runs) - 1; last >= 0 && int(r.runs[last].index)+int(position-r.start(last)) == index {
		r.runs[last].end++
	} else {
		r.runs = append(r.runs, run{uint32(index), position + 1})
	}
	if nth > 0 {
		r.ordinals = append(r.ordinals, ordinal{position, uint32(nth)})
	}
}

// start is the position of a run's first event.
func (r *Request) start(i int) uint32 {
	if i == 0 {
		return 0
	}
	return r.runs[i-1].end
}

// Events is how many a part has; 0 of a whole request.
func (r *Request) Events() int {
	if len(r.runs) == 0 {
		return 0
	}
	return int(r.runs[len(r.runs)-1].end)
}

// At returns the index and the ordinal of the event at a position of the record, from 0. The ordinal of an event of a whole request is not known here: it
// is 0. A position that a part does not have panics.
func (r *Request) At(position int) (index, nth int) {
	if r.Whole {
		return position, 0
	}
	p := uint32(position)
	i := sort.Search(len(r.runs), func(i int) bool { return r.runs[i].end > p })
	index = int(r.runs[i].index + p - r.start(i))
	if j, ok := slices.BinarySearchFunc(r.ordinals, p, func(o ordinal, p uint32) int { return int(o.position) - int(p) }); ok {
		nth = int(r.ordinals[j].is)
	}
	return index, nth
}

// Encode returns the header's value.
func (r *Request) Encode() []byte {
	out := make([]byte, 0, requestHead+4+4*len(r.runs)+4*len(r.ordinals))
	var flags byte
	if r.Whole {
		flags |= flagWhole
	}
	if r.Resent {
		flags |= flagResent
	}
	out = append(append(out, requestVersion, flags), r.Digest[:]...)
	if r.Whole {
		return out
	}
	out = binary.AppendUvarint(out, uint64(len(r.runs)))
	next := uint32(0) // the index behind the run before
	for i, u := range r.runs {
		length := u.end - r.start(i)
		out = binary.AppendUvarint(binary.AppendUvarint(out, uint64(u.index-next)), uint64(length))
		next = u.index + length
	}
	out = binary.AppendUvarint(out, uint64(len(r.ordinals)))
	for _, o := range r.ordinals {
		out = binary.AppendUvarint(binary.AppendUvarint(out, uint64(o.position)), uint64(o.is))
	}
	return out
}

// ParseRequest reads the header of a record with so many events. False: it cannot be read or is not about these events, so the record counts as a whole
// request. What it allocates is at most five times the header.
func ParseRequest(header []byte, events int) (Request, bool) {
	if len(header) < requestHead || header[0] != requestVersion || header[1]&^(flagWhole|flagResent) != 0 || events < 0 || events > math.MaxInt32 {
		return Request{}, false
	}
	r := Request{Digest: [16]byte(header[2:requestHead]), Whole: header[1]&flagWhole != 0, Resent: header[1]&flagResent != 0}
	p := parser{b: header[requestHead:]}
	if r.Whole {
		return r, len(p.b) == 0
	}
	p.runs(&r)
	p.ordinals(&r)
	if p.bad || len(p.b) > 0 || r.Events() != events {
		return Request{}, false
	}
	return r, true
}

// parser reads the lists of a header; once it is bad it stays so.
type parser struct {
	b   []byte
	bad bool
}

// number reads a number that is at most max.
func (p *parser) number(max uint64) uint32 {
	n, size := binary.Uvarint(p.b)
	if p.bad || size <= 0 || n > max {
		p.bad = true
		return 0
	}
	p.b = p.b[size:]
	return uint32(n)
}

// pairs reads how many pairs follow: no more than the bytes that are left can hold.
func (p *parser) pairs() int { return int(p.number(uint64(len(p.b)) / 2)) }

func (p *parser) runs(r *Request) {
	n := p.pairs()
	if p.bad || n == 0 {
		return
	}
	r.runs = make([]run, n)
	position, index := uint32(0), uint32(0)
	for i := range r.runs {
		index += p.number(uint64(math.MaxInt32 - index))
		length := p.number(uint64(math.MaxInt32 - max(index, position)))
		if p.bad = p.bad || length == 0; p.bad {
			return
		}
		position += length
		r.runs[i] = run{index, position}
		index += length
	}
}

func (p *parser) ordinals(r *Request) {
	n := p.pairs()
	if p.bad || n == 0 {
		return
	}
	r.ordinals = make([]ordinal, n)
	next := uint32(0) // the first position that may come
	for i := range r.ordinals {
		o := ordinal{p.number(math.MaxInt32), p.number(math.MaxInt32)}
		if p.bad = p.bad || o.position < next || int(o.position) >= r.Events() || o.is == 0; p.bad {
			return
		}
		r.ordinals[i], next = o, o.position+1
	}
}
