package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
	"go.opentelemetry.io/collector/receiver"

	"github.com/pulsegrid/pulsegrid/exporter/icebergexporter"
	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/orchestration"
	"github.com/pulsegrid/pulsegrid/receiver/mskreceiver"
)

// rehearsed is a lake of a shop's traffic, and what its generator counts of it. It knows the two registries below as a person does: nothing of it asks the product.
type rehearsed struct {
	t       *testing.T
	dir     string
	records []*kgo.Record
	n       map[string]int // events by what they are

	now, proposed map[string]int // violations: tenant signal service schema code path
	orderIDs      map[string][2]int
}

const currentSchemas = `
groups:
  - id: event.order.placed
    type: event
    name: order.placed
    annotations: {pulsegrid: {version: 1.0.0}}
    attributes:
      - {id: order.id, type: string}
      - {id: order.total, type: double}
  - {id: metric.shop.orders, type: metric, metric_name: shop.orders, instrument: counter, unit: "{order}"}
  - id: span.checkout
    type: span
    span_kind: server
    annotations: {pulsegrid: {match: {name: "POST /checkout*"}}}
    attributes: [{ref: order.id}]
`

const proposedSchemas = `
groups:
  - id: event.order.placed
    type: event
    name: order.placed
    annotations: {pulsegrid: {version: 2.0.0}}
    attributes:
      - {id: order.id, type: string, requirement_level: required, annotations: {pulsegrid: {promote: true}}}
      - {id: order.total, type: any}
      - {id: order.items, type: "int[]"}
  - {id: metric.shop.orders, type: metric, metric_name: shop.orders, instrument: counter, unit: "{order}"}
  - id: span.checkout
    type: span
    span_kind: server
    annotations: {pulsegrid: {match: {name: "POST /checkout*"}}}
    attributes: [{ref: order.id, requirement_level: required}]
`

const rehearsedTenants = `
tenants:
  - {id: acme}
  - {id: globex, schema: {unknown_attributes: strict}}
  - {id: initech, schema: {policy: "off"}}
`

// rehearsedFrom is when the first request of the rehearsed time was received; there is one a minute.
var rehearsedFrom = time.Date(2026, 11, 3, 23, 50, 0, 123_456_789, time.UTC)

const rehearsedMinutes = 20

func (r *rehearsed) record(sig signal.Signal, tenant string, received time.Time, body []byte, err error) {
	r.t.Helper()
	require.NoError(r.t, err)
	r.records = append(r.records, &kgo.Record{Topic: sig.Topic(), Key: []byte(tenant), Value: body, Headers: []kgo.RecordHeader{
		{Key: "tenant", Value: []byte(tenant)}, {Key: "received_unix_nano", Value: []byte(strconv.FormatInt(received.UnixNano(), 10))},
	}})
}

// violates counts an event's violation under one of the registries.
func violates(into map[string]int, what ...string) { into[strings.Join(what, " ")]++ }

// orders is a request of 50 log records. inside: it is of the rehearsed time.
func (r *rehearsed) orders(tenant string, received time.Time, inside bool) {
	ld := plog.NewLogs()
	for _, service := range []string{"checkout", "cart"} {
		rl := ld.ResourceLogs().AppendEmpty()
		rl.Resource().Attributes().PutStr("service.name", service)
		rl.ScopeLogs().AppendEmpty()
	}
	for range 50 {
		n := r.n[tenant]
		r.n[tenant]++
		service := []string{"checkout", "cart"}[n%2]
		lr := ld.ResourceLogs().At(n % 2).ScopeLogs().At(0).LogRecords().AppendEmpty()
		lr.SetEventName("order.placed")
		lr.Body().SetStr("order " + strconv.Itoa(n))
		lr.SetTimestamp(pcommon.NewTimestampFromTime(received.Add(-time.Second)))
		attrs := lr.Attributes()
		attrs.PutStr("enriched.cell", "eu-1") // as the aggregator's enrichment adds it
		if tenant == "initech" {
			continue // its policy is off
		}
		var now, proposed []string
		if id := "o-" + strconv.Itoa(n); tenant == "acme" && n%20 == 7 {
			proposed = append(proposed, `event.order.placed attribute_missing attributes["order.id"]`)
		} else if attrs.PutStr("order.id", id); inside {
			c := r.orderIDs["logs"]
			r.orderIDs["logs"] = [2]int{c[0] + 1, c[1] + len(id)}
		}
		attrs.PutDouble("order.total", 12.5)
		switch {
		case tenant == "globex" && n%200 == 5:
			attrs.PutStr("foo", "bar")
			now = append(now, `event.order.placed attribute_unknown attributes["foo"]`)
			proposed = append(proposed, `event.order.placed attribute_unknown attributes["foo"]`)
		case tenant == "acme" && n%100 == 12:
			attrs.PutStr("order.total", "12,50")
			now = append(now, `event.order.placed attribute_type attributes["order.total"]`)
		case tenant == "acme" && n%100 == 27:
			lr.SetTimestamp(pcommon.NewTimestampFromTime(received.Add(-40 * 24 * time.Hour)))
			now = append(now, ` time_too_old time_unix_nano`)
			proposed = append(proposed, ` time_too_old time_unix_nano`)
		case tenant == "acme" && n%200 == 47:
			s := attrs.PutEmptySlice("order.items")
			s.AppendEmpty().SetInt(1)
			s.AppendEmpty().SetStr("two")
			proposed = append(proposed, `event.order.placed attribute_type attributes["order.items"][*]`)
		}
		if !inside {
			continue
		}
		r.n[tenant+" inside"]++
		for _, v := range now {
			violates(r.now, tenant, "logs", service, v)
		}
		for _, v := range proposed {
			violates(r.proposed, tenant, "logs", service, v)
		}
		switch {
		case len(now) > 0:
			r.n[tenant+" now"]++
		case len(proposed) > 0:
			r.n[tenant+" newly"]++
		}
		if len(proposed) > 0 {
			r.n[tenant+" proposed"]++
		} else if len(now) > 0 {
			r.n[tenant+" no longer"]++
		}
	}
	body, err := plogotlp.NewExportRequestFromLogs(ld).MarshalProto()
	r.record(signal.Logs, tenant, received, body, err)
}

// pointsAndSpans are a request of 100 data points, of which one has another unit, and of 100 spans, of which one has no order.
func (r *rehearsed) pointsAndSpans(tenant string, received time.Time) {
	at := pcommon.NewTimestampFromTime(received)
	md, td := pmetric.NewMetrics(), ptrace.NewTraces()
	rm := md.ResourceMetrics().AppendEmpty()
	rm.Resource().Attributes().PutStr("service.name", "billing")
	rs := td.ResourceSpans().AppendEmpty()
	rs.Resource().Attributes().PutStr("service.name", "billing")
	metrics, spans := rm.ScopeMetrics().AppendEmpty().Metrics(), rs.ScopeSpans().AppendEmpty().Spans()
	for i := range 100 {
		m := metrics.AppendEmpty()
		m.SetName("shop.orders")
		m.SetUnit("{order}")
		if i == 3 {
			m.SetUnit("1")
			violates(r.now, tenant, "metrics billing metric.shop.orders metric_unit metric.unit")
			violates(r.proposed, tenant, "metrics billing metric.shop.orders metric_unit metric.unit")
		}
		s := m.SetEmptySum()
		s.SetIsMonotonic(true)
		s.SetAggregationTemporality(pmetric.AggregationTemporalityDelta)
		p := s.DataPoints().AppendEmpty()
		p.SetTimestamp(at)
		p.SetStartTimestamp(at)
		p.SetIntValue(int64(i))
		sp := spans.AppendEmpty()
		sp.SetName("POST /checkout/" + strconv.Itoa(i))
		sp.SetKind(ptrace.SpanKindServer)
		sp.SetStartTimestamp(at)
		sp.SetEndTimestamp(at)
		sp.SetSpanID([8]byte{1, byte(i)})
		if i == 7 {
			violates(r.proposed, tenant, `traces billing span.checkout attribute_missing attributes["order.id"]`)
			continue
		}
		sp.Attributes().PutStr("order.id", "o")
		c := r.orderIDs["traces"]
		r.orderIDs["traces"] = [2]int{c[0] + 1, c[1] + 1}
	}
	r.n[tenant+" inside"] += 200
	r.n[tenant+" now"]++
	r.n[tenant+" newly"]++
	r.n[tenant+" proposed"] += 2
	body, err := pmetricotlp.NewExportRequestFromMetrics(md).MarshalProto()
	r.record(signal.Metrics, tenant, received, body, err)
	body, err = ptraceotlp.NewExportRequestFromTraces(td).MarshalProto()
	r.record(signal.Traces, tenant, received, body, err)
}

// quarantined is an item of three orders with a total that is no number, one of which has no id either, and one that is no OTLP.
func (r *rehearsed) quarantined(received time.Time) {
	ld := plog.NewLogs()
	records := ld.ResourceLogs().AppendEmpty().ScopeLogs().AppendEmpty().LogRecords()
	for i := range 3 {
		lr := records.AppendEmpty()
		lr.SetEventName("order.placed")
		lr.SetTimestamp(pcommon.NewTimestampFromTime(received))
		lr.Attributes().PutStr("order.total", "12,50")
		if i > 0 {
			lr.Attributes().PutStr("order.id", "o")
		}
	}
	r.record(signal.Logs, "acme", received, nil, nil)
	last := r.records[len(r.records)-1]
	last.Topic = signal.QuarantineTopic
	var err error
	last.Value, err = plogotlp.NewExportRequestFromLogs(ld).MarshalProto()
	require.NoError(r.t, err)
	verdict := func(event int) string {
		return fmt.Sprintf(`{"event":%d,"verdicts":[{"code":"attribute_type","path":"attributes[\"order.total\"]","schema":"event.order.placed"}]}`, event)
	}
	last.Headers = append(last.Headers, kgo.RecordHeader{Key: "signal", Value: []byte("logs")}, kgo.RecordHeader{Key: "quarantine_code", Value: []byte("attribute_type")},
		kgo.RecordHeader{Key: "quarantine_findings", Value: []byte("[" + verdict(0) + "," + verdict(1) + "," + verdict(2) + "]")})
	r.record(signal.Logs, "acme", received, []byte("no OTLP"), nil)
	last = r.records[len(r.records)-1]
	last.Topic = signal.QuarantineTopic
	last.Headers = append(last.Headers, kgo.RecordHeader{Key: "quarantine_code", Value: []byte("undecodable")})
}

// newRehearsed fills a lake with the aggregator's own components.
func newRehearsed(t *testing.T) *rehearsed {
	t.Helper()
	r := &rehearsed{t: t, dir: t.TempDir(), n: map[string]int{}, now: map[string]int{}, proposed: map[string]int{}, orderIDs: map[string][2]int{}}
	to := rehearsedFrom.Add(rehearsedMinutes * time.Minute)
	for i := range rehearsedMinutes {
		at := rehearsedFrom.Add(time.Duration(i) * time.Minute)
		r.orders("acme", at, true)
		if i < 8 {
			r.orders("globex", at, true)
		}
	}
	r.orders("acme", rehearsedFrom.Add(-time.Nanosecond), false)
	r.orders("acme", to, false)
	r.orders("initech", rehearsedFrom, true)
	r.pointsAndSpans("globex", rehearsedFrom.Add(time.Minute))
	r.quarantined(rehearsedFrom.Add(2 * time.Minute))

	k, err := kfake.NewCluster(kfake.NumBrokers(1))
	require.NoError(t, err)
	t.Cleanup(k.Close)
	a := aggregated{brokers: k.ListenAddrs()[0], catalog: filepath.Join(r.dir, "catalog.db"), warehouse: filepath.Join(r.dir, "warehouse")}
	client, err := kgo.NewClient(kgo.SeedBrokers(a.brokers))
	require.NoError(t, err)
	t.Cleanup(client.Close)
	admin := kadm.NewClient(client)
	topics := []string{signal.QuarantineTopic, signal.RefusedTopic}
	for _, s := range signal.All {
		topics = append(topics, s.Topic())
	}
	_, err = admin.CreateTopics(t.Context(), 2, 1, map[string]*string{"message.timestamp.type": kadm.StringPtr("LogAppendTime")}, topics...)
	require.NoError(t, err)
	require.NoError(t, client.ProduceSync(t.Context(), r.records...).FirstErr())

	stops, topicsOf := []func(){a.pipeline(t, "events", icebergexporter.NewFactory(), a.lakeOf("events"))}, map[string]int{"events": len(signal.All)}
	for _, rows := range []string{"quarantine", "quarantine_pii"} {
		stops, topicsOf[rows] = append(stops, a.quarantinePipeline(t, rows, a.lakeOf(rows))), 1
	}
	for group, n := range topicsOf {
		require.Eventually(t, func() bool {
			lags, err := admin.Lag(context.Background(), group)
			return err == nil && lags.Error() == nil && lags[group].Lag.Total() == 0 && len(lags[group].Lag) == n
		}, 2*time.Minute, 50*time.Millisecond, "group %s takes everything", group)
	}
	for _, stop := range stops {
		stop()
	}
	r.write("schemas/shop.yaml", currentSchemas)
	r.write("proposed/shop.yaml", proposedSchemas)
	r.write("tenants/tenants.yaml", rehearsedTenants)
	config, err := json.Marshal(map[string]any{"exporters": map[string]any{"iceberg": a.lakeOf("events")}}) // JSON is YAML
	require.NoError(t, err)
	r.write("aggregator.yaml", string(config))
	return r
}

// isAJob: a worker's rehearsal is rejected with the same reason and keeps the same report; a rollout by that report is rejected too, and not tried again.
func (r *rehearsed) isAJob(report, refused string, to time.Time) {
	r.t.Helper()
	w := &jobRunner{stores: storesOptions{config: []string{"aggregator.yaml"}, data: r.dir}, reports: "reports"}
	job := func(kind string, flags ...string) orchestration.Outcome {
		out, err := w.Run(r.t.Context(), orchestration.Command{Kind: kind, Flags: flags}, false, func(string) {})
		require.NoError(r.t, err, out.Text)
		return out
	}
	flags := []string{"--current=schemas", "--proposed=proposed", "--tenants=tenants", "--from=" + rehearsedFrom.Format(time.RFC3339Nano), "--to=" + to.Format(time.RFC3339Nano)}
	out := job(orchestration.KindRehearsal, flags...)
	require.Equal(r.t, orchestration.StateRejected, out.State)
	require.True(r.t, strings.HasSuffix(out.Text, refused+"\n"), out.Text)
	require.Regexp(r.t, `(?m)^acme +enforce +1000 `, out.Text)
	kept, err := filepath.Glob("reports/*.json")
	require.NoError(r.t, err)
	require.Len(r.t, kept, 1)
	text, err := os.ReadFile(kept[0])
	require.NoError(r.t, err)
	require.JSONEq(r.t, report, string(text))
	require.Equal(r.t, orchestration.StateIncomplete, job(orchestration.KindRehearsal, append(flags, "--tenant=nobody")...).State)

	r.write("plan.yaml", fmt.Sprintf("proposed: proposed\ncells: [{name: eu-1, registry: schemas, gateways: [http://127.0.0.1:1/metrics], rehearsed: %q}]\n", kept[0]))
	out = job(orchestration.KindRollout, "--plan=plan.yaml")
	require.Equal(r.t, orchestration.Outcome{State: orchestration.StateRejected, Text: "cell eu-1: rehearsed: " + refused + "\n"}, out)
}

func (r *rehearsed) write(name, content string) {
	r.t.Helper()
	path := filepath.Join(r.dir, name)
	require.NoError(r.t, os.MkdirAll(filepath.Dir(path), 0o700))
	require.NoError(r.t, os.WriteFile(path, []byte(content), 0o600))
}

// lakeOf is the configuration of an exporter to the lake's tables of such rows.
func (a aggregated) lakeOf(rows string) map[string]any {
	return map[string]any{
		"catalog": map[string]any{"type": "sql", "uri": "file:" + a.catalog, "warehouse": "file://" + a.warehouse}, "commit": map[string]any{"max_age": "100ms"}, "rows": rows,
	}
}

// quarantinePipeline runs a receiver of the quarantine topic and the exporter of a table.
func (a aggregated) quarantinePipeline(t *testing.T, group string, config map[string]any) (stop func()) {
	t.Helper()
	f, rf := icebergexporter.NewFactory(), mskreceiver.NewFactory()
	cfg, rcfg := f.CreateDefaultConfig(), rf.CreateDefaultConfig()
	require.NoError(t, confmap.NewFromStringMap(config).Unmarshal(cfg))
	require.NoError(t, confmap.NewFromStringMap(map[string]any{
		"brokers": []any{a.brokers}, "group_id": group, "block": map[string]any{"max_age": "50ms"}, "topics": map[string]any{"quarantine": []any{signal.QuarantineTopic}},
		"quarantine_topic": signal.RefusedTopic,
	}).Unmarshal(rcfg))
	logs, err := f.CreateLogs(t.Context(), exporter.Settings{ID: component.NewIDWithName(f.Type(), group), TelemetrySettings: componenttest.NewNopTelemetrySettings()}, cfg)
	require.NoError(t, err)
	in, err := rf.CreateLogs(t.Context(), receiver.Settings{ID: component.NewIDWithName(rf.Type(), group), TelemetrySettings: componenttest.NewNopTelemetrySettings()}, rcfg, logs)
	require.NoError(t, err)
	require.NoError(t, logs.Start(t.Context(), componenttest.NewNopHost()))
	require.NoError(t, in.Start(t.Context(), componenttest.NewNopHost()))
	return func() {
		require.NoError(t, in.Shutdown(context.Background()))
		require.NoError(t, logs.Shutdown(context.Background()))
	}
}

// rehearsalJSON is of --json what this test compares.
type rehearsalJSON struct {
	Events     int
	Unreadable int
	Tenants    []struct {
		Tenant            string
		Events, Unchecked int
		Current, Proposed struct{ Violating int }
		Newly             int `json:"newly_violating"`
		NoLonger          int `json:"no_longer_violating"`
		Sources           []struct {
			Signal, Service, Schema, Code, Path string
			Current, Proposed                   int
		}
		Quarantine struct {
			Items, Events   int
			AcceptedCurrent int            `json:"accepted_current"`
			AcceptedNew     int            `json:"accepted_proposed"`
			NotChecked      map[string]int `json:"not_checked"`
		}
	}
	NewColumns []struct {
		Signal, Attribute, Column string
		Events, Bytes             int
	} `json:"new_columns"`
}

// Scenario: traffic of three tenants, of which one has the policy strict and one is off, went by the aggregator's receiver and exporters into a lake. A proposed registry asks
// for an attribute that 5 % of one tenant's events do not have.
// Guarantees: the rehearsal's figures are those that the generator has counted by itself: by tenant, signal, service, schema, code and path, under both registries, of the
// time that was asked for to the nanosecond; what the aggregator has added to events is no violation; what of the quarantine would be accepted. It fails, and names the
// tenant; the other tenants, and a bound that is not exceeded, do not make it fail. Its report stops a rollout. A worker's job says the same, keeps the report, and is told as
// rejected, and so is the rollout. The runbook's commands do what it says.
func TestARehearsalCountsWhatTheGeneratorCounts(t *testing.T) {
	page, err := os.ReadFile("../../docs/runbooks/rehearsal.md")
	require.NoError(t, err)
	r := newRehearsed(t)
	t.Chdir(r.dir)
	to := rehearsedFrom.Add(rehearsedMinutes * time.Minute)
	rehearse := func(more ...string) (string, int, error) {
		return run(t, append([]string{"job", "run", "rehearsal", "--config", "aggregator.yaml", "--current", "schemas", "--proposed", "proposed", "--tenants", "tenants", "--quiet",
			"--from", rehearsedFrom.Format(time.RFC3339Nano), "--to", to.Format(time.RFC3339Nano)}, more...)...)
	}
	out, code, err := rehearse("--json")
	require.Equal(t, exitFailed, code)
	const refused = "refused: 50 of 1000 events of tenant acme (5.00%) would violate the proposed version, more than 1%; 1 tenants are above that"
	require.EqualError(t, err, refused)
	r.refusesARollout(out, refused)
	r.isAJob(out, refused, to)
	var got rehearsalJSON
	require.NoError(t, json.Unmarshal([]byte(out), &got), out)
	require.Zero(t, got.Unreadable, out)
	require.Equal(t, r.n["acme inside"]+r.n["globex inside"]+50, got.Events)
	now, proposed := map[string]int{}, map[string]int{}
	names := map[string]bool{}
	for _, tenant := range got.Tenants {
		names[tenant.Tenant] = true
		for _, s := range tenant.Sources {
			key := strings.Join([]string{tenant.Tenant, s.Signal, s.Service, s.Schema, s.Code, s.Path}, " ")
			if s.Current > 0 {
				now[key] = s.Current
			}
			if s.Proposed > 0 {
				proposed[key] = s.Proposed
			}
		}
		if tenant.Tenant == "initech" {
			require.Equal(t, []int{0, 50, 0, 0}, []int{tenant.Events, tenant.Unchecked, tenant.Current.Violating, tenant.Proposed.Violating})
			continue
		}
		want := []int{r.n[tenant.Tenant+" inside"], 0, r.n[tenant.Tenant+" now"], r.n[tenant.Tenant+" proposed"], r.n[tenant.Tenant+" newly"], r.n[tenant.Tenant+" no longer"]}
		require.Equal(t, want, []int{tenant.Events, tenant.Unchecked, tenant.Current.Violating, tenant.Proposed.Violating, tenant.Newly, tenant.NoLonger}, tenant.Tenant)
		if tenant.Tenant == "acme" {
			q := tenant.Quarantine
			require.Equal(t, []int{2, 3, 0, 2}, []int{q.Items, q.Events, q.AcceptedCurrent, q.AcceptedNew})
			require.Equal(t, []int{1}, slices.Collect(maps.Values(q.NotChecked)))
		}
	}
	require.Equal(t, map[string]bool{"acme": true, "globex": true, "initech": true}, names)
	require.Equal(t, r.now, now)
	require.Equal(t, r.proposed, proposed)
	require.Len(t, got.NewColumns, 2)
	for _, c := range got.NewColumns {
		require.Equal(t, []string{"order.id", "attr_order_id"}, []string{c.Attribute, c.Column})
		require.Equal(t, r.orderIDs[c.Signal], [2]int{c.Events, c.Bytes}, c.Signal)
	}

	out, code, err = rehearse("--refuse-above", "5%")
	require.NoError(t, err, out)
	require.Zero(t, code)
	require.Regexp(t, `(?m)^acme +enforce +1000 +20 \(2\.00%\) +50 \(5\.00%\) +40 +10 `, out)
	require.Regexp(t, `(?m)^0 +50 +logs +cart +event\.order\.placed +attribute_missing +attributes\["order\.id"\]$`, out)
	out, code, err = rehearse("--tenant", "globex")
	require.NoError(t, err, out)
	require.Zero(t, code)
	require.NotContains(t, out, "acme")
	out, code, err = rehearse("--tenant", "nobody")
	require.ErrorContains(t, err, "nothing was rehearsed", out)
	require.Equal(t, exitFailed, code)

	commands := 0
	for line := range strings.Lines(string(page)) {
		words := strings.Fields(line)
		if !strings.HasPrefix(line, "    ") || len(words) == 0 || words[0] != "pulsegrid" {
			continue
		}
		if words[1] == "job" && words[2] != "run" { // integration/backfill, TestTheRunbooksBesideLiveTraffic
			continue
		}
		commands++
		if words[1] == "job" { // the time of the runbook is before now
			words = append(words, "--quiet", "--config", "aggregator.yaml", "--from", rehearsedFrom.Format(time.RFC3339Nano))
		}
		out, code, err := run(t, words[1:]...)
		t.Logf("%s\n%s", line, out)
		require.Equal(t, exitFailed, code, "%s: %v", line, err)
		if words[1] == "schema" {
			require.Regexp(t, `(?m)^  BREAKING +narrowed +attribute order\.id is required$`, out)
			require.ErrorContains(t, err, "changes are breaking")
		} else {
			require.ErrorContains(t, err, "would violate the proposed version, more than 1%")
			require.Regexp(t, `(?m)^acme +enforce +1050 +20 \(1\.90%\) +52 \(4\.95%\) `, out, "it is rehearsed up to now, so one more request is in it")
		}
	}
	require.GreaterOrEqual(t, commands, 3)
}

// Guarantee: a command line that means nothing, or registries that cannot be read, end before the lake is opened, and say what is wrong.
func TestARehearsalRefusesWhatItCannotDo(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	require.NoError(t, os.Mkdir("empty", 0o700))
	require.NoError(t, os.Mkdir("schemas", 0o700))
	require.NoError(t, os.WriteFile("schemas/a.yaml", []byte(currentSchemas), 0o600))
	require.NoError(t, os.Mkdir("bad", 0o700))
	require.NoError(t, os.WriteFile("bad/a.yaml", []byte("groups: [{id: a, type: metric, metric_name: a, instrument: clock}]"), 0o600))
	for want, args := range map[string][]string{
		"--current: name":          {"--proposed", "schemas"},
		"--proposed: name":         {"--current", "schemas"},
		`"2": want 0% to 100%`:     {"--current", "schemas", "--proposed", "schemas", "--refuse-above", "2"},
		`"101%": want 0%`:          {"--current", "schemas", "--proposed", "schemas", "--refuse-above", "101%"},
		"is not after --from":      {"--current", "schemas", "--proposed", "schemas", "--to", "2h"},
		`"a b" is not a tenant id`: {"--current", "schemas", "--proposed", "schemas", "--tenant", "a b"},
	} {
		_, code, err := run(t, append([]string{"job", "run", "rehearsal"}, args...)...)
		require.ErrorContains(t, err, want, "%v", args)
		require.Equal(t, exitUsage, code, "%v: %v", args, err)
	}
	for proposed, want := range map[string]string{"bad": "a.yaml", "empty": "--proposed: list empty: no file"} {
		_, code, err := run(t, "job", "run", "rehearsal", "--current", "schemas", "--proposed", proposed)
		require.ErrorContains(t, err, want)
		require.Equal(t, exitFailed, code)
	}
	_, code, err := run(t, "schema", "diff", "schemas")
	require.ErrorContains(t, err, "two registries")
	require.Equal(t, exitUsage, code)
	out, code, err := run(t, "schema", "diff", "schemas", "schemas", "--json")
	require.NoError(t, err)
	require.Zero(t, code)
	require.Contains(t, out, `"compatible": true`)
}
