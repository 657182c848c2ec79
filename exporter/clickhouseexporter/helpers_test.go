package clickhouseexporter

import (
	"context"
	"encoding/binary"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.uber.org/goleak"

	"github.com/pulsegrid/pulsegrid/internal/block"
	"github.com/pulsegrid/pulsegrid/internal/chengine"
	"github.com/pulsegrid/pulsegrid/internal/lineage"
	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/internal/testkit/clickhousetest"
	"github.com/pulsegrid/pulsegrid/internal/testkit/collectortest"
	"github.com/pulsegrid/pulsegrid/internal/testkit/leaktest"
)

func TestMain(m *testing.M) {
	chengine.RunChildIfAsked()
	goleak.VerifyTestMain(leaktest.Patient(clickhousetest.Sharing(m)))
}

// rig is a running exporter of one signal whose Arrow memory must be zero at the end.
type rig struct {
	*chExporter
	host   *collectortest.Host
	reader *sdkmetric.ManualReader
}

func config(url string, change ...func(*Config)) *Config {
	cfg := createDefaultConfig().(*Config)
	cfg.ClientConfig.Endpoint = url
	cfg.ClientConfig.Timeout = 2 * time.Minute
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
	e.mem, e.check = mem, time.Minute // a busy machine makes the tables slowly
	r := &rig{chExporter: e, host: &collectortest.Host{}, reader: reader}
	require.NoError(t, e.Start(t.Context(), r.host))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		require.NoError(t, e.Shutdown(ctx))
		mem.AssertSize(t, 0)
	})
	return r
}

func (r *rig) sum(t *testing.T, name string, attrs ...string) int64 {
	t.Helper()
	return collectortest.Sum(t, r.reader, name, attrs...)
}

// received is on the day before, so that no row has come to the end of its retention.
var received = time.Now().UTC().Truncate(24 * time.Hour).Add(-14*time.Hour + 123456789)

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
