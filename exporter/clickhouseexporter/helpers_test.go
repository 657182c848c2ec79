package clickhouseexporter

import (
	"context"
	"encoding/binary"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.uber.org/goleak"

	"github.com/pulsegrid/pulsegrid/internal/block"
	"github.com/pulsegrid/pulsegrid/internal/chengine"
	"github.com/pulsegrid/pulsegrid/internal/lineage"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

func TestMain(m *testing.M) {
	chengine.RunChildIfAsked()
	goleak.VerifyTestMain(m)
}

// host records what the exporter reports.
type host struct {
	component.Host
	mu     sync.Mutex
	events []*componentstatus.Event
}

func newHost() *host { return &host{Host: componenttest.NewNopHost()} }

func (h *host) Report(e *componentstatus.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.events = append(h.events, e)
}

func (h *host) statuses() []componentstatus.Status {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []componentstatus.Status
	for _, e := range h.events {
		out = append(out, e.Status())
	}
	return out
}

// rig is a running exporter of one signal whose Arrow memory must be zero at the end.
type rig struct {
	*chExporter
	host   *host
	reader *sdkmetric.ManualReader
}

func config(url string, change ...func(*Config)) *Config {
	cfg := createDefaultConfig().(*Config)
	cfg.ClientConfig.Endpoint = url
	cfg.ClientConfig.Timeout = 20 * time.Second
	for _, c := range change {
		c(cfg)
	}
	return cfg
}

func start(t *testing.T, s signal.Signal, cfg *Config) *rig {
	t.Helper()
	require.NoError(t, cfg.Validate())
	reader := sdkmetric.NewManualReader()
	set := exporter.Settings{ID: component.NewID(metadata.Type()), TelemetrySettings: componenttest.NewNopTelemetrySettings()}
	set.MeterProvider = sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))
	e, err := newExporter(set, cfg, s)
	require.NoError(t, err)
	mem := memory.NewCheckedAllocator(memory.NewGoAllocator())
	e.mem = mem
	r := &rig{chExporter: e, host: newHost(), reader: reader}
	require.NoError(t, e.Start(t.Context(), r.host))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		require.NoError(t, e.Shutdown(ctx))
		mem.AssertSize(t, 0)
	})
	return r
}

// sum of a counter's points that have all of attrs ("key", "value", ...).
func (r *rig) sum(t *testing.T, name string, attrs ...string) int64 {
	t.Helper()
	var rm metricdata.ResourceMetrics
	require.NoError(t, r.reader.Collect(t.Context(), &rm))
	var total int64
	for _, sm := range rm.ScopeMetrics {
		for _, m := range sm.Metrics {
			if m.Name != "otelcol_"+name {
				continue
			}
			switch data := m.Data.(type) {
			case metricdata.Sum[int64]:
				for _, p := range data.DataPoints {
					match := true
					for kv := range slices.Chunk(attrs, 2) {
						v, ok := p.Attributes.Value(attribute.Key(kv[0]))
						match = match && ok && v.AsString() == kv[1]
					}
					if match {
						total += p.Value
					}
				}
			case metricdata.Histogram[float64]:
				for _, p := range data.DataPoints {
					total += int64(p.Count)
				}
			}
		}
	}
	return total
}

var received = time.Date(2026, 11, 24, 10, 0, 0, 123456789, time.UTC)

// someLogs are n stamped log records of a block that begins at offset first, ten events a record.
func someLogs(n int, first int64) (plog.Logs, block.Block) {
	blk := block.Block{Topic: signal.Logs.Topic(), Partition: 3, First: first, Last: first + int64(n-1)/10, Signal: signal.Logs, Events: n}
	ld := plog.NewLogs()
	rl := ld.ResourceLogs().AppendEmpty()
	rl.Resource().Attributes().PutStr("service.name", "checkout")
	lineage.StampResource(rl.Resource().Attributes(), lineage.Origin{Tenant: "acme", Source: "s", Received: received, Topic: blk.Topic, Partition: blk.Partition})
	recs := rl.ScopeLogs().AppendEmpty().LogRecords()
	for i := range n {
		lr := recs.AppendEmpty()
		lr.SetTimestamp(pcommon.NewTimestampFromTime(received.Add(time.Duration(i) * time.Microsecond)))
		lr.Body().SetStr("payment declined for order")
		lr.Attributes().PutInt("attempt", int64(i))
		lr.Attributes().PutStr("http.route", "/pay")
		ev := lineage.Event{Offset: first + int64(i)/10, Index: int32(i % 10)}
		binary.LittleEndian.PutUint64(ev.ID[:], uint64(first)*10+uint64(i)) // the same in whichever block it is
		lineage.StampEvent(lr.Attributes(), ev)
	}
	return ld, blk
}

// consumeLogs delivers n logs of a block as the mskreceiver does.
func (r *rig) consumeLogs(t *testing.T, n int, first int64) error {
	t.Helper()
	ld, blk := someLogs(n, first)
	return r.ConsumeLogs(block.NewContext(t.Context(), blk), ld)
}
