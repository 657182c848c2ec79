package audit

import (
	"context"
	"errors"
	"fmt"

	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/pulsegrid/pulsegrid/internal/audit/certificate"
	"github.com/pulsegrid/pulsegrid/internal/audit/oracle"
	"github.com/pulsegrid/pulsegrid/internal/audit/stored"
	"github.com/pulsegrid/pulsegrid/internal/columns"
)

// Bounds of what is decoded at a time.
const (
	chunkEvents = 20_000
	chunkBytes  = 16 << 20 // of record values
)

// counted is one event of Kafka.
type counted struct {
	stored.Row
	verdict     oracle.Verdict
	undecidable bool // what it may be a copy of may be gone from Kafka
	record      *decoded
	time        int64 // column time, Unix nanoseconds
	cells       func() [][]byte
}

// copy tells whether the event must not be stored, since it repeats another one.
func (e *counted) copy() bool { return e.verdict.Rule != 0 }

// sink takes what a recount finds, in the order of Kafka.
type sink interface {
	// record begins a record, readable or not.
	record(d *decoded) error
	event(e *counted) error
	// chunk ends a stretch of records whose events it has been told. They are not kept.
	chunk(records []*decoded) error
}

// recount counts one partition again.
type recount struct {
	*Config
	plan       *plan
	quarantine quarantineIndex
	groups     []string
	sink       sink
	progress   func(offset int64, events int64)

	memory  *oracle.Memory
	content bool
	builder *columns.Builder
	copies  *certificate.SignalCopies // nil: not counted

	records []*decoded // of the chunk
	event   counted    // that is compared
	events  int
	bytes   int
	result  *certificate.PartitionResult
}

// run reads the window before the range, then the range.
func (r *recount) run(ctx context.Context, log *kafkaLog) error {
	r.memory = oracle.NewMemory(r.Window)
	if r.content {
		r.builder = columns.NewBuilder(memory.DefaultAllocator, columns.ForSignal(r.plan.signal))
		defer r.builder.Release()
	}
	err := log.each(ctx, r.plan.Topic, r.plan.Partition, r.plan.windowFrom, r.plan.First-1, func(rec *kgo.Record) error {
		d, err := r.decode(rec, false)
		if err == nil && d.readable && !d.unread {
			r.memory.Add(d.request)
		}
		return err
	})
	if err != nil {
		return err
	}
	err = log.each(ctx, r.plan.Topic, r.plan.Partition, r.plan.First, r.plan.Last, func(rec *kgo.Record) error {
		d, err := r.decode(rec, r.content)
		if err != nil {
			return err
		}
		r.records = append(r.records, d)
		r.events += d.events()
		r.bytes += len(rec.Value)
		if r.events >= chunkEvents || r.bytes >= chunkBytes || len(r.records) >= chunkEvents {
			return r.flush()
		}
		return nil
	})
	return errors.Join(err, r.flushAfter(err))
}

func (r *recount) flushAfter(err error) error {
	if err != nil {
		return nil
	}
	return r.flush()
}

// decode also looks the record up in the quarantine.
func (r *recount) decode(rec *kgo.Record, stamp bool) (*decoded, error) {
	d, err := decoder{r.plan.signal, r.DefaultTenant}.decode(rec, stamp)
	if err != nil {
		return nil, err
	}
	d.silent = r.Tenant != "" && r.Tenant != d.origin.Tenant
	r.quarantine.find(d, rec, r.groups)
	return d, nil
}

// flush decides and compares the chunk.
func (r *recount) flush() error {
	if len(r.records) == 0 {
		return nil
	}
	var rows *stored.Reader
	if r.content {
		for _, d := range r.records {
			if d.readable && !d.silent && d.events() > 0 {
				if err := d.data.appendTo(r.builder); err != nil {
					return fmt.Errorf("%s/%d offset %d: %w", r.plan.Topic, r.plan.Partition, d.offset, err)
				}
			}
		}
		rec := r.builder.NewRecordBatch()
		defer rec.Release()
		var err error
		if rows, err = stored.NewReader(r.builder.Table(), rec, true); err != nil {
			return err
		}
	}
	n := 0 // row of the batch
	for _, d := range r.records {
		if err := r.one(d, rows, &n); err != nil {
			return err
		}
	}
	if err := r.sink.chunk(r.records); err != nil {
		return err
	}
	at := r.records[len(r.records)-1].offset
	r.records, r.events, r.bytes = r.records[:0], 0, 0
	r.progress(at, r.result.Events)
	return nil
}

func (r *recount) one(d *decoded, rows *stored.Reader, n *int) error {
	var verdicts []oracle.Verdict
	repeats := false
	if d.readable && !d.unread {
		verdicts, repeats = r.memory.Add(d.request)
	}
	if d.silent {
		return nil
	}
	r.result.Records++
	if !d.readable {
		r.result.Unreadable++
	}
	for _, away := range d.away {
		if away.whole || away.events != nil {
			r.result.Quarantined++
			break
		}
	}
	if err := r.sink.record(d); err != nil {
		return err
	}
	for i := range d.events() {
		e := &r.event
		*e = counted{
			Row:    stored.Row{Partition: r.plan.Partition, Offset: d.offset, Index: int32(i), ID: d.request.ID(i), Received: d.origin.Received.UnixNano()},
			record: d, time: d.time(r.plan.signal, i),
		}
		if verdicts != nil {
			e.verdict = verdicts[i]
		}
		e.undecidable = !e.copy() && d.origin.Appended.UnixNano() < r.plan.blindBefore
		if rows != nil {
			at := *n
			*n++
			built := rows.Row(at)
			if built.Place() != e.Place() || built.ID != e.ID || built.Received != e.Received {
				return fmt.Errorf("%s/%d: the row model puts event %d of offset %d at offset %d, index %d: the audit and internal/columns disagree", r.plan.Topic, r.plan.Partition, i, d.offset, built.Offset, built.Index)
			}
			e.Hash = built.Hash
			e.cells = func() [][]byte { return rows.Cells(at) }
		}
		r.result.Events++
		if e.copy() {
			r.result.Duplicates++
		}
		r.count(e, repeats)
		if err := r.sink.event(e); err != nil {
			return err
		}
	}
	return nil
}

// count counts the event among the copies, if it is one.
func (r *recount) count(e *counted, repeats bool) {
	if r.copies == nil {
		return
	}
	r.copies.Counted(1)
	if e.copy() {
		r.copies.Add(e.verdict.Rule.String(), example(r.plan.Topic, e.record, e.Place(), e.verdict, repeats))
	}
}

func example(topic string, d *decoded, p stored.Place, v oracle.Verdict, repeats bool) certificate.CopyExample {
	return certificate.CopyExample{
		Tenant: d.origin.Tenant, Topic: topic, Partition: p.Partition, Offset: p.Offset, Index: p.Index,
		OfOffset: v.Of.Offset, OfIndex: v.Of.Position, Apart: !repeats, Differs: v.Differs,
	}
}
