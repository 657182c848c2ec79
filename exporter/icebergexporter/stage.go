package icebergexporter

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/apache/iceberg-go"
	"github.com/apache/iceberg-go/table"
	"go.opentelemetry.io/collector/consumer/consumererror"

	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/lakefile"
)

// What a sink does with the calls of a group (stage).

func (s *sink) plan(have book, calls []*call) plan { return makePlan(have, calls, rowRules) }

func (s *sink) mayHold(ctx context.Context, tbl *table.Table, p partition) (bool, error) {
	return hasRowsOf(ctx, tbl, p)
}

// write writes the plan's rows. Where the data is at fault it tries call by call, to tell which.
func (s *sink) write(ctx context.Context, tbl *table.Table, p plan) ([]iceberg.DataFile, []refusal, error) {
	files, err := s.writeRows(ctx, tbl, p.write)
	if err == nil || !isDataError(err) {
		return files, nil, err
	}
	var bad []refusal
	for _, c := range p.write {
		one, oneErr := s.writeRows(ctx, tbl, []cut{c})
		s.remove(ctx, tbl, one)
		switch {
		case oneErr == nil:
		case isDataError(oneErr):
			s.tel.reject(s.ctx, c.call.rows, reasonWrite)
			bad = append(bad, refusal{c.call, consumererror.NewPermanent(
				fmt.Errorf("table %s: %s: rows that cannot be written: %w", s.name(), c.call.origin(), oneErr))})
		default:
			return nil, nil, oneErr
		}
	}
	if len(bad) == 0 {
		return nil, nil, fmt.Errorf("rows that can be written call by call but not together: %w", err)
	}
	return nil, bad, nil
}

func (s *sink) writeRows(ctx context.Context, tbl *table.Table, cuts []cut) ([]iceberg.DataFile, error) {
	view, err := s.model.IcebergView(tbl.Schema())
	if err != nil {
		return nil, err
	}
	batches := rowsOf(cuts)
	defer func() {
		for _, b := range batches {
			b.Release()
		}
	}()
	if len(batches) == 0 {
		return nil, nil
	}
	return s.writeParquet(ctx, tbl, view.ArrowSchema(), lakefile.LongTexts(batches), func(yield func(arrow.RecordBatch, error) bool) {
		for _, b := range batches {
			if s.onBatch != nil {
				if err := s.onBatch(b); err != nil {
					yield(nil, err)
					return
				}
			}
			if !yieldConverted(view, s.mem, b, yield) {
				return
			}
		}
	})
}

// sliceRows and sliceBytes bound what is converted at a time: a group is held with its dictionaries, and only the slice that is being written
// has every repeated text written out. A slice is also a sorted run in a file. iceberg-go takes no dictionaries. It and arrange hold
// about six copies of a slice at a time.
const (
	sliceRows  = 1 << 15
	sliceBytes = 32 << 20
)

// yieldConverted hands a batch to the writer, slice by slice, with the table's schema. The writer releases what it is handed.
func yieldConverted(view *columns.IcebergView, mem memory.Allocator, b arrow.RecordBatch, yield func(arrow.RecordBatch, error) bool) bool {
	for part := range columns.Slices(b, sliceRows, sliceBytes) {
		out, err := view.Convert(mem, part)
		part.Release()
		if !yield(out, err) || err != nil {
			return false
		}
	}
	return true
}

// pass hands a call whose rows are in the table on to the ledger. What it held is given back; its entry was made when it was built.
func (s *sink) pass(c *call, replayed bool) {
	if replayed {
		s.tel.replayed.Add(s.ctx, c.rows, s.tel.table)
	}
	s.free(c)
	if !c.hasBlock {
		c.done <- nil
		return
	}
	s.turns.advance(partitionOf(c.block), c.block.Next())
	s.ledger.add(c)
}

func (s *sink) refuse(c *call, err error) { s.answer(c, err) }

func (s *sink) sendBack(g gap, err error) {
	s.turns.takeBack(partitionOf(g.call.block), g.at, &lack{resume: g.resume(), oldest: g.call.block.Oldest})
	s.answer(g.call, err)
}

// hold keeps a call for the next group. It keeps its memory only while nobody waits for memory, because that may be the very block
// that is missing.
func (s *sink) hold(g gap) {
	g.call.arrived = time.Now() // it must not hurry the next group
	s.held = append(s.held, g)
	s.yield(nil)
}

// yield sends held calls back to wait for their turn without memory, if somebody waits for memory; with an error, it answers them.
func (s *sink) yield(err error) {
	if err == nil && !s.budget.isWaitedFor() {
		return
	}
	for _, h := range s.held {
		s.turns.takeBack(partitionOf(h.call.block), h.at, nil)
		if err == nil {
			s.answer(h.call, errEarly)
		} else {
			s.answer(h.call, s.describe(h.call, err))
		}
	}
	s.held = nil
}

func (s *sink) committed(calls []*call, files []iceberg.DataFile) {
	var rows, given int64
	for _, f := range files {
		rows += f.Count()
	}
	for _, c := range calls {
		given += c.rows
		if !c.oldest.IsZero() {
			s.tel.freshness.Record(s.ctx, time.Since(c.oldest).Seconds(), s.tel.table)
		}
	}
	s.tel.rows.Add(s.ctx, rows, s.tel.table)
	s.tel.replayed.Add(s.ctx, given-rows, s.tel.table) // cut off, or delivered twice
}

// isDataError tells whether a failed write is the fault of the rows and not of the object store: it would fail again.
func isDataError(err error) bool {
	return errors.Is(err, columns.ErrTooLarge) || errors.Is(err, arrow.ErrInvalid) || errors.Is(err, arrow.ErrType) || errors.Is(err, arrow.ErrNotImplemented) ||
		errors.Is(err, iceberg.ErrType) || errors.Is(err, iceberg.ErrBadCast) || errors.Is(err, iceberg.ErrInvalidSchema)
}
