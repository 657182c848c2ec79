package audit

import (
	"fmt"

	"github.com/pulsegrid/pulsegrid/internal/audit/stored"
)

// formerTopic tells which rows are of a topic that had the name before: it was deleted, and made anew. Places begin at 0 again then, and rows of
// both lie at the same ones. Nil: none is.
type formerTopic struct {
	began int64 // when the oldest record that Kafka has of the present topic was appended, Unix nanoseconds; 0: it has none
	// whole are the partitions that Kafka still has from their first record on: a row there that was received before began is not theirs. Of others
	// that cannot be told.
	whole map[int32]bool
	count int32 // partitions of the present topic
}

func newFormerTopic(topic string, count int32, o offsets) *formerTopic {
	f := &formerTopic{whole: map[int32]bool{}, count: count}
	for partition := range count {
		f.whole[partition] = at(o.starts, topic, partition) == 0
		if first, ok := o.oldest.Lookup(topic, partition); ok && first.Timestamp >= 0 {
			if appended := first.Timestamp * 1_000_000; f.began == 0 || appended < f.began {
				f.began = appended
			}
		}
	}
	return f
}

// has tells whether a row that is not as it must be is of a former topic.
func (f *formerTopic) has(r stored.Row) bool {
	return f != nil && r.Received < f.began && (f.whole[r.Partition] || r.Partition >= f.count)
}

// formerNotes tells of rows of former topics.
func (t *topicAudit) formerNotes() {
	for i := range t.stores {
		rows := int64(0)
		for _, p := range t.results {
			rows += p.Stores[i].Former
		}
		if rows > 0 {
			t.cert.Notes = append(t.cert.Notes, fmt.Sprintf("%s: %d rows are of a former topic %s, which was deleted and made anew: they were received before the present one had its first record. They are not compared with anything", t.cert.Stores[i].Store, rows, t.plan.Name))
		}
	}
}
