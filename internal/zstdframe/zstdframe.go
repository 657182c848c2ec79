// Package zstdframe puts zstd streams together without compressing anything again. A zstd stream is a concatenation of frames (RFC 8878,
// section 3), so frames that a sender made can be laid between raw frames that hold other bytes, and every decoder reads the whole.
package zstdframe

import "encoding/binary"

const (
	magic        = 0xFD2FB528
	minWindow    = 1 << 10
	blockRaw     = 0
	blockRLE     = 1
	blockMax     = 128 << 10 // bytes a block may hold
	rawChunk     = 64 << 10  // bytes of a raw frame: two bytes tell its size (RFC 8878, section 3.1.1.1.4)
	rawSizeShift = 256       // which begin at 256
)

// Plain tells whether b is nothing but whole frames that any decoder reads: no dictionary, no skippable frame, no window or content of a
// single segment above maxWindow bytes. It looks at headers only; that the content decodes is for the caller to know.
func Plain(b []byte, maxWindow uint64) bool {
	if len(b) == 0 {
		return false
	}
	for len(b) > 0 {
		n, ok := frame(b, maxWindow)
		if !ok {
			return false
		}
		b = b[n:]
	}
	return true
}

// frame returns the size of the frame at the beginning of b.
func frame(b []byte, maxWindow uint64) (size int, ok bool) {
	if len(b) < 5 || binary.LittleEndian.Uint32(b) != magic {
		return 0, false
	}
	d := b[4]
	single, checksum := d&0x20 != 0, d&0x04 != 0
	if d&0x03 != 0 || d&0x08 != 0 { // a dictionary; a reserved bit
		return 0, false
	}
	at := 5
	var window uint64
	if !single {
		if len(b) <= at {
			return 0, false
		}
		window = minWindow << (b[at] >> 3)
		window += window / 8 * uint64(b[at]&7)
		at++
	}
	contentBytes := [4]int{0, 2, 4, 8}[d>>6]
	if single && contentBytes == 0 {
		contentBytes = 1
	}
	if len(b) < at+contentBytes {
		return 0, false
	}
	if single {
		var content [8]byte
		copy(content[:], b[at:at+contentBytes])
		window = binary.LittleEndian.Uint64(content[:])
		if contentBytes == 2 {
			window += rawSizeShift
		}
	}
	if window > maxWindow {
		return 0, false
	}
	at += contentBytes
	for last := false; !last; {
		if len(b) < at+3 {
			return 0, false
		}
		h := uint32(b[at]) | uint32(b[at+1])<<8 | uint32(b[at+2])<<16
		last = h&1 != 0
		n := int(h >> 3)
		switch {
		case h>>1&3 == 3 || n > blockMax: // reserved
			return 0, false
		case h>>1&3 == blockRLE:
			n = 1
		}
		at += 3 + n
		if len(b) < at {
			return 0, false
		}
	}
	if checksum {
		at += 4
	}
	return at, len(b) >= at
}

// AppendRaw appends frames that hold p as it is, nine bytes of overhead for each 64 KiB.
func AppendRaw(dst, p []byte) []byte {
	for len(p) > 0 {
		n := min(len(p), rawChunk)
		dst = binary.LittleEndian.AppendUint32(dst, magic)
		if n < rawSizeShift {
			dst = append(dst, 0x20, byte(n)) // single segment, one byte of content size
		} else {
			dst = append(dst, 0x60) // single segment, two bytes
			dst = binary.LittleEndian.AppendUint16(dst, uint16(n-rawSizeShift))
		}
		h := uint32(1) | blockRaw<<1 | uint32(n)<<3 // one block, the last
		dst = append(dst, byte(h), byte(h>>8), byte(h>>16))
		dst = append(dst, p[:n]...)
		p = p[n:]
	}
	return dst
}
