package upkeep

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/apache/iceberg-go/catalog"
	"github.com/apache/iceberg-go/table"

	"github.com/pulsegrid/pulsegrid/internal/lakefile"
)

// manyManifests is how many make it worth while to merge them: the writers merge theirs when there are a hundred.
const manyManifests = 20

// Options of a run.
type Options struct {
	// Keep and RetainLast: a snapshot is expired when it is older than Keep and not among the newest RetainLast.
	Keep       time.Duration
	RetainLast int
	// TargetBytes is the size of a data file that small ones are put together to; 0: they are left as they are.
	TargetBytes int64
	// Within is how long a group of files may take to be put together: less than the age at which the exporter's sweeper removes files that nothing names.
	Within time.Duration
	// DryRun changes nothing.
	DryRun bool
}

// Report is what became of a table. In a dry run it is what would become of it.
type Report struct {
	Table           string  `json:"table"`
	Files           int     `json:"files"`            // before
	Compacted       int     `json:"compacted_files"`  // that were put together
	Written         int     `json:"written_files"`    // in their place; 0 in a dry run
	Kept            string  `json:"kept,omitempty"`   // why files are left as they are
	Manifests       int     `json:"manifests"`        // before
	MergedManifests int     `json:"merged_manifests"` // that were put together; 0 in a dry run
	Snapshots       int     `json:"snapshots"`        // before
	Expired         int     `json:"expired_snapshots"`
	Seconds         float64 `json:"seconds"`
	Error           string  `json:"error,omitempty"`
}

// Table does the upkeep of a table. What it did before an error counts, and is in the report.
func Table(ctx context.Context, cat catalog.Catalog, id table.Identifier, o Options) (Report, error) {
	began := time.Now()
	u := &upkeep{Options: o, catalog: cat, id: id, report: Report{Table: id[len(id)-1]}}
	err := u.run(ctx)
	u.report.Seconds = time.Since(began).Seconds()
	if err != nil {
		err = fmt.Errorf("table %s: %w", u.report.Table, err)
		u.report.Error = err.Error()
	}
	return u.report, err
}

type upkeep struct {
	Options
	catalog catalog.Catalog
	id      table.Identifier
	report  Report
}

func (u *upkeep) load(ctx context.Context) (*table.Table, error) {
	tbl, err := u.catalog.LoadTable(ctx, u.id)
	if err != nil {
		return nil, fmt.Errorf("load the table: %w", err)
	}
	return tbl, nil
}

func (u *upkeep) run(ctx context.Context) error {
	tbl, err := u.load(ctx)
	if err != nil {
		return err
	}
	u.report.Snapshots = len(tbl.Metadata().Snapshots())
	if tbl.CurrentSnapshot() == nil {
		return nil
	}
	if u.TargetBytes > 0 {
		if err := u.compact(ctx); err != nil {
			return fmt.Errorf("put data files together: %w", err)
		}
		if tbl, err = u.load(ctx); err != nil {
			return err
		}
	}
	fs, err := tbl.FS(ctx)
	if err != nil {
		return err
	}
	manifests, err := tbl.CurrentSnapshot().Manifests(fs)
	if err != nil {
		return fmt.Errorf("list the manifests: %w", err)
	}
	u.report.Manifests = len(manifests)
	if len(manifests) > manyManifests && !u.DryRun {
		if err := u.mergeManifests(ctx); err != nil {
			return fmt.Errorf("merge manifests: %w", err)
		}
	}
	if err := u.expire(ctx); err != nil {
		return fmt.Errorf("expire snapshots: %w", err)
	}
	return nil
}

func (u *upkeep) mergeManifests(ctx context.Context) error {
	merged := 0
	committed, err := lakefile.Commit(ctx, u.load, func(_ *table.Table, tx *table.Transaction) (bool, error) {
		r, err := tx.RewriteManifests(ctx)
		if err != nil || r.IsNoOp() {
			return false, err
		}
		merged = len(r.RewrittenManifests)
		return true, nil
	})
	if committed != nil {
		u.report.MergedManifests = merged
	}
	return err
}

// expire takes snapshots out of the table, and deletes the files that only these name.
func (u *upkeep) expire(ctx context.Context) error {
	expired := 0
	committed, err := lakefile.Commit(ctx, u.load, func(tbl *table.Table, tx *table.Transaction) (bool, error) {
		if err := tx.ExpireSnapshots(table.WithOlderThan(u.Keep), table.WithRetainLast(u.RetainLast)); err != nil {
			return false, err
		}
		staged, err := tx.StagedTable()
		if err != nil {
			return false, err
		}
		expired = len(tbl.Metadata().Snapshots()) - len(staged.Metadata().Snapshots())
		return expired > 0 && !u.DryRun, nil
	})
	if committed != nil || u.DryRun {
		u.report.Expired = expired
	}
	if committed != nil && err != nil && allGone(err) {
		return nil // the files were to go
	}
	return err
}

// allGone tells that err, or each error that it joins, is of a file that is not there.
func allGone(err error) bool {
	var many interface{ Unwrap() []error }
	if errors.As(err, &many) {
		return !slices.ContainsFunc(many.Unwrap(), func(one error) bool { return !allGone(one) })
	}
	return errors.Is(err, os.ErrNotExist)
}
