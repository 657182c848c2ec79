package cost

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/pulsegrid/pulsegrid/internal/chengine"
	"github.com/pulsegrid/pulsegrid/internal/clickhouse"
	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/internal/testkit/clickhousetest"
	"github.com/pulsegrid/pulsegrid/internal/testkit/leaktest"
)

func TestMain(m *testing.M) {
	chengine.RunChildIfAsked()
	goleak.VerifyTestMain(leaktest.Patient(m))
}

// Scenario: two tenants, one of which sends large attributes, in the product's tables.
// Guarantees: rates are those of the tenant's rows; what a row and an attribute are said to take is what ClickHouse's own disk says, when the tenant's rows lie alone in a table, and when
// the attribute is taken out of them.
func TestATenantsBytesAreThoseOfTheDisk(t *testing.T) {
	const rows = 60_000
	e := clickhousetest.Start(t)
	options := columns.DDLOptions{Database: "pulsegrid"}
	for _, s := range signal.All {
		table := columns.ForSignal(s)
		statements := table.ClickHouseDDL(options)
		for _, r := range table.Rollups() {
			statements = append(statements, r.TableDDL(options), r.ViewDDL(options))
		}
		for _, stmt := range statements {
			e.Exec(stmt)
		}
	}
	fill := func(tenant, service, extra string, rows int) {
		e.Exec(fmt.Sprintf(`INSERT INTO pulsegrid.logs (tenant_id, service_name, time, ingest_time, event_id, trace_id, span_id, severity_number, body, body_type, resource, attr_http_route, attr_user_id,
				attributes_string, attributes_int, attributes_double)
			SELECT '%s', '%s', toDateTime64(toStartOfMinute(now()), 9) - INTERVAL 5 MINUTE + INTERVAL number MILLISECOND, now64(9), randomString(16, 1), randomString(16, 2), randomString(8, 3), 9,
				concat('request of user ', toString(rand(4) %% 1000000), ' took ', toString(rand(5) %% 1000), ' ms'), 'string', '{"service.name":"%[2]s"}', '/api/v1/orders/{id}', concat('u-', toString(rand(6) %% 1000000)),
				map(%s'zone', arrayElement(['a', 'b', 'c'], 1 + rand(7) %% 3)), map('bytes.in', rand(8) %% 100000), map('score', rand(9) / 4294967296)
			FROM numbers(%d)`, tenant, service, extra, rows))
	}
	fill("acme", "checkout", "'request.id', toString(generateUUIDv4()), ", rows)
	fill("acme", "search", "", rows/4)
	fill("other", "checkout", "'huge', repeat(toString(generateUUIDv4()), 20), ", rows/10)

	e.Exec("OPTIMIZE TABLE pulsegrid.logs FINAL") // as parts are after a while

	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	client, err := clickhouse.NewClient(&http.Client{Transport: transport}, e.URL, "", "")
	require.NoError(t, err)
	looked := 0
	u, err := ReadUsage(t.Context(), client, UsageOptions{Database: "pulsegrid", Tenant: "acme", Window: 10 * time.Minute, Services: 5, Sample: SampleMost, Progress: func(string, ...any) { looked++ }})
	require.NoError(t, err)
	require.Equal(t, 2, looked)
	require.Len(t, u.Services, 2)
	for i, want := range []struct {
		service string
		rows    int
	}{{"checkout", rows}, {"search", rows / 4}} {
		s := u.Services[i]
		require.Equal(t, [2]string{"logs", want.service}, [2]string{s.Signal, s.Service})
		require.InDelta(t, float64(want.rows)/600, s.EventsPerSecond, 1e-6)
		require.Equal(t, want.rows, s.Sampled)
	}

	// The disk's own account, by rows that lie alone.
	onDisk := func(where, change string) float64 {
		t.Helper()
		e.Exec("CREATE TABLE pulsegrid.alone AS pulsegrid.logs")
		e.Exec("INSERT INTO pulsegrid.alone SELECT * " + change + " FROM pulsegrid.logs WHERE tenant_id = 'acme'" + where)
		e.Exec("OPTIMIZE TABLE pulsegrid.alone FINAL")
		n := e.QueryInt("SELECT count() FROM pulsegrid.alone")
		require.Positive(t, n)
		bytes := e.QueryInt("SELECT toInt64(sum(bytes_on_disk)) FROM system.parts WHERE active AND database = 'pulsegrid' AND table = 'alone'")
		e.Exec("DROP TABLE pulsegrid.alone SYNC")
		return float64(bytes) / float64(n)
	}
	for _, s := range u.Services {
		want := onDisk(" AND service_name = '"+s.Service+"'", "")
		t.Logf("%s: %.1f B an event, on disk %.1f", s.Service, s.BytesPerEvent, want)
		require.InEpsilon(t, want, s.BytesPerEvent, 0.15, s.Service)
	}
	all, seconds := onDisk("", ""), u.Services[0].EventsPerSecond+u.Services[1].EventsPerSecond
	for attribute, change := range map[string]string{
		"request.id": "REPLACE (mapFilter((k, v) -> k != 'request.id', attributes_string) AS attributes_string)",
		"user.id":    "REPLACE ('' AS attr_user_id)",
		"score":      "REPLACE (mapFilter((k, v) -> k != 'score', attributes_double) AS attributes_double)",
		"bytes.in":   "REPLACE (mapFilter((k, v) -> k != 'bytes.in', attributes_int) AS attributes_int)",
	} {
		saved := all - onDisk("", change)
		var found *AttributeUsage
		for i, a := range u.Attributes {
			require.NotEqual(t, "huge", a.Attribute, "another tenant's")
			if a.Attribute == attribute {
				found = &u.Attributes[i]
			}
		}
		require.NotNil(t, found, attribute)
		t.Logf("%s: %.2f B an event, on disk %.2f", attribute, found.BytesPerEvent, saved)
		require.InEpsilon(t, saved, found.BytesPerEvent, 0.2, attribute)
		require.InEpsilon(t, found.BytesPerEvent*seconds, found.BytesPerSecond, 1e-6)
		if attribute == "request.id" {
			require.InDelta(t, 0.8, found.Share, 1e-6, "one of the two services has it")
			require.Equal(t, attribute, u.Attributes[0].Attribute, "the largest comes first")
		}
	}

	// What it costs: GiB a month by the unit cost of the bill.
	w, _, m, p := workload(t, "a")
	b, err := Reckon(w, m, p)
	require.NoError(t, err)
	u.Charge(b)
	written := w.EventsPerSecond * 730 * 3600 * b.Event.ClickHouseBytes
	sent := 0.0
	for _, s := range u.Services {
		sent += s.EventsPerSecond * s.BytesPerEvent * 730 * 3600
	}
	require.InEpsilon(t, b.USD*sent/written, u.USD, 1e-6, "its part of the bill is its part of the bytes")
	by := b.By(func(l Line) string { return l.Component })
	fixed := by[Observability] + by[Operations]
	require.InEpsilon(t, (b.USD-fixed)*u.Attributes[0].BytesPerSecond*730*3600/written, u.Attributes[0].USD, 1e-6)

	few, err := ReadUsage(t.Context(), client, UsageOptions{Database: "pulsegrid", Tenant: "acme", Window: 10 * time.Minute, Services: 1, Sample: 1000})
	require.NoError(t, err)
	require.Zero(t, few.Services[1].Sampled)
	require.InEpsilon(t, few.Services[0].BytesPerEvent, few.Services[1].BytesPerEvent, 1e-9, "taken from the sampled one")
	require.InEpsilon(t, u.Services[0].BytesPerEvent, few.Services[0].BytesPerEvent, 0.25, "a small sample")
	none, err := ReadUsage(t.Context(), client, UsageOptions{Database: "pulsegrid", Tenant: "nobody", Window: time.Minute, Services: 1, Sample: 1000})
	require.NoError(t, err)
	require.Empty(t, none.Services)
}
