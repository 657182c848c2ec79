// Package lakereaders reads the lake with readers that are not ours: pyiceberg, DuckDB and Iceberg's Java library. They skip files, row
// groups and pages by statistics that the exporter wrote, so a wrong minimum is a row that nobody finds.
package lakereaders

import (
	_ "embed"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/apache/iceberg-go/table"
	"github.com/stretchr/testify/require"

	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/ledger"
	"github.com/pulsegrid/pulsegrid/internal/testkit/icebergtest"
	"github.com/pulsegrid/pulsegrid/internal/testkit/pytest"
	"github.com/pulsegrid/pulsegrid/internal/upkeep"
)

var (
	seed       = flag.Uint64("seed", 0, "of every random choice; 0: a new one")
	rounds     = flag.Int("rounds", 1, "how often four blocks more are written to each table, in as many buckets")
	blockRows  = flag.Int("rows", 40, "rows of a block")
	predicates = flag.Int("predicates", 3, "predicates of each column; 0: all")
)

// longest a reader may take: the large run asks it tens of thousands of times.
const longest = 2 * time.Hour

var (
	//go:embed testdata/truth.py
	truthScript string
	//go:embed testdata/digest.py
	digestScript string
	//go:embed testdata/scan_pyiceberg.py
	pyicebergScript string
	//go:embed testdata/scan_duckdb.py
	duckdbScript string
	//go:embed testdata/Scan.java
	javaSource string
)

// Scenario: blocks in which a column is all empty, one value, long texts, NaN, control characters, invalid UTF-8 and so on, in several
// commits, files and row groups of every table.
// Guarantee: for every column, what a reader returns for a predicate, pushed down to manifests, row groups and pages, is what a full scan
// finds: pyiceberg, DuckDB on the files and by its Iceberg extension, Iceberg's Java library with its generic reader.
func TestEveryPredicatePushedDownFindsTheRowsOfAFullScan(t *testing.T) {
	newLake(t, seeded(t), *blockRows, *rounds).check(t, *predicates)
}

// seeded is -seed, or a new one for all tests.
func seeded(t *testing.T) uint64 {
	t.Helper()
	if *seed == 0 {
		*seed = uint64(time.Now().UnixNano())
	}
	t.Logf("-seed %d", *seed)
	return *seed
}

// Scenario: such a lake, after upkeep has put its files together, merged its manifests and expired its snapshots.
// Guarantees: every table has the same rows by pyiceberg, in fewer files and one snapshot; each reader finds by a predicate what a full scan finds.
func TestUpkeepLeavesEveryRow(t *testing.T) {
	l := newLake(t, seeded(t), 12, 5)
	digests := func() (out map[string]string) {
		pytest.RunJSON(t, &out, digestScript, l.spec(t))
		return out
	}
	before := digests()
	cat := openCatalog(t, l.dir)
	for name := range l.tables {
		o := upkeep.Options{RetainLast: 1, TargetBytes: 64 << 20, Within: time.Hour, DryRun: true}
		dry, err := upkeep.Table(t.Context(), cat, table.Identifier{"pulsegrid", name}, o)
		require.NoError(t, err)
		o.DryRun = false
		r, err := upkeep.Table(t.Context(), cat, table.Identifier{"pulsegrid", name}, o)
		require.NoError(t, err)
		require.Positive(t, r.Expired, name)
		require.LessOrEqual(t, dry.Expired, r.Expired, name) // what is put together or merged makes a snapshot too
		require.Equal(t, dry.Compacted, r.Compacted, name)
		l.load(t, cat, name)
		require.Len(t, l.tables[name].Metadata().Snapshots(), 1, name)
		files, err := l.tables[name].Scan().PlanFiles(t.Context())
		require.NoError(t, err)
		require.Len(t, files, r.Files-r.Compacted+r.Written, name)
		t.Logf("%s: %d of %d files put together to %d", name, r.Compacted, r.Files, r.Written)
		if r.Files > 30 { // of fewer, a day may have too few
			require.Greater(t, r.Compacted, 3*r.Written, name) // of two days and four tenants' buckets
		}
	}
	require.Equal(t, before, digests())
	l.check(t, 1) // the other test asks for more of the same rows
}

// check asks every reader for the rows of so many predicates of each column; 0: all.
func (l *lake) check(t *testing.T, predicates int) {
	t.Helper()
	spec := l.spec(t)
	var counts map[string]int
	pytest.RunJSON(t, &counts, truthScript, spec, strconv.Itoa(predicates), strconv.FormatUint(*seed, 10))
	for name, rows := range l.rows {
		require.Equal(t, rows, counts[name], "rows of %s by a scan without predicate", name)
	}

	readers := map[string]func(t *testing.T) []byte{
		"pyiceberg": func(t *testing.T) []byte { return pytest.RunWithin(t, longest, pyicebergScript, spec) },
		"duckdb":    func(t *testing.T) []byte { return pytest.RunWithin(t, longest, duckdbScript, spec, "files") },
		"duckdb_iceberg": func(t *testing.T) []byte {
			return pytest.RunWithin(t, longest, duckdbScript, spec, pytest.DuckDBIceberg(t))
		},
		"java": func(t *testing.T) []byte { return icebergtest.Run(t, longest, javaSource, spec) },
	}
	for name, read := range readers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var got struct {
				Checked int
				Wrong   []string
			}
			out := read(t)
			require.NoError(t, json.Unmarshal(out, &got), "%s", out)
			require.Greater(t, got.Checked, 100)
			t.Logf("%d predicates", got.Checked)
			for i, w := range got.Wrong {
				if i == 40 {
					t.Errorf("and %d more", len(got.Wrong)-i)
					break
				}
				t.Error(w)
			}
		})
	}
}

// spec writes the file that the scripts share: the tables, to which truth.py adds the predicates with their answers.
func (l *lake) spec(t *testing.T) string {
	t.Helper()
	type tableSpec struct {
		Metadata string `json:"metadata"`
		Key      string `json:"key"`
	}
	tables := map[string]tableSpec{}
	for name, tbl := range l.tables {
		key := "kafka_offset"
		if name == ledger.NameFor(columns.RowsEvents) {
			key = "first_offset"
		}
		tables[name] = tableSpec{Metadata: tbl.MetadataLocation(), Key: key}
	}
	text, err := json.Marshal(map[string]any{"tables": tables})
	require.NoError(t, err)
	path := filepath.Join(l.dir, "spec.json")
	require.NoError(t, os.WriteFile(path, text, 0o600))
	return path
}
