// Package recount finds a fleet's events again in the stores of a rig, by ClickHouse's own queries and by readers of the lake that know nothing of PulseGrid, and holds
// them against what the fleet knows of each.
package recount

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/pulsegrid/pulsegrid/integration/fault/outcome"
	"github.com/pulsegrid/pulsegrid/integration/rig"
	"github.com/pulsegrid/pulsegrid/integration/rig/agents"
	"github.com/pulsegrid/pulsegrid/internal/audit"
	"github.com/pulsegrid/pulsegrid/internal/audit/stored"
	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/internal/testkit/pytest"
)

//go:embed testdata/lake.py
var lakeScript string

// Tables are where the events of a signal are, and how ClickHouse finds their number.
var Tables = map[signal.Signal]struct{ Name, Number string }{
	signal.Logs:    {"logs", "toInt64(substring(body, 7))"},
	signal.Traces:  {"spans", "toInt64(reinterpretAsUInt64(reverse(span_id))) - 1"},
	signal.Metrics: {"metrics", "value_int"},
}

// Copies is how often an event is in a store.
type Copies struct {
	Rows   int
	Places int // distinct places in Kafka that the rows come from
}

// Contents are a table's events of one service, by number.
type Contents map[int]Copies

// Excuse tells of an acknowledged event that a store need not have it.
type Excuse func(sig signal.Signal, number int) bool

// Compare counts what is wrong in a store, and says it. excused may be nil.
func Compare(requests []*agents.Request, found map[signal.Signal]Contents, excused Excuse) (c outcome.Counts, wrong []string) {
	var missing, twice []string
	for _, events := range found {
		c.Unknown += len(events)
	}
	for _, q := range requests {
		for n := q.First(); n < q.First()+agents.PerRequest; n++ {
			is, ok := found[q.Signal][n]
			_, invalid := q.Poison[n] // it must not be here, and if it is, nobody sent it here
			switch {
			case invalid:
			case ok:
				c.Unknown--
			case q.Acked && (excused == nil || !excused(q.Signal, n)):
				c.Lost++
				missing = append(missing, fmt.Sprintf("%v %d", q.Signal, n))
			}
			if is.Rows > 1 {
				c.Doubled += is.Rows - 1
				c.Sink += is.Rows - is.Places
				twice = append(twice, fmt.Sprintf("%v %d: %d rows of %d places", q.Signal, n, is.Rows, is.Places))
			}
		}
	}
	if c.Unknown > 0 {
		wrong = append(wrong, fmt.Sprintf("has %d events that nobody sent", c.Unknown))
	}
	if c.Lost > 0 {
		wrong = append(wrong, fmt.Sprintf("lacks %d acknowledged events: %s", c.Lost, Some(missing)))
	}
	if c.Doubled > 0 {
		wrong = append(wrong, fmt.Sprintf("has %d rows too many; %d of them of a place in Kafka that is stored already (the sink doubled it), the others of a further copy in Kafka (dedupe let it pass): %s",
			c.Doubled, c.Sink, Some(twice)))
	}
	return c, wrong
}

// Some is the beginning of a list.
func Some(list []string) string {
	const most = 8
	if len(list) > most {
		return fmt.Sprintf("%s, ... of %d", strings.Join(list[:most], ", "), len(list))
	}
	return strings.Join(list, ", ")
}

// Hot reads ClickHouse. A table that is not there yet has nothing.
func Hot(r *rig.Rig, service string) (map[signal.Signal]Contents, error) {
	out := map[signal.Signal]Contents{}
	for sig, table := range Tables {
		text, err := r.Query(fmt.Sprintf("SELECT %s AS n, count(), uniqExact(kafka_partition, kafka_offset, event_index) FROM %s WHERE service_name = '%s' GROUP BY n",
			table.Number, table.Name, service))
		if err != nil && !strings.Contains(err.Error(), "UNKNOWN_TABLE") { // text is empty then
			return nil, err
		}
		out[sig] = Contents{}
		for line := range strings.Lines(text) {
			var v [3]int
			for i, field := range strings.Fields(line) {
				if v[i], err = strconv.Atoi(field); err != nil {
					return nil, fmt.Errorf("%s: %w", line, err)
				}
			}
			out[sig][v[0]] = Copies{v[1], v[2]}
		}
	}
	return out, nil
}

// Lake reads the lake, and how late its latest event was, in seconds.
func Lake(t testing.TB, r *rig.Rig, service string) (map[signal.Signal]Contents, float64) {
	t.Helper()
	properties, err := json.Marshal(r.CatalogProperties())
	if err != nil {
		t.Fatal(err)
	}
	var found map[string]struct {
		Events    [][3]int `json:"events"`
		Pyiceberg int      `json:"pyiceberg"`
		Late      float64  `json:"late"`
	}
	objects := ""
	if r.Objects != nil {
		objects = r.Objects.Dir
	}
	pytest.RunJSON(t, &found, lakeScript, r.Catalog(), r.Warehouse(), string(properties), objects, service)
	out, late := map[signal.Signal]Contents{}, 0.0
	for sig, table := range Tables {
		out[sig] = Contents{}
		rows := 0
		for _, e := range found[table.Name].Events {
			out[sig][e[0]] = Copies{e[1], e[2]}
			rows += e[1]
		}
		if rows != found[table.Name].Pyiceberg {
			t.Errorf("table %s of the lake: DuckDB finds %d rows in its files, pyiceberg %d", table.Name, rows, found[table.Name].Pyiceberg)
		}
		late = max(late, found[table.Name].Late)
	}
	return out, late
}

// Stores are those that two consumer groups fill, for an audit, past the rig's links.
func Stores(r *rig.Rig, hot, lake string) (*stored.ClickHouseConfig, *stored.LakeConfig) {
	return &stored.ClickHouseConfig{URL: "http://" + r.ClickHouseHTTP(), Database: audit.DefaultDatabase, Group: hot}, &stored.LakeConfig{
		CatalogType: "sql", CatalogName: "pulsegrid", CatalogURI: "file:" + r.CatalogFile(), Warehouse: r.Warehouse(),
		Properties: r.CatalogProperties(), Namespace: audit.DefaultNamespace, Group: lake,
	}
}
