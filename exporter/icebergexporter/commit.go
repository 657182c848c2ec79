package icebergexporter

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/iceberg-go"
	"github.com/apache/iceberg-go/table"
	"github.com/google/uuid"
	"go.uber.org/zap"

	"github.com/pulsegrid/pulsegrid/internal/sleep"
)

// Backoff between attempts that fail, jittered by half.
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
	outcomeSwept     = "swept" // of a sweep
)

// stage is what a store does with the calls of a group. It answers each of them exactly once.
type stage interface {
	// plan decides what is to be done, by the table's offsets.
	plan(have book, calls []*call) plan
	// mayHold tells whether the table holds rows of a partition that its offsets do not name, and that are not to be written again.
	mayHold(ctx context.Context, tbl *table.Table, p partition) (bool, error)
	// write writes the plan's rows into files, or returns the calls whose data is at fault and no files.
	write(ctx context.Context, tbl *table.Table, p plan) ([]iceberg.DataFile, []refusal, error)
	// pass takes a call whose block is in the table; replayed: without this group.
	pass(c *call, replayed bool)
	// hold takes a call that has to wait for the block before it.
	hold(g gap)
	// sendBack answers a call whose receiver has to go back to what the table lacks.
	sendBack(g gap, err error)
	// refuse answers a call with an error.
	refuse(c *call, err error)
	// committed is told what a commit has added, before its calls are passed.
	committed(calls []*call, files []iceberg.DataFile)
}

// refusal is a call whose data cannot be written, and why.
type refusal struct {
	call *call
	err  error
}

// commitment is the state of committing one group. It lives on the committer's goroutine.
type commitment struct {
	*store
	stage stage
	open  []*call // not yet answered

	id      string // of files: entry in the summary of every snapshot that attempts with them try to make
	planned plan   // what files holds
	files   []iceberg.DataFile
	written bool
	refused bool // some calls were refused
	book    book // of the table as it was last loaded

	// pending lists the snapshots that attempts with files were pinned to, whatever their answers were: an answer is not proof. The AWS SDK and
	// proxies repeat a commit whose answer was lost, and then tell that the second one was refused. An attempt is pending until a loaded
	// table proves that it is void. noSnapshot stands for a table without any.
	pending []int64
	// tried and base are of the last attempt: whether it came to a commit, and the snapshot that it was pinned to.
	tried bool
	base  int64
}

// commitGroup sees to it that every call of a group is passed, held or answered.
func (s *store) commitGroup(st stage, g []*call) {
	began := time.Now()
	defer s.unuseFiles()
	w := &commitment{store: s, stage: st, open: g}
	outcome, err := w.run()
	for _, c := range w.open {
		st.refuse(c, s.describe(c, err))
	}
	s.tel.commits(s.ctx, outcome, time.Since(began))
	s.report(cmp.Or(err, s.refusal()))
}

// run tries until the group is decided, or has failed too often. Every attempt begins with a fresh load of the table, so that the
// table's own offsets decide what is still to be done, whatever the attempt before it has or has not achieved.
//
// An attempt that lost against another writer is no failure: the table goes on, and the same files go into the next attempt. It is
// tried again for as long as the failures allowed could take.
func (w *commitment) run() (outcome string, err error) {
	if len(w.open) == 0 {
		return outcomeEmpty, nil
	}
	deadline := time.Now().Add(w.cfg.Commit.Timeout * time.Duration(w.cfg.Commit.MaxAttempts))
	for failures, conflicts := 0, 0; ; {
		began := time.Now()
		w.tel.attempts.Add(w.ctx, 1, w.tel.table)
		var done bool
		done, outcome, err = w.attempt()
		if done {
			return outcome, nil
		}
		if w.ctx.Err() != nil || needsOperator(err) {
			break
		}
		landed, conflict := w.look()
		if landed {
			return outcomeCommitted, nil
		}
		if conflict {
			conflicts++
			w.tel.conflicts.Add(w.ctx, 1, w.tel.table)
		} else {
			failures++
		}
		if failures >= w.cfg.Commit.MaxAttempts || time.Now().After(deadline) {
			break
		}
		w.log.Debug("commit attempt failed", zap.String("table", w.name()), zap.Int("failures", failures), zap.Int("conflicts", conflicts), zap.Error(err))
		if conflict {
			_ = sleep.For(w.ctx, conflictPause(time.Since(began)))
		} else {
			_ = sleep.For(w.ctx, failurePause(failures))
		}
	}
	if w.abandon() {
		return outcomeCommitted, nil
	}
	return outcomeFailed, err
}

func failurePause(failures int) time.Duration {
	d := min(backoffFirst<<min(failures-1, 16), backoffMax)
	return d/2 + rand.N(d/2+1)
}

// conflictPause spreads those who lost over about the time that an attempt takes. It does not grow: who has lost often would lose more.
func conflictPause(attempt time.Duration) time.Duration { return rand.N(attempt + 1) }

// attempt loads the table, plans, writes files where there are none for that plan, and commits. done means that every call of
// the group is decided.
func (w *commitment) attempt() (done bool, outcome string, err error) {
	ctx, cancel := context.WithTimeout(w.ctx, w.cfg.Commit.Timeout)
	defer cancel()
	w.tried = false
	for {
		tbl, err := w.load(ctx)
		if err != nil {
			return false, "", err
		}
		if w.landed(tbl) {
			w.succeed()
			return true, outcomeCommitted, nil
		}
		if err := w.check(tbl); err != nil {
			return false, "", err
		}
		p, replayed, err := w.settle(ctx, tbl)
		if err != nil {
			return false, "", err
		}
		if len(p.write) == 0 { // every call is settled
			w.discard(ctx, tbl)
			switch {
			case w.refused:
				return true, outcomeFailed, nil
			case replayed:
				return true, outcomeReplayed, nil
			}
			return true, outcomeHeld, nil
		}
		if w.written && w.planned.sameRows(p) {
			w.planned = p
			if err := w.commit(ctx, tbl, p); err != nil {
				return false, "", err
			}
			w.succeed()
			return true, outcomeCommitted, nil
		}
		w.discard(ctx, tbl)
		if err := w.writeFiles(ctx, tbl, p); err != nil {
			return false, "", err
		}
		// Writing took its time. The table is loaded again, so that what others have committed meanwhile is no conflict.
	}
}

// look loads the table after a failed attempt. conflict: the attempt lost against another writer's commit.
func (w *commitment) look() (landed, conflict bool) {
	ctx, cancel := context.WithTimeout(w.ctx, w.cfg.Commit.Timeout)
	defer cancel()
	if !w.tried {
		return false, false
	}
	tbl, err := w.load(ctx)
	if err != nil {
		return false, false
	}
	if w.landed(tbl) {
		w.succeed()
		return true, false
	}
	return false, currentSnapshot(tbl) != w.base
}

// landed tells whether a pending attempt made it into the table after all, on its branch or on one that was rolled back since, and forgets
// attempts that are void. An attempt is pinned to the snapshot that it was made from. So it is void once the branch has left that
// snapshot, goes back to it without a gap, and no snapshot has its commit id. What expiry has cut off stays pending.
func (w *commitment) landed(tbl *table.Table) bool {
	if len(w.pending) == 0 {
		return false
	}
	for _, snap := range tbl.Metadata().Snapshots() {
		if commitID(&snap) == w.id {
			return true
		}
	}
	w.pending = slices.DeleteFunc(w.pending, func(base int64) bool { return hasLeft(tbl, base) })
	return false
}

// hasLeft tells whether the branch was at a snapshot, or had none, and has gone on since.
func hasLeft(tbl *table.Table, base int64) bool {
	if currentSnapshot(tbl) == base {
		return false
	}
	for snap := tbl.CurrentSnapshot(); snap != nil; snap = parent(tbl, snap) {
		if snap.SnapshotID == base || snap.ParentSnapshotID == nil && base == noSnapshot {
			return true
		}
	}
	return false
}

// settle plans the open calls by the table's offsets, and settles those of which nothing is to be written, whatever becomes of the
// rest of the group.
func (w *commitment) settle(ctx context.Context, tbl *table.Table) (p plan, replayed bool, err error) {
	if w.book, err = readBook(tbl, partitionsOf(w.open)); err != nil {
		return plan{}, false, err
	}
	if err := w.refuseUnknown(ctx, tbl); err != nil {
		return plan{}, false, err
	}
	p = w.stage.plan(w.book, w.open)
	for _, r := range p.remade {
		w.announce(r)
	}
	for _, g := range p.ahead {
		w.refuse(g.call, aheadError(tbl, w.book, g))
	}
	for _, c := range w.open {
		w.accept(c)
	}
	for _, c := range p.replayed {
		w.settled(c)
		w.stage.pass(c, true)
	}
	for _, g := range p.lacking {
		w.settled(g.call)
		w.tel.resumes.Add(w.ctx, 1, w.tel.table)
		w.stage.sendBack(g, fmt.Errorf("table %s: %s: %w", w.name(), g.call.origin(), g.resume()))
	}
	for _, g := range p.early {
		w.settled(g.call)
		w.tel.held.Add(w.ctx, 1, w.tel.table)
		w.stage.hold(g)
	}
	return p, len(p.replayed) > 0, nil
}

// refuseUnknown refuses blocks of partitions of which the table may hold rows though nothing says up to where.
func (w *commitment) refuseUnknown(ctx context.Context, tbl *table.Table) error {
	if w.book.counted {
		return nil
	}
	for _, c := range slices.Clone(w.open) {
		if _, _, known, former := w.book.find(partitionOf(c.block)); !c.hasBlock || known || former != nil {
			continue
		}
		lost, err := w.stage.mayHold(ctx, tbl, partitionOf(c.block))
		if err != nil {
			return err
		}
		if lost {
			w.refuse(c, unknowable(tbl, fmt.Sprintf("it has rows of topic %s, partition %d, and neither its properties nor its snapshots say up to which offset", c.block.Topic, c.block.Partition)))
		}
	}
	return nil
}

// refuse answers a call whose block must not be written before an operator has mended something.
func (w *commitment) refuse(c *call, why error) {
	w.refused = true
	w.settled(c)
	w.refusing(partitionOf(c.block), why)
	w.stage.refuse(c, w.describe(c, why))
}

// settled takes a call out of the group.
func (w *commitment) settled(c *call) {
	w.open = slices.DeleteFunc(w.open, func(o *call) bool { return o == c })
}

// writeFiles writes the plan's rows. Calls whose data is at fault leave the group, and so do, by the new plan, the calls that come after
// theirs in a partition.
func (w *commitment) writeFiles(ctx context.Context, tbl *table.Table, p plan) error {
	if err := w.point(w.points.writing); err != nil {
		return err
	}
	for {
		files, bad, err := w.stage.write(ctx, tbl, p)
		if err != nil {
			return err
		}
		if len(bad) == 0 {
			w.planned, w.files, w.written = p, files, true
			w.id, w.pending = uuid.NewString(), nil
			return w.point(w.points.written)
		}
		for _, r := range bad {
			w.refused = true
			w.settled(r.call)
			w.stage.refuse(r.call, r.err)
		}
		if p, _, err = w.settle(ctx, tbl); err != nil || len(p.write) == 0 {
			return err
		}
	}
}

// commit makes one snapshot of the files, with the offsets in the table's properties (which snapshot expiry leaves alone) and in
// the snapshot's summary (which tells the history).
func (w *commitment) commit(ctx context.Context, tbl *table.Table, p plan) error {
	w.tried, w.base = true, currentSnapshot(tbl)
	set, remove := w.book.commitEntries(p.next)
	set[commitIDKey] = w.id
	summary := p.next.entries(partition.property)
	maps.Copy(summary, p.before.entries(partition.beforeProperty))
	summary[commitIDKey], summary[countKey] = w.id, set[countKey]
	tx := tbl.NewTransaction()
	if err := tx.AssertRefSnapshotID(""); err != nil {
		return fmt.Errorf("pinning the snapshot: %w", err)
	}
	if err := errors.Join(tx.SetProperties(set), tx.RemoveProperties(remove)); err != nil {
		return fmt.Errorf("setting offsets: %w", err)
	}
	if err := addFiles(ctx, tx, tbl, w.files, summary); err != nil {
		return fmt.Errorf("writing manifests: %w", err)
	}
	if err := w.point(w.points.committing); err != nil {
		return err
	}
	w.pending = append(w.pending, w.base)
	_, err := tx.Commit(ctx)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, table.ErrCommitFailed):
		return fmt.Errorf("conflict, or so it was answered: %w", err)
	}
	return fmt.Errorf("outcome unknown: %w", err) // the next load decides
}

// addFiles makes a snapshot of the files. Without any it is an empty one: offsets never move without a snapshot that says so.
func addFiles(ctx context.Context, tx *table.Transaction, tbl *table.Table, files []iceberg.DataFile, summary iceberg.Properties) error {
	if len(files) > 0 {
		return tx.AddDataFiles(ctx, files, summary, table.WithoutDuplicateCheck(), table.WithoutAutoNameMapping())
	}
	sc, err := table.SchemaToArrowSchema(tbl.Schema(), nil, true, false)
	if err != nil {
		return err
	}
	nothing, err := array.NewRecordReader(sc, nil)
	if err != nil {
		return err
	}
	defer nothing.Release()
	return tx.Append(ctx, nothing, summary)
}

// succeed passes on the calls of a group that is in the table.
func (w *commitment) succeed() {
	var bytes int64
	for _, f := range w.files {
		bytes += f.FileSizeBytes()
	}
	w.tel.files.Add(w.ctx, int64(len(w.files)), w.tel.table)
	w.tel.fileBytes.Add(w.ctx, bytes, w.tel.table)
	if n := len(w.book.fix) + len(w.book.drop); n > 0 {
		w.log.Warn("offset properties that somebody removed or changed, or that a rollback left, were put right from the snapshots of the branch",
			zap.String("table", w.name()), zap.Int("properties", n))
	}
	w.stage.committed(w.open, w.files)
	_ = w.point(w.points.committed) // too late to stop anything but the process
	for _, c := range w.open {
		w.stage.pass(c, false)
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
	if len(w.files) == 0 && len(w.pending) == 0 {
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
