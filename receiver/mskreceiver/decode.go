package mskreceiver

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/pulsegrid/pulsegrid/internal/envelope"
	"github.com/pulsegrid/pulsegrid/internal/eventid"
	"github.com/pulsegrid/pulsegrid/internal/lineage"
	"github.com/pulsegrid/pulsegrid/internal/otlpdecode"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire"
	items "github.com/pulsegrid/pulsegrid/internal/quarantine"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// Codes of a refusal: the quarantine_code header and the metric's reason.
const (
	codeUndecodable   = "undecodable"    // not an OTLP request of the topic's signal
	codeLimitExceeded = "limit_exceeded" // nested too deeply, or too many events
	codeWrongSignal   = "wrong_signal"   // its header names another signal than the topic's
	codeRefused       = "refused"        // the pipeline refused it for good
	codeReplaced      = "replaced"       // its offset had been delivered before with another record
)

// refusal says why a record goes to quarantine.
type refusal struct{ code, reason string }

// origin is what a record's headers, key and place say about its events.
type origin struct {
	lineage.Origin
	gateway bool // Received is the gateway's time, not the record's timestamp
}

// inspector looks at records of one signal before they are decoded.
type inspector struct {
	signal        signal.Signal
	defaultTenant string
	items         bool // records are items of the quarantine: whatever they hold is taken
}

func (c *Config) inspector(s signal.Signal) inspector {
	return inspector{signal: s, defaultTenant: c.DefaultTenant, items: len(c.Topics.Quarantine) > 0}
}

// inspect fills in e. It reads the whole value, but allocates next to nothing: that bounds what decoding may cost, since pdata
// itself recurses as deep as a value is nested.
func (i inspector) inspect(e *entry) {
	r := e.record
	e.origin = i.origin(r)
	if i.items {
		e.item, e.events = true, 1
		return
	}
	if name, ok := header(r, envelope.HeaderSignal); ok && name != i.signal.String() {
		e.refusal = &refusal{codeWrongSignal, fmt.Sprintf("header %s is %q, but the topic carries %s", envelope.HeaderSignal, name, i.signal)}
		return
	}
	size, err := otlpwire.Measure(i.signal, r.Value, otlpwire.Limits{})
	switch {
	case err == nil:
		e.events, e.decoded = size.Events, decodedCost(size)
	case errors.Is(err, otlpwire.ErrTooDeep), errors.Is(err, otlpwire.ErrTooManyEvents):
		e.refusal = &refusal{codeLimitExceeded, err.Error()}
	default:
		e.refusal = &refusal{codeUndecodable, err.Error()}
	}
}

func (i inspector) origin(r *kgo.Record) origin {
	o := origin{Origin: lineage.Origin{
		Tenant:    i.defaultTenant,
		Source:    strings.ToValidUTF8(string(r.Key), "\uFFFD"),
		Received:  r.Timestamp,
		Topic:     r.Topic,
		Partition: r.Partition,
		Appended:  r.Timestamp,
	}}
	if tenant, ok := header(r, envelope.HeaderTenant); ok && tenant != "" {
		o.Tenant = strings.ToValidUTF8(tenant, "\uFFFD")
	}
	if v, ok := header(r, envelope.HeaderReceivedNanos); ok {
		if ns, err := strconv.ParseInt(v, 10, 64); err == nil && ns > 0 {
			o.Received, o.gateway = time.Unix(0, ns), true
		}
	}
	return o
}

func header(r *kgo.Record, key string) (string, bool) {
	for i := range r.Headers {
		if r.Headers[i].Key == key {
			return string(r.Headers[i].Value), true
		}
	}
	return "", false
}

// batch is a block decoded: pdata of its signal; the other two are zero.
type batch struct {
	signal  signal.Signal
	logs    plog.Logs
	metrics pmetric.Metrics
	traces  ptrace.Traces
	events  int
	records []eventid.Record // those with events, in their order

	decoder *otlpdecode.Decoder
	reader  *eventid.Reader
	// Where the lists of the next record begin.
	rules []eventid.Rule
	keys  []eventid.Key
}

func newBatch(s signal.Signal, decoder *otlpdecode.Decoder) *batch {
	b := &batch{signal: s, decoder: decoder, reader: eventid.NewReader(s, true)}
	switch s {
	case signal.Logs:
		b.logs = plog.NewLogs()
	case signal.Metrics:
		b.metrics = pmetric.NewMetrics()
	case signal.Traces:
		b.traces = ptrace.NewTraces()
	}
	return b
}

// record begins the entry of e's record in b.records. Records share lists, so that small ones cost no allocation each.
func (b *batch) record(e *entry) eventid.Record {
	if cap(b.keys) < e.events {
		n := max(e.events, min(b.events, listMax), listMin)
		b.rules, b.keys = make([]eventid.Rule, 0, n), make([]eventid.Key, 0, n)
	}
	r := recordOf(e)
	r.Rules, r.Keys = b.rules[:0:e.events], b.keys[:0:e.events]
	b.rules, b.keys = b.rules[e.events:e.events], b.keys[e.events:e.events]
	return r
}

// Events in a list that records share.
const (
	listMin = 64
	listMax = 4096
)

func recordOf(e *entry) eventid.Record {
	return eventid.Record{Offset: e.record.Offset, Appended: e.record.Timestamp.UnixMilli()}
}

// from is what e's record says about its request.
func (e *entry) from() eventid.From {
	f := eventid.From{Tenant: e.origin.Tenant, Source: e.record.Key}
	for _, h := range e.record.Headers {
		switch h.Key {
		case envelope.HeaderRequest:
			f.Request = h.Value
		case envelope.HeaderIDAttribute:
			f.IDAttribute = string(h.Value)
		}
	}
	return f
}

// append decodes e's record, stamps it and adds it to b. It changes nothing where it refuses the record. b refers to the record's
// value from then on, so the client must not be given pools that it would come from (kgo.WithPools).
func (b *batch) append(e *entry) *refusal {
	if e.item {
		b.appendItem(e)
		return nil
	}
	r := b.record(e)
	if err := b.reader.Read(&r, e.record.Value, e.events, e.from()); err != nil {
		return &refusal{codeUndecodable, err.Error()}
	}
	var err error
	s := lineage.Stamper{Origin: e.origin.Origin, Offset: e.record.Offset, ID: r.ID}
	switch b.signal {
	case signal.Logs:
		var ld plog.Logs
		if ld, err = b.decoder.Logs(e.record.Value); err == nil {
			s.Logs(ld)
			ld.ResourceLogs().MoveAndAppendTo(b.logs.ResourceLogs())
		}
	case signal.Metrics:
		req := pmetricotlp.NewExportRequest()
		if err = req.UnmarshalProto(e.record.Value); err == nil {
			s.Metrics(req.Metrics())
			req.Metrics().ResourceMetrics().MoveAndAppendTo(b.metrics.ResourceMetrics())
		}
	case signal.Traces:
		var td ptrace.Traces
		if td, err = b.decoder.Traces(e.record.Value); err == nil {
			s.Traces(td)
			td.ResourceSpans().MoveAndAppendTo(b.traces.ResourceSpans())
		}
	}
	if err != nil {
		return &refusal{codeUndecodable, err.Error()}
	}
	b.events += s.Events
	if e.events > 0 {
		b.records = append(b.records, r)
	}
	return nil
}

// appendItem adds an item of the quarantine to b, which is of logs.
func (b *batch) appendItem(e *entry) {
	rl := b.logs.ResourceLogs().AppendEmpty()
	lineage.StampResource(rl.Resource().Attributes(), e.origin.Origin)
	lr := rl.ScopeLogs().AppendEmpty().LogRecords().AppendEmpty()
	items.ToLog(e.record, lr)
	id := items.FromRecord(e.record).ID()
	lineage.StampEvent(lr.Attributes(), lineage.Event{ID: id, Offset: e.record.Offset})
	r := b.record(e)
	b.reader.Item(&r, e.origin.Tenant, id)
	b.records = append(b.records, r)
	b.events++
}
