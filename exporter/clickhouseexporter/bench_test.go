package clickhouseexporter

import (
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
			require.NoError(b, e.Start(b.Context(), newHost()))
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
			require.NoError(b, e.Start(b.Context(), newHost()))
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
