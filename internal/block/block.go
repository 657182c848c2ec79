// Package block describes a block: a contiguous offset range of one Kafka partition. It is the unit of work, of exactness and
// of audit. The mskreceiver puts the block that it is delivering into the pipeline's context.
//
// What receiver, dedupe and stores owe each other (docs/ARCHITECTURE.md, "Effectively once"):
//
//   - Blocks tile a partition: a block's First is the Next of the block before it, whatever lies between two records. A block
//     without events (all duplicates, all quarantined) is delivered like any other.
//   - A block's range is committed as an intent before the block is first delivered, so that whoever takes the partition over
//     delivers the same range under the same name.
//   - Several blocks of a partition may be delivered at a time, and may arrive in any order. Whoever needs their order waits
//     for the block that begins where the last one ended.
//   - A delivery that failed is repeated with the same block. Halves of a block that was refused tile it.
//   - A store refuses a block for good (a permanent error) only where it is certain that it has nothing of it, also of a try whose answer
//     was lost: the halves have other names, and would be stored again.
//   - A refusal that names events (RefusedError) lets the receiver deliver the block again, under its name, without them.
package block

import (
	"context"
	"encoding/base64"
	"fmt"
	"time"

	"github.com/pulsegrid/pulsegrid/internal/eventid"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// Block is the offset range [First, Last] of one partition.
type Block struct {
	Topic     string
	TopicID   TopicID // of the topic that was there when the partition was assigned
	Partition int32
	First     int64 // its first offset: the Next of the block before it
	Last      int64 // its last offset, inclusive
	Signal    signal.Signal
	Events    int // events that were decoded from it
	// Records are those with events, in the order of their offsets: what their events are compared by. Event i of a record has the stamp (offset, i),
	// whatever has become of it on the way.
	Records []eventid.Record
	Bytes   int // sum of the record values' sizes
	// LogEnd is the offset at which the partition's log ended when the receiver last heard of it, before this try; 0 or less: not known.
	// A store that holds more than that refuses the block: Kafka was restored, or its log truncated. A later try brings a later LogEnd.
	LogEnd int64

	// Oldest is the least offset that the group has not finished in this partition: everything before it is, as far as the
	// group knows, in the store. A store that knows better answers with a ResumeError.
	Oldest int64
	// Fresh: the group has finished nothing of the partition yet, and Oldest is where initial_offset, or a ResumeError's FromStart,
	// made it begin. It stays so over crashes until the first block is finished.
	Fresh bool
	// Intended is when the range was first decided, or, for a redone block, when the oldest of those redone with it was. Redo: by an owner before this one, so it may have been stored already.
	Intended time.Time
	Redo     bool
	// Worker numbers the receiver's worker of the partition, uniquely in the process. A partition that is assigned anew, or that a store
	// sent back, has another one: what a store found out about the partition holds for one worker. 0: the receiver has none.
	Worker uint64
	// Unstated: the group's offset did not say which blocks had been begun before this worker, because it was reset or lost, or because a
	// store sent the partition back. Blocks that were cut in another way may be stored.
	Unstated bool
	// Account collects what became of the block's events in this delivery, for the ledger; never nil in a delivered block.
	Account *Account
}

// Next is the offset at which the following block begins.
func (b Block) Next() int64 { return b.Last + 1 }

// String is "topic/partition/first-last", for people.
func (b Block) String() string {
	return fmt.Sprintf("%s/%d/%d-%d", b.Topic, b.Partition, b.First, b.Last)
}

// Name is "topic@id/partition/first-last": unique also where a topic was deleted and made anew under its name. It is the block's
// deduplication token. Without a topic id it is String.
func (b Block) Name() string {
	if b.TopicID == (TopicID{}) {
		return b.String()
	}
	return fmt.Sprintf("%s@%s/%d/%d-%d", b.Topic, b.TopicID, b.Partition, b.First, b.Last)
}

// TopicID is Kafka's id of a topic, a UUID: a topic that is made anew under its name has another one. Zero: the broker gives none
// (before Kafka 2.8).
type TopicID [16]byte

// String is the id as Kafka's tools print it: base64 for URLs, without padding.
func (id TopicID) String() string { return base64.RawURLEncoding.EncodeToString(id[:]) }

// ParseTopicID reads what String has written.
func ParseTopicID(s string) (id TopicID, err error) {
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil || len(b) != len(id) {
		return id, fmt.Errorf("topic id %q: want 16 bytes as base64 for URLs", s)
	}
	return TopicID(b), nil
}

type key struct{}

// NewContext returns ctx carrying b.
func NewContext(ctx context.Context, b Block) context.Context {
	return context.WithValue(ctx, key{}, b)
}

// FromContext returns the block being delivered; false in a pipeline that does not start at a mskreceiver.
func FromContext(ctx context.Context) (Block, bool) {
	b, ok := ctx.Value(key{}).(Block)
	return b, ok
}

// ResumeError is a store's answer to a block that lies beyond what the store holds of its partition, though the group takes what is
// before it for finished: the store was restored, or replaced, and its own offsets say where to go on. The receiver goes to Next,
// which may also lie within the block (one that straddles what the ledger holds), and delivers blocks from there: the first one's
// First, and Oldest, are Next, even if the log no longer has it. After FromStart they are the start of the log, and the blocks are
// Fresh.
type ResumeError struct {
	Topic     string
	Partition int32
	Next      int64 // offset to go on at; FromStart: the store holds nothing of the partition
}

// FromStart is the ResumeError.Next of a store that holds nothing of a partition.
const FromStart int64 = -1

func (e *ResumeError) Error() string {
	if e.Next == FromStart {
		return fmt.Sprintf("the store holds nothing of topic %s, partition %d: resume from its start", e.Topic, e.Partition)
	}
	return fmt.Sprintf("the store holds topic %s, partition %d only up to offset %d: resume from there", e.Topic, e.Partition, e.Next)
}

// RefusedError is part of a store's permanent error where it knows which events are at fault. The receiver puts these into quarantine and
// delivers the block again without them. A refusal that names none, or an event that is not in the block, is found by halving the block
// down to a record.
type RefusedError struct {
	Events []EventRef
	Err    error // why
}

// EventRef is the event at a position, from 0, of the record at an offset: as it is stamped (internal/lineage).
type EventRef struct {
	Offset int64
	Index  int32
}

func (e *RefusedError) Error() string { return e.Err.Error() }

func (e *RefusedError) Unwrap() error { return e.Err }
