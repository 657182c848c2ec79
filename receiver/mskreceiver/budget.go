package mskreceiver

import (
	"sync"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/pulsegrid/pulsegrid/internal/otlpwire"
)

const (
	// decodedFactor is how many times a record's value its pdata is estimated to take. Measured: 2.9 to 3.4 for log records of
	// 0.1 to 0.6 KB (TestDecodedFactorCoversMeasuredMemory).
	decodedFactor = 4
	// An event, or what holds events, takes the first of these decoded, at least, an attribute or another message in it the second, a bucket the third,
	// whatever bytes they take of the record: an empty event or link takes two, a bucket one (TestCostsCoverHostileShapes).
	eventOverhead  = 512
	partOverhead   = 96
	scalarOverhead = 16
	// recordOverhead covers the client's record, its headers and an entry.
	recordOverhead = 1 << 10
)

// costOf estimates the memory that a record takes until it is finished: as it came and decoded.
func costOf(r *kgo.Record) int64 {
	raw := len(r.Key) + len(r.Value)
	for _, h := range r.Headers {
		raw += len(h.Key) + len(h.Value)
	}
	return int64(raw)*(1+decodedFactor) + recordOverhead
}

// decodedCost is what a record's request takes decoded, at least.
func decodedCost(size otlpwire.Size) int64 {
	return int64(size.Events+size.Holders)*eventOverhead + int64(size.Parts)*partOverhead + int64(size.Scalars)*scalarOverhead
}

// beyondEstimate is what e takes beyond costOf's estimate.
func beyondEstimate(e *entry) int64 {
	return max(0, e.decoded-int64(len(e.record.Value))*decodedFactor)
}

// weight is the bytes for which e counts in its block: those of a record that takes as much decoded.
func weight(e *entry) int64 {
	return max(int64(len(e.record.Value)), e.decoded/decodedFactor)
}

// budget bounds the memory of unfinished records by pausing partitions.
//
// Half of it is shared out evenly: that much each partition may always hold, so that no slow partition can take what the others
// need to go on. The other half is a pool from which any partition borrows beyond its share, up to what its
// blocks in flight and one that gathers take. A partition is paused at its limit and resumed at half of it; never while it gathers a
// range that must be cut again as it was, however large.
//
// Lock order: mu is a leaf but for the client's own lock on paused partitions, which pause and resume take.
type budget struct {
	max    int64
	most   int64 // what one partition may hold in all
	pause  func(topic string, partition int32)
	resume func(topic string, partition int32)

	mu       sync.Mutex
	held     map[*partition]*holding
	attached int   // holdings that are not detached
	total    int64 // sum of holding.bytes
	pool     int64 // sum of what holdings have above their share
}

// holding is what one partition holds.
type holding struct {
	bytes    int64
	paused   bool
	detached bool // its partition is no longer ours, its records are still being delivered
}

func newBudget(maxBytes, perPartition int64) *budget {
	return &budget{max: maxBytes, most: max(perPartition, 1), held: map[*partition]*holding{}}
}

// attach makes p a sharer.
func (b *budget) attach(p *partition) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.held[p] = &holding{}
	b.attached++
	b.settle()
}

// detach ends p's fetching; what it holds stays counted until remove.
func (b *budget) detach(p *partition) {
	b.mu.Lock()
	defer b.mu.Unlock()
	h, ok := b.held[p]
	if !ok || h.detached {
		return
	}
	h.detached = true
	b.attached--
	if h.paused {
		h.paused = false
		b.resume(p.topic, p.id) // or the partition would come back paused
	}
	b.settle()
}

// remove forgets p, whose worker has ended.
func (b *budget) remove(p *partition) {
	b.detach(p)
	b.mu.Lock()
	defer b.mu.Unlock()
	if h, ok := b.held[p]; ok {
		b.total -= h.bytes
		delete(b.held, p)
		b.settle()
	}
}

// add counts bytes that p holds from now on; negative: no longer.
func (b *budget) add(p *partition, bytes int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if h, ok := b.held[p]; ok {
		h.bytes += bytes
		b.total += bytes
		b.settle()
	}
}

// thaw resumes p, which was paused for another reason, unless it is at its limit.
func (b *budget) thaw(p *partition) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if h, ok := b.held[p]; ok && !h.paused {
		b.resume(p.topic, p.id)
	}
}

// paused tells whether p is not being fetched.
func (b *budget) paused(p *partition) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	h, ok := b.held[p]
	return ok && h.paused
}

// usage is for the gauges.
func (b *budget) usage() (bytes int64, paused int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, h := range b.held {
		if h.paused {
			paused++
		}
	}
	return b.total, paused
}

// settle pauses and resumes. It looks at every partition, because one's release is another's chance; there are hundreds at most.
func (b *budget) settle() {
	if b.attached == 0 {
		return
	}
	share := b.max / 2 / int64(b.attached)
	poolMax := b.max / 2
	b.pool = 0
	for _, h := range b.held {
		if h.detached {
			b.pool += h.bytes
		} else {
			b.pool += max(0, h.bytes-share)
		}
	}
	for p, h := range b.held {
		switch {
		case h.detached:
		case !h.paused && !p.mustCut.Load() && (h.bytes >= b.most || h.bytes >= share && b.pool >= poolMax):
			h.paused = true
			b.pause(p.topic, p.id)
			p.signalWake() // what it has gathered is its block now
		case h.paused && (p.mustCut.Load() || h.bytes <= b.most/2 && (h.bytes <= share/2 || b.pool <= poolMax/2)):
			h.paused = false
			b.resume(p.topic, p.id)
		}
	}
}
