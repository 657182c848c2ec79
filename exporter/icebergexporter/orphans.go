package icebergexporter

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"path"
	"time"

	"github.com/apache/iceberg-go"
	iceio "github.com/apache/iceberg-go/io"
	"github.com/apache/iceberg-go/table"
	"github.com/google/uuid"
	"go.uber.org/zap"

	"github.com/pulsegrid/pulsegrid/internal/lakefile"
)

// Orphans are data files that a commit was to name which failed, or whose process died. The sweeper removes them later. It is not
// iceberg-go's DeleteOrphanFiles, because that takes every file below the table that it finds unnamed: statistics (apache/iceberg-go#835),
// and what other engines are just writing. This one takes a file only if all of this holds:
//
//   - it lies in the table's data folder and has a name that only PulseGrid gives (lakefile.IDOf);
//   - it is older than orphans::min_age, which is longer than a commit can take;
//   - no group of this process holds it;
//   - no snapshot in metadata that was loaded after the file was listed names it, and that metadata has the sweeper's own claim, so it is no
//     older copy.

const (
	// sweptKey is the table property by which one writer of many sweeps: who commits it has the next orphans::interval.
	sweptKey = "pulsegrid.orphans-swept"
	// sweepFiles is how many files are held against the snapshots at a time, which bounds the sweeper's memory.
	sweepFiles = 50_000
	// sweepLogged is how many names of found files one line of the log has.
	sweepLogged = 20
)

// sweepEvery sweeps until ctx ends. It asks more often than it sweeps, so that a writer that died does not take the turn with it.
func (s *store) sweepEvery(ctx context.Context) {
	for every := s.cfg.Orphans.Interval; every > 0; {
		t := time.NewTimer(every/20 + rand.N(every/10+1))
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return
		}
		if err := s.sweep(ctx, s.cfg.Orphans); err != nil && ctx.Err() == nil {
			s.tel.sweep(ctx, outcomeFailed)
			s.log.Warn("orphaned files were not swept, they are tried again later", zap.String("table", s.name()), zap.Error(err))
		}
	}
}

// sweep removes orphans if it is this writer's turn.
func (s *store) sweep(ctx context.Context, cfg OrphansConfig) error {
	tbl, err := s.load(ctx)
	if err != nil {
		return err
	}
	last, _ := time.Parse(time.RFC3339, tbl.Properties()[sweptKey])
	if time.Since(last) < cfg.Interval {
		return nil
	}
	root, err := dataFolder(tbl)
	if err != nil {
		return err
	}
	claim := ""
	if !cfg.DryRun {
		claim = time.Now().UTC().Format(time.RFC3339)
		tx := tbl.NewTransaction()
		if err := tx.SetProperties(iceberg.Properties{sweptKey: claim}); err != nil {
			return err
		}
		if _, err := tx.Commit(ctx); err != nil {
			return fmt.Errorf("claiming the sweep: %w", err)
		}
	}
	fsys, err := tbl.FS(ctx)
	if err != nil {
		return err
	}
	listable, ok := fsys.(iceio.ListableIO)
	if !ok {
		return fmt.Errorf("%T cannot list files", fsys)
	}
	cutoff := time.Now().Add(-cfg.MinAge)
	found := map[string]string{} // name -> path
	err = listable.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil // nothing was ever written, or it has just been removed
		case err != nil:
			return err
		case ctx.Err() != nil:
			return ctx.Err()
		case d.IsDir() || lakefile.IDOf(path.Base(file)) == "":
			return nil
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || info.ModTime().After(cutoff) {
			return err
		}
		found[path.Base(file)] = file
		if len(found) < sweepFiles {
			return nil
		}
		err = s.removeOrphans(ctx, cfg, claim, fsys, found)
		clear(found)
		return err
	})
	if err != nil {
		return fmt.Errorf("listing %s: %w", root, err)
	}
	if err := s.removeOrphans(ctx, cfg, claim, fsys, found); err != nil {
		return err
	}
	s.tel.sweep(ctx, outcomeSwept)
	return nil
}

// dataFolder is where the table's data files lie.
func dataFolder(tbl *table.Table) (string, error) {
	if tbl.Properties().GetBool(table.ObjectStoreEnabledKey, table.ObjectStoreEnabledDefault) {
		return "", fmt.Errorf("data files that %s spreads over the store are not swept: set orphans::interval to 0", table.ObjectStoreEnabledKey)
	}
	if p := tbl.Properties()[table.WriteDataPathKey]; p != "" {
		return p, nil
	}
	return tbl.Location() + "/data", nil
}

// removeOrphans removes those of the found files that nothing names. What is in use is asked before the metadata is loaded: a file whose
// group ends in between is then named by it.
func (s *store) removeOrphans(ctx context.Context, cfg OrphansConfig, claim string, fsys iceio.IO, found map[string]string) error {
	if len(found) == 0 {
		return nil
	}
	inUse := s.filesInUse()
	maps.DeleteFunc(found, func(name, _ string) bool { return inUse[lakefile.IDOf(name)] })
	tbl, err := s.load(ctx)
	if err != nil {
		return err
	}
	if tbl.Properties()[sweptKey] < claim {
		return errors.New("the catalog answers with metadata that is older than this sweep")
	}
	if err := deleteNamed(ctx, tbl, fsys, found); err != nil {
		return fmt.Errorf("reading what the snapshots name: %w", err)
	}
	if len(found) == 0 {
		return nil
	}
	s.tel.orphansFound.Add(ctx, int64(len(found)), s.tel.table)
	var some []string
	for _, file := range found {
		if some = append(some, file); len(some) == sweepLogged {
			break
		}
	}
	s.log.Info("orphaned files", zap.String("table", s.name()), zap.Int("files", len(found)), zap.Bool("dry_run", cfg.DryRun), zap.Strings("some", some))
	if cfg.DryRun {
		return nil
	}
	for _, file := range found {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := fsys.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("removing %s: %w", file, err)
		}
		s.tel.orphansRemoved.Add(ctx, 1, s.tel.table)
	}
	return nil
}

// deleteNamed deletes from files, by name, those that any snapshot of the table names. A name has a UUID, so a file of another folder
// never has it.
func deleteNamed(ctx context.Context, tbl *table.Table, fsys iceio.IO, files map[string]string) error {
	read := map[string]bool{}
	for _, snap := range tbl.Metadata().Snapshots() {
		manifests, err := snap.Manifests(fsys)
		if err != nil {
			return err
		}
		for _, m := range manifests {
			if read[m.FilePath()] {
				continue
			}
			read[m.FilePath()] = true
			for e, err := range m.Entries(fsys, false) {
				if err != nil {
					return err
				}
				delete(files, path.Base(e.DataFile().FilePath()))
			}
			if err := ctx.Err(); err != nil {
				return err
			}
		}
	}
	return nil
}

// useFiles gives a name to the files that are about to be written. They are in use until unuseFiles.
func (s *store) useFiles() uuid.UUID {
	id := lakefile.NewID()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.inUse[id.String()] = true
	return id
}

func (s *store) unuseFiles() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.inUse)
}

func (s *store) filesInUse() map[string]bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.inUse)
}
