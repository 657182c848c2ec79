// Package gateway_test puts the gateway's own components together in one process, as distributions/gateway does: ingest -> schema_validation ->
// quarantine -> msk -> Kafka (in process). integration/flow runs the built program on real parts.
package gateway_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/exporter/exportertest"
	"go.opentelemetry.io/collector/extension/extensiontest"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/processor/processortest"
	"go.opentelemetry.io/collector/receiver/receivertest"
	collectorlogs "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	collectormetrics "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	collectortrace "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	logs "go.opentelemetry.io/proto/otlp/logs/v1"
	metrics "go.opentelemetry.io/proto/otlp/metrics/v1"
	trace "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/pulsegrid/pulsegrid/exporter/mskexporter"
	"github.com/pulsegrid/pulsegrid/extension/schemaregistryextension"
	"github.com/pulsegrid/pulsegrid/internal/envelope"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire/otlptest"
	"github.com/pulsegrid/pulsegrid/internal/schema"
	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/internal/testkit/freeport"
	"github.com/pulsegrid/pulsegrid/processor/quarantineprocessor"
	"github.com/pulsegrid/pulsegrid/processor/schemavalidationprocessor"
	"github.com/pulsegrid/pulsegrid/receiver/ingestreceiver"
)

// registry is of the events that otlptest makes.
const registry = `
groups:
  - id: registry.web
    type: attribute_group
    attributes: &all
      - {id: http.request.method, annotations: {pulsegrid: {enum: closed}}, type: {members: [{id: a, value: GET}, {id: b, value: POST}, {id: c, value: PUT}, {id: d, value: DELETE}]}}
      - {id: http.route, type: string}
      - {id: http.response.status_code, type: int, annotations: {pulsegrid: {min: 100, max: 599}}}
      - {id: url.path, type: string, annotations: {pulsegrid: {pattern: "^/"}}}
      - {id: client.address, type: string, annotations: {pulsegrid: {pii: true}}}
      - {id: client.port, type: int}
      - {id: user.id, type: string, annotations: {pulsegrid: {pii: true}}}
      - {id: session.id, type: string}
      - {id: request.id, type: string}
      - {id: duration_ms, type: double, annotations: {pulsegrid: {min: 0}}}
      - {id: cpu_ms, type: double}
      - {id: bytes.in, type: int}
      - {id: bytes.out, type: int}
      - {id: cache.hit, type: boolean}
      - {id: retry, type: boolean}
      - {id: thread.id, type: int}
      - {id: code.line, type: int}
      - {id: shard, type: int}
      - {id: zone, type: string}
      - {id: score, type: double}
  - id: event.request.handled
    type: event
    name: request.handled
    annotations: {pulsegrid: {version: "7"}}
    extends: registry.web
    attributes: [{ref: http.request.method, requirement_level: required}, {ref: session.id, requirement_level: required}]
  - id: event.strict
    type: event
    name: strict
    annotations: {pulsegrid: {unknown_attributes: strict}}
    extends: registry.web
  - id: span.server
    type: span
    span_kind: server
    extends: registry.web
    annotations: {pulsegrid: {match: {name: "*"}}}
    attributes: [{ref: http.route, requirement_level: required}]
  - id: metric.m0
    type: metric
    metric_name: http.server.request.m0
    instrument: counter
    unit: ms
    annotations: {pulsegrid: {temporality: cumulative}}
    attributes: [{ref: http.route, requirement_level: required}]
`

const config = `
schema_registry: {location: %q}
ingest:
  protocols: {http: {endpoint: "%s"}}
  quarantine_undecodable: true
schema_validation:
  registry: schema_registry
  policy: {mode: enforce}
  limits: {age_max: 1000000h, future_max: 1000000h, value_bytes_max: 1024, depth_max: 8}
quarantine: {oversized: {url: %q}}
msk:
  brokers: [%q]
  topics:
    logs: {partitions: 2, replication_factor: 1, min_insync_replicas: 1}
    metrics: {partitions: 2, replication_factor: 1, min_insync_replicas: 1}
    traces: {partitions: 2, replication_factor: 1, min_insync_replicas: 1}
`

// gateway is the components of distributions/gateway, on an address of its own.
type gateway struct {
	url    string
	kafka  *kfake.Cluster
	client *http.Client
}

type host map[component.ID]component.Component

func (h host) GetExtensions() map[component.ID]component.Component { return h }

// start runs a gateway. store is where quarantined events are kept that are larger than a record; empty: nowhere.
func start(t testing.TB, store string) *gateway {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "web.yaml"), []byte(registry), 0o600))
	k, err := kfake.NewCluster(kfake.NumBrokers(1))
	require.NoError(t, err)
	t.Cleanup(k.Close)
	addr := freeAddr(t)
	ret, err := confmap.NewRetrievedFromYAML(fmt.Appendf(nil, config, dir, addr, store, k.ListenAddrs()[0]))
	require.NoError(t, err)
	conf, err := ret.AsConf()
	require.NoError(t, err)
	configure := func(name string, cfg component.Config) component.Config {
		sub, err := conf.Sub(name)
		require.NoError(t, err)
		require.NoError(t, sub.Unmarshal(cfg))
		require.NoError(t, confmap.Validate(cfg))
		return cfg
	}
	h := host{}
	run := func(c component.Component, err error) {
		require.NoError(t, err)
		require.NoError(t, c.Start(context.Background(), h))
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			require.NoError(t, c.Shutdown(ctx))
		})
	}
	ctx := context.Background()
	xf := schemaregistryextension.NewFactory()
	ext, err := xf.Create(ctx, extensiontest.NewNopSettings(xf.Type()), configure("schema_registry", xf.CreateDefaultConfig()))
	run(ext, err)
	h[component.NewID(xf.Type())] = ext
	ef := mskexporter.NewFactory()
	exp, err := ef.CreateLogs(ctx, exportertest.NewNopSettings(ef.Type()), configure("msk", ef.CreateDefaultConfig()))
	run(exp, err)
	qf := quarantineprocessor.NewFactory()
	quarantine, err := qf.CreateLogs(ctx, processortest.NewNopSettings(qf.Type()), configure("quarantine", qf.CreateDefaultConfig()), exp)
	run(quarantine, err)
	vf := schemavalidationprocessor.NewFactory()
	validation, err := vf.CreateLogs(ctx, processortest.NewNopSettings(vf.Type()), configure("schema_validation", vf.CreateDefaultConfig()), quarantine)
	run(validation, err)
	rf := ingestreceiver.NewFactory()
	rec, err := rf.CreateLogs(ctx, receivertest.NewNopSettings(rf.Type()), configure("ingest", rf.CreateDefaultConfig()), validation)
	run(rec, err)
	tr := &http.Transport{}
	t.Cleanup(tr.CloseIdleConnections)
	return &gateway{"http://" + addr, k, &http.Client{Transport: tr, Timeout: time.Minute}}
}

func freeAddr(t testing.TB) string {
	t.Helper()
	addr, err := freeport.Addr()
	require.NoError(t, err)
	return addr
}

func (g *gateway) post(t testing.TB, sig signal.Signal, body []byte, encoding string) (code int, answer []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), http.MethodPost, g.url+"/v1/"+sig.String(), bytes.NewReader(body))
	require.NoError(t, err)
	req.Header.Set("Content-Type", "application/x-protobuf")
	if len(body) > 0 && body[0] == '{' {
		req.Header.Set("Content-Type", "application/json")
	}
	req.Header.Set("Content-Encoding", encoding)
	req.Header.Set("X-Pulsegrid-Tenant", "acme")
	resp, err := g.client.Do(req)
	require.NoError(t, err)
	defer func() { _ = resp.Body.Close() }()
	var b bytes.Buffer
	_, err = b.ReadFrom(resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, b.Bytes()
}

// records are all of a topic's.
func (g *gateway) records(t testing.TB, topic string) (out []*kgo.Record) {
	t.Helper()
	var want int64
	for _, p := range g.kafka.PartitionInfos(topic) {
		want += p.HighWatermark
	}
	if want == 0 {
		return nil
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(g.kafka.ListenAddrs()...), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	require.NoError(t, err)
	defer cl.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for int64(len(out)) < want {
		fetches := cl.PollFetches(ctx)
		require.NoError(t, fetches.Err())
		out = append(out, fetches.Records()...)
	}
	return out
}

func str(s string) *common.AnyValue {
	return &common.AnyValue{Value: &common.AnyValue_StringValue{StringValue: s}}
}

func set(attrs *[]*common.KeyValue, key string, v *common.AnyValue) {
	for _, kv := range *attrs {
		if kv.Key == key {
			kv.Value = v
			return
		}
	}
	*attrs = append(*attrs, &common.KeyValue{Key: key, Value: v})
}

func unset(attrs *[]*common.KeyValue, key string) {
	for i, kv := range *attrs {
		if kv.Key == key {
			*attrs = append((*attrs)[:i:i], (*attrs)[i+1:]...)
			return
		}
	}
}

func number(n int64) *common.AnyValue {
	return &common.AnyValue{Value: &common.AnyValue_IntValue{IntValue: n}}
}

// poison are the ways in which an event is made invalid, by the code that it must get. Go's protobuf refuses to write what is not UTF-8, so a mark
// stands for it until the request has been written.
const notUTF8 = "MARK-OF-BAD-UTF8"

type poison[E any] struct {
	code schema.Code
	do   func(E)
}

var logPoisons = []poison[*logs.LogRecord]{
	{schema.AttributeMissing, func(e *logs.LogRecord) { unset(&e.Attributes, "session.id") }},
	{schema.AttributeType, func(e *logs.LogRecord) { set(&e.Attributes, "cache.hit", str("yes")) }},
	{schema.AttributeEnum, func(e *logs.LogRecord) { set(&e.Attributes, "http.request.method", str("BREW")) }},
	{schema.AttributePattern, func(e *logs.LogRecord) { set(&e.Attributes, "url.path", str("no/slash")) }},
	{schema.AttributeRange, func(e *logs.LogRecord) { set(&e.Attributes, "http.response.status_code", number(999)) }},
	{schema.AttributeUnknown, func(e *logs.LogRecord) { e.EventName = "strict" }}, // four attributes of its are not in the schema
	{schema.AttributeDuplicate, func(e *logs.LogRecord) {
		e.Attributes = append(e.Attributes, &common.KeyValue{Key: "shard", Value: number(1)})
	}},
	{schema.ValueTooLong, func(e *logs.LogRecord) { set(&e.Attributes, "zone", str(strings.Repeat("z", 1025))) }},
	{schema.KeyTooLong, func(e *logs.LogRecord) { set(&e.Attributes, strings.Repeat("k", 257), number(1)) }},
	{schema.InvalidUTF8, func(e *logs.LogRecord) { set(&e.Attributes, "zone", str(notUTF8)) }},
	{schema.TooDeep, func(e *logs.LogRecord) {
		v := number(1)
		for range 10 {
			v = &common.AnyValue{Value: &common.AnyValue_ArrayValue{ArrayValue: &common.ArrayValue{Values: []*common.AnyValue{v}}}}
		}
		e.Body = v
	}},
	{schema.TooManyAttributes, func(e *logs.LogRecord) {
		for i := range 300 {
			set(&e.Attributes, fmt.Sprint("extra.", i), number(1))
		}
	}},
}

var spanPoisons = []poison[*trace.Span]{
	{schema.TimeOrder, func(e *trace.Span) { e.EndTimeUnixNano = e.StartTimeUnixNano - 1 }},
	{schema.TimeMissing, func(e *trace.Span) { e.StartTimeUnixNano = 0 }},
	{schema.AttributeMissing, func(e *trace.Span) { unset(&e.Attributes, "http.route") }},
}

var pointPoisons = []poison[*metrics.NumberDataPoint]{
	{schema.SumNegative, func(e *metrics.NumberDataPoint) { e.Value = &metrics.NumberDataPoint_AsInt{AsInt: -4} }},
	{schema.AttributeType, func(e *metrics.NumberDataPoint) { set(&e.Attributes, "http.route", number(1)) }},
}

// batch is a request and the codes that its events at fault must get, by index.
type batch struct {
	sig  signal.Signal
	body []byte
	want map[int]schema.Code
}

// make makes the i-th request of n events, of which share are poisoned.
func makeBatch(t testing.TB, g *rand.Rand, sig signal.Signal, i uint64, n int, share float64) batch {
	b := batch{sig: sig, want: map[int]schema.Code{}}
	var msg proto.Message
	switch sig {
	case signal.Logs:
		req := &collectorlogs.ExportLogsServiceRequest{}
		require.NoError(t, proto.Unmarshal(otlptest.Logs(i, n), req))
		for at, e := range req.ResourceLogs[0].ScopeLogs[0].LogRecords {
			e.EventName = "request.handled"
			if g.Float64() < share {
				p := logPoisons[g.IntN(len(logPoisons))]
				p.do(e)
				b.want[at] = p.code
			}
		}
		msg = req
	case signal.Traces:
		req := &collectortrace.ExportTraceServiceRequest{}
		require.NoError(t, proto.Unmarshal(otlptest.Spans(i, n), req))
		for at, e := range req.ResourceSpans[0].ScopeSpans[0].Spans {
			if g.Float64() < share {
				p := spanPoisons[g.IntN(len(spanPoisons))]
				p.do(e)
				b.want[at] = p.code
			}
		}
		msg = req
	default:
		req := &collectormetrics.ExportMetricsServiceRequest{}
		require.NoError(t, proto.Unmarshal(otlptest.Metrics(i, n), req))
		for at, e := range req.ResourceMetrics[0].ScopeMetrics[0].Metrics[0].GetSum().DataPoints {
			if g.Float64() < share {
				p := pointPoisons[g.IntN(len(pointPoisons))]
				p.do(e)
				b.want[at] = p.code
			}
		}
		msg = req
	}
	var err error
	b.body, err = proto.Marshal(msg)
	require.NoError(t, err)
	b.body = bytes.ReplaceAll(b.body, []byte(notUTF8), bytes.Repeat([]byte{0xff}, len(notUTF8)))
	return b
}

func eachEvent(t testing.TB, sig signal.Signal, body []byte, fn func(index int, event string)) {
	t.Helper()
	_, err := otlpwire.Count(sig, body, otlpwire.Limits{})
	require.NoError(t, err)
	require.NoError(t, otlpwire.Walk(sig, body, func(e *otlpwire.Event) bool {
		fn(e.Index, sig.String()+string(e.Resource)+string(e.Metric.Name)+string(e.Bytes))
		return true
	}))
}

// Scenario: requests of all signals, of whose events one in a hundred is invalid, in one of many ways.
// Guarantees: every event is in exactly one topic. Exactly the invalid ones are in quarantine, each with its own verdict, and byte for byte as it was
// sent; the sender hears how many of its events these are.
func TestPoisonInHealthyTrafficGoesToQuarantineAlone(t *testing.T) {
	gw := start(t, "")
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	g := rand.New(rand.NewPCG(seed, 0))
	want := map[string]schema.Code{} // of every event; "" for a valid one
	seen := map[schema.Code]int{}
	for i := range uint64(120) {
		sig := []signal.Signal{signal.Logs, signal.Logs, signal.Traces, signal.Metrics}[i%4]
		b := makeBatch(t, g, sig, seed+i, 250, map[signal.Signal]float64{signal.Logs: 0.015, signal.Traces: 0.01, signal.Metrics: 0.1}[sig])
		eachEvent(t, sig, b.body, func(i int, event string) {
			_, twice := want[event]
			require.False(t, twice, "generated events are unique")
			want[event] = b.want[i]
		})
		for _, code := range b.want {
			seen[code]++
		}
		body, encoding := b.body, ""
		if i%2 == 0 {
			enc, err := zstd.NewWriter(nil)
			require.NoError(t, err)
			body, encoding = enc.EncodeAll(b.body, nil), "zstd"
			require.NoError(t, enc.Close())
		}
		code, answer := gw.post(t, sig, body, encoding)
		require.Equal(t, http.StatusOK, code, "%s", answer)
		resp := plogotlp.NewExportResponse() // the fields of all three signals' are the same
		require.NoError(t, resp.UnmarshalProto(answer))
		require.EqualValues(t, len(b.want), resp.PartialSuccess().RejectedLogRecords())
		require.Equal(t, len(b.want) > 0, resp.PartialSuccess().ErrorMessage() != "")
	}
	require.GreaterOrEqual(t, len(seen), 13, "kinds of poison: %v", seen)

	total := len(want)
	quarantined := 0
	take := func(event string, code schema.Code) {
		expected, sent := want[event]
		require.True(t, sent, "an event that nobody sent, or that is there twice")
		require.Equal(t, expected, code)
		delete(want, event)
	}
	for _, r := range gw.records(t, signal.QuarantineTopic) {
		h := headers(r)
		sig, err := signal.Parse(h[envelope.HeaderSignal])
		require.NoError(t, err)
		require.Equal(t, "acme", h[envelope.HeaderTenant])
		require.Equal(t, envelope.TypeOTLP, h[envelope.HeaderContentType])
		require.NotEmpty(t, h[envelope.HeaderSource])
		require.NotEmpty(t, h[envelope.HeaderReceivedNanos])
		findings, err := schema.DecodeFindings([]byte(h[envelope.HeaderFindings]))
		require.NoError(t, err)
		require.Equal(t, h[envelope.HeaderQuarantineCode], string(findings[0].Verdicts[0].Code))
		require.Equal(t, h[envelope.HeaderEvents], strconv.Itoa(len(findings)))
		eachEvent(t, sig, r.Value, func(i int, event string) {
			require.Equal(t, i, findings[i].Event)
			take(event, findings[i].Verdicts[0].Code)
			quarantined++
		})
	}
	for _, sig := range signal.All {
		for _, r := range gw.records(t, sig.Topic()) {
			require.NotEmpty(t, headers(r)[envelope.HeaderSchemaVersion])
			n := 0
			eachEvent(t, sig, r.Value, func(_ int, event string) { take(event, ""); n++ })
			require.Equal(t, headers(r)[envelope.HeaderEvents], strconv.Itoa(n))
		}
	}
	require.Empty(t, want, "events are lost")
	t.Logf("%d of %d events were quarantined: %v", quarantined, total, seen)

	code, _ := gw.post(t, signal.Logs, []byte("not OTLP"), "")
	require.Equal(t, http.StatusBadRequest, code)
	all := gw.records(t, signal.QuarantineTopic)
	undecodable := 0
	for _, r := range all {
		if headers(r)[envelope.HeaderQuarantineCode] == string(schema.Undecodable) {
			undecodable++
			require.Equal(t, "not OTLP", string(r.Value))
		}
	}
	require.Equal(t, 1, undecodable)
}

func headers(r *kgo.Record) map[string]string {
	out := map[string]string{}
	for _, h := range r.Headers {
		out[h.Key] = string(h.Value)
	}
	return out
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkPoison sends requests of 500 log records, plain or as zstd, all valid or one in a hundred events invalid, by turns, through the whole gateway into an in-process
// Kafka, and prints the processor time that both take, sender and Kafka included, and their ratio ("throughput_ratio").
func BenchmarkPoison(b *testing.B) {
	for _, encoding := range []string{"", "zstd"} {
		b.Run("encoding="+encoding, func(b *testing.B) {
			gw := start(b, "")
			g := rand.New(rand.NewPCG(1, 1))
			var bodies [2][][]byte
			enc, err := zstd.NewWriter(nil)
			require.NoError(b, err)
			defer func() { _ = enc.Close() }()
			for kind, share := range []float64{0, 0.01} {
				for i := range uint64(16) {
					body := makeBatch(b, g, signal.Logs, i, 500, share).body
					if encoding == "zstd" {
						body = enc.EncodeAll(body, nil)
					}
					bodies[kind] = append(bodies[kind], body)
				}
			}
			var took [2]time.Duration
			n := 0
			for b.Loop() {
				for kind := range bodies {
					began := cpuTime()
					code, answer := gw.post(b, signal.Logs, bodies[kind][n%16], encoding)
					took[kind] += cpuTime() - began
					if code != http.StatusOK || kind == 0 && len(answer) > 0 {
						b.Fatal(code, string(answer))
					}
				}
				n++
			}
			b.ReportMetric(float64(took[0].Nanoseconds())/float64(n)/500, "valid-cpu-ns/event")
			b.ReportMetric(float64(took[1].Nanoseconds())/float64(n)/500, "poisoned-cpu-ns/event")
			b.ReportMetric(float64(took[0])/float64(took[1]), "throughput_ratio")
		})
	}
}
