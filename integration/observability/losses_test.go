package observability_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/pulsegrid/pulsegrid/integration/rig"
	"github.com/pulsegrid/pulsegrid/internal/cell"
	"github.com/pulsegrid/pulsegrid/internal/testkit/pytest"
	"github.com/pulsegrid/pulsegrid/internal/testkit/runbook"
)

// drillSources are enough that each partition gets requests of some.
const drillSources = 60

// drillBodies are one request of each signal: the source, the time in nanoseconds and the number of the request go in.
var drillBodies = map[string]string{
	"logs":    `{"resourceLogs":[{%s,"scopeLogs":[{"logRecords":[{"timeUnixNano":"%[2]d","body":{"stringValue":"drill %[3]d"}}]}]}]}`,
	"metrics": `{"resourceMetrics":[{%s,"scopeMetrics":[{"metrics":[{"name":"drill","gauge":{"dataPoints":[{"timeUnixNano":"%[2]d","asInt":"%[3]d"}]}}]}]}]}`,
	"traces":  `{"resourceSpans":[{%s,"scopeSpans":[{"spans":[{"traceId":"%032[3]x","spanId":"%016[3]x","name":"drill","kind":1,"startTimeUnixNano":"%[2]d","endTimeUnixNano":"%[2]d"}]}]}]}`,
}

// drill counts what was sent, of each signal.
type drill struct {
	running
	data string
	sent int
}

// send sends an event of each signal by each source, each in a request of its own and until it is acknowledged.
func (d *drill) send() {
	d.t.Helper()
	state := d.state()
	for source := range drillSources {
		d.sent++
		resource := fmt.Sprintf(`"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"drill"}},{"key":"service.instance.id","value":{"stringValue":"%d"}}]}`, source)
		now := time.Now().UnixNano()
		for signal, form := range drillBodies {
			body := fmt.Sprintf(form, resource, now, d.sent)
			d.until("acknowledged: "+body, func() bool {
				resp, err := http.Post("http://"+state.Endpoints.HTTP+"/v1/"+signal, "application/json", strings.NewReader(body))
				if err != nil {
					return false
				}
				_ = resp.Body.Close()
				return resp.StatusCode == http.StatusOK
			})
		}
	}
}

// state is that of the cell once it is ready.
func (d *drill) state() (s cell.State) {
	d.t.Helper()
	d.until("ready", func() bool {
		var err error
		s, err = cell.ReadState(d.data)
		return err == nil && s.PID == d.local.PID() && s.Ready
	})
	return s
}

// until waits for a condition, and returns how long that took.
func (d *drill) until(what string, ok func() bool) time.Duration {
	d.t.Helper()
	began := time.Now()
	for !ok() {
		if time.Since(began) > patience {
			d.t.Fatalf("not within %v: %s", patience, what)
		}
		time.Sleep(200 * time.Millisecond)
	}
	return time.Since(began)
}

// inClickHouse tells whether each signal's table has as many rows as were sent.
func (d *drill) inClickHouse() bool {
	for _, table := range []string{"logs", "metrics", "spans"} {
		out, err := d.shell.Run("pulsegrid query --format TabSeparated \"SELECT count() FROM " + table + " WHERE service_name = 'drill'\"")
		if err != nil || strings.TrimSpace(out) != strconv.Itoa(d.sent) {
			return false
		}
	}
	return true
}

// inTheLake tells the same of the lake, as pyiceberg reads it.
func (d *drill) inTheLake() bool {
	var rows map[string]int
	s := d.state()
	pytest.RunJSON(d.t, &rows, drillScript, s.Endpoints.Catalog, s.Endpoints.Warehouse)
	return rows["logs"] == d.sent && rows["metrics"] == d.sent && rows["spans"] == d.sent
}

const drillScript = `
import json, sys
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.exceptions import NoSuchTableError
from pyiceberg.expressions import EqualTo
catalog, rows = SqlCatalog("pulsegrid", uri=sys.argv[1], warehouse=sys.argv[2]), {}
for table in ("logs", "metrics", "spans"):
    try:
        rows[table] = catalog.load_table("pulsegrid." + table).scan(row_filter=EqualTo("service_name", "drill"), selected_fields=("service_name",)).to_arrow().num_rows
    except NoSuchTableError:
        rows[table] = 0
print(json.dumps(rows))
`

// lose stops the cell, takes a directory of it away, starts it again, and has each partition get records again: a store is asked what it holds when a block comes.
func (d *drill) lose(directory string) {
	d.t.Helper()
	require.True(d.t, d.local.Stop(stopping), d.local.Log())
	lost := filepath.Join(d.data, directory)
	require.DirExists(d.t, lost)
	require.NoError(d.t, os.RemoveAll(lost))
	require.NoError(d.t, d.local.Start(starts))
	d.send()
}

// follow runs the commands of a section, each until it succeeds: the stores may be a block behind.
func (d *drill) follow(page, anchor string) {
	d.t.Helper()
	text, err := rig.Runbook(page)
	require.NoError(d.t, err)
	commands := runbook.Commands(runbook.Section(text, anchor))
	require.NotEmpty(d.t, commands)
	for _, command := range commands {
		out := ""
		d.until(command, func() bool { out, err = d.shell.Run(command); return err == nil })
		d.t.Logf("%s\n%s", command, out)
	}
}

// Scenario: the topic of logs gets more partitions while the cell runs. Then the cell loses all of ClickHouse, later all of the lake with its catalog, and is started again each time.
// Guarantees: the new partitions are used, and read. What was lost is filled again from Kafka, by itself, each event once; the runbooks' commands succeed, and their audits are equal, rollups
// included.
func TestACellThatLosesItsStoresFillsThemAgain(t *testing.T) {
	c := start(t)
	d := &drill{running: c, data: filepath.Join(c.shell.Dir, "pulsegrid-data")}
	d.send()
	client, err := kgo.NewClient(kgo.SeedBrokers(d.state().Endpoints.Kafka))
	require.NoError(t, err)
	defer client.Close()
	const topic, partitions = "otlp.logs.v1", 6
	added, err := kadm.NewClient(client).UpdatePartitions(t.Context(), partitions, topic)
	require.NoError(t, err)
	require.NoError(t, added[topic].Err)
	d.until("rows in ClickHouse", d.inClickHouse)
	d.until("rows in the lake", d.inTheLake)

	d.lose("clickhouse")
	t.Logf("ClickHouse has all %d events of each signal %v after the last was sent", d.sent, d.until("rows in ClickHouse again", d.inClickHouse))
	d.follow("losses.md", "clickhouse-lost")
	d.follow("planned.md", "add-partitions")
	out, err := c.shell.Run("pulsegrid query --format TabSeparated \"SELECT uniqExact(kafka_partition) FROM logs WHERE service_name = 'drill'\"")
	require.NoError(t, err, out)
	require.Equal(t, strconv.Itoa(partitions), strings.TrimSpace(out))

	d.lose("lake")
	t.Logf("the lake has all %d events of each signal %v after the last was sent", d.sent, d.until("rows in the lake again", d.inTheLake))
	d.follow("losses.md", "lake-lost")
	require.True(t, d.inClickHouse())
}
