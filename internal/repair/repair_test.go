package repair

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"

	"github.com/pulsegrid/pulsegrid/internal/envelope"
	"github.com/pulsegrid/pulsegrid/internal/eventid"
	"github.com/pulsegrid/pulsegrid/internal/quarantine"
	"github.com/pulsegrid/pulsegrid/internal/schema"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

const orders = `
groups:
  - id: event.order
    type: event
    name: order.placed
    attributes:
      - {id: amount, type: int, requirement_level: required}
      - {id: user.id, type: string, requirement_level: required}
  - {id: span.pay, type: span, span_kind: internal, name: {note: pay}, attributes: [{id: amount, type: int}]}
  - {id: metric.queue, type: metric, metric_name: queue.length, instrument: gauge, unit: "{order}", attributes: [{id: queue, type: string, requirement_level: required}]}
`

func checker(t testing.TB) *schema.Checker {
	t.Helper()
	r, err := schema.Load([]schema.File{{Name: "orders.yaml", Content: []byte(orders)}})
	require.NoError(t, err)
	return schema.NewChecker(r, schema.DefaultLimits())
}

const rulesText = `
version: 1
rules:
  - name: amounts are numbers
    when: {tenant: acme, code: attribute_type, path: 'attributes["amount"]'}
    steps:
      - cast: {path: 'attributes["amount"]', to: int}
  - name: usr is user.id
    when: {tenant: acme, attribute: usr}
    steps:
      - rename: {from: 'attributes["usr"]', to: 'attributes["user.id"]'}
      - remove: {path: 'attributes["debug"]'}
      - set: {path: 'resource.attributes["repaired"]', value: true}
`

func parsed(t testing.TB, text string) *Rules {
	t.Helper()
	r, err := Parse([]byte(text))
	require.NoError(t, err)
	return r
}

var received0 = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

// order is a log record that violates its schema, as the gateway quarantines it.
func order(n int) plog.LogRecord {
	lr := plog.NewLogRecord()
	lr.SetTimestamp(pcommon.NewTimestampFromTime(received0.Add(time.Duration(n) * time.Second)))
	lr.SetEventName("order.placed")
	lr.Body().SetStr(fmt.Sprintf("order %d", n))
	lr.Attributes().PutStr("amount", fmt.Sprint(100+n))
	lr.Attributes().PutStr("usr", fmt.Sprintf("u-%d", n))
	lr.Attributes().PutBool("debug", true)
	return lr
}

// item is what the gateway's quarantine makes of log records.
func item(t testing.TB, c *schema.Checker, records ...plog.LogRecord) quarantine.Item {
	t.Helper()
	ld := plog.NewLogs()
	rl := ld.ResourceLogs().AppendEmpty()
	rl.Resource().Attributes().PutStr("service.name", "shop")
	for _, lr := range records {
		lr.CopyTo(rl.ScopeLogs().AppendEmpty().LogRecords().AppendEmpty())
	}
	body, err := plogotlp.NewExportRequestFromLogs(ld).MarshalProto()
	require.NoError(t, err)
	return itemOf(t, c, signal.Logs, body)
}

func itemOf(t testing.TB, c *schema.Checker, sig signal.Signal, body []byte) quarantine.Item {
	t.Helper()
	found, err := c.Check(sig, body, schema.Open, received0)
	require.NoError(t, err)
	require.NotEmpty(t, found.Findings)
	return quarantine.Item{
		Tenant: "acme", Signal: sig.String(), Source: "agent-1", Key: "agent-1", Gateway: "g", Received: received0, Events: found.Events, ContentType: envelope.TypeOTLP,
		Jurisdiction: "eu", Code: string(found.Findings[0].Verdicts[0].Code), Findings: found.Findings, Body: body,
	}
}

func TestAnEventIsMendedByEveryRuleThatIsForIt(t *testing.T) {
	c := checker(t)
	m, err := Mend(item(t, c, order(1)), parsed(t, rulesText), c, schema.Open, nil, 9)
	require.NoError(t, err)
	require.Empty(t, m.Not)
	require.Equal(t, []int{0}, m.Indexes)
	require.Equal(t, []string{"amounts are numbers", "usr is user.id"}, m.Events[0].Rules)
	rl := m.valid.logs.ResourceLogs().At(0)
	lr := rl.ScopeLogs().At(0).LogRecords().At(0)
	attrs := lr.Attributes().AsRaw()
	require.Equal(t, map[string]any{"amount": int64(101), "user.id": "u-1"}, attrs)
	require.Equal(t, map[string]any{"service.name": "shop", "repaired": true}, rl.Resource().Attributes().AsRaw())
	require.Contains(t, string(m.Events[0].Before), `"usr"`)
	require.Contains(t, string(m.Events[0].After), `"user.id"`)
}

func TestWhatIsStillInvalidOrHasNoRuleStays(t *testing.T) {
	c := checker(t)
	worse := order(2)
	worse.Attributes().PutStr("amount", "many")
	other := order(3)
	other.Attributes().Remove("usr")
	other.Attributes().PutInt("amount", 1)
	m, err := Mend(item(t, c, order(1), worse, other), parsed(t, rulesText), c, schema.Open, nil, 9)
	require.NoError(t, err)
	require.Equal(t, []int{0}, m.Indexes)
	require.Equal(t, schema.AttributeType, m.Events[1].Verdicts[0].Code)
	require.Empty(t, m.Events[2].Rules)
	again, err := Mend(item(t, c, order(1), worse, other), parsed(t, rulesText), c, schema.Open, []int{0}, 9)
	require.NoError(t, err)
	require.Empty(t, again.Indexes, "what was sent is passed over")
}

// Guarantee: what a repair sends says where its events were in the agent's request, so that two attempts, by other rules or of other events of the item, send
// the same events under the same names.
func TestRepairedEventsKeepTheirPlaceInTheAgentsRequest(t *testing.T) {
	c := checker(t)
	i := item(t, c, order(1), order(2), order(3))
	ofAgent := eventid.Request{Digest: eventid.Digest([]byte("what the agent sent"))}
	for _, index := range []int{4, 7, 9} {
		ofAgent.Add(index, index%2)
	}
	read := func(i quarantine.Item, indexes ...int) eventid.Request {
		t.Helper()
		m, err := Mend(i, parsed(t, rulesText), c, schema.Open, nil, 9)
		require.NoError(t, err)
		m.Indexes = indexes
		header, err := requestOf(i, m)
		require.NoError(t, err)
		got, ok := eventid.ParseRequest(header, len(indexes))
		require.True(t, ok)
		require.True(t, got.Resent)
		return got
	}
	without := read(i, 0, 2)
	require.Equal(t, eventid.Digest(i.Body), without.Digest, "an item of a gateway that writes no header")

	i.Request = ofAgent.Encode()
	for _, indexes := range [][]int{{0, 1, 2}, {1}, {0, 2}} {
		got := read(i, indexes...)
		require.Equal(t, ofAgent.Digest, got.Digest)
		for position, index := range indexes {
			wantIndex, wantNth := ofAgent.At(index)
			gotIndex, gotNth := got.At(position)
			require.Equal(t, [2]int{wantIndex, wantNth}, [2]int{gotIndex, gotNth})
		}
	}
}

func TestSpansAndPointsAreMendedToo(t *testing.T) {
	c := checker(t)
	td := ptrace.NewTraces()
	spans := td.ResourceSpans().AppendEmpty().ScopeSpans().AppendEmpty().Spans()
	span := spans.AppendEmpty()
	span.SetTraceID([16]byte{1})
	span.SetSpanID([8]byte{2})
	span.SetStartTimestamp(pcommon.NewTimestampFromTime(received0))
	span.SetEndTimestamp(pcommon.NewTimestampFromTime(received0.Add(-time.Second)))
	body, err := ptraceotlp.NewExportRequestFromTraces(td).MarshalProto()
	require.NoError(t, err)
	m, err := Mend(itemOf(t, c, signal.Traces, body), parsed(t, `
version: 1
rules:
  - name: ends
    when: {signal: traces, code: time_order}
    steps:
      - set: {path: end_time_unix_nano, value: received}
      - retag: {name: pay, schema_url: https://example.com/1}
`), c, schema.Open, nil, 9)
	require.NoError(t, err)
	require.Equal(t, []int{0}, m.Indexes)
	got := m.valid.traces.ResourceSpans().At(0).ScopeSpans().At(0)
	require.Equal(t, "https://example.com/1", got.SchemaUrl())
	require.Equal(t, "pay", got.Spans().At(0).Name())
	require.Equal(t, received0, got.Spans().At(0).EndTimestamp().AsTime())

	md := pmetric.NewMetrics()
	metric := md.ResourceMetrics().AppendEmpty().ScopeMetrics().AppendEmpty().Metrics().AppendEmpty()
	metric.SetName("queue.length")
	metric.SetUnit("1")
	points := metric.SetEmptyGauge().DataPoints()
	for i := range 3 {
		p := points.AppendEmpty()
		p.SetTimestamp(pcommon.NewTimestampFromTime(received0))
		p.SetIntValue(int64(i))
		p.Attributes().PutStr("queue", fmt.Sprint(i))
	}
	body, err = pmetricotlp.NewExportRequestFromMetrics(md).MarshalProto()
	require.NoError(t, err)
	m, err = Mend(itemOf(t, c, signal.Metrics, body), parsed(t, `
version: 1
rules:
  - name: unit
    when: {signal: metrics, name: queue.length, code: metric_unit}
    steps: [{set: {path: metric.unit, value: "{order}"}}]
`), c, schema.Open, nil, 9)
	require.NoError(t, err)
	require.Equal(t, []int{0, 1, 2}, m.Indexes)
	require.Equal(t, 3, m.valid.metrics.DataPointCount())
	for i := range 3 {
		p := m.valid.metrics.ResourceMetrics().At(0).ScopeMetrics().At(0).Metrics().At(0)
		require.Equal(t, "{order}", p.Unit())
		require.Equal(t, int64(i), p.Gauge().DataPoints().At(i).IntValue())
	}
}

// Guarantees: a repair costs what its item is, not events times resource or events times events, also where a rule changes what the events have in common.
func TestTheCostOfARepairIsThatOfItsItem(t *testing.T) {
	c := checker(t)
	const points = 4000
	md := pmetric.NewMetrics()
	rm := md.ResourceMetrics().AppendEmpty()
	rm.Resource().Attributes().PutStr("of all", strings.Repeat("x", 8<<10))
	metric := rm.ScopeMetrics().AppendEmpty().Metrics().AppendEmpty()
	metric.SetName("queue.length")
	metric.SetUnit("1")
	gauge := metric.SetEmptyGauge().DataPoints()
	for i := range points {
		p := gauge.AppendEmpty()
		p.SetTimestamp(pcommon.NewTimestampFromTime(received0))
		p.SetIntValue(int64(i))
		p.Attributes().PutStr("queue", "q")
	}
	body, err := pmetricotlp.NewExportRequestFromMetrics(md).MarshalProto()
	require.NoError(t, err)
	i, rules := itemOf(t, c, signal.Metrics, body), parsed(t, `
version: 1
rules:
  - name: unit
    when: {signal: metrics, name: queue.length, code: metric_unit}
    steps: [{set: {path: metric.unit, value: "{order}"}}, {set: {path: 'resource.attributes["repaired"]', value: true}}]
  - name: only some
    when: {attribute: some}
    steps: [{remove: {path: 'resource.attributes["of all"]'}}]
`)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	m, err := Mend(i, rules, c, schema.Open, nil, 3)
	runtime.ReadMemStats(&after)
	require.NoError(t, err)
	require.Len(t, m.Indexes, points)
	sent, err := m.valid.marshal()
	require.NoError(t, err)
	require.Less(t, len(sent), len(body)+1000)
	require.NotEmpty(t, m.Events[2].After)
	require.Empty(t, m.Events[3].After)
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(100*len(body)), "%d bytes of body", len(body))

	// Where the rules take the events of one resource apart, what is sent would be larger than any record: that is found out before it is made.
	for k := range points {
		if k%2 == 0 {
			gauge.At(k).Attributes().PutBool("some", true)
		}
	}
	body, err = pmetricotlp.NewExportRequestFromMetrics(md).MarshalProto()
	require.NoError(t, err)
	m, err = Mend(itemOf(t, c, signal.Metrics, body), rules, c, schema.Open, nil, 3)
	require.NoError(t, err)
	require.Equal(t, TooLarge, m.Not)
}

func TestWhatCannotBeRepairedIsToldWhy(t *testing.T) {
	c := checker(t)
	good := item(t, c, order(1))
	for want, change := range map[string]func(*quarantine.Item){
		NotOTLP:      func(i *quarantine.Item) { i.ContentType = "application/json" },
		Oversized:    func(i *quarantine.Item) { i.Object, i.Body = "s3://b/k", nil },
		StoreRefused: func(i *quarantine.Item) { i.OriginTopic, i.Findings = "otlp.logs.v1", nil },
		NoVerdicts:   func(i *quarantine.Item) { i.Findings = nil },
	} {
		i := good
		change(&i)
		m, err := Mend(i, parsed(t, rulesText), c, schema.Open, nil, 9)
		require.NoError(t, err)
		require.Equal(t, want, m.Not)
	}
}

func TestAFileAtFaultIsRefusedWithWhatIsWrong(t *testing.T) {
	rule := func(rest string) string { return "version: 1\nrules:\n  - name: r\n    " + rest }
	for text, want := range map[string]string{
		"":                                      "is empty",
		"version: 2\nrules: [{name: a}]":        "version: is 2",
		"version: 1\nrules: []":                 "rules: are 0",
		"version: 1\nruels: []":                 "line 2: field ruels not found",
		"version: 1\nrules: [{name: a}]\n---\n": "more than one YAML document",
		rule("when: {}"):                        "when: is empty",
		rule("when: {tenant: a}\n  - name: r\n    when: {tenant: a}"):                                                   "one that no other rule has",
		rule("when: {signal: x}"):                                                                                       "when: signal",
		rule("when: {code: nope}"):                                                                                      `code: is "nope"`,
		rule("when: {tenant: a}\n    steps: [{}]"):                                                                      "is 0 of set",
		rule("when: {tenant: a}\n    steps: [{remove: {path: body}}]"):                                                  "remove: path",
		rule("when: {tenant: a}\n    steps: [{set: {path: 'attributes[\"pulsegrid.event\"]', value: 1}}]"):              "PulseGrid's own",
		rule("when: {tenant: a}\n    steps: [{remove: {path: 'attributes[\"pulsegrid.x\"]'}}]"):                         "PulseGrid's own",
		rule("when: {tenant: a}\n    steps: [{set: {path: 'attributes[\"a\"]', value: {a: 1}}}]"):                       "which attributes",
		rule("when: {tenant: a}\n    steps: [{set: {path: time_unix_nano, value: soon}}]"):                              "want a time",
		rule("when: {tenant: a}\n    steps: [{set: {path: event_name, value: 1}}]"):                                     "does not take",
		rule("when: {tenant: a}\n    steps: [{cast: {path: body, to: text}}]"):                                          "want string, int, double or bool",
		rule("when: {tenant: a}\n    steps: [{cast: {path: event_name, to: int}}]"):                                     "cannot change",
		rule("when: {tenant: a}\n    steps: [{retag: {}}]"):                                                             "want name",
		rule("when: {tenant: a}\n    steps: [{rename: {from: 'attributes[\"a\"]', to: 'resource.attributes[\"a\"]'}}]"): "stays one",
	} {
		_, err := Parse([]byte(text))
		require.ErrorContains(t, err, want, text)
	}
}

// broker has the quarantine topic and the signals' topics.
func broker(t *testing.T, items ...quarantine.Item) (opts []kgo.Opt, admin *kadm.Client) {
	t.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(2, signal.QuarantineTopic, signal.Logs.Topic(), signal.Metrics.Topic(), signal.Traces.Topic()))
	require.NoError(t, err)
	t.Cleanup(c.Close)
	opts = []kgo.Opt{kgo.SeedBrokers(c.ListenAddrs()...)}
	cl, err := kgo.NewClient(opts...)
	require.NoError(t, err)
	t.Cleanup(cl.Close)
	for _, i := range items {
		r := &kgo.Record{Topic: signal.QuarantineTopic, Key: []byte(i.Key), Value: i.Body}
		for k, v := range map[string]string{
			envelope.HeaderTenant: i.Tenant, envelope.HeaderSignal: i.Signal, envelope.HeaderReceivedNanos: fmt.Sprint(i.Received.UnixNano()), envelope.HeaderSource: i.Source,
			envelope.HeaderGateway: i.Gateway, envelope.HeaderQuarantineCode: i.Code, envelope.HeaderContentType: i.ContentType, envelope.HeaderJurisdiction: i.Jurisdiction,
			envelope.HeaderFindings: string(i.Findings.Append(nil)), envelope.HeaderLane: envelope.LaneQuarantine,
		} {
			r.Headers = append(r.Headers, kgo.RecordHeader{Key: k, Value: []byte(v)})
		}
		require.NoError(t, cl.ProduceSync(t.Context(), r).FirstErr())
	}
	return opts, kadm.NewClient(cl)
}

func ends(t *testing.T, admin *kadm.Client) map[string]int64 {
	t.Helper()
	out := map[string]int64{}
	all, err := admin.ListEndOffsets(t.Context())
	require.NoError(t, err)
	all.Each(func(o kadm.ListedOffset) { out[fmt.Sprint(o.Topic, o.Partition)] = o.Offset })
	return out
}

// sent are the events in the logs topic, by body, and how often each is there.
func sent(t *testing.T, opts []kgo.Opt) map[string]int {
	t.Helper()
	cl, err := kgo.NewClient(opts...)
	require.NoError(t, err)
	defer cl.Close()
	out := map[string]int{}
	require.NoError(t, quarantine.Read(t.Context(), cl, signal.Logs.Topic(), time.Time{}, func(i quarantine.Item) error {
		req := plogotlp.NewExportRequest()
		require.NoError(t, req.UnmarshalProto(i.Body))
		for _, rl := range req.Logs().ResourceLogs().All() {
			for _, sl := range rl.ScopeLogs().All() {
				for _, lr := range sl.LogRecords().All() {
					out[lr.Body().Str()]++
				}
			}
		}
		require.Equal(t, "acme", i.Tenant)
		require.Equal(t, "agent-1", i.Key)
		require.Equal(t, "eu", i.Jurisdiction)
		require.Equal(t, received0, i.Received)
		require.NotEmpty(t, i.Repaired)
		of, ok := eventid.ParseRequest(i.Request, req.Logs().LogRecordCount())
		require.True(t, ok && of.Resent, "by its header a second one is recognised")
		return nil
	}))
	return out
}

// Guarantees: a dry run writes nothing; an apply sends what is valid now, once; a second one sends nothing.
func TestApplyingTwiceSendsOnce(t *testing.T) {
	c := checker(t)
	bad := order(9)
	bad.Attributes().PutStr("amount", "many")
	opts, admin := broker(t, item(t, c, order(1), order(2)), item(t, c, order(3)), item(t, c, bad))
	cfg := Config{Kafka: opts, Rules: parsed(t, rulesText), Checker: c, Unknown: schema.Open}

	before := ends(t, admin)
	r, err := Run(t.Context(), cfg)
	require.NoError(t, err)
	require.Equal(t, before, ends(t, admin), "a dry run has written")
	require.Equal(t, 3, r.Valid)
	require.Equal(t, map[string]int{"attribute_type": 1}, r.Invalid)
	require.Zero(t, r.Records)

	cfg.Apply = true
	r, err = Run(t.Context(), cfg)
	require.NoError(t, err)
	require.Equal(t, 2, r.Records)
	want := map[string]int{"order 1": 1, "order 2": 1, "order 3": 1}
	got := sent(t, opts)
	require.Equal(t, want, got)

	r, err = Run(t.Context(), cfg)
	require.NoError(t, err)
	require.Zero(t, r.Records)
	require.Equal(t, 3, r.SentBefore)
	got = sent(t, opts)
	require.Equal(t, want, got)

	// A better rule repairs what was left, and only that.
	cfg.Rules = parsed(t, rulesText+`
  - name: many
    when: {tenant: acme, code: attribute_type}
    steps: [{set: {path: 'attributes["amount"]', value: 7}}]
`)
	r, err = Run(t.Context(), cfg)
	require.NoError(t, err)
	require.Equal(t, 1, r.Records)
	want["order 9"] = 1
	got = sent(t, opts)
	require.Equal(t, want, got)
}

// Guarantees: killed before or after the records are sent, a repair that is run again ends with each event sent once.
func TestARepairThatBreaksOffIsTakenUpAgain(t *testing.T) {
	c := checker(t)
	for _, step := range []string{"intent", "sent"} {
		t.Run(step, func(t *testing.T) {
			opts, _ := broker(t, item(t, c, order(1)), item(t, c, order(2)))
			killed := errors.New("killed")
			cfg := Config{Kafka: opts, Rules: parsed(t, rulesText), Checker: c, Unknown: schema.Open, Apply: true, between: func(s string) error {
				if s == step {
					return killed
				}
				return nil
			}}
			_, err := Run(t.Context(), cfg)
			require.ErrorIs(t, err, killed)
			cfg.between = nil
			r, err := Run(t.Context(), cfg)
			require.NoError(t, err)
			require.Equal(t, map[string]int{"intent": 2, "sent": 0}[step], r.Records)
			got := sent(t, opts)
			require.Equal(t, map[string]int{"order 1": 1, "order 2": 1}, got)
		})
	}
}

// Guarantees: of two operators the one who began first is stopped before it sends anything more.
func TestASecondOperatorFencesTheFirst(t *testing.T) {
	c := checker(t)
	var items []quarantine.Item
	for n := range batchItems + 10 { // two batches
		items = append(items, item(t, c, order(n)))
	}
	opts, _ := broker(t, items...)
	cfg := Config{Kafka: opts, Rules: parsed(t, rulesText), Checker: c, Unknown: schema.Open, Apply: true}
	first := cfg
	took := false
	first.between = func(step string) error {
		if step == "sent" && !took {
			took = true
			second := cfg
			r, err := Run(t.Context(), second)
			require.NoError(t, err)
			require.Equal(t, 10, r.Records, "what the first has sent is known by its records")
		}
		return nil
	}
	_, err := Run(t.Context(), first)
	require.ErrorIs(t, err, ErrFenced)
	got := sent(t, opts)
	require.Len(t, got, len(items))
	for name, n := range got {
		require.Equal(t, 1, n, name)
	}
}

func TestTheDocumentedExampleIsAFileOfRules(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "formats", "repair.md"))
	require.NoError(t, err)
	_, example, found := strings.Cut(string(text), "```yaml\n")
	require.True(t, found)
	example, _, _ = strings.Cut(example, "```")
	require.Len(t, parsed(t, example).Rules, 3)
	for name := range fields {
		require.Contains(t, string(text), "`"+name+"`")
	}
}
