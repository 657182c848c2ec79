package lakefile

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/apache/iceberg-go"
	iceio "github.com/apache/iceberg-go/io"
	"github.com/apache/iceberg-go/table"

	"github.com/pulsegrid/pulsegrid/internal/sleep"
)

const (
	// attempts is how often a change is tried beside other writers: one that commits every second wins a few times at most.
	attempts     = 20
	backoffFirst = 100 * time.Millisecond
	backoffMax   = 3 * time.Second
)

// Commit makes a change to the table as it is. Where that fails, most often because another writer was faster, the change is made again to the table as it is
// then; one that landed although the catalog said otherwise finds nothing to change. stage returns false where there is nothing. An error behind a commit that
// landed, such as a file that cannot be deleted, comes with the table.
func Commit(ctx context.Context, load func(context.Context) (*table.Table, error), stage func(*table.Table, *table.Transaction) (bool, error)) (*table.Table, error) {
	var failed error
	backoff := backoffFirst
	for range attempts {
		tbl, err := load(ctx)
		if err != nil {
			return nil, err
		}
		tx := tbl.NewTransaction()
		change, err := stage(tbl, tx)
		if err != nil || !change {
			return nil, err
		}
		committed, err := tx.Commit(ctx)
		if err == nil || committed != nil {
			return committed, err
		}
		failed = err
		if err := sleep.For(ctx, backoff/2+rand.N(backoff)); err != nil {
			return nil, err
		}
		backoff = min(2*backoff, backoffMax)
	}
	return nil, fmt.Errorf("not committed in %d attempts: %w", attempts, failed)
}

// Remove deletes files that nothing names.
func Remove(ctx context.Context, tbl *table.Table, files []iceberg.DataFile) error {
	if len(files) == 0 {
		return nil
	}
	fs, err := tbl.FS(ctx)
	if err != nil {
		return err
	}
	out, ok := fs.(iceio.WriteFileIO)
	if !ok {
		return fmt.Errorf("%T cannot remove files", fs)
	}
	for _, f := range files {
		if err := out.Remove(f.FilePath()); err != nil {
			return fmt.Errorf("remove %s, which nothing names: %w", f.FilePath(), err)
		}
	}
	return nil
}
