package block

import (
	"context"
	"sync"
	"time"

	"github.com/pulsegrid/pulsegrid/internal/eventid"
)

// Memory is a stage that remembers which events occurred in a partition (processor/dedupeprocessor). It is given what came before
// the first block of a partition, so that its decisions are the same whoever owns the partition and since when.
//
// For each partition the receiver calls, in this order and from one goroutine: Begin; Remember for each record of the window
// before the first block, in the order of their offsets; and, when the partition is no longer its own and nothing of it is being
// delivered any more, End. Blocks are delivered (through the pipeline) after the last Remember and before End.
type Memory interface {
	// Window is how far back, in append time, Memory wants to be told.
	Window() time.Duration
	// Begin forgets the partition. The first block's First will be next.
	Begin(topic string, partition int32, next int64)
	// Remember says that a record of the partition holds these events. It keeps nothing of its arguments.
	Remember(topic string, partition int32, record *eventid.Record)
	// End frees what is remembered of the partition.
	End(topic string, partition int32)
}

type introKey struct{}

// Introduction is how a receiver finds the Memories of its pipelines: it sends an empty batch whose context carries an
// Introduction, to which each Memory adds itself before it passes the batch on. A store answers nil at once. It is safe for
// concurrent use.
type Introduction struct {
	mu       sync.Mutex
	memories []Memory
}

// Introduce returns a context that carries an Introduction.
func Introduce(ctx context.Context) (context.Context, *Introduction) {
	i := &Introduction{}
	return context.WithValue(ctx, introKey{}, i), i
}

// IntroductionOf returns the Introduction that ctx carries; nil: none, it is ordinary data.
func IntroductionOf(ctx context.Context) *Introduction {
	i, _ := ctx.Value(introKey{}).(*Introduction)
	return i
}

// Add makes m known to the receiver.
func (i *Introduction) Add(m Memory) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.memories = append(i.memories, m)
}

// Memories are those that were added.
func (i *Introduction) Memories() []Memory {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.memories
}
