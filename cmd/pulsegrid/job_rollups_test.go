package main

import (
	"context"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/pulsegrid/pulsegrid/exporter/clickhouseexporter"
	"github.com/pulsegrid/pulsegrid/internal/audit"
	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire/otlptest"
	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/internal/sleep"
)

// documentedQueries are those of docs/formats/rollups.md, over all times, and of one day of receipt where they are by day.
func documentedQueries(t *testing.T, day time.Time) (out []string) {
	t.Helper()
	text, err := os.ReadFile("../../docs/formats/rollups.md")
	require.NoError(t, err)
	date := "toDate('" + day.Format(time.DateOnly) + "')"
	since := regexp.MustCompile(`now\(\) - INTERVAL \d+ [A-Z]+`)
	for _, m := range regexp.MustCompile("(?s)```sql\n(.*?)```").FindAllStringSubmatch(string(text), -1) {
		q := since.ReplaceAllString(m[1], "toDateTime(0)")
		q = strings.ReplaceAll(q, "(SELECT max(ingest_date) FROM pulsegrid.logs_1h)", date)
		q = strings.ReplaceAll(q, "FROM pulsegrid.logs_1h GROUP BY", "FROM pulsegrid.logs_1h WHERE ingest_date = "+date+" GROUP BY")
		out = append(out, q)
	}
	require.Len(t, out, 6)
	return out
}

var double = regexp.MustCompile(`\d+\.\d+(e[+-]?\d+)?`)

// unordered is an answer without what the order of parts may change: the order of equal rows, and the last digits of sums of doubles.
func unordered(answer string) string {
	lines := strings.Split(strings.TrimSpace(answer), "\n")
	for i := range lines {
		lines[i] = double.ReplaceAllStringFunc(lines[i], func(text string) string {
			f, err := strconv.ParseFloat(text, 64)
			if err != nil {
				return text
			}
			return strconv.FormatFloat(f, 'g', 9, 64)
		})
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// Scenario: rows of yesterday are deleted by hand, so rollups say too much, and partitions of rollups are dropped, so they say too little. They are built anew while events of
// today are stored, and a dashboard runs the documented queries; then by commands that are killed between any two steps; then while events of yesterday come late, between the
// recount and the exchange and right before the exchange.
// Guarantees: each answer is the one of before or the one of after; the rollups are then what a recount says, to the last group; today's events are not lost; a month that is
// not over waits for the aggregators to stop; a late event counts once; a day whose rows are all gone has no rollups; a run that was taken for dead exchanges nothing more.
func TestRollupsAreBuiltAnewBesideLiveInserts(t *testing.T) {
	y := newYesterday()
	a := storeAll(t, y.records()...)
	day := y.day.Format(time.DateOnly)
	args := []string{"job", "run", "rollups", "--quiet", "--config", a.configFile(t)}
	rollups := func(code int, more ...string) string {
		t.Helper()
		return ends(t, code, slices.Concat(args, more)...)
	}
	const equal = "the rollups are equal to the rows"
	require.Contains(t, rollups(0, "--dry-run"), equal)
	queries := documentedQueries(t, y.day)
	answers := func() (out []string) {
		for _, q := range queries {
			out = append(out, unordered(a.hot.Query(q)))
		}
		return out
	}
	whole := answers()
	spoil := func() {
		t.Helper()
		for _, s := range signal.All {
			a.hot.Exec("DELETE FROM pulsegrid." + columns.ForSignal(s).Name + " WHERE toDate(ingest_time) = '" + day + "' AND cityHash64(event_id, event_index) % 3 = 0")
		}
		a.hot.Exec("ALTER TABLE pulsegrid.metrics_1m DROP PARTITION '" + day + "'")
		a.hot.Exec("ALTER TABLE pulsegrid.spans_10s DROP PARTITION '" + day + "'")
	}
	spoil()
	before := answers()
	out := rollups(1, "--dry-run")
	require.Regexp(t, `(?m)^logs_10s +\d+ +`+day+` +[1-9]\d* +differs$`, out)
	require.Contains(t, out, "nothing was changed")
	require.Equal(t, before, answers())

	client, err := kgo.NewClient(kgo.SeedBrokers(a.brokers))
	require.NoError(t, err)
	defer client.Close()
	live := func() (stop func()) {
		aggregator := a.pipeline(t, audit.DefaultHotGroup, clickhouseexporter.NewFactory(), map[string]any{"endpoint": a.hot.URL})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			for seed := uint64(time.Now().UnixNano()); ctx.Err() == nil; seed++ {
				for _, s := range signal.All {
					_ = client.ProduceSync(ctx, received(s, "live", time.Now(), otlptest.Realistic(s, seed, 20))).FirstErr() // the test counts what is stored
				}
				_ = sleep.For(ctx, 50*time.Millisecond) // the loop looks at the context
			}
		}()
		return func() {
			cancel()
			<-done
			a.stored(t, client)
			aggregator()
		}
	}
	stop, polled := live(), a.polled(queries, unordered)
	waits := y.day.Month() == time.Now().UTC().Month() // yesterday's month is not over
	if waits {
		out = rollups(1)
		require.Regexp(t, `(?m)^logs_1h +\d+ +`+day+` +[1-9]\d* +waits$`, out)
		require.Contains(t, out, "aggregators of group pulsegrid-hot insert into it until")
	} else {
		out = rollups(0)
	}
	require.Regexp(t, `(?m)^metrics_1m +\d+ +`+day+` +[1-9]\d* +rebuilt$`, out)
	stop()
	if waits {
		require.Regexp(t, `(?m)^logs_1h +\d+ +`+day+` +[1-9]\d* +rebuilt$`, rollups(0))
	}
	require.Contains(t, rollups(0, "--dry-run"), equal)
	after := answers()
	seen := polled()
	changed := 0
	for i := range queries {
		require.Subset(t, []string{before[i], after[i]}, seen[i], "%s: the answer of before, or of after", queries[i])
		require.Contains(t, seen[i], after[i])
		if before[i] != after[i] {
			changed++
		}
	}
	require.GreaterOrEqual(t, changed, 5)
	require.NotEqual(t, whole, after)
	require.NotContains(t, a.hot.Query("SHOW TABLES FROM pulsegrid"), rebuiltSuffix)

	for _, point := range []string{"rollups-staged=kill", "rollups-exchanging=kill@2", "rollups-exchanged=kill", "rollups-exchanged=kill@3"} {
		a.hot.Exec("ALTER TABLE pulsegrid.logs_10s DROP PARTITION '" + day + "'")
		a.hot.Exec("ALTER TABLE pulsegrid.spans_1m DROP PARTITION '" + day + "'")
		a.hot.Exec("ALTER TABLE pulsegrid.logs_1h DELETE WHERE ingest_date = '" + day + "' SETTINGS mutations_sync = 1")
		killedAt(t, point, args...)
		rollups(0)
		require.Equal(t, after, answers(), point)
		require.NotContains(t, a.hot.Query("SHOW TABLES FROM pulsegrid"), rebuiltSuffix)
	}

	count := func(table string) int {
		expr := map[string]string{"logs": "count() FROM pulsegrid.logs WHERE toDate(ingest_time)", "logs_10s": "sum(count) FROM pulsegrid.logs_10s WHERE ingest_date"}[table]
		n, err := strconv.Atoi(strings.TrimSpace(a.hot.Query("SELECT " + expr + " = '" + day + "'")))
		require.NoError(t, err)
		return n
	}
	// Late events of yesterday, in the partition that is being exchanged.
	aggregator := a.pipeline(t, audit.DefaultHotGroup, clickhouseexporter.NewFactory(), map[string]any{"endpoint": a.hot.URL})
	for i, point := range []string{"rollups-staged", "rollups-exchanging"} {
		a.hot.Exec("ALTER TABLE pulsegrid.logs_10s DROP PARTITION '" + day + "'")
		rows := count("logs")
		out := stoppedAt(t, point, func() {
			require.NoError(t, client.ProduceSync(t.Context(), received(signal.Logs, "acme", y.from, otlptest.Realistic(signal.Logs, uint64(5000+i), 30))).FirstErr())
			require.Eventually(t, func() bool { return count("logs") == rows+30 }, time.Minute, 20*time.Millisecond, "the late events are stored")
			a.stored(t, client)
		}, args...)
		require.Equal(t, count("logs"), count("logs_10s"), point)
		require.Regexp(t, `(?m)^logs_10s +\d+ +`+day+` +[1-9]\d* +rebuilt$`, out)
		require.Contains(t, rollups(0, "--dry-run"), equal, point)
	}
	aggregator()

	// A run is taken for dead just before an exchange, and another one does its work.
	a.hot.Exec("ALTER TABLE pulsegrid.logs_10s DROP PARTITION '" + day + "'")
	_, told, err := continuedAfter(t, "rollups-exchanging", func() { rollups(0) }, args...)
	require.Error(t, err)
	require.Contains(t, told, "logs_10s"+rebuiltSuffix+"_", "its table is gone")
	require.Equal(t, count("logs"), count("logs_10s"))
	require.Contains(t, rollups(0, "--dry-run"), equal)

	a.hot.Exec("DELETE FROM pulsegrid.spans WHERE toDate(ingest_time) = '" + day + "'")
	rollups(0)
	require.Equal(t, "0", strings.TrimSpace(a.hot.Query("SELECT count() FROM pulsegrid.spans_1m WHERE ingest_date = '"+day+"'")))
	require.Contains(t, rollups(0, "--dry-run"), equal)

	// A block whose rows are there, and that no ledger knows, may come again: its rollups wait.
	a.hot.Exec("ALTER TABLE pulsegrid.logs_10s DROP PARTITION '" + day + "'")
	a.hot.Exec("TRUNCATE TABLE pulsegrid.ledger")
	require.Regexp(t, `logs_10s \d+ waits: \d+ records have rows, and the ledger does not say`, rollups(1))
}

// stored waits until ClickHouse's group has everything.
func (a aggregated) stored(t *testing.T, client *kgo.Client) {
	t.Helper()
	require.Eventually(t, func() bool {
		lags, err := kadm.NewClient(client).Lag(context.Background(), audit.DefaultHotGroup)
		return err == nil && lags.Error() == nil && lags[audit.DefaultHotGroup].Lag.Total() == 0
	}, 2*time.Minute, 20*time.Millisecond, "the group takes everything")
}

// Guarantees: days are whole, those of a time included; days whose rows may be deleted for their age are left out; a range without any is refused.
func TestTheDaysWhoseRollupsAreCompared(t *testing.T) {
	now := time.Date(2026, 10, 20, 13, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		from, to, first, end, wrong string
		kept                        int
	}{
		{"", "", "2026-09-21", "2026-10-21", "", 30},
		{"48h", "", "2026-10-18", "2026-10-21", "", 30},
		{"2026-10-01", "2026-10-08", "2026-10-01", "2026-10-08", "", 30},
		{"2026-10-01", "2026-10-08T00:00:01Z", "2026-10-01", "2026-10-09", "", 30},
		{"2026-01-01", "2026-02-01", "2026-01-01", "2026-02-01", "", 0},
		{"2026-01-01", "2026-02-01", "", "", "may be deleted for their age", 30},
		{"2026-10-08", "2026-10-08", "", "", "is not after --from", 30},
		{"soon", "", "", "", "--from", 30},
	} {
		o := rollupsOptions{from: c.from, to: c.to}
		first, end, err := o.days(now, c.kept)
		if c.wrong != "" {
			require.ErrorContains(t, err, c.wrong)
			require.Equal(t, exitUsage, exitCode(err))
			continue
		}
		require.NoError(t, err)
		require.Equal(t, []string{c.first, c.end}, []string{first.Format(time.DateOnly), end.Format(time.DateOnly)})
	}
}
