package mskreceiver

import (
	"go.uber.org/zap"
)

// strays are records at offsets that had been taken before with other records: the log was cut off there (unclean leader election)
// and written anew. A block's name means the records that it was first delivered with, so strays go to quarantine by themselves.
//
// A stray may go as soon as the group has the range that its offset lies in, as finished or as an intent. Before that the owner after a
// crash would not know of the record that was taken first: it would deliver the stray, and it would be in quarantine too. What is in
// quarantine is stated as such (epochs), so that no later owner takes it for what was delivered, or puts it there again.
//
// They count in the partition's memory, and need no block to leave it: a truncation may be larger than what a partition may hold.
// Owned by the partition's run, but for the batch that is on its way.
type strays struct {
	waiting []*entry
	busy    bool
	ended   chan strayed
}

// strayed is how a batch of strays ended.
type strayed struct {
	batch []*entry
	ok    bool // it is in quarantine
}

// isStray tells that another record has been taken at e's offset: by this worker, or by one before it, which has said so.
func (p *partition) isStray(e *entry) bool {
	offset, decided := e.record.Offset, p.plan.decided()
	switch {
	case offset >= p.plan.end && offset < decided:
		return true // the log ended before it, and the group was beyond
	case offset < p.expected, offset < decided && p.plan.traced:
		return p.epochs.differ(offset, e.record.LeaderEpoch)
	}
	return false
}

func (p *partition) stray(e *entry) {
	if len(p.strays.waiting) == 0 && !p.strays.busy {
		p.log.Error("Kafka has cut off the partition's log and written other records at offsets that had been taken; "+
			"they go to quarantine, resubmit them from there", zap.Int64("offset", e.record.Offset), zap.Int32("leader_epoch", e.record.LeaderEpoch))
	}
	p.deps.cfg.inspector(p.signal).inspect(e)
	e.inspected = true
	e.refusal = &refusal{codeReplaced, "another record had been taken at its offset before, which an unclean leader election removed"}
	p.strays.waiting = append(p.strays.waiting, e)
}

// stated is the offset behind the last range that the group has, as finished or as an intent.
func (p *partition) stated() int64 {
	end := max(p.plan.decided(), p.flights.done.next)
	acked := p.acked.Load()
	for _, f := range p.flights.queue {
		if f.intent <= acked {
			end = max(end, f.last+1)
		}
	}
	return end
}

// sendStrays puts those that may go into quarantine, one batch at a time.
func (p *partition) sendStrays() {
	s := &p.strays
	if s.busy || len(s.waiting) == 0 {
		return
	}
	stated := p.stated()
	var batch, stay []*entry
	for _, e := range s.waiting {
		if e.record.Offset < stated {
			batch = append(batch, e)
		} else {
			stay = append(stay, e)
		}
	}
	if len(batch) == 0 {
		return
	}
	s.waiting, s.busy = stay, true
	go func() {
		f := &flight{span: span{first: batch[0].record.Offset, last: batch[len(batch)-1].record.Offset}}
		tries := p.newTries(f)
		ok := p.reject(batch, tries)
		how := waiting
		if ok {
			how = delivered
		}
		tries.end(how, nil)
		s.ended <- strayed{batch, ok}
	}()
}

// straysEnded takes a batch's end.
func (p *partition) straysEnded(r strayed) {
	p.strays.busy = false
	var freed int64
	for i, e := range r.batch {
		freed += e.cost
		if !r.ok || e.record.LeaderEpoch < 0 {
			continue
		}
		to := e.record.Offset + 1
		if i+1 < len(r.batch) { // nothing lies between two records of one epoch
			if next := r.batch[i+1].record; next.LeaderEpoch == e.record.LeaderEpoch {
				to = max(to, next.Offset)
			}
		}
		p.epochs = p.epochs.set(step{from: e.record.Offset, epoch: e.record.LeaderEpoch, replaced: true}, to)
		p.flights.changed = true
	}
	p.deps.budget.add(p, -freed)
}
