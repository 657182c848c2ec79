package oracle

import (
	"encoding/binary"
	"math"

	"lukechampine.com/blake3"
)

// Digest of a request: the first 16 bytes of BLAKE3 over its protobuf bytes.
func Digest(value []byte) [16]byte {
	sum := blake3.Sum256(value)
	return [16]byte(sum[:16])
}

// EventID is the id of the row of an event: the digest of its request plus its index there, as little-endian numbers of 128 bits.
func EventID(digest [16]byte, index uint32) (id [16]byte) {
	low := binary.LittleEndian.Uint64(digest[:8])
	high := binary.LittleEndian.Uint64(digest[8:])
	sum := low + uint64(index)
	if sum < low {
		high++
	}
	binary.LittleEndian.PutUint64(id[:8], sum)
	binary.LittleEndian.PutUint64(id[8:], high)
	return id
}

// Header is the content of a record's header `request`.
type Header struct {
	Digest   [16]byte
	Whole    bool             // the record has all events of the request
	Resent   bool             // PulseGrid sends the events again: the rule `request` applies to all of them
	Indexes  []uint32         // without Whole: index of each event of the record
	Ordinals map[int32]uint32 // without Whole: ordinals that are not 0, by position in the record
}

const (
	headerVersion = 1
	headerFixed   = 18 // bytes before the lists
	bitWhole      = 1
	bitResent     = 2
)

// ParseHeader reads the header of a record that holds so many events. False: it cannot be read, or is not about these events; the record then
// counts as a whole request.
func ParseHeader(b []byte, events int) (h Header, ok bool) {
	if len(b) < headerFixed || b[0] != headerVersion || b[1] > bitWhole|bitResent {
		return Header{}, false
	}
	h = Header{Digest: [16]byte(b[2:headerFixed]), Whole: b[1]&bitWhole != 0, Resent: b[1]&bitResent != 0}
	b = b[headerFixed:]
	if h.Whole {
		return h, len(b) == 0
	}
	ok = true
	number := func() uint64 {
		v, n := binary.Uvarint(b)
		if n <= 0 || v > math.MaxInt32 {
			ok = false
			return 0
		}
		b = b[n:]
		return v
	}
	h.Indexes = make([]uint32, 0, events)
	next := uint64(0) // index after the run before
	for runs := number(); ok && runs > 0; runs-- {
		next += number()
		length := number()
		if !ok || length == 0 || length > uint64(events-len(h.Indexes)) || next+length > math.MaxInt32 {
			return Header{}, false
		}
		for range length {
			h.Indexes = append(h.Indexes, uint32(next))
			next++
		}
	}
	if !ok || len(h.Indexes) != events {
		return Header{}, false
	}
	h.Ordinals = map[int32]uint32{}
	last := -1
	for pairs := number(); ok && pairs > 0; pairs-- {
		position, ordinal := int(number()), number()
		if !ok || position <= last || position >= events || ordinal == 0 {
			return Header{}, false
		}
		h.Ordinals[int32(position)], last = uint32(ordinal), position
	}
	if !ok || len(b) > 0 {
		return Header{}, false
	}
	return h, true
}
