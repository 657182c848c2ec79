package main

import (
	"bytes"
	_ "embed"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/pulsegrid/pulsegrid/internal/envelope"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire/otlptest"
	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/internal/testkit/pytest"
)

//go:embed testdata/search.py
var searchScript string

// leaving is a tenant whose name no other text holds, and as short as bounds in manifests are.
const leaving = "leaver-7f3a9b"

// Scenario: a tenant's events are in every table of both stores beside another's, some of them in files of their own, some not. The tenant is erased; the job is run again.
// Guarantees: a dry run counts and changes nothing; afterwards no file of the lake has the tenant's name, in whatever encoding, no table of ClickHouse a row of it, and no part of before is on its disk;
// the other tenant's rows are the same; the audit is equal with the declaration, and not without it; a declaration is added once.
func TestAnErasureLeavesNothingOfATenant(t *testing.T) {
	var records []*kgo.Record
	for _, s := range signal.All {
		for seed := range uint64(5) {
			value := otlptest.Realistic(s, 100+seed, 20)
			if seed == 0 {
				value = otlptest.Full(s, 100)
			}
			records = append(records, &kgo.Record{Topic: s.Topic(), Key: []byte{byte(seed)}, Value: value, Headers: []kgo.RecordHeader{{Key: envelope.HeaderTenant, Value: []byte(leaving)}}})
		}
	}
	for _, tenant := range []string{"acme", leaving} {
		records = append(records, personal(t, tenant, personalTime().Add(10*time.Hour))...)
	}
	a := storeAll(t, records...)
	config := filepath.Join(t.TempDir(), "aggregator.yaml")
	require.NoError(t, os.WriteFile(config, []byte(`
exporters:
  pulsegrid_clickhouse: {endpoint: `+a.hot.URL+`}
  iceberg: {catalog: {type: sql, uri: "file:`+a.catalog+`", warehouse: "file://`+a.warehouse+`"}}
`), 0o600))
	declarations := filepath.Join(t.TempDir(), "erasures.yaml")
	erase := func(code int, more ...string) string {
		t.Helper()
		return ends(t, code, append([]string{"job", "run", "erasure", "--config", config, "--tenant", leaving}, more...)...)
	}
	search := func(text string, but ...string) (found []string) {
		var got struct {
			Read  int
			Found []string
		}
		pytest.RunJSON(t, &got, searchScript, append([]string{filepath.Dir(a.warehouse), text}, but...)...)
		require.Greater(t, got.Read, 10)
		return got.Found
	}
	erasesAPerson(t, a, declarations, search)
	require.NotEmpty(t, filesWith(t, a.hotDir, "erasing_"), "commands of mutations stay")
	tables := strings.Fields(a.hot.Query("SELECT t.name FROM system.tables AS t WHERE t.database = 'pulsegrid' AND t.engine LIKE '%MergeTree' AND has((SELECT groupArray(table) FROM system.columns WHERE database = 'pulsegrid' AND name = 'tenant_id'), t.name)"))
	require.Greater(t, len(tables), 6, "rollups too")
	rows := func(of string) (out string) {
		for _, table := range tables {
			out += table + " " + a.hot.Query("SELECT count(), sum(cityHash64(*)) FROM pulsegrid."+table+" WHERE tenant_id "+of+" '"+leaving+"'") + "\n"
		}
		return out
	}
	for _, table := range tables {
		a.hot.Exec("ALTER TABLE pulsegrid." + table + " MODIFY SETTING old_parts_lifetime = 1")
	}
	others, theirs := rows("!="), rows("=")
	require.NotEmpty(t, search(leaving))

	for _, missing := range [][]string{nil, {"--id", "1", "--by", "me", "--reason", "asked"}, {"--id", "1", "--by", "me", "--declare", declarations}} {
		require.Contains(t, erase(2, missing...), "an erasure is declared")
	}
	require.Contains(t, erase(0, "--dry-run"), "nothing was changed")
	require.Equal(t, theirs, rows("="))
	declared := []string{"--id", "GDPR-1", "--by", "privacy@example.com", "--reason", "request of: yesterday # 7", "--declare", declarations}
	said := erase(0, declared...)
	require.Regexp(t, `lake +logs +[1-9]\d* +0`, said)
	require.Regexp(t, `ClickHouse +spans +[1-9]\d* +0`, said)

	require.Empty(t, search(leaving))
	require.Empty(t, search(person))
	require.Empty(t, filesWith(t, a.hotDir, person))
	require.Equal(t, others, rows("!="))
	for line := range strings.Lines(rows("=")) {
		require.Contains(t, line, " 0\t0\n")
	}
	require.Equal(t, "0", a.partsBefore(leaving))

	_, code, err := run(t, a.flags()...)
	require.Equal(t, 1, code, "%v", err)
	out, code, err := run(t, a.flags("--rollups", "--erased", declarations)...)
	require.Equal(t, 0, code, "%v\n%s", err, out)

	require.Contains(t, erase(0, declared...), "declared in "+declarations+" already", "a run that was done and whose end nobody heard")
	require.Contains(t, erase(2, slices.Concat(declared, []string{"--reason", "another"})...), `has a declaration "GDPR-1" already`)
	declared[1] = "GDPR-2"
	require.Contains(t, erase(0, declared...), "declared in")
	out, code, err = run(t, a.flags("--erased", declarations)...)
	require.Equal(t, 0, code, "%v\n%s", err, out)
}

// filesWith are the files below a directory that hold a text as it is. Files may go meanwhile.
func filesWith(t *testing.T, dir, text string) (found []string) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		var b []byte
		if err == nil && d.Type().IsRegular() {
			b, err = os.ReadFile(path)
		}
		if bytes.Contains(b, []byte(text)) {
			found = append(found, path)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}))
	return found
}
