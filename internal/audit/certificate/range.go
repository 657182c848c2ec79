package certificate

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Range is the offsets [First, Last] of one partition. A block's name is one.
type Range struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	First     int64  `json:"first"`
	Last      int64  `json:"last"`
}

// String is "topic/partition/first-last".
func (r Range) String() string {
	return fmt.Sprintf("%s/%d/%d-%d", r.Topic, r.Partition, r.First, r.Last)
}

// ParseRange is String's inverse.
func ParseRange(text string) (Range, error) {
	fail := fmt.Errorf("range %q: want TOPIC/PARTITION/FIRST-LAST, as blocks are named", text)
	parts := strings.Split(text, "/")
	if len(parts) != 3 || parts[0] == "" {
		return Range{}, fail
	}
	partition, err := strconv.ParseInt(parts[1], 10, 32)
	if err != nil || partition < 0 {
		return Range{}, fail
	}
	a, b, ok := strings.Cut(parts[2], "-")
	first, err1 := strconv.ParseInt(a, 10, 64)
	last, err2 := strconv.ParseInt(b, 10, 64)
	if !ok || err1 != nil || err2 != nil || first < 0 || last < first || last == math.MaxInt64 {
		return Range{}, fail
	}
	return Range{Topic: parts[0], Partition: int32(partition), First: first, Last: last}, nil
}
