package mskreceiver

import (
	"time"

	"go.uber.org/zap"
)

// warmup tells the memories of a partition's pipeline what occurred before its first block. Owned by the partition's run.
type warmup struct {
	ids     *idReader
	begun   time.Time
	next    int64 // offset behind the last record that was read
	records int64
	events  int64
}

// beginMemories tells the memories that the partition is here, and begins the warm-up if there is anything to read.
func (p *partition) beginMemories() {
	memories := p.deps.memories[p.signal]
	for _, m := range memories {
		m.Begin(p.topic, p.id, p.plan.next)
	}
	if len(memories) == 0 || p.plan.from >= p.plan.known() {
		return
	}
	p.warm = &warmup{
		ids:   newIDReader(p.deps.cfg.inspector(p.signal)),
		begun: p.deps.now(), next: p.plan.from,
	}
	p.deps.tel.warming.Add(1)
	p.log.Info("warm-up begins: what occurred before the first block is read again, and nothing of it is delivered",
		zap.Int64("first_offset", p.plan.from), zap.Int64("last_offset", p.plan.known()-1))
}

// remember tells the memories one record's events. A record that is refused has none: no block delivers events of it either.
func (p *partition) remember(e *entry) {
	w := p.warm
	if e.record.Offset < w.next {
		return // the client went back
	}
	w.next = e.record.Offset + 1
	if p.epochs.inQuarantine(e.record.Offset) {
		return // in no block either
	}
	record := w.ids.read(e)
	events := len(record.Rules)
	if events > 0 {
		for _, m := range p.deps.memories[p.signal] {
			m.Remember(p.topic, p.id, record)
		}
	}
	w.records++
	w.events += int64(events)
	p.deps.tel.remembered(p, events)
}

// warmed ends the warm-up: the next record is the first block's.
func (p *partition) warmed() {
	w := p.warm
	p.warm = nil
	p.deps.tel.warming.Add(-1)
	p.log.Info("warm-up has ended", zap.Int64("records", w.records), zap.Int64("events", w.events), zap.Duration("took", p.deps.now().Sub(w.begun)))
}

// endMemories frees what the memories keep of the partition. Nothing of it is being delivered any more.
func (p *partition) endMemories() {
	if p.warm != nil {
		p.deps.tel.warming.Add(-1)
	}
	for _, m := range p.deps.memories[p.signal] {
		m.End(p.topic, p.id)
	}
}
