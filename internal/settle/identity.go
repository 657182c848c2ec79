package settle

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math"
	"math/bits"
	"slices"
	"time"

	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// ID is what an event is called between two cells: a hash of tenant, signal and event id under the exchange's key. Event ids are the same in each cell that the same request came to
// (decision 0030).
type ID [idBytes]byte

const (
	idBytes  = 16
	keyBytes = 32
)

// Key makes the IDs of one exchange. Without it they tell nothing, and those of two exchanges cannot be compared.
type Key [keyBytes]byte

func newKey() (k Key) {
	_, _ = rand.Read(k[:]) // it never fails
	return k
}

// MarshalText and UnmarshalText are for JSON.
func (k Key) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, k[:]), nil }

func (k *Key) UnmarshalText(text []byte) error { return decodeHex(k[:], text) }

func decodeHex(to, text []byte) error {
	if len(text) != 2*len(to) {
		return fmt.Errorf("%d hexadecimal digits, want %d", len(text), 2*len(to))
	}
	_, err := hex.Decode(to, text)
	return err
}

// Namer makes the IDs of one tenant's events. One goroutine uses it.
type Namer struct{ hashed []byte }

// NewNamer returns a Namer.
func NewNamer(k Key, tenant string) *Namer {
	hashed := append(slices.Clone(k[:]), make([]byte, 1+idBytes)...)
	return &Namer{append(hashed, tenant...)}
}

// ID names an event by its event id, of 16 bytes.
func (n *Namer) ID(s signal.Signal, eventID []byte) ID {
	n.hashed[keyBytes] = byte(s)
	copy(n.hashed[keyBytes+1:], eventID)
	sum := sha256.Sum256(n.hashed)
	return ID(sum[:idBytes])
}

// Bucket is a minute of one signal. Events are counted by it, so that little is exchanged of minutes in which there is nothing to settle.
type Bucket struct {
	Signal signal.Signal
	Minute int64 // Unix time of its begin in seconds, or NoMinute
}

// NoMinute is the minute of events without a time of their own: their rows have the time of receipt, which is another in each cell.
const NoMinute = math.MinInt64

const minute = int64(time.Minute)

// BucketOf is the bucket of a row by its columns time, in Unix nanoseconds, and time_source.
func BucketOf(s signal.Signal, unixNano int64, source string) Bucket {
	if source == SourceReceived {
		return Bucket{s, NoMinute}
	}
	return Bucket{s, (unixNano - (unixNano%minute+minute)%minute) / int64(time.Second)}
}

// SourceReceived is the value of time_source of events without a time of their own.
const SourceReceived = "received"

// Events are IDs by bucket: sorted, none twice.
type Events map[Bucket][]ID

// Both returns what is in a and in b, which need neither be sorted nor without repetitions, and are both afterwards.
func Both(a, b Events) Events {
	a.sort()
	b.sort()
	out := Events{}
	for at, ids := range a {
		if common := intersection(ids, b[at]); len(common) > 0 {
			out[at] = common
		}
	}
	return out
}

func (e Events) sort() {
	for at, ids := range e {
		e[at] = Sorted(ids)
	}
}

// Sorted sorts IDs and leaves each there once. It changes ids.
func Sorted(ids []ID) []ID {
	slices.SortFunc(ids, compareIDs)
	return slices.Compact(ids)
}

func compareIDs(a, b ID) int { return bytes.Compare(a[:], b[:]) }

func intersection(a, b []ID) (out []ID) {
	for i, j := 0, 0; i < len(a) && j < len(b); {
		switch c := compareIDs(a[i], b[j]); {
		case c < 0:
			i++
		case c > 0:
			j++
		default:
			out = append(out, a[i])
			i, j = i+1, j+1
		}
	}
	return out
}

// Total says which events a set has without naming them. Two sets with the same total are equal: who does not know the key cannot make others.
type Total struct {
	Events      uint64      `json:"events"`
	Fingerprint Fingerprint `json:"fingerprint"`
}

// Fingerprint is the sum of IDs, as numbers of 128 bits.
type Fingerprint [idBytes]byte

// MarshalText and UnmarshalText are for JSON.
func (f Fingerprint) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, f[:]), nil }

func (f *Fingerprint) UnmarshalText(text []byte) error { return decodeHex(f[:], text) }

// TotalOf adds IDs up, of which none is there twice.
func TotalOf(ids []ID) (t Total) {
	var high, low, carry uint64
	for i := range ids {
		low, carry = bits.Add64(low, binary.BigEndian.Uint64(ids[i][8:]), 0)
		high, _ = bits.Add64(high, binary.BigEndian.Uint64(ids[i][:8]), carry)
	}
	t.Events = uint64(len(ids))
	binary.BigEndian.PutUint64(t.Fingerprint[:8], high)
	binary.BigEndian.PutUint64(t.Fingerprint[8:], low)
	return t
}
