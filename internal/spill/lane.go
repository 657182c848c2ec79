package spill

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/zeebo/xxh3"
)

// Lane is a partition of a topic, as a hash of both. Two lanes that share a hash share their fate, and nothing worse.
type Lane uint32

// Anywhere is the partition of a record whose topic's partitions are not known.
const Anywhere int32 = -1

// LaneOf names the lane of a partition; with Anywhere, that of the topic.
func LaneOf(topic string, partition int32) Lane {
	return Lane(xxh3.Hash(binary.LittleEndian.AppendUint32(append([]byte(topic), 0), uint32(partition))))
}

const (
	// namedLanes is how many lanes an object may have for its name to tell them. One with more may have any lane, as far as a listing tells.
	namedLanes = 16

	nameV2        = "v2-"
	manyLanes     = "many"
	sequenceWidth = 8
)

// position is an object's place among those of its gateway: the order of positions is that in which objects were closed.
func position(gateway string, at time.Time, sequence int64) string {
	return fmt.Sprintf("%s/%s%013d-%0*d", gateway, nameV2, at.UnixMilli(), sequenceWidth, sequence)
}

// withLanes makes an object's name, <gateway>/v2-<Unix ms>-<sequence>-<lanes>: its position, and 8 hexadecimal digits a lane or "many".
func withLanes(position string, lanes []share) string {
	if len(lanes) == 0 || len(lanes) > namedLanes {
		return position + "-" + manyLanes
	}
	var b strings.Builder
	b.WriteString(position)
	for _, l := range lanes {
		fmt.Fprintf(&b, "-%08x", uint32(l.lane))
	}
	return b.String()
}

// parsed is an object's name taken apart.
type parsed struct {
	position string // everything before the lanes; objects are in its order
	at       time.Time
	lanes    []Lane // nil: any
}

// parse reads the name of an object of either format; ok is false for a name that is none.
func parse(name string) (p parsed, ok bool) {
	gateway, base, nested := strings.Cut(name, "/")
	if !nested || strings.Contains(base, "/") {
		return p, false
	}
	base, second := strings.CutPrefix(base, nameV2)
	fields := strings.Split(base, "-")
	ms, err := strconv.ParseInt(fields[0], 10, 64)
	if err != nil || len(fields) < 2 || second && len(fields) < 3 {
		return p, false
	}
	p.at = time.UnixMilli(ms)
	if !second { // the first format; its names sort before those of the second
		p.position = name
		return p, true
	}
	p.position = gateway + "/" + nameV2 + fields[0] + "-" + fields[1]
	for _, f := range fields[2:] {
		lane, err := strconv.ParseUint(f, 16, 32)
		if err != nil || len(f) != 8 {
			return p, f == manyLanes && len(fields) == 3
		}
		p.lanes = append(p.lanes, Lane(lane))
	}
	return p, true
}

// share is how much of an object's bytes a lane has.
type share struct {
	lane  Lane
	bytes int64
}

// shares divides an object's bytes in the store by its lanes' bytes before compression, in the order of lanes.
func shares(raw map[Lane]int64, stored int64) []share {
	out := make([]share, 0, len(raw))
	var total int64
	for lane, n := range raw {
		out = append(out, share{lane, n})
		total += n
	}
	slices.SortFunc(out, func(a, b share) int { return int(int64(a.lane) - int64(b.lane)) })
	for i := range out {
		out[i].bytes = int64(float64(stored) * float64(out[i].bytes) / float64(max(total, 1)))
	}
	return out
}

// evenShares is for an object of which only the lanes are known.
func evenShares(lanes []Lane, stored int64) []share {
	out := make([]share, len(lanes))
	for i, l := range lanes {
		out[i] = share{l, stored / int64(len(lanes))}
	}
	return out
}
