package aggregate

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"

	"github.com/apache/arrow-go/v18/arrow"

	"github.com/pulsegrid/pulsegrid/internal/clickhouse"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// Engine builds models in a store. A statement is sent once: where its outcome is not known the run ends, and the next one decides from the tables. ClickHouse computes and keeps;
// DuckDB computes, and has ClickHouse keep.
type Engine interface {
	// Name is one of Model.Engines.
	Name() string
	// Prepare makes the tables that the model needs, removes what a run that was killed has left, and holds the query against the model's sources. With create false it
	// only looks.
	Prepare(ctx context.Context, m *Model, create bool) error
	// Sources counts the rows that the query sees of each partition in [from, to). Partitions without rows are left out.
	Sources(ctx context.Context, m *Model, from, to time.Time) (map[time.Time]Seen, error)
	// Published counts the rows of each partition of the target in [from, to).
	Published(ctx context.Context, m *Model, from, to time.Time) (map[time.Time]Count, error)
	// Builds are the records of the newest build of each partition in [from, to).
	Builds(ctx context.Context, m *Model, from, to time.Time) (map[time.Time]Record, error)
	// Stage builds a partition beside the target, in the place of one that was staged before.
	Stage(ctx context.Context, m *Model, at time.Time) (Count, error)
	// Test holds the staged partition against the model's tests, but for those of the number of rows, and returns a text for each that fails.
	Test(ctx context.Context, m *Model, at time.Time) ([]string, error)
	// Publish puts the staged partition into the target, in the place of the published one, in one step. empty: it has no rows.
	Publish(ctx context.Context, m *Model, at time.Time, empty bool) error
	// Record keeps a build.
	Record(ctx context.Context, m *Model, r Record) error
	// Rows are those of a published partition, as the lake's table has them (Model.lakeColumns), in the order of the grain, and in one more column the hash of each, of which
	// Count.Digest is the sum. The caller releases them. Rows that end early are told by the count alone.
	Rows(ctx context.Context, m *Model, at time.Time) iter.Seq2[arrow.RecordBatch, error]
	// PublishWatermark says in the store that what name stands for, a signal or a model, is complete through a time.
	PublishWatermark(ctx context.Context, name string, through time.Time) error
	// Close removes what is staged. It is called where the model's build has ended, however it did.
	Close(ctx context.Context, m *Model) error
}

// Count is a partition of a table: its rows, and a sum modulo 2^64 by which it is told from another: of the rows' hashes, in the lake of the digests of files.
type Count struct {
	Rows   int64
	Digest uint64
}

// Seen is what a build of a partition sees.
type Seen struct {
	Rows   int64     // of all sources
	Digest string    // for each source its rows and the sum of their ids (ledger.IDSum)
	Oldest time.Time // the earliest ingest_time
}

// Record is the newest build of a partition.
type Record struct {
	At        time.Time // begin of the partition
	Version   string    // of the model
	Sources   Seen
	Published Count
	Lake      Count // the copy of what was published; no rows where there is none yet
}

// refused is the error by which an engine refuses a statement for the query's fault, or the data's; nil: err is another one.
func refused(err error) error {
	if e, ok := errors.AsType[*clickhouse.Exception](err); ok {
		return e
	}
	if e, ok := errors.AsType[*DuckDBError](err); ok {
		return e
	}
	return nil
}

// bucket are the rows of a source in an hour of their time that arrived in an hour.
type bucket struct {
	Hour    int64  `json:"hour"`    // of time; Unix, in seconds
	Arrived int64  `json:"arrived"` // hour of ingest_time; likewise
	Rows    int64  `json:"rows"`
	IDs     uint64 `json:"ids"`
	Oldest  int64  `json:"oldest"`
}

// seen adds buckets up to what each partition in [from, to) sees. buckets are those of each of the model's sources.
func seen(m *Model, buckets [][]bucket, from, to time.Time) map[time.Time]Seen {
	size := m.Partition.Size.Duration()
	out := map[time.Time]Seen{}
	// A bucket is seen by the partition that it lies in and, with a lookback, by later ones.
	type sums struct {
		rows, oldest int64
		ids          uint64
	}
	all := map[time.Time][]sums{}
	for i, source := range m.Sources {
		for _, b := range buckets[i] {
			hour := time.Unix(b.Hour, 0).UTC()
			for at := hour.Truncate(size); !at.After(hour.Add(source.Lookback)) && at.Before(to); at = at.Add(size) {
				if at.Before(from) || source.Cutoff == CutoffPartitionEnd && b.Arrived >= at.Add(size).Unix() {
					continue
				}
				if all[at] == nil {
					all[at] = make([]sums, len(m.Sources))
				}
				s := &all[at][i]
				if s.rows == 0 || b.Oldest < s.oldest {
					s.oldest = b.Oldest
				}
				s.rows, s.ids = s.rows+b.Rows, s.ids+b.IDs
			}
		}
	}
	for at, of := range all {
		var s Seen
		var parts []string
		for i, one := range of {
			if oldest := time.Unix(one.oldest, 0).UTC(); one.rows > 0 && (s.Rows == 0 || oldest.Before(s.Oldest)) {
				s.Oldest = oldest
			}
			s.Rows += one.rows
			parts = append(parts, fmt.Sprintf("%s %d %016x", m.Sources[i].Table, one.rows, one.ids))
		}
		s.Digest = strings.Join(parts, ", ")
		out[at] = s
	}
	return out
}

// Watermark tells how far the store is complete: it has each event of the signal that Kafka appended before that time.
type Watermark func(ctx context.Context, s signal.Signal) (time.Time, error)
