package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Scenario: an operator drains a cell before its maintenance, waits until it is safe to take away, and brings it back.
// Guarantees: the commands write what gateways follow, say what is so, and end with 0 only where it is so.
func TestACellIsDrainedUntilItIsSafeAndBack(t *testing.T) {
	dir := t.TempDir()
	k, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "otlp.logs.v1"))
	require.NoError(t, err)
	defer k.Close()
	client, err := kgo.NewClient(kgo.SeedBrokers(k.ListenAddrs()...))
	require.NoError(t, err)
	defer client.Close()
	require.NoError(t, client.ProduceSync(t.Context(), &kgo.Record{Topic: "otlp.logs.v1", Value: []byte("x")}).FirstErr())

	var drained, idle, requests atomic.Int64
	idle.Store(3)
	gateway := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprintf(w, "# TYPE otelcol_cell_health_drained gauge\notelcol_cell_health_drained %d\n# TYPE otelcol_cell_health_serving gauge\notelcol_cell_health_serving %d\n"+
			"# TYPE otelcol_ingest_idle gauge\notelcol_ingest_idle %d\n# TYPE otelcol_ingest_requests counter\notelcol_ingest_requests %d\n", drained.Load(), 1-drained.Load(), idle.Load(), requests.Load())
	}))
	defer gateway.Close()
	cells := filepath.Join(dir, "cells.yaml")
	text := "cells:\n"
	for _, name := range []string{"eu-1", "eu-2"} {
		require.NoError(t, os.Mkdir(filepath.Join(dir, name), 0o700))
		text += fmt.Sprintf("  - {name: %s, jurisdiction: eu, state: %s, gateways: [%s/%s], kafka: {brokers: [%q]}}\n", name, filepath.Join(dir, name), gateway.URL, name, k.ListenAddrs()[0])
	}
	require.NoError(t, os.WriteFile(cells, []byte(text), 0o600))
	on := func(args ...string) []string { return append(append([]string{"cell"}, args...), "--cells", cells) }

	out := ends(t, exitFailed, on("status", "eu-1", "--wait")...) // an undrained cell is not waited for
	require.Contains(t, out, "cell eu-1, jurisdiction eu: not drained\n")
	require.Contains(t, out, "- it is not drained: senders come\n")
	require.Contains(t, out, "- group pulsegrid-hot: 1 records wait in Kafka\n")

	out = ends(t, 0, on("drain", "eu-1", "--reason", "kernel upgrade")...)
	require.Equal(t, "cell eu-1 is drained: within 10 s its gateways tell DNS to send senders elsewhere. They take what comes until then.\n"+
		"It is safe to take away when this ends with 0:\n  pulsegrid cell status eu-1 --cells "+cells+" --wait\n", out)
	written, err := os.ReadFile(filepath.Join(dir, "eu-1", "drain.yaml"))
	require.NoError(t, err)
	require.Regexp(t, "cell: eu-1\ndrained: true\nsince: 20[0-9T:Z-]+\nreason: kernel upgrade\n", string(written))
	require.Regexp(t, `^cell eu-1 is drained since 20\S+Z \(kernel upgrade\): nothing was changed\n$`, ends(t, 0, on("drain", "eu-1")...))
	out = ends(t, exitFailed, on("drain", "eu-2")...)
	require.Contains(t, out, "draining eu-2 would leave no cell of its jurisdiction that takes its tenants (eu): end another one's drain first, or say --although-last")
	require.NoFileExists(t, filepath.Join(dir, "eu-2", "drain.yaml"))

	out = ends(t, exitFailed, on("status", "eu-1", "--wait", "--timeout", "1s")...)
	for _, want := range []string{"/eu-1: does not follow the drain (yet)", "/eu-1: its last request came 3s ago; 1m0s without one are wanted", "not safe to take away, for 4 reasons"} {
		require.Contains(t, out, want)
	}
	// What must be so comes to be so while somebody waits.
	drained.Store(1)
	idle.Store(73)
	time.AfterFunc(2*time.Second, func() {
		var offsets kadm.Offsets
		offsets.AddOffset("otlp.logs.v1", 0, 1, -1)
		for _, group := range []string{"pulsegrid-hot", "pulsegrid-lake"} {
			_ = kadm.NewClient(client).CommitAllOffsets(t.Context(), group, offsets) // or the command does not end well
		}
	})
	out = ends(t, 0, on("status", "eu-1", "--wait", "--timeout", "1m")...)
	require.Contains(t, out, "waits: group pulsegrid-hot: 1 records wait in Kafka; group pulsegrid-lake: 1 records wait in Kafka\n")
	_, out, found := strings.Cut(out, "\ncell eu-1")
	require.True(t, found)
	out = regexp.MustCompile(` {2,}`).ReplaceAllString(out, " ")
	out = regexp.MustCompile(`20\S+Z`).ReplaceAllString(out, "T")
	require.Equal(t, `, jurisdiction eu: drained since T (kernel upgrade)

gateway drained DNS is told to come requests/s last request in flight
`+gateway.URL+`/eu-1 yes no 0.0 1m13s ago 0 bytes

spill: 0 bytes wait

consumer group records that wait
pulsegrid-hot 0
pulsegrid-lake 0
pulsegrid-hot-overflow 0
pulsegrid-lake-overflow 0
pulsegrid-quarantine-hot 0
pulsegrid-quarantine-pii-hot 0
pulsegrid-quarantine-lake 0
pulsegrid-quarantine-pii-lake 0

SAFE to take away: no gateway had a request for 1m0s, and all that was acknowledged is in both stores
`, out)
	require.Contains(t, ends(t, 0, on("status", "eu-1", "--json")...), `"Unsafe": []`)

	require.Contains(t, ends(t, 0, on("drain", "eu-2", "--although-last", "--wait")...), "SAFE to take away")
	require.Equal(t, "cell eu-1 is drained no more: within 10 s its gateways tell DNS to send senders again, where they can accept something\n", ends(t, 0, on("undrain", "eu-1")...))
	require.Equal(t, "cell eu-1 was not drained: nothing was changed\n", ends(t, 0, on("undrain", "eu-1")...))
}

// Scenario: two cells of the EU take load, and one of them has room for both; then the peak comes, and the other cell is drained.
// Guarantees: the reserve is what the list of cells says less what the gateways take, by jurisdiction; a drain that leaves no room is refused, unless it is meant; nothing is refused where the list says nothing.
func TestACellIsDrainedOnlyWhereOthersHaveRoom(t *testing.T) {
	began := time.Now()
	gateway := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprintf(w, "# TYPE otelcol_ingest_events counter\notelcol_ingest_events{signal=\"logs\"} %d\n", int(1000*time.Since(began).Seconds()))
	}))
	defer gateway.Close()
	dir := t.TempDir()
	cells := filepath.Join(dir, "cells.yaml")
	list := func(capacities ...string) {
		text := "cells:\n"
		for i, capacity := range capacities {
			name := fmt.Sprintf("eu-%d", i+1)
			require.NoError(t, os.MkdirAll(filepath.Join(dir, name), 0o700))
			text += fmt.Sprintf("  - {name: %s, jurisdiction: eu, state: %s, gateways: [%s/%s], kafka: {brokers: ['127.0.0.1:1']}%s}\n", name, filepath.Join(dir, name), gateway.URL, name, capacity)
		}
		require.NoError(t, os.WriteFile(cells, []byte(text), 0o600))
	}
	on := func(args ...string) []string { return append(append([]string{"cell"}, args...), "--cells", cells) }
	list(", capacity: {events_per_second: 1500}", ", capacity: {events_per_second: 3000}")
	out := ends(t, exitFailed, on("reserve", "--over", "1s")...)
	require.Regexp(t, `\neu-1 +eu +\d+ +1500 +enough +(19|20)\d\d\n`, out)
	require.Regexp(t, `\neu-2 +eu +\d+ +3000 +NOT ENOUGH: the others can take \d+ events/s more, and it takes \d+`, out)
	require.Contains(t, out, "of 1 cells the others are not known to have room")
	require.Regexp(t, "draining eu-2: the others can take .*: wait for less load, or say --although-full", ends(t, exitFailed, on("drain", "eu-2")...))
	require.NoFileExists(t, filepath.Join(dir, "eu-2", "drain.yaml"))
	require.Contains(t, ends(t, exitFailed, on("reserve", "--over", "1s", "--times", "4")...), "of 2 cells")
	ends(t, 0, on("drain", "eu-2", "--although-full")...)
	require.Contains(t, ends(t, exitFailed, on("reserve", "--over", "1s")...), "it is the only cell of eu", "a drained cell has no room")
	ends(t, 0, on("undrain", "eu-2")...)
	list("", "")
	ends(t, 0, on("drain", "eu-2")...)
}

func TestWrongCellCommandLinesExitWith2(t *testing.T) {
	cells := filepath.Join(t.TempDir(), "cells.yaml")
	require.NoError(t, os.WriteFile(cells, []byte("cells: [{name: eu-1, jurisdiction: eu, state: /x, gateways: ['http://x'], kafka: {brokers: ['x:1']}}]\n"), 0o600))
	for want, args := range map[string][]string{
		"name one cell":                     {"cell", "drain"},
		`unknown command "frob"`:            {"cell", "frob"},
		"--cells: stat nowhere.yaml":        {"cell", "status", "eu-1", "--cells", "nowhere.yaml"},
		`"us-1" is none of the cells: eu-1`: {"cell", "undrain", "us-1", "--cells", cells},
		"--timeout 0s":                      {"cell", "status", "eu-1", "--cells", cells, "--timeout", "0s"},
		`--day: "today"`:                    {"cell", "inventory", "eu-1", "--cells", cells, "--day", "today"},
		"--sign-key: key: stat nowhere":     {"cell", "inventory", "eu-1", "--cells", cells, "--sign-key", "nowhere"},
		"name files or directories":         {"cell", "residency", "verify"},
		"there is no file":                  {"cell", "residency", "verify", t.TempDir()},
		"lstat nowhere":                     {"cell", "residency", "verify", "nowhere"},
		"is required; see":                  {"cell", "residency", "--cells", cells},
		"--public-key: key: open nowhere":   {"cell", "residency", "verify", cells, "--public-key", "nowhere"},
		"name one of logs":                  {"cell", "rollups", "--cells", cells},
		"--in is required":                  {"cell", "rollups", "logs", "--in", "", "--cells", cells},
		"--tenants is required":             {"cell", "rollups", "logs", "--in", "eu", "--cells", cells},
		`--resolution "5m"`:                 {"cell", "rollups", "logs", "--resolution", "5m", "--cells", cells},
		"eu-1: clickhouse::endpoint":        {"cell", "rollups", "logs", "--in", "eu", "--tenants", t.TempDir(), "--cells", cells},
	} {
		_, code, err := run(t, args...)
		require.ErrorContains(t, err, want, "%v", args)
		require.Equal(t, exitUsage, code, "%v", args)
	}
}
