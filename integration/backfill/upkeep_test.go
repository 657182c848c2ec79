package backfill_test

import (
	"bytes"
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pulsegrid/pulsegrid/internal/testkit/pytest"
)

// upkeepReport is what --json prints of a table.
type upkeepReport struct {
	Table   string
	Expired int `json:"expired_snapshots"`
}

// snapshots counts them by table, by pyiceberg.
func (b *bench) snapshots() (out map[string]int) {
	b.t.Helper()
	pytest.RunJSON(b.t, &out, `
import sys, json
from pyiceberg.catalog import load_catalog
uri, warehouse = sys.argv[1:]
catalog = load_catalog("pulsegrid", type="sql", uri="sqlite:///" + uri, warehouse=warehouse)
print(json.dumps({name[-1]: len(catalog.load_table(name).metadata.snapshots) for name in catalog.list_tables("pulsegrid")}))
`, b.stores["PULSEGRID_LAKE_CATALOG"], b.stores["PULSEGRID_LAKE_WAREHOUSE"])
	return out
}

// Scenario: upkeep runs again and again, and is killed once, while a job writes the lake in many small commits.
// Guarantees: both stores have exactly the distinct good lines; the tables have no more snapshots than upkeep retains; a job that offers everything again finds the
// lake's offsets as they were, and adds nothing.
func TestUpkeepBesideAWriter(t *testing.T) {
	const retain = 3
	b, _ := newBench(t, "--objects", "4", "--lines", "800")
	var out bytes.Buffer
	writer := b.command("--rate", "150", "--block-lines", "50")
	writer.Stdout, writer.Stderr = &out, &out
	require.NoError(t, writer.Start())
	ended := make(chan error, 1)
	go func() { ended <- writer.Wait() }()
	defer time.AfterFunc(runTimeout, func() { _ = writer.Process.Kill() }).Stop()

	args := []string{"--keep", "0s", "--retain-last", "3", "--json"}
	runs, expired := 0, 0
	for over := false; !over; {
		select {
		case err := <-ended:
			require.NoError(t, err, "%s", &out)
			over = true
		default:
		}
		if runs == 2 {
			cmd := b.job("upkeep", args...)
			require.NoError(t, cmd.Start())
			time.Sleep(400 * time.Millisecond)
			_ = cmd.Process.Kill()
			_ = cmd.Wait() // however it ended
		}
		cmd := b.job("upkeep", args...)
		var report, errs bytes.Buffer
		cmd.Stdout, cmd.Stderr = &report, &errs
		if err := cmd.Run(); err != nil && runs == 0 && !over {
			time.Sleep(200 * time.Millisecond) // there is no lake yet
			continue
		} else {
			require.NoError(t, err, "%s\n%s", &report, &errs)
		}
		var tables []upkeepReport
		require.NoError(t, json.Unmarshal(report.Bytes(), &tables), "%s", &report)
		for _, table := range tables {
			expired += table.Expired
		}
		runs++
	}
	t.Logf("%d runs beside the job expired %d snapshots", runs, expired)
	require.GreaterOrEqual(t, runs, 3, "the one that was killed is between others")
	require.Greater(t, expired, 10)
	hot, lake := b.hot(), b.lake()
	b.holds("ClickHouse", hot)
	b.holds("lake", lake)
	for table, n := range b.snapshots() {
		require.LessOrEqual(t, n, retain, table)
	}
	again := b.run(0, "--block-lines", "50", "--again")
	require.Zero(t, again.Audit.Different, again.Audit.Findings)
	require.Equal(t, lake, b.lake())
	require.Equal(t, hot, b.hot())
}
