package icebergexporter

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/apache/iceberg-go/catalog"
	"github.com/apache/iceberg-go/table"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/ledger"
)

// contender is a writer of its own process, as far as the table can tell.
type contender struct {
	*sink
	tel   *componenttest.Telemetry
	next  int64
	waits []time.Duration // from a block's delivery to its acknowledgement
}

func contenders(tb testing.TB, cfg *Config, n int, prepare ...func(*sink)) (out []*contender) {
	for range n {
		c := &contender{tel: componenttest.NewTelemetry()}
		s, err := newSink(other(cfg), component.NewID(metadata.Type()), c.tel.NewTelemetrySettings(), columns.Logs, memory.NewGoAllocator())
		require.NoError(tb, err)
		for _, p := range prepare {
			p(s)
		}
		c.sink = s
		require.NoError(tb, s.start(context.Background(), componenttest.NewNopHost()))
		tb.Cleanup(func() {
			require.NoError(tb, s.stop(context.Background()))
			require.NoError(tb, c.tel.Shutdown(context.Background()))
		})
		require.Eventually(tb, func() bool { return s.ready.Load() != nil && s.ledger.ready.Load() != nil }, time.Minute, time.Millisecond)
		out = append(out, c)
	}
	return out
}

// writeUntil delivers blocks to a partition of the contender's own, one after another, until the time is up or count are in.
func (c *contender) writeUntil(part int32, end time.Time, count int) error {
	for n := 0; n != count && (end.IsZero() || time.Now().Before(end)); n++ {
		began := time.Now()
		ctx, ld := logs(part, c.next, c.next+9, 1)
		if err := c.consumeLogs(ctx, ld); err != nil {
			return err
		}
		c.next += 10
		c.waits = append(c.waits, time.Since(began))
	}
	return nil
}

func TestManyWritersOfOneTableNeitherStarveNorDoubleEachOther(t *testing.T) {
	cfg := lake(t)
	cfg.Commit.MaxAttempts = 2 // a conflict is no failure
	cs := contenders(t, cfg, 8)
	const blocks = 4
	var wg sync.WaitGroup
	errs := make([]error, len(cs))
	for i, c := range cs {
		wg.Go(func() { errs[i] = c.writeUntil(int32(i), time.Time{}, blocks) })
	}
	wg.Wait()
	var expected []string
	for i, err := range errs {
		require.NoError(t, err)
		expected = append(expected, bodies(int32(i), 0, blocks*10-1)...)
	}
	require.Equal(t, sorted(expected), stored(t, cfg, "logs", "body"))
	require.Len(t, entries(t, cfg, topic), len(cs)*blocks)
}

// slowCatalog answers as late as an object store and a catalog over a network do.
type slowCatalog struct {
	catalog.Catalog
	load, commit time.Duration
}

func (s *slowCatalog) Close() error { return s.Catalog.(catalog.Closer).Close() }

func (s *slowCatalog) LoadTable(ctx context.Context, id table.Identifier) (*table.Table, error) {
	tbl, err := s.Catalog.LoadTable(ctx, id)
	time.Sleep(s.load)
	if err != nil {
		return nil, err
	}
	return table.New(tbl.Identifier(), tbl.Metadata(), tbl.MetadataLocation(), tbl.FS, s), nil
}

func (s *slowCatalog) CommitTable(ctx context.Context, id table.Identifier, reqs []table.Requirement, updates []table.Update) (table.Metadata, string, error) {
	time.Sleep(s.commit)
	return s.Catalog.CommitTable(ctx, id, reqs, updates)
}

// BenchmarkWritersOfOneTable prints, for 1, 4 and 16 aggregators that commit to one table as fast as they can (commit::max_age is 0), the
// rate of commits, how often one is tried, and the wait of the least lucky block. "network" adds what the AWS APIs take besides: 40 ms to
// load a table (catalog and metadata), 120 ms for the manifests, the metadata and the swap of the pointer. "default" is that with the
// default commit::max_age of 10 s, which is part of the waits.
//
//	go test -run '^$' -bench WritersOfOneTable -benchtime 1x ./exporter/icebergexporter
func BenchmarkWritersOfOneTable(b *testing.B) {
	for _, place := range []struct {
		name                       string
		load, commit, maxAge, long time.Duration
	}{
		{"local", 0, 0, 0, 10 * time.Second},
		{"network", 40 * time.Millisecond, 120 * time.Millisecond, 0, 10 * time.Second},
		{"default", 40 * time.Millisecond, 120 * time.Millisecond, defaultMaxAge, 45 * time.Second},
	} {
		for _, writers := range []int{1, 4, 16} {
			b.Run(fmt.Sprintf("%s/writers=%d", place.name, writers), func(b *testing.B) {
				for b.Loop() {
					cfg := lake(b)
					cfg.Commit.MaxAge = place.maxAge
					slow := func(s *sink) {
						delay := func(of *store) {
							open := of.openCatalog
							of.openCatalog = func(ctx context.Context) (catalog.Catalog, error) {
								cat, err := open(ctx)
								return &slowCatalog{cat, place.load, place.commit}, err
							}
						}
						delay(s.store)
						join := s.joinLedger
						s.joinLedger = func() (*ledgerStore, error) {
							l, err := join()
							delay(l.store)
							return l, err
						}
					}
					cs := contenders(b, cfg, writers, slow)
					end := time.Now().Add(place.long)
					var wg sync.WaitGroup
					errs := make([]error, writers)
					for i, c := range cs {
						wg.Go(func() { errs[i] = c.writeUntil(int32(i), end, -1) })
					}
					began := time.Now()
					wg.Wait()
					took := time.Since(began)
					var waits []time.Duration
					var attempts int64
					least := int(^uint(0) >> 1)
					for i, c := range cs {
						require.NoError(b, errs[i])
						waits = append(waits, c.waits...)
						least = min(least, len(c.waits))
						attempts += counter(b, c.tel, "iceberg_commit_attempts", c.name())
					}
					slices.Sort(waits)
					b.ReportMetric(float64(len(waits))/took.Seconds(), "commits/s")
					b.ReportMetric(float64(attempts)/float64(len(waits)), "attempts/commit")
					b.ReportMetric(waits[len(waits)/2].Seconds(), "median-wait-s")
					b.ReportMetric(waits[len(waits)-1].Seconds(), "worst-wait-s")
					b.ReportMetric(float64(least)/(float64(len(waits))/float64(writers)), "least/mean")
					b.ReportMetric(meanDuration(cs, "logs"), "s/table-commit")
					b.ReportMetric(meanDuration(cs, ledger.Name), "s/ledger-commit")
					b.ReportMetric(0, "ns/op")
				}
			})
		}
	}
}

// meanDuration is the mean time that groups of a table took, in seconds.
func meanDuration(cs []*contender, name string) float64 {
	var sum float64
	var n uint64
	for _, c := range cs {
		m, err := c.tel.GetMetric("otelcol_iceberg_commit_duration")
		if err != nil {
			continue
		}
		for _, p := range m.Data.(metricdata.Histogram[float64]).DataPoints {
			if of, _ := p.Attributes.Value("table"); of.AsString() == c.cfg.Namespace+"."+name {
				sum, n = sum+p.Sum, n+p.Count
			}
		}
	}
	return sum / float64(n)
}
