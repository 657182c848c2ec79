package probe

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strconv"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"

	"github.com/pulsegrid/pulsegrid/internal/signal"
)

const (
	// Service is service.name of every event.
	Service = "pulsegrid-probe"
	// MarkerAttribute holds the marker of every event, for people. (The cell keeps names that begin with pulsegrid for itself.)
	MarkerAttribute = "probe.marker"
)

// markerColumns are those that hold markers, of kinds that cost little to read: of logs and spans the trace's id, of metrics the value.
var markerColumns = map[signal.Signal]string{signal.Logs: "trace_id", signal.Traces: "trace_id", signal.Metrics: "value_int"}

// Way is how a request is sent.
type Way struct {
	Protocol    string // http_protobuf, http_json or grpc
	Compression string // none or gzip
}

const (
	httpProtobuf = "http_protobuf"
	httpJSON     = "http_json"
	overGRPC     = "grpc"

	plain      = "none"
	compressed = "gzip"
)

// ways are those of a round.
var ways = []Way{{httpProtobuf, plain}, {httpProtobuf, compressed}, {httpJSON, plain}, {httpJSON, compressed}, {overGRPC, plain}, {overGRPC, compressed}}

// event is one event, in a request of its own.
type event struct {
	Way
	signal signal.Signal
	sent   time.Time // also the event's own time
	number uint64    // another one in each event, at most 63 bits

	// Guarded by Probe.mu.
	outcome string // "": under way
	took    time.Duration
	detail  string
	sights  []sight // by store
}

// sight is what a store has shown of an event.
type sight struct {
	rows   int64         // at the newest look
	after  time.Duration // from sending to the look that found a row first; 0: none has
	result string        // "": not settled
}

// acknowledged tells that the event must be stored.
func (e *event) acknowledged() bool { return e.outcome == outcomeOK }

func (e *event) traceID() (id [16]byte) {
	copy(id[:], "probe")
	binary.BigEndian.PutUint64(id[8:], e.number)
	return id
}

// marker is what the stores have of the event in its marker column.
func (e *event) marker() string {
	if e.signal == signal.Metrics {
		return strconv.FormatUint(e.number, 10)
	}
	id := e.traceID()
	return hex.EncodeToString(id[:])
}

// name says which event it is, to people.
func (e *event) name() string {
	return fmt.Sprintf("%s %s %s %s", e.signal, e.Protocol, e.Compression, e.marker())
}

func (e *event) attributes(m pcommon.Map) {
	m.PutStr(MarkerAttribute, e.marker())
	m.PutStr("probe.protocol", e.Protocol)
	m.PutStr("probe.compression", e.Compression)
}

func (e *event) logs() plogotlp.ExportRequest {
	ld := plog.NewLogs()
	rl := ld.ResourceLogs().AppendEmpty()
	rl.Resource().Attributes().PutStr("service.name", Service)
	lr := rl.ScopeLogs().AppendEmpty().LogRecords().AppendEmpty()
	lr.SetTimestamp(pcommon.NewTimestampFromTime(e.sent))
	lr.SetSeverityNumber(plog.SeverityNumberInfo)
	lr.SetSeverityText("INFO")
	lr.Body().SetStr("probe " + e.marker())
	lr.SetTraceID(e.traceID())
	e.attributes(lr.Attributes())
	return plogotlp.NewExportRequestFromLogs(ld)
}

func (e *event) traces() ptraceotlp.ExportRequest {
	td := ptrace.NewTraces()
	rs := td.ResourceSpans().AppendEmpty()
	rs.Resource().Attributes().PutStr("service.name", Service)
	s := rs.ScopeSpans().AppendEmpty().Spans().AppendEmpty()
	s.SetTraceID(e.traceID())
	s.SetSpanID(pcommon.SpanID(binary.BigEndian.AppendUint64(nil, e.number)))
	s.SetName("probe")
	s.SetKind(ptrace.SpanKindInternal)
	s.SetStartTimestamp(pcommon.NewTimestampFromTime(e.sent))
	s.SetEndTimestamp(pcommon.NewTimestampFromTime(e.sent))
	e.attributes(s.Attributes())
	return ptraceotlp.NewExportRequestFromTraces(td)
}

func (e *event) metrics() pmetricotlp.ExportRequest {
	md := pmetric.NewMetrics()
	rm := md.ResourceMetrics().AppendEmpty()
	rm.Resource().Attributes().PutStr("service.name", Service)
	m := rm.ScopeMetrics().AppendEmpty().Metrics().AppendEmpty()
	m.SetName("pulsegrid.probe")
	m.SetUnit("1")
	p := m.SetEmptyGauge().DataPoints().AppendEmpty()
	p.SetTimestamp(pcommon.NewTimestampFromTime(e.sent))
	p.SetIntValue(int64(e.number))
	e.attributes(p.Attributes())
	return pmetricotlp.NewExportRequestFromMetrics(md)
}
