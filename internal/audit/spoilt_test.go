package audit

import (
	_ "embed"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/pulsegrid/pulsegrid/internal/audit/certificate"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire/otlptest"
	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/internal/testkit/clickhousetest"
	"github.com/pulsegrid/pulsegrid/internal/testkit/pytest"
)

//go:embed testdata/spoil.py
var spoilScript string

const logsTopic = "otlp.logs.v1"

// Scenario: a cell whose stores hold exactly what they must; somebody spoils one of them.
// Guarantees: the audit names each event, says what happened to it, counts it exactly, and says nothing of the other store.
func TestWhatIsSpoiltIsFoundAndNamed(t *testing.T) {
	hot := clickhousetest.Shared(t)
	where := "kafka_topic = '" + logsTopic + "' AND kafka_partition = 0 AND "
	for _, test := range []struct {
		name   string
		spoil  func(r *rig)
		store  string
		want   []string
		quick  []string // what a quick audit says; nil: the same
		totals certificate.Faults
	}{
		{"rows removed from ClickHouse", func(r *rig) { r.alterHot("logs DELETE WHERE " + where + "kafka_offset = 3 AND event_index >= 5") }, certificate.Hot,
			[]string{"clickhouse: lost otlp.logs.v1/0/3#5", "clickhouse: lost otlp.logs.v1/0/3#6"}, nil, certificate.Faults{Lost: 2}},
		{"rows inserted into ClickHouse again", func(r *rig) { r.insertHot("logs", r.rowsOf(signal.Logs, 0, 5, 5, nil).NewSlice(2, 4)) }, certificate.Hot,
			[]string{"clickhouse: doubled otlp.logs.v1/0/5#2: 2 rows", "clickhouse: doubled otlp.logs.v1/0/5#3: 2 rows"}, nil, certificate.Faults{Doubled: 2}},
		{"a body and a time altered in ClickHouse", func(r *rig) {
			r.alterHot("logs UPDATE body = 'spoilt', observed_time = observed_time + toIntervalNanosecond(1) WHERE " + where + "kafka_offset = 1 AND event_index = 6")
		}, certificate.Hot, []string{"clickhouse: altered otlp.logs.v1/0/1#6 columns observed_time, body"}, []string{}, certificate.Faults{Altered: 1}},
		{"an event id altered in ClickHouse", func(r *rig) {
			r.alterHot("logs UPDATE event_id = reverse(event_id) WHERE " + where + "kafka_offset = 1 AND event_index = 6")
		}, certificate.Hot, []string{"clickhouse: altered otlp.logs.v1/0/1#6 columns event_id"}, nil, certificate.Faults{Altered: 1}},
		{"a value in a map of metrics altered in ClickHouse", func(r *rig) {
			r.alterHot("metrics UPDATE attributes_string = mapUpdate(attributes_string, map('spoilt', '')), value_double = -value_double - 1 WHERE kafka_partition = 1 AND kafka_offset = 1 AND event_index = 0")
		}, certificate.Hot, []string{"clickhouse: altered otlp.metrics.v1/1/1#0 columns value_double, attributes_string"}, []string{}, certificate.Faults{Altered: 1}},
		{"two events changed places in ClickHouse", func(r *rig) {
			r.alterHot("logs UPDATE event_index = 1 - event_index WHERE " + where + "kafka_offset = 1 AND event_index <= 1")
		}, certificate.Hot, nil, []string{"clickhouse: altered otlp.logs.v1/0/1#0 columns event_id", "clickhouse: altered otlp.logs.v1/0/1#1 columns event_id"}, certificate.Faults{Altered: 2}},
		{"rows invented in ClickHouse", func(r *rig) {
			r.insertHot("logs", r.rowsOf(signal.Logs, 0, 2, 2, func(d *sent) { d.restamp(2, 900) }).NewSlice(0, 1))
			r.insertHot("logs", r.rowsOf(signal.Logs, 0, 2, 2, func(d *sent) { d.restamp(1_000_000, 0) }).NewSlice(0, 1))
		}, certificate.Hot, []string{"clickhouse: foreign otlp.logs.v1/0/1000000#0: Kafka's log has no such place", "clickhouse: foreign otlp.logs.v1/0/2#900: Kafka has no such event"}, nil, certificate.Faults{Foreign: 2}},
		{"a record is dropped before the dedupe", func(r *rig) {}, "both", nil, nil, certificate.Faults{}},
		{"the lake is rewritten by hand", func(r *rig) {
			l := r.lakeConfig()
			pytest.Run(r.t, spoilScript, strings.TrimPrefix(l.CatalogURI, "file:"), l.Warehouse, logsTopic)
		}, certificate.Lake, append(lostRecord("lake", 0, 2, 7), "lake: altered otlp.logs.v1/0/4#1 columns time, body", "lake: doubled otlp.logs.v1/0/6#3: 2 rows",
			"lake: foreign otlp.logs.v1/0/5#1000: Kafka has no such event"), append(lostRecord("lake", 0, 2, 7), "lake: doubled otlp.logs.v1/0/6#3: 2 rows",
			"lake: foreign otlp.logs.v1/0/5#1000: Kafka has no such event"), certificate.Faults{Lost: 7, Altered: 1, Doubled: 1, Foreign: 1}},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newRig(t, hot)
			for p := range int32(partitions) {
				for seed := range uint64(8) {
					r.produce(logsTopic, p, otlptest.Logs(100*uint64(p)+seed, 7))
				}
			}
			r.produce(signal.Metrics.Topic(), 1, otlptest.Metrics(1, 9))
			r.produce(signal.Metrics.Topic(), 1, otlptest.Metrics(2, 9))
			if test.store == "both" {
				r.skip = func(rec *kgo.Record) bool { return rec.Topic == logsTopic && rec.Partition == 1 && rec.Offset == 4 }
				r.store()
				c := r.audit()
				require.Equal(t, certificate.Different, c.Verdict)
				for _, store := range []string{certificate.Hot, certificate.Lake} {
					require.Equal(t, certificate.Faults{Lost: 7}, totals(c, store).Faults)
					require.Subset(t, shown(c), lostRecord(store, 1, 4, 7))
				}
				require.Contains(t, c.Stretches, certificate.Stretch{Store: certificate.Lake, Kind: certificate.Lost, Topic: logsTopic, Partition: 1, First: 4, Last: 4, LastIndex: 6, Events: 7})
				require.Len(t, c.LedgerFaults, 2, "the ledgers tell what was stored, which is not what had to be")
				return
			}
			r.store()
			test.spoil(r)
			c := r.audit()
			require.Equal(t, certificate.Different, c.Verdict)
			require.Empty(t, c.Problems)
			if test.want != nil {
				require.ElementsMatch(t, test.want, shown(c))
			}
			other := map[string]string{certificate.Hot: certificate.Lake, certificate.Lake: certificate.Hot}[test.store]
			require.Equal(t, test.totals, totals(c, test.store).Faults)
			require.Equal(t, certificate.Faults{}, totals(c, other).Faults)
			for _, d := range c.Differences {
				require.Len(t, d.EventID, 32)
			}

			quick := r.audit(func(c *Config) { c.Quick = true })
			if test.quick == nil {
				test.quick = test.want
			}
			require.ElementsMatch(t, test.quick, shown(quick))
			require.Equal(t, map[bool]certificate.Verdict{true: certificate.Different, false: certificate.Equal}[len(test.quick) > 0], quick.Verdict)
		})
	}
}

func lostRecord(store string, partition, offset, events int) []string {
	var out []string
	for i := range events {
		out = append(out, fmt.Sprintf("%s: lost %s/%d/%d#%d", store, logsTopic, partition, offset, i))
	}
	return out
}

// alterHot changes ClickHouse's rows by hand and waits until it is done.
func (r *rig) alterHot(change string) {
	r.t.Helper()
	r.hot.Exec("ALTER TABLE " + r.database + "." + change + " SETTINGS mutations_sync = 2")
}

// Scenario: agents sent events again: at once in the same record, later in another one, and after the window.
// Guarantees: what the rule calls duplicates must not be stored, the others must; a store that has one is found.
func TestDuplicatesMustNotBeStored(t *testing.T) {
	hot := clickhousetest.Shared(t)
	for _, stored := range []bool{false, true} {
		t.Run(fmt.Sprintf("stored %v", stored), func(t *testing.T) {
			r := newRig(t, hot)
			r.noDedupe = stored
			first := otlptest.Logs(1, 4)
			r.produce(logsTopic, 0, first)                                 // 0
			r.produce(logsTopic, 0, append(otlptest.Logs(2, 2), first...)) // 1: events 2 to 5 are duplicates
			r.produce(logsTopic, 1, first)                                 // another partition is another log
			r.produce(logsTopic, 0, first, "tenant", "globex")             // 2: another tenant is another sender
			r.now = r.now.Add(r.window - 3*time.Second)
			r.produce(logsTopic, 0, first) // 3: a window after offset 1, which counts though its events are duplicates
			r.now = r.now.Add(r.window)
			r.produce(logsTopic, 0, first) // 4: more than a window after
			r.store()

			c := r.audit()
			require.Empty(t, c.Problems)
			p := c.Partitions[0]
			require.Equal(t, []int64{5, 22, 8}, []int64{p.Records, p.Events, p.Duplicates})
			if !stored {
				require.Equal(t, certificate.Equal, c.Verdict, shown(c))
				require.Equal(t, int64(14), p.Stores[0].Expected.Rows)
				return
			}
			require.Equal(t, certificate.Faults{Doubled: 8}, totals(c, certificate.Hot).Faults)
			require.Equal(t, certificate.Faults{Doubled: 8}, totals(c, certificate.Lake).Faults)
			require.Contains(t, shown(c), "lake: doubled otlp.logs.v1/0/3#0: it is a copy of 1#2 by rule content, and stored all the same")

			one := r.audit(func(c *Config) { c.Ranges = []certificate.Range{{Topic: logsTopic, First: 3, Last: 3}} })
			require.Equal(t, certificate.Faults{Doubled: 4}, totals(one, certificate.Hot).Faults, "the window before the range is read")
			require.Equal(t, int64(1), one.Partitions[0].WindowFrom)
			tenant := r.audit(func(c *Config) { c.Tenant = "globex" })
			require.Equal(t, certificate.Equal, tenant.Verdict, shown(tenant))
			require.Equal(t, int64(4), totals(tenant, certificate.Hot).Rows)
		})
	}
}

// Scenario: records that nobody can read, and records that one store or both refused.
// Guarantees: what is in quarantine is not expected of that store; what is nowhere is a loss.
func TestQuarantinedRecordsAreExpectedInQuarantineOnly(t *testing.T) {
	r := newRig(t, clickhousetest.Shared(t))
	r.produce(logsTopic, 0, otlptest.Logs(1, 3))
	garbage := r.produce(logsTopic, 0, []byte("no protobuf"))
	wrong := r.produce(logsTopic, 0, otlptest.Logs(2, 3), "signal", "metrics")
	refused := r.produce(logsTopic, 0, otlptest.Logs(3, 3))
	r.produce(logsTopic, 0, otlptest.Logs(3, 3)) // duplicates of the refused ones, which occurred
	deep := r.produce(logsTopic, 0, otlptest.Logs(4, 3))
	r.produce(logsTopic, 0, otlptest.Logs(4, 3)) // no duplicates: the data path has never decoded the others
	r.quarantine(garbage, "undecodable", "")
	r.quarantine(wrong, "wrong_signal", DefaultHotGroup)
	r.quarantine(wrong, "wrong_signal", DefaultLakeGroup)
	r.quarantine(refused, "refused", DefaultHotGroup)
	r.quarantine(deep, "limit_exceeded", "")
	r.store(quarantinedRecord{rec: garbage}, quarantinedRecord{rec: wrong, silent: true}, quarantinedRecord{rec: deep, silent: true}, quarantinedRecord{rec: refused, group: DefaultHotGroup})

	c := r.audit()
	require.Equal(t, certificate.Equal, c.Verdict, shown(c), c.Problems)
	p := c.Partitions[0]
	require.Equal(t, []int64{7, 2, 4, 3}, []int64{p.Records, p.Unreadable, p.Quarantined, p.Duplicates})
	require.Equal(t, []int64{4, 3}, []int64{p.Stores[0].QuarantinedRecords, p.Stores[1].QuarantinedRecords})
	require.Equal(t, []int64{6, 9}, []int64{p.Stores[0].Expected.Rows, p.Stores[1].Expected.Rows})

	// A record that is refused silently, and one that is stored though it is in quarantine.
	lost := r.produce(logsTopic, 0, []byte("no protobuf either"))
	r.commit(DefaultHotGroup, logsTopic, 0, lost.Offset+1)
	r.insertHot("logs", r.rowsOf(signal.Logs, 0, refused.Offset, refused.Offset, nil))
	for _, quick := range []bool{false, true} {
		c = r.audit(func(c *Config) { c.SkipLedger, c.Quick = true, quick })
		require.Equal(t, certificate.Faults{Lost: 1, Foreign: 3}, totals(c, certificate.Hot).Faults)
		require.Equal(t, certificate.Faults{}, totals(c, certificate.Lake).Faults)
		require.Contains(t, shown(c), "clickhouse: lost otlp.logs.v1/0/7: the record is not an OTLP request of the topic's signal, and it is not in quarantine")
		require.Contains(t, shown(c), "clickhouse: foreign otlp.logs.v1/0/3#0: it is in quarantine, and stored all the same")
	}
}

// Scenario: the ledger is spoilt.
// Guarantees: holes, overlaps and wrong entries are found; an entry that is written twice is one entry.
func TestALedgerThatDoesNotTileOrDoesNotAgreeIsFound(t *testing.T) {
	r := newRig(t, clickhousetest.Shared(t))
	for seed := range uint64(20) {
		r.produce(logsTopic, 0, otlptest.Logs(seed, 3))
	}
	r.store()
	r.hot.Exec("INSERT INTO " + r.database + ".ledger SELECT * REPLACE (now64(3) AS written_time) FROM " + r.database + ".ledger")
	require.Equal(t, certificate.Equal, r.audit().Verdict)
	r.alterHot("ledger DELETE WHERE first_offset = 5")
	r.alterHot("ledger UPDATE rows = rows + 1, id_sum = id_sum + 1 WHERE first_offset = 10")
	r.hot.Exec("INSERT INTO " + r.database + ".ledger SELECT * REPLACE (first_offset + 3 AS first_offset) FROM " + r.database + ".ledger FINAL WHERE last_offset = 19")
	c := r.audit()
	require.Equal(t, certificate.Different, c.Verdict)
	require.Empty(t, c.Differences)
	require.Len(t, c.LedgerFaults, 4)
	found := shown(c)
	require.Contains(t, found, "clickhouse: ledger hole otlp.logs.v1/0/5-9: no entry covers it")
	require.Contains(t, found, "clickhouse: ledger overlap otlp.logs.v1/0/18-19: entries otlp.logs.v1/0/15-19 and otlp.logs.v1/0/18-19 both cover it")
	require.Contains(t, strings.Join(found, "\n"), "clickhouse: ledger wrong otlp.logs.v1/0/10-14: rows 16 with id_sum")
	require.Zero(t, totals(c, certificate.Lake).LedgerFaults)
}

// Scenario: a block of 5 records was stored in parts, since its owner died halfway: all but the last part say that there were no duplicates.
// Guarantees: that is right, whatever part of it is audited; a number of duplicates that is wrong over all parts is not.
func TestTheCountsOfABlockInPartsAreRightTogether(t *testing.T) {
	r := newRig(t, clickhousetest.Shared(t))
	for seed := range uint64(10) {
		r.produce(logsTopic, 0, otlptest.Logs(seed%3, 3)) // all from offset 3 on are duplicates
	}
	r.store()
	r.alterHot("ledger DELETE WHERE first_offset = 0")
	id := "(SELECT sum(reinterpretAsUInt64(substring(event_id, 1, 8))) FROM " + r.database + ".logs WHERE kafka_offset BETWEEN %d AND %d)"
	part := func(first, last, events, duplicates, rows int) {
		r.hot.Exec(fmt.Sprintf("INSERT INTO "+r.database+".ledger SELECT '"+logsTopic+"', 0, %d, %d, 'logs', %d, %d, 0, %d, "+id+", now64(3), ''", first, last, events, duplicates, rows, first, last))
	}
	part(0, 1, 6, 0, 6)
	part(2, 3, 3, 0, 3) // in truth 6 events and 3 duplicates
	part(4, 4, 6, 6, 0)
	require.Equal(t, certificate.Equal, r.audit().Verdict, shown(r.audit()))
	for _, rg := range []certificate.Range{{Topic: logsTopic, First: 0, Last: 3}, {Topic: logsTopic, First: 4, Last: 9}, {Topic: logsTopic, First: 3, Last: 9}} {
		c := r.audit(func(c *Config) { c.Ranges = []certificate.Range{rg} })
		require.Equal(t, certificate.Equal, c.Verdict, "%s: %v", rg, shown(c))
	}
	part(4, 4, 6, 5, 0)
	require.Equal(t, []string{"clickhouse: ledger wrong otlp.logs.v1/0/2-4: duplicates 1 too few, in one of 2 entries"}, shown(r.audit()))
	part(4, 4, 3, 3, 0)
	part(5, 9, 15, 15, 0)
	require.Equal(t, []string{"clickhouse: ledger wrong otlp.logs.v1/0/2-4: events 3 too few, duplicates 3 too few, in one of 2 entries"}, shown(r.audit()))
}

// Scenario: Kafka's retention removes the first records.
// Guarantees: what is gone is compared with the ledger, and the certificate says so; what may be a duplicate of something gone is no loss.
func TestBeyondRetentionTheLedgerIsAllThereIs(t *testing.T) {
	r := newRig(t, clickhousetest.Shared(t))
	for seed := range uint64(20) {
		r.produce(logsTopic, 0, otlptest.Logs(seed, 3))
	}
	r.produce(logsTopic, 0, otlptest.Logs(2, 3)) // 20: duplicates of a record that will be gone
	r.store()
	offsets := kadm.Offsets{}
	offsets.AddOffset(logsTopic, 0, 10, -1)
	_, err := r.admin.DeleteRecords(t.Context(), offsets)
	require.NoError(t, err)
	all := func(c *Config) { c.Ranges = []certificate.Range{{Topic: logsTopic, Last: 20}} }

	c := r.audit(all)
	require.Equal(t, certificate.Incomplete, c.Verdict, shown(c))
	require.Contains(t, strings.Join(c.Problems, "\n"), "lake, otlp.logs.v1/0/0-9: Kafka's retention has removed it; the rows were compared with the ledger only")
	require.Equal(t, &certificate.BeyondResult{First: 0, Last: 9, Entries: 2, Rows: 30}, c.Partitions[0].Stores[0].Beyond)
	require.Equal(t, certificate.Faults{Undecidable: 3}, totals(c, certificate.Hot).Faults)

	r.alterHot("logs DELETE WHERE kafka_offset = 7 AND event_index = 1")
	c = r.audit(all)
	require.Equal(t, certificate.Different, c.Verdict)
	require.Contains(t, strings.Join(shown(c), "\n"), "clickhouse: ledger wrong otlp.logs.v1/0/5-9: rows 15 with id_sum")

	// The default begins where Kafka begins, and later where a window fits in between.
	r.now = r.now.Add(2 * r.window)
	later := r.produce(logsTopic, 0, otlptest.Logs(99, 3))
	for _, group := range []string{DefaultHotGroup, DefaultLakeGroup} {
		r.commit(group, logsTopic, 0, later.Offset+1)
	}
	r.insertHot("logs", r.rowsOf(signal.Logs, 0, later.Offset, later.Offset, nil))
	r.insertLake(signal.Logs, r.rowsOf(signal.Logs, 0, later.Offset, later.Offset, nil))
	c = r.audit(func(c *Config) { c.SkipLedger = true })
	require.Equal(t, certificate.Equal, c.Verdict, shown(c))
	require.Equal(t, later.Offset, c.Partitions[0].First)
	require.Contains(t, strings.Join(c.Notes, "\n"), "otlp.logs.v1/0 is audited from offset 21")
	c = r.audit(func(c *Config) { c.From = time.Now().Add(-24 * time.Hour) })
	require.Contains(t, strings.Join(c.Problems, "\n"), "otlp.logs.v1/0/0-9: Kafka's retention has removed it", "asked for by time")
}

// Guarantees: times choose by append time, From included and To not; a group that lags behind what was asked for is said.
func TestTimesChooseTheRecords(t *testing.T) {
	r := newRig(t, clickhousetest.Shared(t))
	begin := r.now
	for seed := range uint64(20) {
		r.produce(logsTopic, 0, otlptest.Logs(seed, 3))
	}
	r.store()
	c := r.audit(func(c *Config) { c.From, c.To = begin.Add(5*time.Second), begin.Add(9*time.Second) })
	require.Equal(t, certificate.Equal, c.Verdict, c.Problems)
	require.Equal(t, []int64{5, 8}, []int64{c.Partitions[0].First, c.Partitions[0].Last})
	require.Equal(t, int64(12), totals(c, certificate.Lake).Rows)

	r.commit(DefaultLakeGroup, logsTopic, 0, 8)
	c = r.audit(func(c *Config) { c.To = begin.Add(9 * time.Second) })
	require.Equal(t, certificate.Incomplete, c.Verdict)
	require.Contains(t, strings.Join(c.Problems, "\n"), "group pulsegrid-lake has finished otlp.logs.v1/0 only up to offset 7, and 8 was asked for")
	require.Equal(t, []int64{27, 24}, []int64{totals(c, certificate.Hot).Rows, totals(c, certificate.Lake).Rows})
}

// Guarantees: a store that is down, or that has no table, leaves the other one audited; the verdict is that not all was.
func TestAStoreThatIsDownIsNoLoss(t *testing.T) {
	r := newRig(t, clickhousetest.Shared(t))
	r.produce(logsTopic, 0, otlptest.Logs(1, 3))
	r.store()
	for name, change := range map[string]func(*Config){
		"ClickHouse down":      func(c *Config) { c.ClickHouse.URL = "http://127.0.0.1:1" },
		"no table":             func(c *Config) { c.ClickHouse.Database = "nowhere" },
		"quick":                func(c *Config) { c.ClickHouse.URL, c.Quick, c.SkipLedger = "http://127.0.0.1:1", true, true },
		"no such catalog":      func(c *Config) { c.Lake.CatalogURI = "file:" + filepath.Join(t.TempDir(), "none", "catalog.db") },
		"a group that is none": func(c *Config) { c.ClickHouse.Group = "pulsegrid-hott" },
		"no such namespace":    func(c *Config) { c.Lake.Namespace = "nowhere" },
	} {
		t.Run(name, func(t *testing.T) {
			c := r.audit(change)
			require.Equal(t, certificate.Incomplete, c.Verdict)
			require.NotEmpty(t, c.Problems)
			require.Empty(t, shown(c))
			require.Equal(t, int64(3), totals(c, certificate.Hot).Rows+totals(c, certificate.Lake).Rows)
		})
	}
	r.hot.Exec("DROP TABLE " + r.database + ".ledger SYNC")
	c := r.audit()
	require.Equal(t, certificate.Incomplete, c.Verdict)
	require.Contains(t, strings.Join(c.Problems, "\n"), "there is no table ledger")
	require.Equal(t, certificate.Equal, r.audit(func(c *Config) { c.SkipLedger = true }).Verdict)
}

// Guarantees: the list of differences is bounded, the totals and stretches are not.
func TestTheListIsBoundedTheTotalsAreExact(t *testing.T) {
	r := newRig(t, clickhousetest.Shared(t))
	for seed := range uint64(10) {
		r.produce(logsTopic, 0, otlptest.Logs(seed, 3))
	}
	r.store()
	r.alterHot("logs DELETE WHERE 1")
	c := r.audit(func(c *Config) { c.MaxDifferences = 4 })
	require.Len(t, c.Differences, 4)
	require.Equal(t, int64(30), totals(c, certificate.Hot).Lost)
	require.Equal(t, []certificate.Stretch{{Store: certificate.Hot, Kind: certificate.Lost, Topic: logsTopic, Last: 9, LastIndex: 2, Events: 30}}, c.Stretches)
}
