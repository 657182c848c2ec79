package clickhouseexporter

import (
	"context"
	"errors"
	"time"

	"github.com/pulsegrid/pulsegrid/internal/block"
	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/ledger"
)

// settle finds out, before a block is refused for good, whether an earlier try has stored it: its answer was lost, and another node of a
// proxy refuses what the first one took. The receiver halves a refused block, and halves have other tokens: they would be stored again.
// So a block is refused only when the table has nothing of it, or when the ledger has what the table has.
func (e *chExporter) settle(ctx context.Context, p *place, b block.Block, events int, fill func(*columns.Builder) error, refusal error) ([]ledger.Entry, error) {
	v, err := e.views.enter(ctx, b)
	if err != nil {
		return nil, err
	}
	defer v.leave()
	var se *storeError
	if errors.As(refusal, &se) && se.code != codeHTTP && !v.mayHoldPartsOf(b) {
		return nil, refusal // ClickHouse itself refuses what it never had; something before it may have passed it on
	}
	rec, err := e.build(p, events, fill)
	if err != nil || rec == nil {
		return nil, refusal
	}
	defer rec.Release()
	v.ledger, v.table = ledgerPage{}, tablePage{}
	have, err := e.entriesOf(ctx, v, b)
	if err != nil {
		return nil, err
	}
	parts, err := e.parts(ctx, v, b, uncovered(extentOf(b), have), rec, time.Now(), true)
	if err != nil {
		return nil, err
	}
	var found []ledger.Entry
	lacks := false
	for i := range parts {
		if parts[i].isStored {
			found = append(found, parts[i].entry)
		}
		lacks = lacks || parts[i].rows != nil
		parts[i].release()
	}
	if !lacks {
		e.tel.redone(redoSettled)
		return found, nil
	}
	if len(found) > 0 {
		if err := e.ledger.write(ctx, found); err != nil {
			return nil, notInLedger(err)
		}
		v.add(found)
		v.clear = max(v.clear, b.Next()) // its halves are looked up
	}
	return nil, refusal
}
