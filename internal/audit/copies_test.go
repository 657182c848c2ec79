package audit

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"

	"github.com/pulsegrid/pulsegrid/internal/audit/certificate"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

const (
	fineTime   = 1_780_000_000_123_456_789
	coarseTime = 1_780_000_000_123_000_000
)

// logsOf makes a request with a scope for each change, and one record in each.
func logsOf(t testing.TB, changes ...func(plog.ScopeLogs, plog.LogRecord)) []byte {
	t.Helper()
	ld := plog.NewLogs()
	rl := ld.ResourceLogs().AppendEmpty()
	rl.Resource().Attributes().PutStr("service.name", "shop")
	for _, change := range changes {
		sl := rl.ScopeLogs().AppendEmpty()
		lr := sl.LogRecords().AppendEmpty()
		lr.SetTimestamp(fineTime)
		lr.Body().SetStr("line")
		change(sl, lr)
	}
	b, err := plogotlp.NewExportRequestFromLogs(ld).MarshalProto()
	require.NoError(t, err)
	return b
}

func plain(plog.ScopeLogs, plog.LogRecord)         {}
func coarsely(_ plog.ScopeLogs, lr plog.LogRecord) { lr.SetTimestamp(coarseTime) }
func body(text string) func(plog.ScopeLogs, plog.LogRecord) {
	return func(_ plog.ScopeLogs, lr plog.LogRecord) { lr.Body().SetStr(text) }
}

func metricOf(t testing.TB, change func(pmetric.ScopeMetrics, pmetric.Metric)) []byte {
	t.Helper()
	md := pmetric.NewMetrics()
	sm := md.ResourceMetrics().AppendEmpty().ScopeMetrics().AppendEmpty()
	m := sm.Metrics().AppendEmpty()
	m.SetName("requests")
	m.SetEmptySum().SetAggregationTemporality(pmetric.AggregationTemporalityDelta)
	m.Sum().DataPoints().AppendEmpty().SetTimestamp(fineTime)
	change(sm, m)
	b, err := pmetricotlp.NewExportRequestFromMetrics(md).MarshalProto()
	require.NoError(t, err)
	return b
}

func spanOf(t testing.TB, change func(ptrace.Span)) []byte {
	t.Helper()
	td := ptrace.NewTraces()
	s := td.ResourceSpans().AppendEmpty().ScopeSpans().AppendEmpty().Spans().AppendEmpty()
	s.SetTraceID(pcommon.TraceID{1})
	s.SetSpanID(pcommon.SpanID{2})
	s.SetStartTimestamp(fineTime)
	s.SetEndTimestamp(fineTime + 5)
	change(s)
	b, err := ptraceotlp.NewExportRequestFromTraces(td).MarshalProto()
	require.NoError(t, err)
	return b
}

// Scenario: the data path's dedupe is broken on purpose, in each way.
// Guarantees: the audit, with and without content, says which events are lost or stored twice, and of which event they are copies.
func TestABrokenDedupeIsFound(t *testing.T) {
	logs, metrics, traces := signal.Logs, signal.Metrics, signal.Traces
	inLogs := func(change func(plog.ResourceLogs)) func(*event) {
		return func(e *event) {
			r := plogotlp.NewExportRequest()
			require.NoError(t, r.UnmarshalProto([]byte(e.content)))
			change(r.Logs().ResourceLogs().At(0))
			b, err := r.MarshalProto()
			require.NoError(t, err)
			e.content = string(b)
		}
	}
	inMetrics := func(change func(pmetric.ScopeMetrics)) func(*event) {
		return func(e *event) {
			r := pmetricotlp.NewExportRequest()
			require.NoError(t, r.UnmarshalProto([]byte(e.content)))
			change(r.Metrics().ResourceMetrics().At(0).ScopeMetrics().At(0))
			b, err := r.MarshalProto()
			require.NoError(t, err)
			e.content = string(b)
		}
	}
	eventID := func(_ plog.ScopeLogs, lr plog.LogRecord) { lr.Attributes().PutStr("event.id", "7036") }
	for name, test := range map[string]struct {
		signal  signal.Signal
		records [][]byte
		apart   time.Duration // between the records
		spoil   func(*event)
		keep    func(*event) bool
		forgets time.Duration
		lost    []string
		doubled []string
	}{
		"the scope is ignored": {
			signal: logs, records: [][]byte{logsOf(t, plain), logsOf(t, func(sl plog.ScopeLogs, _ plog.LogRecord) { sl.Scope().SetName("another") })},
			spoil: inLogs(func(rl plog.ResourceLogs) { plog.NewScopeLogs().Scope().CopyTo(rl.ScopeLogs().At(0).Scope()) }), lost: []string{"0/1#0"},
		},
		"the resource's schema URL is ignored": {
			signal: logs, records: [][]byte{logsOf(t, plain), func() []byte {
				r := plogotlp.NewExportRequest()
				require.NoError(t, r.UnmarshalProto(logsOf(t, plain)))
				r.Logs().ResourceLogs().At(0).SetSchemaUrl("https://opentelemetry.io/schemas/1.38.0")
				b, err := r.MarshalProto()
				require.NoError(t, err)
				return b
			}()}, spoil: inLogs(func(rl plog.ResourceLogs) { rl.SetSchemaUrl("") }), lost: []string{"0/1#0"},
		},
		"the scope's attributes are ignored": {
			signal: metrics, records: [][]byte{metricOf(t, func(pmetric.ScopeMetrics, pmetric.Metric) {}), metricOf(t, func(sm pmetric.ScopeMetrics, _ pmetric.Metric) { sm.Scope().Attributes().PutStr("shard", "2") })},
			spoil: inMetrics(func(sm pmetric.ScopeMetrics) { sm.Scope().Attributes().Clear() }), lost: []string{"0/1#0"},
		},
		"the temporality is ignored": {
			signal: metrics, records: [][]byte{metricOf(t, func(pmetric.ScopeMetrics, pmetric.Metric) {}), metricOf(t, func(_ pmetric.ScopeMetrics, m pmetric.Metric) {
				m.Sum().SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
			})},
			spoil: inMetrics(func(sm pmetric.ScopeMetrics) { sm.Metrics().At(0).Sum().SetAggregationTemporality(0) }), lost: []string{"0/1#0"},
		},
		"the value of a point is ignored": {
			signal: metrics, records: [][]byte{metricOf(t, func(pmetric.ScopeMetrics, pmetric.Metric) {}), metricOf(t, func(_ pmetric.ScopeMetrics, m pmetric.Metric) { m.Sum().DataPoints().At(0).SetIntValue(7) })},
			spoil: inMetrics(func(sm pmetric.ScopeMetrics) { sm.Metrics().At(0).Sum().DataPoints().At(0).SetIntValue(0) }), lost: []string{"0/1#0"},
		},
		"the kind of a span is ignored": {
			signal: traces, records: [][]byte{spanOf(t, func(s ptrace.Span) { s.SetKind(ptrace.SpanKindClient) }), spanOf(t, func(s ptrace.Span) { s.SetKind(ptrace.SpanKindServer) })},
			spoil: func(e *event) {
				r := ptraceotlp.NewExportRequest()
				require.NoError(t, r.UnmarshalProto([]byte(e.content)))
				r.Traces().ResourceSpans().At(0).ScopeSpans().At(0).Spans().At(0).SetKind(0)
				b, err := r.MarshalProto()
				require.NoError(t, err)
				e.content = string(b)
			}, lost: []string{"0/1#0"},
		},
		"the second equal line of a request is dropped": {
			signal: logs, records: [][]byte{logsOf(t, plain, plain)},
			spoil: func(e *event) { other := *e.rec; e.rec, e.nth = &other, 0 }, lost: []string{"0/0#1"},
		},
		"an equal line of the same millisecond in another request is dropped": {
			signal: logs, records: [][]byte{logsOf(t, coarsely), logsOf(t, coarsely, body("x"))},
			spoil: func(e *event) { e.coarse = false }, lost: []string{"0/1#0"},
		},
		"event.id is taken for an identity": {
			signal: logs, records: [][]byte{logsOf(t, eventID), logsOf(t, func(sl plog.ScopeLogs, lr plog.LogRecord) { eventID(sl, lr); lr.Body().SetStr("other") })},
			spoil: func(e *event) { e.uid = "7036" }, lost: []string{"0/1#0"},
		},
		"the resource of a uid is ignored": {
			signal: logs, records: [][]byte{
				logsOf(t, func(_ plog.ScopeLogs, lr plog.LogRecord) { lr.Attributes().PutStr("log.record.uid", "1") }),
				func() []byte {
					r := plogotlp.NewExportRequest()
					require.NoError(t, r.UnmarshalProto(logsOf(t, func(_ plog.ScopeLogs, lr plog.LogRecord) { lr.Attributes().PutStr("log.record.uid", "1") })))
					r.Logs().ResourceLogs().At(0).Resource().Attributes().PutStr("host.name", "b")
					b, err := r.MarshalProto()
					require.NoError(t, err)
					return b
				}(),
			}, spoil: func(e *event) { e.uid, _, _ = strings.Cut(e.uid, " of ") }, lost: []string{"0/1#0"},
		},
		"the tenant is ignored": {
			signal: logs, records: [][]byte{logsOf(t, plain), logsOf(t, plain)},
			spoil: func(e *event) { e.tenant = "" }, lost: []string{"0/1#0"},
		},
		"the window is ignored: an event of an hour later is dropped": {
			signal: logs, records: [][]byte{logsOf(t, plain), logsOf(t, plain)}, apart: time.Hour, forgets: 2 * time.Hour, lost: []string{"0/1#0"},
		},
		"the window is too short: an event of ten minutes later is kept": {
			signal: logs, records: [][]byte{logsOf(t, plain), logsOf(t, plain)}, apart: 10 * time.Minute, forgets: time.Minute,
			doubled: []string{"0/1#0: it is a copy of 0#0 by rule content, and stored all the same"},
		},
		"a repeated request is kept": {
			signal: logs, records: [][]byte{logsOf(t, coarsely, coarsely), logsOf(t, coarsely, coarsely)}, keep: func(e *event) bool { return e.rule() == "request" },
			doubled: []string{"0/1#0: it is a copy of 0#0 by rule request, and stored all the same", "0/1#1: it is a copy of 0#1 by rule request, and stored all the same"},
		},
		"a repeated event of the rule content is kept": {
			signal: logs, records: [][]byte{logsOf(t, body("x"), plain), logsOf(t, plain)}, keep: func(e *event) bool { return e.rule() == "content" },
			doubled: []string{"0/1#0: it is a copy of 0#1 by rule content, and stored all the same"},
		},
		"a repeated uid is kept": {
			signal: logs, records: slices.Repeat([][]byte{logsOf(t, func(_ plog.ScopeLogs, lr plog.LogRecord) { lr.Attributes().PutStr("log.record.uid", "1") })}, 2), keep: func(e *event) bool { return e.rule() == "uid" },
			doubled: []string{"0/1#0: it is a copy of 0#0 by rule uid, and stored all the same"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			for _, broken := range []bool{false, true} {
				r := newRig(t, nil)
				for i, value := range test.records {
					tenant := "acme"
					if name == "the tenant is ignored" && i > 0 {
						tenant = "globex"
					}
					r.produce(test.signal.Topic(), 0, value, "tenant", tenant)
					r.now = r.now.Add(test.apart)
				}
				if broken {
					r.spoil, r.keep, r.forgets = test.spoil, test.keep, test.forgets
				}
				r.store()
				var want []string
				if broken {
					for _, store := range []string{"clickhouse", "lake"} {
						for _, l := range test.lost {
							want = append(want, store+": lost "+test.signal.Topic()+"/"+l)
						}
						for _, d := range test.doubled {
							want = append(want, store+": doubled "+test.signal.Topic()+"/"+d)
						}
					}
				}
				for _, quick := range []bool{false, true} {
					c := r.audit(func(c *Config) { c.Quick, c.SkipLedger = quick, true })
					require.Empty(t, c.Problems)
					require.ElementsMatch(t, want, shown(c), "broken %v, quick %v", broken, quick)
					require.Equal(t, map[bool]certificate.Verdict{true: certificate.Different, false: certificate.Equal}[broken], c.Verdict)
				}
			}
		})
	}
}

// Scenario: a retry arrives in parts whose header names the events of the whole request; another header names events that it does not have.
// Guarantees: the parts are copies by what is in the two records, whatever the digest says; the claim of a wrong header explains nothing.
func TestAHeaderIsNoEvidence(t *testing.T) {
	r := newRig(t, nil)
	whole := r.produce(logsTopic, 0, logsOf(t, func(sl plog.ScopeLogs, lr plog.LogRecord) { coarsely(sl, lr); lr.Body().SetStr("a") }, func(sl plog.ScopeLogs, lr plog.LogRecord) { coarsely(sl, lr); lr.Body().SetStr("b") }))
	d, ok := r.read(signal.Logs, whole)
	require.True(t, ok)
	b := logsOf(t, func(sl plog.ScopeLogs, lr plog.LogRecord) { coarsely(sl, lr); lr.Body().SetStr("b") })
	r.produceWith(logsTopic, 0, b, partOf{digest: d.events[0].digest, indexes: []int{1}})
	r.produceWith(logsTopic, 0, b, partOf{digest: d.events[0].digest, indexes: []int{0}}) // it says a, and is b
	r.store()
	c := r.audit()
	require.Equal(t, int64(1), c.Partitions[0].Duplicates)
	require.Equal(t, certificate.Faults{Lost: 1}, totals(c, certificate.Hot).Faults)
	require.Contains(t, shown(c), "lake: lost otlp.logs.v1/0/2#0: it is no copy: its header says that it is 0#0 once more, and their contents differ")
}

// Guarantees: copies are counted by signal and rule, those apart from a repeated request too, with both places of some; a share above the bound is a
// warning that says what to check, and no difference.
func TestCopiesAreCountedWithExamples(t *testing.T) {
	r := newRig(t, nil)
	request := logsOf(t, body("1"), body("2"), body("3"))
	click := logsOf(t, coarsely, coarsely)
	r.produce(logsTopic, 1, request)                                     // 0
	r.produce(logsTopic, 1, request)                                     // 1: as a whole
	r.produce(logsTopic, 1, logsOf(t, body("4"), body("2")))             // 2: 2 is apart
	r.produce(logsTopic, 1, click)                                       // 3
	r.produce(logsTopic, 1, click)                                       // 4: as a whole
	r.produce(signal.Traces.Topic(), 0, spanOf(t, func(ptrace.Span) {})) // no copies
	r.store()
	for _, quick := range []bool{false, true} {
		c := r.audit(func(c *Config) { c.Quick = quick })
		require.Equal(t, certificate.Equal, c.Verdict, shown(c))
		require.ElementsMatch(t, []certificate.SignalCopies{
			{Signal: "logs", Events: 12, Copies: 6, Rules: []certificate.RuleCopies{
				{Rule: "content", Copies: 4, Apart: 1, Examples: []certificate.CopyExample{
					{Tenant: "acme", Topic: logsTopic, Partition: 1, Offset: 2, Index: 1, OfOffset: 1, OfIndex: 1, Apart: true},
					{Tenant: "acme", Topic: logsTopic, Partition: 1, Offset: 1, Index: 0, OfOffset: 0, OfIndex: 0},
				}},
				{Rule: "request", Copies: 2, Examples: []certificate.CopyExample{{Tenant: "acme", Topic: logsTopic, Partition: 1, Offset: 4, OfOffset: 3}}},
			}},
			{Signal: "metrics", Rules: []certificate.RuleCopies{}},
			{Signal: "traces", Events: 1, Rules: []certificate.RuleCopies{}},
		}, c.Copies)
		require.Len(t, c.Warnings, 1)
		require.Contains(t, c.Warnings[0], "logs: 50.0 % of 12 events are copies (limit 5 %), 4 by rule content, 2 by rule request. Check: ")
		require.Empty(t, r.audit(func(c *Config) { c.Quick, c.CopiesPercent = quick, 60 }).Warnings)
	}

	// A store that lacks rows is looked at twice; its copies are not counted twice.
	r.memoryHot.batches = newMemoryStore("", "").batches
	c := r.audit(func(c *Config) { c.Quick = true })
	require.Equal(t, certificate.Faults{Lost: 7}, totals(c, certificate.Hot).Faults)
	for _, s := range c.Copies {
		if s.Signal == "logs" {
			require.Equal(t, int64(6), s.Copies)
		}
	}
}

// Scenario: of a record's events a store has the second one three times, and neither the first nor the third: the ids of a record are consecutive
// numbers, so the rows are as many, and the sum of their ids is the same.
// Guarantees: a quick audit sees it.
func TestAQuickAuditIsNotDeceivedBySumsOfConsecutiveIDs(t *testing.T) {
	r := newRig(t, nil)
	r.produce(logsTopic, 0, logsOf(t, body("1"), body("2"), body("3")))
	r.store()
	rows := r.memoryHot.batches["logs"][0]
	second := rows.NewSlice(1, 2)
	r.memoryHot.batches["logs"] = []arrow.RecordBatch{second, second, second}
	for _, quick := range []bool{false, true} {
		c := r.audit(func(c *Config) { c.Quick = quick })
		require.Equal(t, certificate.Faults{Lost: 2, Doubled: 2}, totals(c, certificate.Hot).Faults)
		require.Equal(t, c.Partitions[0].Stores[0].Expected.IDs, c.Partitions[0].Stores[0].Got.IDs)
	}
}
