// Package block describes a block: a contiguous offset range of one Kafka partition. It is the unit of work, of exactness and
// of audit. The mskreceiver puts the block that it is delivering into the pipeline's context.
package block

import (
	"context"
	"fmt"

	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// Block is the offset range [First, Last] of one partition.
type Block struct {
	Topic     string
	Partition int32
	First     int64 // offset of the first record
	Last      int64 // offset of the last record, inclusive
	Signal    signal.Signal
	Events    int // events that were decoded from it
	Bytes     int // sum of the record values' sizes
}

// Next is the offset at which the following block begins.
func (b Block) Next() int64 { return b.Last + 1 }

// String is "topic/partition/first-last", which is also the block's deduplication token.
func (b Block) String() string {
	return fmt.Sprintf("%s/%d/%d-%d", b.Topic, b.Partition, b.First, b.Last)
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
