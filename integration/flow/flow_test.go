// Package flow tests the whole path on real parts: Apache Kafka, the ClickHouse engine, an Iceberg lake, and the collector that ocb built with
// the configs that users run. What comes in, comes from clients that are not ours; what is in the lake, is read by readers that are not ours.
package flow

import (
	_ "embed"
	"fmt"
	"net"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/pulsegrid/pulsegrid/integration/rig"
	"github.com/pulsegrid/pulsegrid/internal/chengine"
	"github.com/pulsegrid/pulsegrid/internal/testkit/pytest"
)

//go:embed testdata/count.py
var countScript string

//go:embed testdata/sdk.py
var sdkScript string

// shared is a rig that the tests without faults use together: each tells its own events by their service name.
var shared struct {
	once sync.Once
	rig  *rig.Rig
	dir  string
	err  error
}

func TestMain(m *testing.M) {
	chengine.RunChildIfAsked()
	code := m.Run()
	if shared.rig != nil {
		if err := shared.rig.Close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = max(code, 1)
		}
	}
	if shared.dir != "" {
		_ = os.RemoveAll(shared.dir) // a temporary directory
	}
	os.Exit(code)
}

func sharedRig(t *testing.T) *rig.Rig {
	t.Helper()
	shared.once.Do(func() {
		if shared.dir, shared.err = os.MkdirTemp("", "pulsegrid-flow-"); shared.err != nil {
			return
		}
		if shared.rig, shared.err = rig.New(rig.Options{Dir: shared.dir}); shared.err == nil {
			shared.err = shared.rig.Start()
		}
	})
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	showLogs(t, shared.rig)
	return shared.rig
}

// ownRig is for tests that hurt it.
func ownRig(t *testing.T, o rig.Options) *rig.Rig {
	t.Helper()
	o.Dir = t.TempDir()
	r, err := rig.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	showLogs(t, r)
	return r
}

func showLogs(t *testing.T, r *rig.Rig) {
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("gateway:\n%s\naggregator:\n%s", end(r.Gateway.Log()), end(r.Aggregator.Log()))
		}
	})
}

func end(s string) string { return s[max(0, len(s)-8<<10):] }

// hotRows counts rows of a service in ClickHouse.
func hotRows(t *testing.T, r *rig.Rig, table, service string) int {
	t.Helper()
	return hotNumber(t, r, fmt.Sprintf("SELECT count() FROM %s WHERE service_name = '%s'", table, service))
}

func hotNumber(t *testing.T, r *rig.Rig, sql string) int {
	t.Helper()
	text, err := r.Query(sql)
	if err != nil {
		t.Logf("not yet: %v", err) // tables come with the aggregator's first insert
		return -1
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return n
}

// lakeCount is what two independent readers find in a table of the lake.
type lakeCount struct {
	Pyiceberg int `json:"pyiceberg"` // rows
	DuckDB    int `json:"duckdb"`    // rows
	Places    int `json:"places"`    // distinct (partition, offset, index)
	Distinct  int `json:"distinct"`  // values of the column that was asked for
	Files     int `json:"files"`
	Snapshots int `json:"snapshots"`
}

func lakeRows(t *testing.T, r *rig.Rig, table, service string, distinct ...string) lakeCount {
	t.Helper()
	var c lakeCount
	pytest.RunJSON(t, &c, countScript, append([]string{r.Catalog(), r.Warehouse(), "pulsegrid." + table, service}, distinct...)...)
	return c
}

const visibleTimeout = 5 * time.Minute

// eventually polls until the condition holds, and fails the test where it does not in time.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(visibleTimeout); ; time.Sleep(500 * time.Millisecond) {
		if ok() {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", visibleTimeout, what)
		}
	}
}

// inBothStores waits until both stores hold exactly n events of a service, each at a place of its own.
func inBothStores(t *testing.T, r *rig.Rig, table, service string, n int) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d %s of %s in ClickHouse", n, table, service), func() bool { return hotRows(t, r, table, service) >= n })
	if got := hotRows(t, r, table, service); got != n {
		t.Errorf("ClickHouse has %d %s of %s, want %d", got, table, service, n)
	}
	var c lakeCount
	eventually(t, fmt.Sprintf("%d %s of %s in the lake", n, table, service), func() bool {
		c = lakeRows(t, r, table, service)
		return c.Pyiceberg >= n
	})
	if c.Pyiceberg != n || c.DuckDB != n || c.Places != n {
		t.Errorf("the lake has of %d %s of %s: %+v", n, table, service, c)
	}
	t.Logf("%s of %s: %d rows in ClickHouse, lake %+v", table, service, n, c)
}

func tool(t *testing.T, name string) string {
	t.Helper()
	path, err := rig.Tool(name)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func port(t *testing.T, addr string) string {
	t.Helper()
	_, p, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	return p
}
