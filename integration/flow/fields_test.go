package flow

import (
	"bytes"
	"context"
	_ "embed"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/ipc"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
	collectorlogs "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	collectormetrics "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	collectortrace "go.opentelemetry.io/proto/otlp/collector/trace/v1"

	"github.com/pulsegrid/pulsegrid/integration/rig"
	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/columns/columnstest"
	"github.com/pulsegrid/pulsegrid/internal/envelope"
	"github.com/pulsegrid/pulsegrid/internal/eventid"
	"github.com/pulsegrid/pulsegrid/internal/lineage"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire/otlptest"
	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/internal/testkit/pytest"
)

//go:embed testdata/rows.py
var rowsScript string

const (
	fieldsService = "every-field-" // the beginning of the service names of this test
	fieldsSeeds   = 6              // requests of each signal over each protobuf transport
	fieldsShown   = 100            // differences that a failure lists
)

// Scenario: requests in which every OTLP field is set, with extreme values, over OTLP/HTTP and OTLP/gRPC as protobuf, and over OTLP/HTTP as JSON.
// Guarantees: each is one Kafka record, byte for byte what was sent as protobuf; the rows that ClickHouse and pyiceberg read back hold every field
// of every event, once, with its lineage. What may differ is what columnstest.Diff leaves out: "What a store cannot hold" in docs/formats/rows.md.
func TestEveryFieldSentIsInBothStores(t *testing.T) {
	r := sharedRig(t)
	conn, err := grpc.NewClient(r.GRPC, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() }) // nothing is under way
	for _, sig := range signal.All {
		t.Run(sig.String(), func(t *testing.T) {
			var sent []*sample
			for seed := range uint64(fieldsSeeds) {
				sent = append(sent, sendHTTP(t, r, sig, seed), sendGRPC(t, conn, sig, fieldsSeeds+seed))
			}
			sent = append(sent, sendJSON(t, r, sig, 2*fieldsSeeds))
			want, events := data{otlptest.NewRequest(sig)}, 0
			records := consumeAll(t, r, sig.Topic())
			for _, s := range sent {
				events += s.stamp(t, s.record(t, records))
				want.append(s.data)
			}
			table := columns.ForSignal(sig).Name
			compare := func(store string, rows []arrow.RecordBatch) {
				t.Helper()
				diff := columnstest.Diff(want.pdata(), rows...)
				if len(diff) > 0 {
					t.Errorf("%s: %d differences:\n%s", store, len(diff), strings.Join(diff[:min(len(diff), fieldsShown)], "\n"))
				}
				t.Logf("%s: %d %s of %d requests compared, %d differences", store, events, table, len(sent), len(diff))
			}
			count := fmt.Sprintf("SELECT count() FROM %s WHERE startsWith(service_name, '%s')", table, fieldsService)
			eventually(t, fmt.Sprintf("%d %s in ClickHouse", events, table), func() bool { return hotNumber(t, r, count) >= events })
			compare("ClickHouse", hotBatches(t, r, table))
			compare("lake", lakeBatches(t, r, table, events))
		})
	}
}

// data is a request and, through it, pdata of one signal.
type data struct{ otlptest.Request }

// pdata is a plog.Logs, pmetric.Metrics or ptrace.Traces.
func (d data) pdata() any {
	switch req := d.Request.(type) {
	case plogotlp.ExportRequest:
		return req.Logs()
	case pmetricotlp.ExportRequest:
		return req.Metrics()
	default:
		return req.(ptraceotlp.ExportRequest).Traces()
	}
}

// append moves what o holds, which is of the same signal, to the end of d.
func (d data) append(o data) {
	switch to := d.pdata().(type) {
	case plog.Logs:
		o.pdata().(plog.Logs).ResourceLogs().MoveAndAppendTo(to.ResourceLogs())
	case pmetric.Metrics:
		o.pdata().(pmetric.Metrics).ResourceMetrics().MoveAndAppendTo(to.ResourceMetrics())
	case ptrace.Traces:
		o.pdata().(ptrace.Traces).ResourceSpans().MoveAndAppendTo(to.ResourceSpans())
	}
}

func (d data) export(ctx context.Context, conn *grpc.ClientConn) error {
	var err error
	switch req := d.Request.(type) {
	case plogotlp.ExportRequest:
		_, err = plogotlp.NewGRPCClient(conn).Export(ctx, req)
	case pmetricotlp.ExportRequest:
		_, err = pmetricotlp.NewGRPCClient(conn).Export(ctx, req)
	case ptraceotlp.ExportRequest:
		_, err = ptraceotlp.NewGRPCClient(conn).Export(ctx, req)
	}
	return err
}

// sample is a request that was acknowledged.
type sample struct {
	sig     signal.Signal
	service string
	body    []byte // what its Kafka record must hold
	data    data   // what was sent, as pdata decodes it
}

// newSample makes a request with every field set, whose events can be told by their service name.
func newSample(t *testing.T, sig signal.Signal, transport string, seed uint64) *sample {
	t.Helper()
	s := &sample{sig: sig, service: fmt.Sprintf("%s%s-%02d", fieldsService, transport, seed), data: data{otlptest.NewRequest(sig)}}
	var err error
	if s.body, err = otlpwire.SetResourceAttribute(sig, otlptest.Full(sig, seed), "service.name", s.service); err != nil {
		t.Fatal(err)
	}
	if err := s.data.UnmarshalProto(s.body); err != nil {
		t.Fatal(err)
	}
	return s
}

func sendHTTP(t *testing.T, r *rig.Rig, sig signal.Signal, seed uint64) *sample {
	t.Helper()
	s := newSample(t, sig, "http", seed)
	s.pdataKnowsEveryField(t)
	encoding, sent := "", s.body
	if seed%2 == 0 { // the record holds the client's own zstd frame
		encoding, sent = "zstd", compressor.EncodeAll(s.body, nil)
	}
	if err := post(patient, "http://"+r.HTTP+"/v1/"+sig.String(), encoding, sent); err != nil {
		t.Fatal(err)
	}
	return s
}

func sendGRPC(t *testing.T, conn *grpc.ClientConn, sig signal.Signal, seed uint64) *sample {
	t.Helper()
	s := newSample(t, sig, "grpc", seed)
	var err error
	if s.body, err = s.data.MarshalProto(); err != nil { // the client sends pdata's encoding, not the generator's
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patient.Timeout)
	defer cancel()
	if err := s.data.export(ctx, conn); err != nil {
		t.Fatal(err)
	}
	return s
}

func sendJSON(t *testing.T, r *rig.Rig, sig signal.Signal, seed uint64) *sample {
	t.Helper()
	s := newSample(t, sig, "json", seed)
	text, err := s.data.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	resp, err := patient.Post("http://"+r.HTTP+"/v1/"+sig.String(), "application/json", bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if answer, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("status %d: %s (%v)", resp.StatusCode, answer, err)
	}
	if s.body, err = s.data.MarshalProto(); err != nil { // the gateway writes JSON as protobuf
		t.Fatal(err)
	}
	return s
}

// pdataKnowsEveryField holds pdata, whose decoding the stores are compared with, against OTLP's own Go messages.
func (s *sample) pdataKnowsEveryField(t *testing.T) {
	t.Helper()
	again, err := s.data.MarshalProto()
	if err != nil {
		t.Fatal(err)
	}
	decode := func(b []byte) proto.Message {
		m := map[signal.Signal]proto.Message{
			signal.Logs: &collectorlogs.ExportLogsServiceRequest{}, signal.Metrics: &collectormetrics.ExportMetricsServiceRequest{},
			signal.Traces: &collectortrace.ExportTraceServiceRequest{},
		}[s.sig]
		if err := proto.Unmarshal(b, m); err != nil {
			t.Fatal(err)
		}
		clearNegativeZeros(m.ProtoReflect())
		return m
	}
	if !proto.Equal(decode(s.body), decode(again)) {
		t.Errorf("%s of %s: pdata encodes other fields than it decoded", s.sig, s.service)
	}
}

// clearNegativeZeros clears fields that are -0, which pdata does not send where a field that equals zero may be left out.
func clearNegativeZeros(m protoreflect.Message) {
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.IsList() && f.Message() != nil:
			for i := range v.List().Len() {
				clearNegativeZeros(v.List().Get(i).Message())
			}
		case f.IsList():
		case f.Message() != nil:
			clearNegativeZeros(v.Message())
		case f.Kind() == protoreflect.DoubleKind && !f.HasPresence() && v.Float() == 0 && math.Signbit(v.Float()):
			m.Clear(f)
		}
		return true
	})
}

// record finds the one Kafka record of the request.
func (s *sample) record(t *testing.T, records []*sarama.ConsumerMessage) *sarama.ConsumerMessage {
	t.Helper()
	var found []*sarama.ConsumerMessage
	for _, m := range records {
		if bytes.Contains(m.Value, []byte(s.service)) {
			found = append(found, m)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%s of %s are in %d records, want 1", s.sig, s.service, len(found))
	}
	if got := found[0].Value; !bytes.Equal(got, s.body) {
		at := 0
		for at < min(len(got), len(s.body)) && got[at] == s.body[at] {
			at++
		}
		t.Errorf("%s of %s: the record has %d bytes, sent were %d; they differ from byte %d on", s.sig, s.service, len(got), len(s.body), at)
	}
	return found[0]
}

// stamp puts onto what was sent whose it is and where it lies in Kafka, and returns how many events that are.
func (s *sample) stamp(t *testing.T, m *sarama.ConsumerMessage) int {
	t.Helper()
	o := lineage.Origin{Source: string(m.Key), Topic: m.Topic, Partition: m.Partition}
	for _, h := range m.Headers {
		switch string(h.Key) {
		case envelope.HeaderTenant:
			o.Tenant = string(h.Value)
		case envelope.HeaderReceivedNanos:
			ns, err := strconv.ParseInt(string(h.Value), 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			o.Received = time.Unix(0, ns)
		}
	}
	st := stamper{origin: o, offset: m.Offset, request: eventid.Digest(m.Value)}
	switch pd := s.data.pdata().(type) {
	case plog.Logs:
		st.logs(pd)
	case pmetric.Metrics:
		st.metrics(pd)
	case ptrace.Traces:
		st.traces(pd)
	}
	return int(st.next)
}

// stamper gives the events of one record the ids and places that the row model documents.
type stamper struct {
	origin  lineage.Origin
	request [16]byte // its digest
	offset  int64
	next    int32
}

func (st *stamper) resource(res pcommon.Resource) {
	lineage.StampResource(res.Attributes(), st.origin)
}

// event's id is the digest of the request plus the index, little endian.
func (st *stamper) event(attrs pcommon.Map) {
	id := st.request
	for i, carry := 0, uint64(st.next); i < len(id); i, carry = i+1, carry>>8 {
		carry += uint64(id[i])
		id[i] = byte(carry)
	}
	lineage.StampEvent(attrs, lineage.Event{ID: id, Offset: st.offset, Index: st.next})
	st.next++
}

func (st *stamper) logs(ld plog.Logs) {
	for _, rl := range ld.ResourceLogs().All() {
		st.resource(rl.Resource())
		for _, sl := range rl.ScopeLogs().All() {
			for _, lr := range sl.LogRecords().All() {
				st.event(lr.Attributes())
			}
		}
	}
}

func (st *stamper) traces(td ptrace.Traces) {
	for _, rs := range td.ResourceSpans().All() {
		st.resource(rs.Resource())
		for _, ss := range rs.ScopeSpans().All() {
			for _, sp := range ss.Spans().All() {
				st.event(sp.Attributes())
			}
		}
	}
}

func (st *stamper) metrics(md pmetric.Metrics) {
	for _, rm := range md.ResourceMetrics().All() {
		st.resource(rm.Resource())
		for _, sm := range rm.ScopeMetrics().All() {
			for _, m := range sm.Metrics().All() {
				st.points(m)
			}
		}
	}
}

func (st *stamper) points(m pmetric.Metric) {
	switch m.Type() {
	case pmetric.MetricTypeGauge:
		for _, dp := range m.Gauge().DataPoints().All() {
			st.event(dp.Attributes())
		}
	case pmetric.MetricTypeSum:
		for _, dp := range m.Sum().DataPoints().All() {
			st.event(dp.Attributes())
		}
	case pmetric.MetricTypeHistogram:
		for _, dp := range m.Histogram().DataPoints().All() {
			st.event(dp.Attributes())
		}
	case pmetric.MetricTypeExponentialHistogram:
		for _, dp := range m.ExponentialHistogram().DataPoints().All() {
			st.event(dp.Attributes())
		}
	case pmetric.MetricTypeSummary:
		for _, dp := range m.Summary().DataPoints().All() {
			st.event(dp.Attributes())
		}
	}
}

// hotBatches reads this test's rows from ClickHouse.
func hotBatches(t *testing.T, r *rig.Rig, table string) []arrow.RecordBatch {
	t.Helper()
	sql := fmt.Sprintf(`SELECT * FROM pulsegrid.%s WHERE startsWith(service_name, '%s')
		ORDER BY kafka_topic, kafka_partition, kafka_offset, event_index FORMAT ArrowStream`, table, fieldsService)
	resp, err := patient.Post("http://"+r.ClickHouse.HTTPAddr+"/", "text/plain", strings.NewReader(sql))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, err := io.ReadAll(resp.Body)
		t.Fatalf("%s: status %d: %s (%v)", sql, resp.StatusCode, text, err)
	}
	return arrowBatches(t, resp.Body)
}

// lakeBatches has pyiceberg read this test's rows, once there are n.
func lakeBatches(t *testing.T, r *rig.Rig, table string, n int) []arrow.RecordBatch {
	t.Helper()
	file := filepath.Join(t.TempDir(), "rows.arrows")
	eventually(t, fmt.Sprintf("%d %s in the lake", n, table), func() bool {
		var rows int
		pytest.RunJSON(t, &rows, rowsScript, r.Catalog(), r.Warehouse(), "pulsegrid."+table, fieldsService, file)
		return rows >= n
	})
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	return arrowBatches(t, f)
}

// arrowBatches reads an Arrow stream. The batches are released, and that nothing else is held is checked, when the test ends.
func arrowBatches(t *testing.T, stream io.Reader) []arrow.RecordBatch {
	t.Helper()
	mem := memory.NewCheckedAllocator(memory.NewGoAllocator())
	t.Cleanup(func() { mem.AssertSize(t, 0) })
	rd, err := ipc.NewReader(stream, ipc.WithAllocator(mem))
	if err != nil {
		t.Fatal(err)
	}
	defer rd.Release()
	var rows []arrow.RecordBatch
	for rd.Next() {
		rec := rd.RecordBatch()
		rec.Retain()
		t.Cleanup(rec.Release)
		rows = append(rows, rec)
	}
	if err := rd.Err(); err != nil {
		t.Fatal(err)
	}
	return rows
}
