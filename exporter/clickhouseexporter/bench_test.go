package clickhouseexporter

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"

	"github.com/pulsegrid/pulsegrid/internal/block"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire/otlptest"
	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/internal/testkit/clickhousetest"
	"github.com/pulsegrid/pulsegrid/internal/testkit/collectortest"
)

const benchRows = 20_000

// BenchmarkInsert stores blocks of 20,000 realistic logs in a real engine on this machine and reports CPU seconds of both sides, as
// the kernel charged them, by row. The engine's include the merges of that time.
//
//	go test -run - -bench Insert -benchtime 10x -count 6 ./exporter/clickhouseexporter
func BenchmarkInsert(b *testing.B) {
	req := plogotlp.NewExportRequest()
	require.NoError(b, req.UnmarshalProto(otlptest.Logs(1, benchRows)))
	for _, compression := range []string{"none", "lz4", "zstd"} {
		b.Run(compression, func(b *testing.B) {
			ch := clickhousetest.Start(b)
			cfg := config(ch.URL, func(c *Config) { require.NoError(b, c.ClientConfig.Compression.UnmarshalText([]byte(compression))) })
			set := exporter.Settings{ID: component.NewID(metadata.Type()), TelemetrySettings: componenttest.NewNopTelemetrySettings()}
			e, err := newExporter(set, cfg, signal.Logs)
			require.NoError(b, err)
			require.NoError(b, e.Start(b.Context(), &collectortest.Host{}))
			offset := int64(0)
			insert := func() {
				blk := block.Block{Topic: "t", First: offset, Last: offset, Signal: signal.Logs, Events: benchRows}
				offset++
				require.NoError(b, e.ConsumeLogs(block.NewContext(b.Context(), blk), req.Logs()))
			}
			insert() // warms both sides up
			client, server := selfCPU(b), processCPU(b, ch.PID())
			for b.Loop() {
				insert()
			}
			n := float64(b.N * benchRows)
			b.ReportMetric(float64((selfCPU(b)-client).Nanoseconds())/n/1e3, "client-us/row")
			b.ReportMetric(float64((processCPU(b, ch.PID())-server).Nanoseconds())/n/1e3, "server-us/row")
			b.ReportMetric(float64(b.Elapsed().Microseconds())/n, "us/row")
			require.NoError(b, e.Shutdown(b.Context()))
		})
	}
}

// BenchmarkExactness tells what exactness and rollups cost: the same realistic events go in turn into two engines, without and with, and
// the CPU seconds of exporter and engine are compared. The engines' include their merges.
//
//	go test -run - -bench Exactness -benchtime 10x -count 6 ./exporter/clickhouseexporter
func BenchmarkExactness(b *testing.B) {
	const turn = 5 // inserts before it is the other side's turn
	noRollups, rollups := func(c *Config) { c.Rollups = false }, func(*Config) {}
	for _, tc := range []struct {
		name          string
		signal        signal.Signal
		size          int // different events
		times         int // how often a block has them: as many instances of a service
		without, with func(*Config)
		blocks        bool // whether the side without comes in blocks too, so with tokens and ledger
	}{
		{"token-ledger/block=20000", signal.Logs, benchRows, 1, noRollups, noRollups, false},
		{"token-ledger/block=1000", signal.Logs, 1000, 1, noRollups, noRollups, false},
		{"rollups/logs", signal.Logs, benchRows, 1, noRollups, rollups, true},
		{"rollups/traces", signal.Traces, benchRows, 1, noRollups, rollups, true},
		{"rollups/metrics-of-40-instances", signal.Metrics, benchRows / 40, 40, noRollups, rollups, true},
		{"rollups/metrics-no-two-alike", signal.Metrics, benchRows, 1, noRollups, rollups, true}, // the worst: a rollup's row is a point
	} {
		b.Run(tc.name, func(b *testing.B) {
			request := bytes.Repeat(otlptest.Realistic(tc.signal, 1, tc.size), tc.times)
			without, with := newBenchSide(b, tc.signal, tc.without, tc.blocks), newBenchSide(b, tc.signal, tc.with, true)
			for b.Loop() {
				for range turn {
					without.insert(b, request)
				}
				for range turn {
					with.insert(b, request)
				}
			}
			b.StopTimer()
			n := float64(b.N * turn * tc.size * tc.times)
			base, more := without.cpu(b), with.cpu(b)
			b.ReportMetric(float64(base.Microseconds())/n, "without-us/event")
			b.ReportMetric(float64(more.Microseconds())/n, "with-us/event")
			b.ReportMetric(float64(more)/float64(base), "ratio")
		})
	}
}

// BenchmarkFsync: how long a block takes, in turn in two engines, without and with fsync, rollups and ledger included. The disk decides.
//
//	go test -run - -bench Fsync -benchtime 20x -count 6 ./exporter/clickhouseexporter
func BenchmarkFsync(b *testing.B) {
	for _, rows := range []int{1000, 20_000} {
		b.Run(strconv.Itoa(rows), func(b *testing.B) {
			without := newBenchSide(b, signal.Logs, func(c *Config) { c.Fsync = false }, true)
			with := newBenchSide(b, signal.Logs, func(*Config) {}, true)
			request := otlptest.Realistic(signal.Logs, 2, rows)
			var took [2]time.Duration
			for b.Loop() {
				for i, side := range []*benchSide{without, with} {
					begun := time.Now()
					side.insert(b, request)
					took[i] += time.Since(begun)
				}
			}
			b.ReportMetric(float64(took[0].Milliseconds())/float64(b.N), "without-ms/block")
			b.ReportMetric(float64(took[1].Milliseconds())/float64(b.N), "with-ms/block")
			b.ReportMetric(float64(took[1])/float64(took[0]), "ratio")
		})
	}
}

// BenchmarkIndexes tells what the skip indexes for tools cost an insert: the same realistic events go in turn into two engines, without and with. Merges build the indexes;
// the engines' CPU seconds include them, and a last merge of all parts.
//
//	go test -run - -bench Indexes -benchtime 10x -count 6 ./exporter/clickhouseexporter
func BenchmarkIndexes(b *testing.B) {
	for _, tc := range []struct {
		signal  signal.Signal
		indexes []string
	}{
		{signal.Logs, []string{"idx_trace_id_hex", "idx_body_lower"}}, {signal.Logs, []string{"idx_trace_id_hex"}}, {signal.Logs, []string{"idx_body_lower"}},
		{signal.Traces, []string{"idx_trace_id_hex"}},
	} {
		b.Run(tc.signal.String()+"/"+strings.Join(tc.indexes, "+"), func(b *testing.B) {
			without, with := newBenchSide(b, tc.signal, func(*Config) {}, true), newBenchSide(b, tc.signal, func(*Config) {}, true)
			table := "pulsegrid." + with.e.table.Name
			for _, x := range tc.indexes {
				without.ch.Exec("ALTER TABLE " + table + " DROP INDEX " + x + " SETTINGS mutations_sync = 2")
			}
			request := otlptest.Realistic(tc.signal, 1, benchRows)
			for b.Loop() {
				without.insert(b, request)
				with.insert(b, request)
			}
			b.StopTimer()
			var cpu, bytes [2]float64
			for i, side := range []*benchSide{without, with} {
				side.ch.Exec("OPTIMIZE TABLE " + table + " FINAL")
				cpu[i] = float64(side.cpu(b).Microseconds()) / float64(b.N*benchRows)
				bytes[i] = float64(side.ch.QueryInt("SELECT sum(bytes_on_disk) FROM system.parts WHERE active AND table = '"+side.e.table.Name+"'")) / float64(b.N*benchRows)
			}
			b.ReportMetric(cpu[0], "without-us/event")
			b.ReportMetric(cpu[1], "with-us/event")
			b.ReportMetric(cpu[1]/cpu[0], "ratio")
			b.ReportMetric(bytes[1]-bytes[0], "more-B/event")
		})
	}
}

// BenchmarkMerges tells what merge_selector_base of rollups and ledger saves, and what other settings would: inserts at a live pace go in turn into two engines whose tables
// hold 45 minutes of 10 s buckets already. Without: ClickHouse's own settings. CPU is the engine's, merges and events included; parts are those of logs_10s, and read is a dashboard's
// query of 15 minutes of it, both while inserts go on.
//
//	go test -run - -bench Merges -benchtime 100x ./exporter/clickhouseexporter
func BenchmarkMerges(b *testing.B) {
	for _, load := range []mergeLoad{{100, 5, 20, 50 * time.Millisecond}, {5000, 50, 40, 200 * time.Millisecond}} {
		for _, settings := range []string{"merge_selector_base = 16", "min_parts_to_merge_at_once = 16", "merge_selector_base = 16, min_parts_to_merge_at_once = 16"} {
			b.Run(fmt.Sprintf("rows=%d/%s", load.rows, strings.ReplaceAll(settings, " ", "")), func(b *testing.B) {
				begun := time.Now().UTC()
				without, with := load.side(b, begun, "merge_selector_base = 5, min_parts_to_merge_at_once = 0"), load.side(b, begun, settings)
				sides := []*mergeSide{without, with}
				next := time.Now()
				for i := 0; b.Loop(); i++ {
					at := begun.Add(time.Duration(i) * load.pace)
					for _, side := range sides {
						load.insert(side, load.rows, 1, 1_000_000+i, at)
						if i%20 == 19 { // and once at the end
							side.look(at)
						}
					}
					next = next.Add(load.pace)
					time.Sleep(time.Until(next))
				}
				var cpu [2]float64
				for i, name := range []string{"without", "with"} {
					side, inserted := sides[i], float64(b.N*load.rows)
					side.look(begun.Add(time.Duration(b.N) * load.pace))
					cpu[i] = side.cpu(b).Seconds()
					b.ReportMetric(float64(side.merged()-side.before)/inserted, name+"-merged/row")
					b.ReportMetric(cpu[i]*1e6/inserted, name+"-us/row")
					b.ReportMetric(float64(side.parts)/float64(side.looks), name+"-parts")
					b.ReportMetric(float64(side.read.Microseconds())/1000/float64(side.looks), name+"-read-ms")
				}
				b.ReportMetric(cpu[1]/cpu[0], "ratio")
			})
		}
	}
}

// BenchmarkBlockAge tells what a block of two seconds saves against two of one second, at a pace that four partitions of each signal and 400 events/s in each would have: the same rows go
// into two engines as mergeLoad says. CPU is the engine's, merges included.
//
//	go test -run - -bench BlockAge -benchtime 200x ./exporter/clickhouseexporter
func BenchmarkBlockAge(b *testing.B) {
	const settings = "merge_selector_base = 16"
	load := mergeLoad{400, 5, 20, 80 * time.Millisecond}
	begun := time.Now().UTC()
	one, two := load.side(b, begun, settings), load.side(b, begun, settings)
	next := time.Now()
	for i := 0; b.Loop(); i++ {
		at := begun.Add(time.Duration(i) * load.pace)
		load.insert(one, load.rows, 1, 1_000_000+i, at)
		if i%2 == 1 {
			load.insert(two, 2*load.rows, 1, 1_000_000+i, at)
		}
		next = next.Add(load.pace)
		time.Sleep(time.Until(next))
	}
	inserted := float64(b.N * load.rows)
	was, is := one.cpu(b).Seconds(), two.cpu(b).Seconds()
	b.ReportMetric(was*1e6/inserted, "1s-us/row")
	b.ReportMetric(is*1e6/inserted, "2s-us/row")
	b.ReportMetric(is/was, "ratio")
}

// mergeLoad is a load of inserts, each with rows of all tenants' services.
type mergeLoad struct {
	rows, tenants, services int
	pace                    time.Duration // between two inserts
}

// mergeSide is an engine under such a load.
type mergeSide struct {
	*benchSide
	before       int64 // rows that were merged before the load
	looks, parts int   // parts add up over the looks
	read         time.Duration
}

// side starts an engine whose rollups and ledger have the settings, and one part with the rows of 270 buckets of 10 s before the time.
func (l mergeLoad) side(b *testing.B, begun time.Time, settings string) *mergeSide {
	const buckets = 270
	side := &mergeSide{benchSide: newBenchSide(b, signal.Logs, func(c *Config) { c.Fsync = false }, true)}
	l.insert(side, buckets*l.tenants*l.services, buckets*100, 0, begun)
	for _, t := range side.e.schema.tables {
		if t.name != side.e.table.Name {
			side.ch.Exec("ALTER TABLE pulsegrid." + t.name + " MODIFY SETTING " + settings)
			side.ch.Exec("OPTIMIZE TABLE pulsegrid." + t.name + " FINAL")
		}
	}
	side.client, side.server, side.before = 0, processCPU(b, side.ch.PID()), side.merged()
	return side
}

// insert stores rows, the first of each tenant and service at the time and each further one 10 s earlier, and entries of the ledger from an offset on.
func (l mergeLoad) insert(side *mergeSide, rows, entries, offset int, at time.Time) {
	side.ch.Exec(fmt.Sprintf(`INSERT INTO pulsegrid.logs (tenant_id, service_name, time, ingest_time, severity_number, body)
SELECT concat('tenant-', toString(number %% %[1]d)), concat('service-', toString(intDiv(number, %[1]d) %% %[2]d)),
    addSeconds(toDateTime64('%[3]s', 9, 'UTC'), -toInt64(intDiv(number, %[1]d * %[2]d)) * 10), now64(9), 9, 'request handled'
FROM numbers(%[4]d) SETTINGS insert_deduplicate = 0, materialize_skip_indexes_on_insert = 0`, l.tenants, l.services, at.Format("2006-01-02 15:04:05.000"), rows))
	side.ch.Exec(fmt.Sprintf(`INSERT INTO pulsegrid.ledger (kafka_topic, kafka_partition, first_offset, last_offset, signal, events, rows, written_time)
SELECT 't', number %% 8, %[1]d + number, %[1]d + number, 'logs', 1, 1, now64(3) FROM numbers(%[2]d)`, offset, entries))
}

// merged is the number of rows that all merges so far have read.
func (s *mergeSide) merged() int64 {
	return s.ch.QueryInt("SELECT sum(value) FROM system.events WHERE event = 'MergedRows'")
}

// look counts the parts of logs_10s, and reads 15 minutes of it as a dashboard does.
func (s *mergeSide) look(at time.Time) {
	s.looks++
	s.parts += int(s.ch.QueryInt("SELECT count() FROM system.parts WHERE active AND table = 'logs_10s'"))
	begun := time.Now()
	s.ch.Exec("SELECT time, service_name, sum(count) FROM pulsegrid.logs_10s WHERE tenant_id = 'tenant-1' AND time > toDateTime('" + at.Format(time.DateTime) + "', 'UTC') - 900 GROUP BY ALL")
	s.read += time.Since(begun)
}

// benchSide is an exporter and its engine.
type benchSide struct {
	e      *chExporter
	ch     *clickhousetest.Server
	blocks bool
	offset int64
	client time.Duration // CPU of the inserts so far
	server time.Duration // CPU of the engine before the first of them
}

func newBenchSide(b *testing.B, s signal.Signal, change func(*Config), blocks bool) *benchSide {
	side := &benchSide{ch: clickhousetest.Start(b), blocks: blocks}
	set := exporter.Settings{ID: component.NewID(metadata.Type()), TelemetrySettings: componenttest.NewNopTelemetrySettings()}
	var err error
	side.e, err = newExporter(set, config(side.ch.URL, change), s)
	require.NoError(b, err)
	require.NoError(b, side.e.Start(b.Context(), &collectortest.Host{}))
	b.Cleanup(func() { require.NoError(b, side.e.Shutdown(context.Background())) })
	side.insert(b, otlptest.Realistic(s, 1, 1000)) // warms both up
	side.client, side.server = 0, processCPU(b, side.ch.PID())
	return side
}

func (s *benchSide) insert(b *testing.B, request []byte) {
	ctx := b.Context()
	if s.blocks {
		ctx = block.NewContext(ctx, block.Block{Topic: "t", First: s.offset, Last: s.offset, Signal: s.e.table.Signal})
		s.offset++
	}
	begun := selfCPU(b)
	_, err := consumeRequest(ctx, s.e, request)
	require.NoError(b, err)
	s.client += selfCPU(b) - begun
}

// cpu of all inserts and of the merges that they cause, for whose end it waits.
func (s *benchSide) cpu(b *testing.B) time.Duration {
	for quiet := 0; quiet < 5; time.Sleep(200 * time.Millisecond) {
		if quiet++; s.ch.QueryInt("SELECT count() FROM system.merges") > 0 {
			quiet = 0
		}
	}
	return s.client + processCPU(b, s.ch.PID()) - s.server
}

// BenchmarkSend takes blocks of 10,000 realistic logs from pdata to an HTTP server that reads and forgets them: the exporter's share
// of the aggregator's CPU, the server's reading included.
//
//	go test -run - -bench Send -benchmem -count 6 ./exporter/clickhouseexporter
func BenchmarkSend(b *testing.B) {
	const rows = 10_000
	req := plogotlp.NewExportRequest()
	require.NoError(b, req.UnmarshalProto(otlptest.Logs(1, rows)))
	for _, compression := range []string{"none", "lz4", "zstd"} {
		b.Run(compression, func(b *testing.B) {
			var sent atomic.Int64
			srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				n, _ := io.Copy(io.Discard, r.Body)
				sent.Add(n)
			}))
			defer srv.Close()
			cfg := config(srv.URL, func(c *Config) {
				c.Schema = SchemaOff
				require.NoError(b, c.ClientConfig.Compression.UnmarshalText([]byte(compression)))
			})
			set := exporter.Settings{ID: component.NewID(metadata.Type()), TelemetrySettings: componenttest.NewNopTelemetrySettings()}
			e, err := newExporter(set, cfg, signal.Logs)
			require.NoError(b, err)
			require.NoError(b, e.Start(b.Context(), &collectortest.Host{}))
			require.NoError(b, e.ConsumeLogs(b.Context(), req.Logs()))
			sent.Store(0)
			cpu := selfCPU(b)
			b.ReportAllocs()
			for b.Loop() {
				require.NoError(b, e.ConsumeLogs(b.Context(), req.Logs()))
			}
			n := float64(b.N * rows)
			b.ReportMetric(float64((selfCPU(b)-cpu).Nanoseconds())/n, "cpu-ns/event")
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/n, "ns/event")
			b.ReportMetric(float64(sent.Load())/n, "sent-B/event")
			require.NoError(b, e.Shutdown(b.Context()))
		})
	}
}

func selfCPU(b *testing.B) time.Duration {
	var u syscall.Rusage
	require.NoError(b, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// processCPU reads user and system time of a process, in ticks of 10 ms, from /proc.
func processCPU(b *testing.B, pid int) time.Duration {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	require.NoError(b, err)
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	user, err := strconv.Atoi(fields[11])
	require.NoError(b, err)
	system, err := strconv.Atoi(fields[12])
	require.NoError(b, err)
	return time.Duration(user+system) * 10 * time.Millisecond
}
