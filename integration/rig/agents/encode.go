package agents

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/zeebo/xxh3"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"

	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// Where an event's number is found again: a log record's body is NumberPrefix and the number; a span's id is the number and one, big
// endian; a data point's value is the number.
const NumberPrefix = "event "

const spanNames = 8

// EventName is that of every log record: by it, by the names of its spans' kinds and of its metrics schemas find the fleet's events.
const EventName = "fleet.event"

// encode makes the request whose events have the numbers from first on, but for what p does to them.
func encode(service string, sig signal.Signal, first, sources int, now time.Time, p *poisoner) ([]byte, error) {
	at := pcommon.NewTimestampFromTime(now)
	resource := func(r pcommon.Resource) {
		r.Attributes().PutStr("service.name", service)
		r.Attributes().PutInt("service.instance.id", int64(first/PerRequest%sources))
	}
	switch sig {
	case signal.Logs:
		ld := plog.NewLogs()
		rl := ld.ResourceLogs().AppendEmpty()
		resource(rl.Resource())
		records := rl.ScopeLogs().AppendEmpty().LogRecords()
		for n := first; n < first+PerRequest; n++ {
			lr := records.AppendEmpty()
			lr.SetTimestamp(at)
			lr.SetEventName(EventName)
			lr.SetSeverityNumber(plog.SeverityNumber(1 + n%24))
			lr.Body().SetStr(fmt.Sprint(NumberPrefix, n))
			lr.Attributes().PutInt("n", int64(n))
		}
		p.logs(records, first)
		return plogotlp.NewExportRequestFromLogs(ld).MarshalProto()
	case signal.Traces:
		td := ptrace.NewTraces()
		rs := td.ResourceSpans().AppendEmpty()
		resource(rs.Resource())
		spans := rs.ScopeSpans().AppendEmpty().Spans()
		for n := first; n < first+PerRequest; n++ {
			s := spans.AppendEmpty()
			id := xxh3.HashString128Seed(service, uint64(n)).Bytes()
			s.SetTraceID(id)
			s.SetSpanID(pcommon.SpanID(binary.BigEndian.AppendUint64(nil, uint64(n)+1)))
			s.SetName(fmt.Sprint("operation ", n%spanNames))
			s.SetKind(ptrace.SpanKindServer)
			s.SetStartTimestamp(at)
			s.SetEndTimestamp(at + pcommon.Timestamp(n%1000)*1e6)
		}
		p.spans(spans, first)
		return ptraceotlp.NewExportRequestFromTraces(td).MarshalProto()
	}
	md := pmetric.NewMetrics()
	rm := md.ResourceMetrics().AppendEmpty()
	resource(rm.Resource())
	ms := rm.ScopeMetrics().AppendEmpty().Metrics()
	m := ms.AppendEmpty()
	m.SetName("fleet.events")
	points := m.SetEmptyGauge().DataPoints()
	for n := first; n < first+PerRequest; n++ {
		dp := points.AppendEmpty()
		dp.SetTimestamp(at)
		dp.Attributes().PutInt("n", int64(n)) // a series of its own
		dp.SetIntValue(int64(n))
	}
	p.points(ms)
	return pmetricotlp.NewExportRequestFromMetrics(md).MarshalProto()
}
