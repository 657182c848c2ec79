package kafka

import "github.com/twmb/franz-go/pkg/kadm"

// Lag counts the records of a topic that a group has not committed. A partition without a commit is read from its start.
func Lag(starts, ends map[int32]kadm.ListedOffset, committed map[int32]kadm.OffsetResponse) int64 {
	var total int64
	for p, end := range ends {
		at := starts[p].Offset
		if c, ok := committed[p]; ok {
			at = max(at, c.At)
		}
		total += max(0, end.Offset-at)
	}
	return total
}
