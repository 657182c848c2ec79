package enrichmentprocessor

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/pulsegrid/pulsegrid/internal/lineage"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

const tenantsYAML = `
tenants:
  - {id: acme, plan: gold, jurisdiction: eu}
  - {id: small}
`

func full(c *Config) {
	c.Cell, c.Jurisdiction, c.Tenants = "eu-1", "de", &exampleTenants
	c.Lookups = []LookupConfig{
		{Table: "hosts", Attribute: "host.name"},
		{Table: "codes", Key: "code", From: fromEvent, Attribute: "http.response.status_code"},
	}
}

var fullFiles = map[string]string{
	"hosts.csv":   "key,team,slots:int,weight:double,spare:bool,note\nh1,payments,12,0.5,true,\n",
	"codes.jsonl": `{"code": 503, "class": "server", "retry": true, "rank": 5, "share": 0.25, "why": null}` + "\n",
}

// Scenario: agents send attributes under the reserved prefix, on a resource and on an event, and what the tables are keyed by.
// Guarantees: of all signals resources and events get what they should, and lose what was forged; nothing else about them changes.
func TestEverySignalIsEnriched(t *testing.T) {
	r := newRig(t, full, fullFiles)
	r.host.snapshot = snapshotOf(t, tenantsYAML)
	r.start()
	for _, sig := range signal.All {
		d := batch(sig, "acme", map[string]any{"host.name": "h1", "enriched.plan": "platinum", "enriched.x": int64(1), "enrich": "kept"},
			map[string]any{"http.response.status_code": int64(503), "enriched.ingest_delay_ms": int64(1), "enriched.codes.class": "forged", "a": "b"})
		require.NoError(t, r.consume(d))
		resource, events := attributes(d)
		require.Equal(t, map[string]any{
			"host.name": "h1", "enrich": "kept", "enriched.cell": "eu-1", "enriched.jurisdiction": "eu", "enriched.plan": "gold",
			"enriched.hosts.team": "payments", "enriched.hosts.slots": int64(12), "enriched.hosts.weight": 0.5, "enriched.hosts.spare": true,
		}, resource, sig)
		want := map[string]any{
			"http.response.status_code": int64(503), "a": "b",
			"enriched.codes.class": "server", "enriched.codes.retry": true, "enriched.codes.rank": int64(5), "enriched.codes.share": 0.25,
		}
		if sig != signal.Metrics {
			want["enriched.ingest_delay_ms"] = int64(1500)
		}
		n := int64(len(events))
		for _, e := range events {
			require.Equal(t, want, e, sig)
		}
		of := "signal=" + sig.String()
		require.Equal(t, n, r.value("enrichment_events", of))
		require.Equal(t, n, r.value("enrichment_enriched", of))
		require.Equal(t, 2+2*n, r.value("enrichment_forged", of))
		require.Zero(t, r.value("enrichment_unknown_tenants", of))
		require.Equal(t, int64(1), r.value("enrichment_lookups", "signal="+sig.String(), "table=hosts", "outcome=found"))
		require.Equal(t, n, r.value("enrichment_lookups", "signal="+sig.String(), "table=codes", "outcome=found"))
		require.NotZero(t, n)
	}
	require.Equal(t, int64(1), r.value("enrichment_table_rows", "table=codes"))
}

// Guarantees: without any configuration an event gets its delay and nothing else.
func TestTheDefaultAddsTheDelayOnly(t *testing.T) {
	r := start(t, func(*Config) {}, nil)
	d := batch(signal.Logs, "acme", nil, nil)
	require.NoError(t, r.consume(d))
	resource, events := attributes(d)
	require.Empty(t, resource)
	require.Equal(t, map[string]any{"enriched.ingest_delay_ms": int64(1500)}, events[0])

	d = batch(signal.Metrics, "acme", nil, nil)
	require.NoError(t, r.consume(d))
	_, events = attributes(d)
	require.Empty(t, events[0])
	require.Equal(t, int64(5), r.value("enrichment_events", "signal=metrics"))
	require.Zero(t, r.value("enrichment_enriched", "signal=metrics"), "they passed unchanged")
}

// Guarantees: the delay is from the time that the row has as its own (a span's end), is negative where the agent's clock is ahead, and is not there for an
// event without a time; any 64-bit time will do.
func TestTheDelayOfEventsWithOddTimes(t *testing.T) {
	r := start(t, func(*Config) {}, nil)
	of := func(d any) any {
		require.NoError(t, r.consume(d))
		_, events := attributes(d)
		return events[0]["enriched.ingest_delay_ms"]
	}
	log := func(at, observed uint64) any {
		d := batch(signal.Logs, "a", nil, nil).(plog.Logs)
		lr := d.ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().At(0)
		lr.SetTimestamp(pcommon.Timestamp(at))
		lr.SetObservedTimestamp(pcommon.Timestamp(observed))
		return of(d)
	}
	span := func(from, to uint64) any {
		d := batch(signal.Traces, "a", nil, nil).(ptrace.Traces)
		s := d.ResourceSpans().At(0).ScopeSpans().At(0).Spans().At(0)
		s.SetStartTimestamp(pcommon.Timestamp(from))
		s.SetEndTimestamp(pcommon.Timestamp(to))
		return of(d)
	}
	at := uint64(received.UnixNano())
	require.Equal(t, int64(0), log(at, 1))
	require.Equal(t, int64(7), log(0, at-7e6))
	require.Equal(t, int64(-60_000), log(at+60e9, 0))
	require.Equal(t, received.UnixNano()/1e6, log(1, 0))
	require.Negative(t, log(1<<64-1, 0))
	require.Nil(t, log(0, 0))
	require.Equal(t, int64(3), span(at-9e6, at-3e6))
	require.Equal(t, int64(9), span(at-9e6, 0))
	require.Nil(t, span(0, 0))
	require.Equal(t, int64(1), r.value("enrichment_untimed", "signal=logs"))
	require.Equal(t, int64(1), r.value("enrichment_untimed", "signal=traces"))

	d := plog.NewLogs() // it came by another way than Kafka
	lr := d.ResourceLogs().AppendEmpty().ScopeLogs().AppendEmpty().LogRecords().AppendEmpty()
	lr.SetTimestamp(pcommon.NewTimestampFromTime(time.Now().Add(-time.Minute)))
	require.NoError(t, r.consume(d))
	v, ok := lr.Attributes().Get("enriched.ingest_delay_ms")
	require.True(t, ok)
	require.InDelta(t, 60_000, v.Int(), 30_000)
}

// Guarantees: whatever cannot be looked up passes unchanged, and is counted by why.
func TestWhatCannotBeLookedUpPassesAndIsCounted(t *testing.T) {
	r := start(t, func(c *Config) {
		c.IngestDelay = false
		c.Lookups = []LookupConfig{{Table: "t", From: fromEvent, Attribute: "k"}, {Table: "gone", Attribute: "host.name"}}
	}, map[string]string{"t.csv": "key,v\n1,one\ntrue,yes\nx,ex\n"})
	look := func(k any) any {
		event := map[string]any{"k": k}
		if k == nil {
			event = nil
		}
		d := batch(signal.Logs, "a", map[string]any{"host.name": "h"}, event)
		require.NoError(t, r.consume(d))
		_, events := attributes(d)
		require.Contains(t, []int{len(event), len(event) + 1}, len(events[0]))
		return events[0]["enriched.t.v"]
	}
	require.Equal(t, "one", look("1"))
	require.Equal(t, "one", look(int64(1)))
	require.Equal(t, "yes", look(true))
	require.Equal(t, "ex", look("x"))
	for _, k := range []any{"", "X", int64(2), int64(-1 << 63), false} {
		require.Nil(t, look(k))
	}
	for _, k := range []any{nil, 1.0, []any{"x"}, map[string]any{"x": "x"}, []byte("x")} {
		require.Nil(t, look(k))
	}
	outcome := func(table, outcome string) int64 {
		return r.value("enrichment_lookups", "table="+table, "outcome="+outcome)
	}
	require.Equal(t, int64(4), outcome("t", "found"))
	require.Equal(t, int64(5), outcome("t", "missed"))
	require.Equal(t, int64(5), outcome("t", "absent"))
	require.Equal(t, int64(14), outcome("gone", "unavailable"))
	require.Equal(t, int64(14), r.value("enrichment_events"))
	require.Equal(t, int64(4), r.value("enrichment_enriched"))
	require.Equal(t, int64(1), r.value("enrichment_refused_tables"))
	require.Equal(t, componentstatus.StatusRecoverableError, r.host.Status())
}

// Guarantees: a row of one tenant is seen by no other; a row of nobody's by all that have none of their own.
func TestRowsOfATenantAreItsOwn(t *testing.T) {
	r := start(t, func(c *Config) { c.Lookups = []LookupConfig{{Table: "hosts", Attribute: "host.name"}} },
		map[string]string{"hosts.csv": "tenant_id,key,team\nacme,h1,secret\n,h1,common\nother,h2,theirs\n"})
	team := func(tenant, name string) any {
		d := batch(signal.Traces, tenant, map[string]any{"host.name": name}, nil)
		require.NoError(t, r.consume(d))
		resource, _ := attributes(d)
		require.NotContains(t, resource, "enriched.hosts.tenant_id")
		return resource["enriched.hosts.team"]
	}
	require.Equal(t, "secret", team("acme", "h1"))
	require.Equal(t, "common", team("other", "h1"))
	require.Equal(t, "theirs", team("other", "h2"))
	require.Nil(t, team("acme", "h2"))
	require.Nil(t, team("", "h2"))
}

// Guarantees: while the registry of tenants has not been read, and for a tenant that it does not have, there is no plan, and the jurisdiction is the cell's; a plan
// that changes is that of the next batch.
func TestPlansComeFromTheRegistry(t *testing.T) {
	r := start(t, func(c *Config) { c.Tenants, c.Jurisdiction = &exampleTenants, "eu" }, nil)
	plan := func(tenant string) (plan, jurisdiction any) {
		d := batch(signal.Logs, tenant, nil, nil)
		require.NoError(t, r.consume(d))
		resource, _ := attributes(d)
		return resource["enriched.plan"], resource["enriched.jurisdiction"]
	}
	require.Equal(t, [2]any{nil, "eu"}, pair(plan("acme")))
	for _, yaml := range []string{"gold", "silver"} {
		r.host.mu.Lock()
		r.host.snapshot = snapshotOf(t, "tenants: [{id: acme, jurisdiction: us, plan: "+yaml+"}, {id: small}]")
		r.host.mu.Unlock()
		require.Equal(t, [2]any{yaml, "us"}, pair(plan("acme")))
	}
	require.Equal(t, [2]any{nil, "eu"}, pair(plan("small")))
	require.Equal(t, [2]any{nil, "eu"}, pair(plan("stranger")))
	require.Equal(t, int64(2), r.value("enrichment_unknown_tenants"), "before the registry was there, and the stranger")
}

func pair(a, b any) [2]any { return [2]any{a, b} }

// Guarantees: a batch that the rest of the pipeline refuses is not counted, and the error is the rest's.
func TestARefusedBatchIsNotCounted(t *testing.T) {
	r := start(t, func(*Config) {}, nil)
	refused := errors.New("refused")
	r.take = func(any) error { return refused }
	require.ErrorIs(t, r.consume(batch(signal.Logs, "a", nil, nil)), refused)
	require.Zero(t, r.value("enrichment_events"))
	r.take = nil
	require.NoError(t, r.consume(batch(signal.Logs, "a", nil, nil)))
	require.Equal(t, int64(1), r.value("enrichment_events"))
}

// Guarantees: what was enriched already (a batch that is handed on twice) ends the same.
func TestEnrichingTwiceIsEnrichingOnce(t *testing.T) {
	r := newRig(t, full, fullFiles)
	r.host.snapshot = snapshotOf(t, tenantsYAML)
	r.start()
	d := batch(signal.Logs, "acme", map[string]any{"host.name": "h1"}, map[string]any{"http.response.status_code": int64(503)})
	require.NoError(t, r.consume(d))
	resource, events := attributes(d)
	require.NoError(t, r.consume(d))
	again, eventsAgain := attributes(d)
	require.Equal(t, resource, again)
	require.Equal(t, events, eventsAgain)
}

// Scenario: tables change, and go bad, while batches come by several pipelines.
// Guarantees: each batch sees one state of a table as a whole; a bad file is named in log and health and changes nothing; one that is mended holds again.
func TestTablesChangeUnderLoad(t *testing.T) {
	const columns = 8
	table := func(version string) string {
		head, row := "key", "h"
		for i := range columns {
			head += fmt.Sprintf(",c%d", i)
			row += "," + version
		}
		return head + "\n" + row + "\n"
	}
	r := start(t, func(c *Config) {
		c.Lookups = []LookupConfig{{Table: "hosts", Attribute: "host.name"}, {Table: "other", From: fromEvent, Attribute: "k"}}
	}, map[string]string{"hosts.csv": table("0"), "other.csv": "key,v\nk,v\n"})
	ctx, stop := context.WithCancel(t.Context())
	var load sync.WaitGroup
	var mu sync.Mutex
	newest := ""
	for _, sig := range signal.All {
		load.Go(func() {
			for ctx.Err() == nil {
				d := batch(sig, "a", map[string]any{"host.name": "h"}, map[string]any{"k": "k"})
				if err := r.consume(d); err != nil {
					t.Error(err)
				}
				resource, events := attributes(d)
				for i := range columns {
					if resource[fmt.Sprintf("enriched.hosts.c%d", i)] != resource["enriched.hosts.c0"] {
						t.Errorf("%v is of two tables", resource)
					}
				}
				if events[0]["enriched.other.v"] != "v" {
					t.Errorf("%v: the other table has changed", events[0])
				}
				mu.Lock()
				newest = resource["enriched.hosts.c0"].(string)
				mu.Unlock()
			}
		})
	}
	holds := func(version string) func() bool {
		return func() bool { mu.Lock(); defer mu.Unlock(); return newest == version }
	}
	for version := range 5 {
		v := strings.Repeat("v", version+1)
		r.write("hosts.csv", table(v))
		r.until("version "+v, holds(v))
	}
	r.write("hosts.csv", "key,c0\nh,1\nh,2\n")
	r.until("the bad file is refused", func() bool { return r.host.Status() == componentstatus.StatusRecoverableError })
	require.Contains(t, r.logs.FilterMessageSnippet("what was good last").All()[0].ContextMap()["reason"], `hosts.csv:3: column key: "h": is there twice`)
	require.Equal(t, int64(1), r.value("enrichment_refused_tables"))
	require.Equal(t, int64(1), r.value("enrichment_table_rows", "table=hosts"))
	r.until("what was good stays", holds("vvvvv"))
	r.write("hosts.csv", table("mended"))
	r.until("the mended file holds", holds("mended"))
	r.until("and its health is reported", func() bool { return r.host.Status() == componentstatus.StatusOK })
	require.Zero(t, r.value("enrichment_refused_tables"))
	stop()
	load.Wait()
	require.Len(t, r.logs.FilterMessageSnippet("what was good last").All(), 1, "it is told once, not at each look")
	require.NotZero(t, r.value("enrichment_reloads", "result=changed"))
	require.LessOrEqual(t, r.value("enrichment_table_age", "table=hosts"), int64(patience.Seconds()))
	require.LessOrEqual(t, r.value("enrichment_look_age"), int64(patience.Seconds()))
}

// Guarantees: an aggregator starts without its tables, and has them when they come.
func TestTablesMayComeLater(t *testing.T) {
	r := start(t, func(c *Config) { c.Lookups = []LookupConfig{{Table: "hosts", Attribute: "host.name"}} }, nil)
	require.Equal(t, componentstatus.StatusRecoverableError, r.host.Status())
	team := func() any {
		d := batch(signal.Logs, "a", map[string]any{"host.name": "h1"}, nil)
		require.NoError(t, r.consume(d))
		resource, _ := attributes(d)
		return resource["enriched.hosts.team"]
	}
	require.Nil(t, team())
	require.Zero(t, r.value("enrichment_table_rows"))
	r.write("hosts.jsonl", `{"key":"h1","team":"payments"}`)
	r.until("the table", func() bool { return team() == "payments" })
	r.until("and its health is reported", func() bool { return r.host.Status() == componentstatus.StatusOK })
}

func TestAnExtensionThatIsNotThereStopsTheStart(t *testing.T) {
	for _, lookups := range []bool{false, true} {
		r := newRig(t, func(c *Config) {
			other := component.MustNewID("nobody")
			c.Tenants = &other
			if lookups {
				c.Lookups = []LookupConfig{{Table: "hosts", Attribute: "host.name"}}
			}
		}, nil)
		require.ErrorContains(t, r.procs[signal.Logs].Start(t.Context(), componenttest.NewNopHost()), `tenants: extension "nobody" is not there`)
	}
}

func TestShutdownWithoutStart(t *testing.T) {
	newRig(t, full, fullFiles) // the rig shuts it down, twice
}

// Guarantees: stamps, ids and order of events are as they were, so blocks, tokens and ledger do not see enrichment.
func TestNothingIsSplitMergedReorderedOrDropped(t *testing.T) {
	r := newRig(t, full, fullFiles)
	r.host.snapshot = snapshotOf(t, tenantsYAML)
	r.start()
	d := plog.NewLogs()
	for i := range 3 {
		rl := d.ResourceLogs().AppendEmpty()
		lineage.StampResource(rl.Resource().Attributes(), lineage.Origin{Tenant: "acme", Topic: "t", Received: received})
		for s := range i { // the first resource has no scope, and each scope an empty sibling
			rl.ScopeLogs().AppendEmpty()
			sl := rl.ScopeLogs().AppendEmpty()
			for n := range 4 {
				lineage.StampEvent(sl.LogRecords().AppendEmpty().Attributes(), lineage.Event{ID: [16]byte{byte(i), byte(s), byte(n)}, Offset: int64(i), Index: int32(4*s + n)})
			}
		}
	}
	places := func() (out []string) {
		for i, rl := range d.ResourceLogs().All() {
			for s, sl := range rl.ScopeLogs().All() {
				out = append(out, fmt.Sprint(i, s))
				for _, lr := range sl.LogRecords().All() {
					e, ok := lineage.ReadEvent(lr.Attributes())
					out = append(out, fmt.Sprint(e, ok))
				}
			}
		}
		return out
	}
	before := places()
	calls := 0
	r.take = func(got any) error { calls++; require.Equal(t, d, got); return nil }
	require.NoError(t, r.consume(d))
	require.Equal(t, before, places())
	require.Equal(t, 1, calls)
	d = plog.NewLogs()
	require.NoError(t, r.consume(d), "a block without events goes on too")
	require.Equal(t, 2, calls)
}
