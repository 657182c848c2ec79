package mskreceiver

import (
	"context"

	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"
)

// extent is a range of offsets, [from, to).
type extent struct{ from, to int64 }

// expects is the offset of the next record to arrive, if the log has it. Called by the poll loop.
func (p *partition) expects() int64 {
	if p.arrived >= 0 {
		return p.arrived
	}
	return max(p.plan.from, p.plan.start)
}

// doubt holds what arrives from now on, until believe. It returns false if that is so already.
func (p *partition) doubt(gap extent) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.gaps = append(p.gaps, gap)
	return len(p.gaps) == 1
}

// gap is the first one that is not believed; false: there is none.
func (p *partition) gap() (gap extent, doubted bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.gaps) > 0 {
		gap, doubted = p.gaps[0], true
	}
	return gap, doubted
}

// believe ends the doubt in the first gap. Behind the last one what was held is taken.
func (p *partition) believe() {
	p.mu.Lock()
	p.gaps = p.gaps[1:]
	if len(p.gaps) == 0 {
		p.inbox = append(p.inbox, p.held...)
		p.gaps, p.held = nil, nil
	}
	p.mu.Unlock()
	p.signalWake()
}

// lookInto finds out whether the client has passed records over: whoever seeks while the client looks for a partition's offsets may make it begin elsewhere,
// and blocks tile whatever lies between two records, so that nobody would miss what was passed over. Markers and records of transactions that were aborted are
// gaps too, and so is what compaction has removed.
//
// Whoever froze the partition looks, one at a time, and asks after each thaw whether there is more: the next gap may have come between, and who wanted to look into
// it found the partition frozen.
func (g *group) lookInto(p *partition) {
	for _, doubted := p.gap(); doubted && g.freeze(p); _, doubted = p.gap() {
		gap, doubted := p.gap()
		if !doubted { // another has looked
			g.thaw(p)
			continue
		}
		var next int64
		ok := g.insist(p, "look for records that the client may have passed over", func() (err error) {
			next, err = g.locator.next(g.ctx, p.topicPartition, gap.from)
			return err
		})
		if !ok {
			return
		}
		if next < gap.to {
			g.passedOver(p, gap, next)
			return
		}
		p.believe()
		g.thaw(p)
	}
}

// passedOver begins a partition anew of which the client has passed records over.
func (g *group) passedOver(p *partition, gap extent, next int64) {
	g.deps.tel.passedOver(p)
	p.log.Error("the Kafka client passed records over; nothing behind them was delivered, and the partition is begun anew from what is committed",
		zap.Int64("first_offset", next), zap.Int64("brought_offset", gap.to), zap.Int64("began_at", p.plan.from), zap.Stringer("topic_id", p.plan.topic))
	p.abandon()
	g.deps.committer.forget([]*partition{p})
	<-p.done
	g.fromCommitted(p)
}

// thaw ends a freeze after which the same worker goes on.
func (g *group) thaw(p *partition) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.owned[p.topicPartition] == p && p.frozen {
		p.frozen = false
		g.deps.budget.thaw(p)
	}
}

// next is the offset of the first record at offset from or behind it that a group is given.
func (l *locator) next(ctx context.Context, tp topicPartition, from int64) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, locateTimeout)
	defer cancel()
	found, err := l.first(ctx, map[topicPartition]int64{tp: from}, kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	if r := found[tp]; r != nil {
		return r.Offset, nil
	}
	return 0, err
}
