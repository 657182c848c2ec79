package fault

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
)

// stopAggregators stops those that run; the returned function starts them again.
func (r *run) stopAggregators() (start func() error, err error) {
	for _, a := range r.Aggregators[:2] {
		if !a.Stop(stopGrace) {
			err = errors.Join(err, fmt.Errorf("%s did not stop within %v", a.Name, stopGrace))
		}
	}
	return func() error {
		return errors.Join(r.Aggregators[0].Start(startTimeout), r.Aggregators[1].Start(startTimeout))
	}, err
}

// offsetsReset kills the aggregators in the middle of their blocks, and moves every offset of both groups by hand.
func (r *run) offsetsReset() error {
	for _, a := range r.Aggregators[:2] {
		a.Kill()
	}
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	starts, err := r.admin.ListStartOffsets(ctx, fastLane.names()...)
	if err := cmp.Or(err, starts.Error()); err != nil {
		return err
	}
	ends, err := r.admin.ListEndOffsets(ctx, fastLane.names()...)
	if err := cmp.Or(err, ends.Error()); err != nil {
		return err
	}
	for _, group := range groups {
		if !until(func() bool { return r.isEmpty(ctx, group) }, startTimeout) {
			return fmt.Errorf("group %s still has members", group)
		}
		var to kadm.Offsets
		ends.Each(func(end kadm.ListedOffset) {
			begin, _ := starts.Lookup(end.Topic, end.Partition)
			at := []int64{begin.Offset, begin.Offset + r.rng.Int64N(end.Offset-begin.Offset+1), end.Offset}[r.rng.IntN(3)]
			to.Add(kadm.Offset{Topic: end.Topic, Partition: end.Partition, At: at, LeaderEpoch: -1})
		})
		if err := r.admin.CommitAllOffsets(ctx, group, to); err != nil {
			return fmt.Errorf("move the offsets of group %s: %w", group, err)
		}
	}
	return errors.Join(r.Aggregators[0].Start(startTimeout), r.Aggregators[1].Start(startTimeout))
}

func (r *run) isEmpty(ctx context.Context, group string) bool {
	described, err := r.admin.DescribeGroups(ctx, group)
	return err == nil && len(described[group].Members) == 0
}

// clickHouseRestored saves ClickHouse's disk while nothing is inserted, lets the load go on, and puts the disk back.
func (r *run) clickHouseRestored() error {
	saved, err := os.MkdirTemp("", "pulsegrid-backup-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(saved)
	start, err := r.stopAggregators()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	if err := r.ClickHouse.Stop(ctx); err != nil {
		return err
	}
	if err := os.CopyFS(saved, os.DirFS(r.ClickHouseDir())); err != nil {
		return err
	}
	if err := errors.Join(r.StartClickHouse(), start()); err != nil {
		return err
	}
	time.Sleep(scaled(badFor)) // blocks are stored that the backup lacks

	r.ClickHouse.Kill()
	if err := empty(r.ClickHouseDir()); err != nil {
		return err
	}
	if err := os.CopyFS(r.ClickHouseDir(), os.DirFS(saved)); err != nil {
		return err
	}
	return r.StartClickHouse()
}

// empty removes what is in a directory, which may be a mount.
func empty(dir string) error {
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
	}
	return err
}
