package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/pulsegrid/pulsegrid/integration/rig"
	"github.com/pulsegrid/pulsegrid/internal/chengine"
	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/cost"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire/otlptest"
	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/internal/testkit/kafkatest"
)

// benchHops tells what one event of each signal takes at each hop, bytes and CPU, for the cost model: agents' requests of 500 events with zstd, the gateway and the aggregator as they are
// distributed, one store's pipelines a process. Events are those of otlptest.Realistic, each of them once.
func benchHops(ctx context.Context, s settings) error {
	run := cost.HopsRun{Taken: time.Now().UTC().Format(time.DateOnly), Machine: machine(), Events: s.events / eventsPerRecord * eventsPerRecord, Signals: map[string]cost.Hops{}}
	for _, sig := range signal.All {
		err := withKafka(func(k *kafkatest.Cluster) error {
			h := hops{settings: s, kafka: k, sig: sig, events: float64(run.Events)}
			figures, err := h.measure(ctx)
			run.Signals[sig.String()] = figures
			return err
		})
		if err != nil {
			return fmt.Errorf("%s: %w", sig, err)
		}
	}
	text, err := json.MarshalIndent(run, "", "  ")
	if err != nil {
		return err
	}
	fmt.Printf("\nWhat an event takes at each hop\n%s\n", text)
	if s.measured == "" {
		return nil
	}
	return writeHops(s.measured, run)
}

// writeHops replaces the run in the file of the cost model.
func writeHops(path string, run cost.HopsRun) error {
	before, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var m cost.Measured
	if err := json.Unmarshal(before, &m); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	m.Hops = run
	after, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(after, '\n'), 0o600)
}

// machine names the processor.
func machine() string {
	name := runtime.GOARCH
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.SplitSeq(string(text), "\n") {
			if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
				name = strings.TrimSpace(value)
				break
			}
		}
	}
	return fmt.Sprintf("%d cores of %s", runtime.NumCPU(), name)
}

// hops is the measurement of one signal.
type hops struct {
	settings
	kafka  *kafkatest.Cluster
	sig    signal.Signal
	events float64
	dir    string
	ch     *chengine.Engine
}

const (
	hopSettles = 10 * time.Second // until a process has started
	hopRests   = 10 * time.Second // in which it is seen at rest
)

func (h *hops) measure(ctx context.Context) (f cost.Hops, err error) {
	if h.dir, err = os.MkdirTemp("", "pulsegrid-bench-"); err != nil {
		return f, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(h.dir)) }()
	if h.ch, err = chengine.Start(ctx, chengine.Options{Dir: filepath.Join(h.dir, "clickhouse"), MemoryBytes: 8 << 30}); err != nil {
		return f, err
	}
	defer h.ch.Kill() // its data are thrown away
	httpAddr, grpcAddr := rig.FreeAddr(), rig.FreeAddr()
	gateway := ours(h.settings, h.kafka.Brokers()[0], signal.Logs.Topic(), httpAddr, grpcAddr, map[string]string{}, "--config", filepath.Join(h.configs, "gateway", "insecure.yaml"))
	defer gateway.Stop(10 * time.Second)
	if err := gateway.Start(time.Minute); err != nil {
		return f, err
	}
	hot, lake := h.aggregator("pulsegrid_clickhouse"), h.aggregator("iceberg")
	defer hot.Stop(time.Minute)
	defer lake.Stop(time.Minute)
	if err := errors.Join(hot.Start(time.Minute), lake.Start(time.Minute)); err != nil {
		return f, err
	}
	time.Sleep(hopSettles)
	pids := []int{gateway.PID(), hot.PID(), lake.PID(), h.ch.PID()}
	resting, err := h.usage(pids...)
	if err != nil {
		return f, err
	}
	time.Sleep(hopRests)
	before, err := h.usage(pids...)
	if err != nil {
		return f, err
	}
	began := time.Now()
	received, err := ask(ctx, h.ch, networkReceived)
	if err != nil {
		return f, err
	}
	if err := h.send(ctx, httpAddr, &f); err != nil {
		return f, fmt.Errorf("%w\n%s", err, gateway.Log())
	}
	for group, p := range map[string]*rig.Process{"pulsegrid_clickhouse": hot, "iceberg": lake} {
		if err := h.consumed(ctx, group); err != nil {
			return f, fmt.Errorf("%w\n%s", err, p.Log())
		}
	}
	if err := atRest(ctx, h.ch); err != nil {
		return f, err
	}
	after, err := h.usage(pids...)
	if err != nil {
		return f, err
	}
	rests := time.Since(began).Seconds() / hopRests.Seconds() // what a process takes at rest is not the events'
	for i, to := range []*float64{&f.GatewayMicroseconds, &f.HotMicroseconds, &f.LakeMicroseconds, &f.ClickHouseMicroseconds} {
		atRest := float64((before[i] - resting[i]).Microseconds()) * rests
		*to = max(0, float64((after[i]-before[i]).Microseconds())-atRest) / h.events
	}
	return f, h.bytes(ctx, received, &f)
}

const networkReceived = "SELECT toInt64(sum(value)) FROM system.events WHERE event = 'NetworkReceiveBytes'"

// aggregator is one with the pipeline of one store, whose consumer group has the store's name.
func (h *hops) aggregator(store string) *rig.Process {
	health := rig.FreeAddr()
	return rig.NewProcess(map[string]string{
		"PULSEGRID_KAFKA_BROKERS": h.kafka.Brokers()[0], "PULSEGRID_GROUP": store, "PULSEGRID_STORE": store, "PULSEGRID_CLICKHOUSE_HTTP": h.ch.HTTPAddr,
		"PULSEGRID_LAKE_CATALOG": filepath.Join(h.dir, "catalog.db"), "PULSEGRID_LAKE_WAREHOUSE": "file://" + h.warehouse(), "PULSEGRID_HEALTH_ENDPOINT": health,
	}, []string{health}, h.collector, "--config", filepath.Join(h.peerConfigs, "pulsegrid-hops.yaml"))
}

func (h *hops) warehouse() string { return filepath.Join(h.dir, "warehouse") }

func (h *hops) usage(pids ...int) (out []time.Duration, err error) {
	for _, pid := range pids {
		u, err := rig.UsageOf(pid)
		if err != nil {
			return nil, err
		}
		out = append(out, u.CPU)
	}
	return out, nil
}

// send sends the events, and counts their bytes before and on the wire.
func (h *hops) send(ctx context.Context, addr string, f *cost.Hops) error {
	requests := int(h.events) / eventsPerRecord
	transport := &http.Transport{MaxIdleConnsPerHost: h.senders, DisableCompression: true}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	const sample = 16 // requests that are written as lines of JSON
	lines, lined, raw, wire := 0, 0, 0, 0
	next := make(chan []byte)
	errs := make(chan error, h.senders)
	var senders sync.WaitGroup
	for range h.senders {
		senders.Go(func() {
			for body := range next {
				if err := post(ctx, client, "http://"+addr+"/v1/"+h.sig.String(), "", body); err != nil {
					select {
					case errs <- err:
					default:
					}
				}
			}
		})
	}
	var failed error
	for i := range requests {
		request := otlptest.Realistic(h.sig, uint64(i+1), eventsPerRecord)
		bodies, err := compressAll(httpZstd, [][]byte{request})
		if err == nil && i < sample {
			var n int
			n, err = jsonLines(h.sig, request)
			lines, lined = lines+n, lined+eventsPerRecord
		}
		if err != nil {
			failed = err
			break
		}
		raw, wire = raw+len(request), wire+len(bodies[0])
		next <- bodies[0]
	}
	close(next)
	senders.Wait()
	select {
	case err := <-errs:
		failed = errors.Join(failed, err)
	default:
	}
	f.JSONBytes, f.ProtobufBytes, f.WireBytes = float64(lines)/float64(lined), float64(raw)/h.events, float64(wire)/h.events
	return failed
}

// jsonLines is the size of a request's events as lines of flat JSON, each with its resource: what the old collectors write, and what "raw" means to who counts there.
func jsonLines(sig signal.Signal, request []byte) (n int, err error) {
	line := func(resource, attributes pcommon.Map, own map[string]any) {
		out := map[string]any{}
		for _, m := range []map[string]any{resource.AsRaw(), attributes.AsRaw(), own} {
			maps.Copy(out, m)
		}
		text, e := json.Marshal(out)
		err = errors.Join(err, e)
		n += len(text) + 1
	}
	switch sig {
	case signal.Logs:
		ld, err := (&plog.ProtoUnmarshaler{}).UnmarshalLogs(request)
		if err != nil {
			return 0, err
		}
		for _, rl := range ld.ResourceLogs().All() {
			for _, sl := range rl.ScopeLogs().All() {
				for _, r := range sl.LogRecords().All() {
					line(rl.Resource().Attributes(), r.Attributes(), map[string]any{"time": r.Timestamp().AsTime(), "severity": r.SeverityText(), "body": r.Body().AsRaw(),
						"trace_id": r.TraceID().String(), "span_id": r.SpanID().String(), "scope": sl.Scope().Name()})
				}
			}
		}
	case signal.Traces:
		td, err := (&ptrace.ProtoUnmarshaler{}).UnmarshalTraces(request)
		if err != nil {
			return 0, err
		}
		for _, rs := range td.ResourceSpans().All() {
			for _, ss := range rs.ScopeSpans().All() {
				for _, s := range ss.Spans().All() {
					line(rs.Resource().Attributes(), s.Attributes(), map[string]any{"start": s.StartTimestamp().AsTime(), "end": s.EndTimestamp().AsTime(), "name": s.Name(), "kind": s.Kind().String(),
						"trace_id": s.TraceID().String(), "span_id": s.SpanID().String(), "parent_span_id": s.ParentSpanID().String(), "status": s.Status().Code().String(), "scope": ss.Scope().Name()})
				}
			}
		}
	case signal.Metrics:
		md, err := (&pmetric.ProtoUnmarshaler{}).UnmarshalMetrics(request)
		if err != nil {
			return 0, err
		}
		for _, rm := range md.ResourceMetrics().All() {
			for _, sm := range rm.ScopeMetrics().All() {
				for _, m := range sm.Metrics().All() {
					point := func(attributes pcommon.Map, at pcommon.Timestamp, value any) {
						line(rm.Resource().Attributes(), attributes, map[string]any{"time": at.AsTime(), "metric": m.Name(), "unit": m.Unit(), "type": m.Type().String(), "value": value, "scope": sm.Scope().Name()})
					}
					switch m.Type() {
					case pmetric.MetricTypeGauge:
						for _, p := range m.Gauge().DataPoints().All() {
							point(p.Attributes(), p.Timestamp(), p.DoubleValue())
						}
					case pmetric.MetricTypeSum:
						for _, p := range m.Sum().DataPoints().All() {
							point(p.Attributes(), p.Timestamp(), p.DoubleValue())
						}
					case pmetric.MetricTypeHistogram:
						for _, p := range m.Histogram().DataPoints().All() {
							point(p.Attributes(), p.Timestamp(), map[string]any{"count": p.Count(), "sum": p.Sum(), "bounds": p.ExplicitBounds().AsRaw(), "counts": p.BucketCounts().AsRaw()})
						}
					case pmetric.MetricTypeExponentialHistogram:
						for _, p := range m.ExponentialHistogram().DataPoints().All() {
							point(p.Attributes(), p.Timestamp(), map[string]any{"count": p.Count(), "sum": p.Sum(), "scale": p.Scale(), "zero": p.ZeroCount(), "offset": p.Positive().Offset(),
								"counts": p.Positive().BucketCounts().AsRaw()})
						}
					case pmetric.MetricTypeSummary:
						for _, p := range m.Summary().DataPoints().All() {
							quantiles := map[string]float64{}
							for _, q := range p.QuantileValues().All() {
								quantiles[fmt.Sprint(q.Quantile())] = q.Value()
							}
							point(p.Attributes(), p.Timestamp(), map[string]any{"count": p.Count(), "sum": p.Sum(), "quantiles": quantiles})
						}
					}
				}
			}
		}
	}
	return n, err
}

// consumed waits until a group has stored the whole topic.
func (h *hops) consumed(ctx context.Context, group string) error {
	cl, err := admin(h.kafka)
	if err != nil {
		return err
	}
	defer cl.Close()
	topic := h.sig.Topic()
	for deadline := time.Now().Add(storeTimeout); ; time.Sleep(500 * time.Millisecond) {
		ends, err := cl.ListEndOffsets(ctx, topic)
		var done kadm.OffsetResponses
		if err == nil {
			done, err = cl.FetchOffsets(ctx, group)
		}
		behind := int64(0)
		if err == nil {
			ends.Each(func(o kadm.ListedOffset) {
				at, _ := done.Lookup(o.Topic, o.Partition) // absent: zero
				behind += max(0, o.Offset-max(0, at.At))
			})
			if behind == 0 {
				return nil
			}
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("group %s is %d records behind after %v: %w", group, behind, storeTimeout, err)
		}
	}
}

// bytes are those that lie in Kafka, in ClickHouse and in the lake, and those that ClickHouse received.
func (h *hops) bytes(ctx context.Context, receivedBefore int64, f *cost.Hops) error {
	received, err := ask(ctx, h.ch, networkReceived)
	if err != nil {
		return err
	}
	f.InsertBytes = float64(received-receivedBefore) / h.events
	cl, err := admin(h.kafka)
	if err != nil {
		return err
	}
	defer cl.Close()
	dirs, err := cl.DescribeAllLogDirs(ctx, nil)
	if err != nil {
		return err
	}
	inKafka := int64(0)
	for _, d := range dirs {
		d.EachPartition(func(p kadm.DescribedLogDirPartition) {
			if p.Topic == h.sig.Topic() {
				inKafka += p.Size
			}
		})
	}
	f.KafkaBytes = float64(inKafka) / h.events
	table := columns.ForSignal(h.sig).Name
	if err := h.exec(ctx, "OPTIMIZE TABLE pulsegrid."+table+" FINAL"); err != nil {
		return err
	}
	stored, err := ask(ctx, h.ch, "SELECT count() FROM pulsegrid."+table)
	if err != nil {
		return err
	}
	if stored != int64(h.events) {
		return fmt.Errorf("ClickHouse has %d of %.0f events", stored, h.events)
	}
	disk, err := ask(ctx, h.ch, "SELECT sum(bytes_on_disk) FROM system.parts WHERE active AND database = 'pulsegrid' AND table = '"+table+"'")
	if err != nil {
		return err
	}
	f.ClickHouseBytes = float64(disk) / h.events
	inLake := int64(0)
	err = filepath.WalkDir(h.warehouse(), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".parquet") || !strings.Contains(path, "/"+table+"/") {
			return err
		}
		info, err := d.Info()
		if err == nil {
			inLake += info.Size()
		}
		return err
	})
	f.LakeBytes = float64(inLake) / h.events
	return errors.Join(err, h.scan(ctx, table, f))
}

func (h *hops) exec(ctx context.Context, sql string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+h.ch.HTTPAddr, strings.NewReader(sql))
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := bufio.NewReader(resp.Body).ReadString('\n') // the status says that it failed; this is for people
		return fmt.Errorf("%s: %s", sql, text)
	}
	return nil
}

// dashboardQueries are what dashboards ask of rows.
var dashboardQueries = map[signal.Signal]struct{ columns, query string }{
	signal.Logs:    {"service_name, time, severity_number", "SELECT service_name, toStartOfMinute(time) AS t, count(), countIf(severity_number >= 17) FROM (%s) GROUP BY ALL"},
	signal.Metrics: {"metric_name, attr_http_route, time, value_double", "SELECT metric_name, attr_http_route, toStartOfMinute(time) AS t, avg(value_double), max(value_double) FROM (%s) GROUP BY ALL"},
	signal.Traces:  {"service_name, name, time, duration_nano, status_code", "SELECT service_name, name, toStartOfMinute(time) AS t, countIf(status_code = 'error'), quantile(0.99)(duration_nano) FROM (%s) GROUP BY ALL"},
}

// scan measures the CPU of a dashboard's query for each row that it reads.
func (h *hops) scan(ctx context.Context, table string, f *cost.Hops) error {
	const times, queries = 20, 20 // each query reads the table so often, so that its own cost is small
	q := dashboardQueries[h.sig]
	var from bytes.Buffer
	for i := range times {
		if i > 0 {
			from.WriteString(" UNION ALL ")
		}
		fmt.Fprintf(&from, "SELECT %s FROM pulsegrid.%s", q.columns, table)
	}
	sql := fmt.Sprintf(q.query, from.String()) + " FORMAT Null"
	if err := h.exec(ctx, sql); err != nil { // marks and pages are in memory then
		return err
	}
	before, err := h.usage(h.ch.PID())
	if err != nil {
		return err
	}
	for range queries {
		if err := h.exec(ctx, sql); err != nil {
			return err
		}
	}
	after, err := h.usage(h.ch.PID())
	if err != nil {
		return err
	}
	f.ScanNanoseconds = float64((after[0] - before[0]).Nanoseconds()) / (h.events * times * queries)
	return nil
}
