package icebergexporter

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/apache/iceberg-go"
	iceio "github.com/apache/iceberg-go/io"
	"github.com/apache/iceberg-go/table"
	"github.com/google/uuid"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.uber.org/zap"

	"github.com/pulsegrid/pulsegrid/internal/columns"
)

// Backoff between attempts, jittered by half. Conflicts with other writers end within a few of them.
const (
	backoffFirst = 50 * time.Millisecond
	backoffMax   = 5 * time.Second
)

// Outcomes of a group, as metadata.yaml lists them.
const (
	outcomeCommitted = "committed"
	outcomeReplayed  = "replayed"
	outcomeHeld      = "held"
	outcomeEmpty     = "empty"
	outcomeFailed    = "failed"
)

// commitment is the state of committing one group. It lives on the committer's goroutine.
type commitment struct {
	*sink
	open []*call // not yet answered

	id      string // entry in the summary of every snapshot that this group's attempts try to make
	planned plan   // what files holds
	files   []iceberg.DataFile
	written bool

	// pending lists the snapshots that attempts were pinned to and whose outcome is unknown: such an attempt may still land for as
	// long as the branch is there. noSnapshot stands for a table without any.
	pending []int64
}

const noSnapshot int64 = -1

// commitGroup answers every call of a group.
func (s *sink) commitGroup(g []*call) {
	began := time.Now()
	w := &commitment{sink: s, id: uuid.NewString()}
	for _, c := range g {
		if err := context.Cause(c.ctx); err != nil { // its caller has left: nothing of it is written yet, so it need not be
			s.answer(c, err)
			continue
		}
		w.open = append(w.open, c)
	}
	outcome, err := w.run()
	for _, c := range w.open {
		s.answer(c, s.describe(c, err))
	}
	s.tel.commits(s.ctx, outcome, time.Since(began))
	s.report(err)
}

// describe says in one call's error what failed, for which block, and what to do about it.
func (s *sink) describe(c *call, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("table %s: %s: not known to be committed, retry: %w", s.name(), c.origin(), err)
}

// run tries until the group is decided or the attempts are used up. Every attempt begins with a fresh load of the table, so that
// the table's own offsets decide what is still to be done, whatever the attempt before it has or has not achieved.
func (w *commitment) run() (outcome string, err error) {
	if len(w.open) == 0 {
		return outcomeEmpty, nil
	}
	for attempt := 1; ; attempt++ {
		w.tel.attempts.Add(w.ctx, 1, w.tel.table)
		var done bool
		done, outcome, err = w.attempt()
		if done {
			return outcome, nil
		}
		if w.ctx.Err() != nil || errors.Is(err, errTableReplaced) || attempt >= w.cfg.Commit.MaxAttempts {
			break
		}
		w.log.Debug("commit attempt failed", zap.String("table", w.name()), zap.Int("attempt", attempt), zap.Error(err))
		w.sleep(attempt)
	}
	if w.abandon() {
		return outcomeCommitted, nil
	}
	return outcomeFailed, err
}

func (w *commitment) sleep(attempt int) {
	d := min(backoffFirst<<min(attempt-1, 16), backoffMax)
	t := time.NewTimer(d/2 + rand.N(d/2+1))
	defer t.Stop()
	select {
	case <-t.C:
	case <-w.ctx.Done():
	}
}

// attempt loads the table, plans, writes files where there are none for that plan, and commits. done means that every call of
// the group is in the table.
func (w *commitment) attempt() (done bool, outcome string, err error) {
	// The writer's scratch memory is left to the Go allocator: iceberg-go does not release all of it, and there it is collected.
	ctx, cancel := context.WithTimeout(w.ctx, w.cfg.Commit.Timeout)
	defer cancel()

	tbl, err := w.load(ctx)
	if err != nil {
		return false, "", err
	}
	if w.landed(tbl) {
		w.succeed()
		return true, outcomeCommitted, nil
	}
	p, err := w.plan(tbl)
	if err != nil {
		return false, "", err
	}
	if len(p.write) == 0 {
		w.discard(ctx, tbl)
		w.open = nil
		if len(p.replayed) == 0 {
			return true, outcomeHeld, nil
		}
		return true, outcomeReplayed, nil
	}
	if !w.written || !w.planned.sameRows(p) {
		w.discard(ctx, tbl)
		if err := w.writeFiles(ctx, tbl, p); err != nil {
			return false, "", err
		}
		if p = w.planned; len(p.write) == 0 { // every call was at fault
			return true, outcomeFailed, nil
		}
	}
	w.planned = p
	if err := w.failpoint("before-commit"); err != nil {
		return false, "", err
	}
	if err := w.commit(ctx, tbl, p); err != nil {
		return false, "", err
	}
	w.succeed()
	return true, outcomeCommitted, nil
}

// landed tells whether a pending attempt made it into the table after all, and forgets pending attempts that can no longer: an
// attempt is pinned to the snapshot that it was made from, so it is void as soon as the branch has left that snapshot.
func (w *commitment) landed(tbl *table.Table) bool {
	if len(w.pending) == 0 {
		return false
	}
	for snap := tbl.CurrentSnapshot(); snap != nil; {
		if commitID(snap) == w.id {
			return true
		}
		if slices.Contains(w.pending, snap.SnapshotID) {
			break // attempts began here: what is older is not theirs
		}
		snap = parent(tbl, snap)
	}
	now := currentSnapshot(tbl)
	w.pending = slices.DeleteFunc(w.pending, func(base int64) bool { return base != now })
	return false
}

func currentSnapshot(tbl *table.Table) int64 {
	if s := tbl.CurrentSnapshot(); s != nil {
		return s.SnapshotID
	}
	return noSnapshot
}

// plan plans the open calls by the table's offsets, and settles those of which nothing is to be written, whatever becomes of the rest
// of the group.
func (w *commitment) plan(tbl *table.Table) (plan, error) {
	have, corrected, err := tableOffsets(tbl)
	if err != nil {
		return plan{}, err
	}
	p := makePlan(have, w.open)
	for part, next := range corrected { // what the properties have wrong is put right with the next commit
		if key := part.property(); p.offsets[key] == "" {
			p.offsets[key] = strconv.FormatInt(next, 10)
		}
	}
	for _, c := range p.replayed {
		w.tel.replayed.Add(w.ctx, c.rows, w.tel.table)
		w.turns.advance(partitionOf(c.block), c.block.Next())
		w.close(c, nil)
	}
	for _, g := range p.lacking {
		resume := g.resume()
		w.tel.resumes.Add(w.ctx, 1, w.tel.table)
		w.turns.takeBack(partitionOf(g.call.block), g.at, resume)
		w.close(g.call, fmt.Errorf("table %s: %s: %w", w.name(), g.call.origin(), resume))
	}
	for _, g := range p.early {
		w.open = slices.DeleteFunc(w.open, func(o *call) bool { return o == g.call })
		w.hold(g)
	}
	return p, nil
}

// close answers a call and takes it out of the group.
func (w *commitment) close(c *call, err error) {
	w.open = slices.DeleteFunc(w.open, func(o *call) bool { return o == c })
	w.answer(c, err)
}

// writeFiles writes the plan's rows. Where the data of a call is at fault, that call gets a permanent error and leaves the group.
func (w *commitment) writeFiles(ctx context.Context, tbl *table.Table, p plan) error {
	files, err := w.writeParquet(ctx, tbl, p)
	for err != nil && isDataError(err) {
		var good []cut
		for _, c := range p.write {
			one, oneErr := w.writeParquet(ctx, tbl, plan{write: []cut{c}})
			w.remove(ctx, tbl, one)
			switch {
			case oneErr == nil:
				good = append(good, c)
			case isDataError(oneErr):
				w.tel.reject(w.ctx, c.call.rows, reasonWrite)
				w.close(c.call, consumererror.NewPermanent(fmt.Errorf("table %s: %s: rows that cannot be written: %w", w.name(), c.call.origin(), oneErr)))
			default:
				return oneErr
			}
		}
		if len(good) == len(p.write) {
			return fmt.Errorf("rows that can be written call by call but not together: %w", err)
		}
		var perr error
		if p, perr = w.plan(tbl); perr != nil { // without those at fault, and without those that come after them
			return perr
		}
		if len(p.write) == 0 {
			break
		}
		files, err = w.writeParquet(ctx, tbl, p)
	}
	if err != nil && len(p.write) > 0 {
		return err
	}
	w.planned, w.files, w.written = p, files, true
	return w.failpoint("files-written")
}

// writeParquet writes the plan's rows into data files. Files of a write that failed are removed: nothing names them.
func (w *commitment) writeParquet(ctx context.Context, tbl *table.Table, p plan) (files []iceberg.DataFile, err error) {
	batches := p.batches()
	defer func() {
		for _, b := range batches {
			b.Release()
		}
	}()
	if len(batches) == 0 {
		return nil, nil
	}
	view := w.ready.Load().view
	records := func(yield func(arrow.RecordBatch, error) bool) {
		for _, b := range batches {
			if w.onBatch != nil {
				if err := w.onBatch(b); err != nil {
					yield(nil, err)
					return
				}
			}
			if !yieldConverted(view, w.mem, b, yield) {
				return
			}
		}
	}
	for f, err := range table.WriteRecords(ctx, tbl, view.ArrowSchema(), records,
		table.WithTargetFileSize(w.cfg.TargetFileSizeBytes), table.WithMaxWriteWorkers(1), table.WithRecordBatchBufferSize(1)) {
		if err != nil {
			w.remove(ctx, tbl, files)
			return nil, fmt.Errorf("writing data files: %w", err)
		}
		files = append(files, f)
	}
	return files, nil
}

// sliceRows bounds how many rows are converted at a time: a group is held with its dictionaries, and only the slice that is
// being written has every repeated text spelled out. It is also the length of a sorted run in a file.
const sliceRows = 1 << 15

// yieldConverted hands a batch to the writer, slice by slice, with the table's schema. The writer releases what it is handed.
func yieldConverted(view *columns.IcebergView, mem memory.Allocator, b arrow.RecordBatch, yield func(arrow.RecordBatch, error) bool) bool {
	for from, step := int64(0), int64(sliceRows); from < b.NumRows(); {
		to := min(from+step, b.NumRows())
		part := b.NewSlice(from, to)
		out, err := view.Convert(mem, part)
		part.Release()
		if errors.Is(err, columns.ErrTooLarge) && to-from > 1 {
			step = (to - from) / 2
			continue
		}
		if !yield(out, err) || err != nil {
			return false
		}
		from = to
	}
	return true
}

// commit makes one snapshot of the files, with the offsets in the table's properties (which snapshot expiry leaves alone) and in
// the snapshot's summary (which tells the history).
func (w *commitment) commit(ctx context.Context, tbl *table.Table, p plan) error {
	properties, summary := maps.Clone(p.offsets), maps.Clone(p.offsets)
	maps.Copy(summary, p.before)
	properties[commitIDKey], summary[commitIDKey] = w.id, w.id
	tx := tbl.NewTransaction()
	if err := tx.AssertRefSnapshotID(""); err != nil {
		return fmt.Errorf("pinning the snapshot: %w", err)
	}
	if err := tx.SetProperties(properties); err != nil {
		return fmt.Errorf("setting offsets: %w", err)
	}
	if err := tx.AddDataFiles(ctx, w.files, summary, table.WithoutDuplicateCheck(), table.WithoutAutoNameMapping()); err != nil {
		return fmt.Errorf("writing manifests: %w", err)
	}
	w.pending = append(w.pending, currentSnapshot(tbl))
	_, err := tx.Commit(ctx)
	if err == nil {
		return nil
	}
	if errors.Is(err, table.ErrCommitFailed) { // refused, and said so
		w.pending = w.pending[:len(w.pending)-1]
		return fmt.Errorf("conflict: %w", err)
	}
	return fmt.Errorf("outcome unknown: %w", err) // the next load decides
}

// succeed answers the calls of a group that is in the table.
func (w *commitment) succeed() {
	var rows, bytes, given int64
	for _, f := range w.files {
		rows += f.Count()
		bytes += f.FileSizeBytes()
	}
	for _, c := range w.open {
		given += c.rows
	}
	w.tel.rows.Add(w.ctx, rows, w.tel.table)
	w.tel.replayed.Add(w.ctx, given-rows, w.tel.table) // cut off, or delivered twice
	w.tel.files.Add(w.ctx, int64(len(w.files)), w.tel.table)
	w.tel.fileBytes.Add(w.ctx, bytes, w.tel.table)
	for _, c := range w.open {
		if c.hasBlock {
			w.turns.advance(partitionOf(c.block), c.block.Next())
		}
		if !c.oldest.IsZero() {
			w.tel.freshness.Record(w.ctx, time.Since(c.oldest).Seconds(), w.tel.table)
		}
		w.answer(c, nil)
	}
	w.open = nil
}

// discard drops files that the plan no longer wants.
func (w *commitment) discard(ctx context.Context, tbl *table.Table) {
	if len(w.pending) > 0 {
		w.orphan(len(w.files))
	} else {
		w.remove(ctx, tbl, w.files)
	}
	w.files, w.written = nil, false
}

// abandon gives up on a group, unless a last look finds that it is in the table: then it returns true. The group's files are
// removed only if no attempt that names them can land any more.
func (w *commitment) abandon() (committed bool) {
	if len(w.files) == 0 {
		return false
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(w.ctx), cleanupTimeout)
	defer cancel()
	tbl, err := w.load(ctx)
	if err == nil && w.landed(tbl) {
		w.succeed()
		return true
	}
	if err != nil || len(w.pending) > 0 {
		w.orphan(len(w.files))
		return false
	}
	w.remove(ctx, tbl, w.files)
	return false
}

// cleanupTimeout bounds the removal of an abandoned group's files, also at shutdown.
const cleanupTimeout = 5 * time.Second

// remove deletes data files that nothing names, as well as it can.
func (w *commitment) remove(ctx context.Context, tbl *table.Table, files []iceberg.DataFile) {
	if len(files) == 0 {
		return
	}
	fs, err := tbl.FS(ctx)
	out, ok := fs.(iceio.WriteFileIO)
	if err != nil || !ok {
		w.orphan(len(files))
		return
	}
	for _, f := range files {
		if err := out.Remove(f.FilePath()); err != nil {
			w.orphan(1)
		}
	}
}

func (w *commitment) orphan(n int) {
	if n > 0 {
		w.tel.orphans.Add(w.ctx, int64(n), w.tel.table)
	}
}

// failpoint lets tests stop the commit of a group at a point of interest.
func (w *commitment) failpoint(at string) error {
	if w.onPoint == nil {
		return nil
	}
	return w.onPoint(at)
}

// isDataError tells whether a failed write is the fault of the rows and not of the object store: it would fail again.
func isDataError(err error) bool {
	return errors.Is(err, columns.ErrTooLarge) || errors.Is(err, arrow.ErrInvalid) || errors.Is(err, arrow.ErrType) || errors.Is(err, arrow.ErrNotImplemented) ||
		errors.Is(err, iceberg.ErrType) || errors.Is(err, iceberg.ErrBadCast) || errors.Is(err, iceberg.ErrInvalidSchema)
}
