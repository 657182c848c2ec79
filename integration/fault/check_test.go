package fault

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/pulsegrid/pulsegrid/integration/fault/outcome"
	"github.com/pulsegrid/pulsegrid/integration/rig/agents"
	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/internal/testkit/pytest"
)

//go:embed testdata/lake.py
var lakeScript string

// tables: where the events of a signal are, and how ClickHouse finds their number.
var tables = map[signal.Signal]struct{ name, number string }{
	signal.Logs:    {"logs", "toInt64(substring(body, 7))"},
	signal.Traces:  {"spans", "toInt64(reinterpretAsUInt64(reverse(span_id))) - 1"},
	signal.Metrics: {"metrics", "value_int"},
}

// copies is how often an event is in a store.
type copies struct {
	rows   int
	places int // distinct places in Kafka that the rows come from
}

// contents are a table's events of one run, by number.
type contents map[int]copies

// check compares the stores with what the fleet knows.
func (r *run) check(requests []*agents.Request, out *outcome.Run) {
	r.t.Helper()
	for _, q := range requests {
		out.Events += agents.PerRequest
		out.Duplicates += q.Duplicates * agents.PerRequest
		if q.Acked {
			out.Acked += agents.PerRequest
		}
		if q.Attempts > 1 {
			out.Resent++
		}
	}
	hot := r.hot()
	lake, late := r.lake()
	out.LakeLongest = late
	out.Hot = r.compare("ClickHouse", fastLane.hot, requests, hot)
	out.Lake = r.compare("the lake", fastLane.lake, requests, lake)
	out.Rollups = r.checkRollups()
	r.audit(out)
}

// compare fails the test if anything is wrong in a store, and counts it.
func (r *run) compare(store, group string, requests []*agents.Request, found map[signal.Signal]contents) outcome.Counts {
	r.t.Helper()
	c, wrong := compare(requests, found, r.excused[group])
	for _, w := range wrong {
		r.t.Errorf("%s %s", store, w)
	}
	return c
}

// compare counts what is wrong in a store, and says it. excused may be nil.
func compare(requests []*agents.Request, found map[signal.Signal]contents, excused excuse) (c outcome.Counts, wrong []string) {
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
			if is.rows > 1 {
				c.Doubled += is.rows - 1
				c.Sink += is.rows - is.places
				twice = append(twice, fmt.Sprintf("%v %d: %d rows of %d places", q.Signal, n, is.rows, is.places))
			}
		}
	}
	if c.Unknown > 0 {
		wrong = append(wrong, fmt.Sprintf("has %d events that nobody sent", c.Unknown))
	}
	if c.Lost > 0 {
		wrong = append(wrong, fmt.Sprintf("lacks %d acknowledged events: %s", c.Lost, some(missing)))
	}
	if c.Doubled > 0 {
		wrong = append(wrong, fmt.Sprintf("has %d rows too many; %d of them of a place in Kafka that is stored already (the sink doubled it), the others of a further copy in Kafka (dedupe let it pass): %s",
			c.Doubled, c.Sink, some(twice)))
	}
	return c, wrong
}

func some(list []string) string {
	const most = 8
	if len(list) > most {
		return fmt.Sprintf("%s, ... of %d", strings.Join(list[:most], ", "), len(list))
	}
	return strings.Join(list, ", ")
}

// hot reads ClickHouse.
func (r *run) hot() map[signal.Signal]contents {
	r.t.Helper()
	out := map[signal.Signal]contents{}
	for sig, table := range tables {
		text, err := r.Query(fmt.Sprintf("SELECT %s AS n, count(), uniqExact(kafka_partition, kafka_offset, event_index) FROM %s WHERE service_name = '%s' GROUP BY n",
			table.number, table.name, r.service))
		if err != nil {
			r.t.Fatal(err)
		}
		out[sig] = contents{}
		for line := range strings.Lines(text) {
			var v [3]int
			for i, field := range strings.Fields(line) {
				if v[i], err = strconv.Atoi(field); err != nil {
					r.t.Fatalf("%s: %v", line, err)
				}
			}
			out[sig][v[0]] = copies{v[1], v[2]}
		}
	}
	return out
}

// lake reads the lake, and how late its latest event was.
func (r *run) lake() (map[signal.Signal]contents, float64) {
	r.t.Helper()
	properties, err := json.Marshal(r.CatalogProperties())
	if err != nil {
		r.t.Fatal(err)
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
	pytest.RunJSON(r.t, &found, lakeScript, r.Catalog(), r.Warehouse(), string(properties), objects, r.service)
	out, late := map[signal.Signal]contents{}, 0.0
	for sig, table := range tables {
		out[sig] = contents{}
		rows := 0
		for _, e := range found[table.name].Events {
			out[sig][e[0]] = copies{e[1], e[2]}
			rows += e[1]
		}
		if rows != found[table.name].Pyiceberg {
			r.t.Errorf("table %s of the lake: DuckDB finds %d rows in its files, pyiceberg %d", table.name, rows, found[table.name].Pyiceberg)
		}
		late = max(late, found[table.name].Late)
	}
	return out, late
}
