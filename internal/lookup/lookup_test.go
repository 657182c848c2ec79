package lookup

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/pulsegrid/pulsegrid/internal/fileset"
)

func attributes(row Row) map[string]any {
	m := pcommon.NewMap()
	for i := range row {
		row[i].Put(m)
	}
	return m.AsRaw()
}

func value(t testing.TB, v any) pcommon.Value {
	out := pcommon.NewValueEmpty()
	require.NoError(t, out.FromRaw(v))
	return out
}

var hosts = Spec{Table: "hosts", Key: "name"}

// Guarantees: both formats give the same table.
func TestBothFormatsGiveTheSameTable(t *testing.T) {
	for file, content := range map[string]string{
		"hosts.csv": "\uFEFFteam,name,tenant_id,slots:int,weight:double,spare:bool,note:string\r\n" +
			"\"pay,\n\"\"ments\",h1,,12,0.5,true,\r\n" + "web,7,acme,-9223372036854775808,-0,false,\u00e9\r\n",
		"hosts.jsonl": `{"name":"h1","team":"pay,\n\"ments","slots":12,"weight":0.5,"spare":true,"note":null,"tenant_id":null}` + "\n\n" +
			`{"name":7,"tenant_id":"acme","team":"web","slots":-9223372036854775808,"weight":-0.0,"spare":false,"note":"` + "\u00e9" + `"}`,
	} {
		table, err := parse(hosts, file, []byte(content))
		require.NoError(t, err, file)
		require.Equal(t, 2, table.Rows())
		row, outcome := table.Find("anybody", value(t, "h1"))
		require.Equal(t, Found, outcome)
		require.Equal(t, map[string]any{"enriched.hosts.team": "pay,\n\"ments", "enriched.hosts.slots": int64(12), "enriched.hosts.weight": 0.5, "enriched.hosts.spare": true}, attributes(row), file)
		row, outcome = table.Find("acme", value(t, 7))
		require.Equal(t, Found, outcome)
		require.Len(t, row, 5)
		require.Equal(t, int64(-1<<63), attributes(row)["enriched.hosts.slots"])
		_, outcome = table.Find("other", value(t, 7))
		require.Equal(t, Missed, outcome)
		_, outcome = table.Find("acme", value(t, 7.0))
		require.Equal(t, NoKey, outcome)
	}
}

func TestTheDocumentsExamplesAreTheSameTable(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "formats", "lookup-tables.md"))
	require.NoError(t, err)
	example := func(format string) *Table {
		_, rest, found := strings.Cut(string(text), "```"+format+"\n")
		require.True(t, found)
		content, _, _ := strings.Cut(rest, "```")
		table, err := parse(hosts, map[string]string{"csv": "hosts.csv", "json": "hosts.jsonl"}[format], []byte(content))
		require.NoError(t, err)
		return table
	}
	c, j := example("csv"), example("json")
	for _, tenant := range []string{"acme", "other"} {
		for _, key := range []string{"h1", "h2"} {
			fromCSV, outcome := c.Find(tenant, value(t, key))
			require.Equal(t, Found, outcome)
			fromJSON, _ := j.Find(tenant, value(t, key))
			require.Equal(t, attributes(fromCSV), attributes(fromJSON))
			require.Equal(t, map[string]any{"acme": "internal-payments", "other": "payments"}[tenant] == attributes(fromCSV)["enriched.hosts.team"], key == "h1")
		}
	}
}

// Guarantees: what is wrong with a file is said with file, line, column and value.
func TestABadFileIsNamed(t *testing.T) {
	wide := "name"
	for i := range MaxColumns + 1 {
		wide += fmt.Sprintf(",c%d", i)
	}
	long := strings.Repeat("x", MaxValueBytes+1)
	for _, test := range []struct{ file, content, want string }{
		{"hosts.csv", "", "hosts.csv:1: is empty"},
		{"hosts.csv", "team\nx\n", `hosts.csv:1: has no column "name"`},
		{"hosts.csv", "name,team,team\n", "hosts.csv:1: column team: is there twice"},
		{"hosts.csv", "name,team:text\n", `hosts.csv:1: column team: "text": is no type`},
		{"hosts.csv", "name,a b\n", `hosts.csv:1: "a b": is no column`},
		{"hosts.csv", "name,\n", "hosts.csv:1: is no column"},
		{"hosts.csv", wide + "\n", "hosts.csv:1: column c32: is more than 32 columns"},
		{"hosts.csv", "name,team\nh1,x\nh2\n", "hosts.csv:3: is no CSV: wrong number of fields"},
		{"hosts.csv", "name,team\nh1,\"x\n", "is no CSV"},
		{"hosts.csv", "name,team\n,x\n", "hosts.csv:2: column name: has no key"},
		{"hosts.csv", "name,team\nh1,x\nh1,y\n", `hosts.csv:3: column name: "h1": is there twice`},
		{"hosts.csv", "name,n:int\nh1,1.5\n", `hosts.csv:2: column n: "1.5": is no integer`},
		{"hosts.csv", "name,n:double\nh1,NaN\n", `hosts.csv:2: column n: "NaN": is no finite number`},
		{"hosts.csv", "name,n:bool\nh1,yes\n", `hosts.csv:2: column n: "yes": is neither true nor false`},
		{"hosts.csv", "name,team\nh1," + long + "\n", "hosts.csv:2: column team: \"" + long[:maxQuoted] + "\": is longer than 4096 bytes"},
		{"hosts.csv", "name,team\nh1,\xff\n", "hosts.csv:2: column team: \"\\xff\": is no UTF-8"},
		{"hosts.csv", "name,team\n\xff,x\n", "is no UTF-8"},
		{"hosts.csv", "name,team\n" + long + ",x\n", "is a key of more than 1024 bytes"},
		{"hosts.jsonl", "\n", "hosts.jsonl: is empty"},
		{"hosts.jsonl", "\n[1]\n", `hosts.jsonl:2: "[1]": is no JSON object`},
		{"hosts.jsonl", "null\n", "is not one JSON object"},
		{"hosts.jsonl", `{"name":"a"}}`, "is not one JSON object"},
		{"hosts.jsonl", `{"name":"a"} {"name":"b"}`, "is not one JSON object"},
		{"hosts.jsonl", `{"team":"a"}`, "hosts.jsonl:1: column name: has no key"},
		{"hosts.jsonl", `{"name":1.5}`, `column name: "1.5": is no key`},
		{"hosts.jsonl", `{"name":true}`, `column name: "true": is no key`},
		{"hosts.jsonl", `{"name":"a","tenant_id":1}`, `column tenant_id: "1": is not a tenant id`},
		{"hosts.jsonl", `{"name":"a","x":[1]}`, `column x: "[1]": is an array or an object`},
		{"hosts.jsonl", `{"name":"a","x":1e999}`, `column x: "1e999": is no number`},
		{"hosts.jsonl", `{"name":"a","$x":1}`, `"$x": is no column`},
	} {
		table, err := parse(hosts, test.file, []byte(test.content))
		require.ErrorContains(t, err, test.want, test.content[:min(len(test.content), 99)])
		require.Nil(t, table)
	}
}

func TestTablesAreBounded(t *testing.T) {
	var b strings.Builder
	b.WriteString("name\n")
	for i := range MaxRows + 1 {
		fmt.Fprintf(&b, "%d\n", i)
	}
	_, err := parse(hosts, "hosts.csv", []byte(b.String()))
	require.ErrorContains(t, err, "more than 500000 rows")

	b.Reset()
	b.WriteString("name")
	for i := range MaxColumns {
		fmt.Fprintf(&b, ",c%d", i)
	}
	for i := range MaxCells/MaxColumns + 1 {
		fmt.Fprintf(&b, "\n%d%s", i, strings.Repeat(",x", MaxColumns))
	}
	_, err = parse(hosts, "hosts.csv", []byte(b.String()))
	require.ErrorContains(t, err, "more than 2000000 values")
}

func TestFindingARowAllocatesNothing(t *testing.T) {
	table, err := parse(hosts, "hosts.csv", []byte("name,tenant_id,team\nh1,,x\n123456789,acme,y\n"))
	require.NoError(t, err)
	text, number := value(t, "h1"), value(t, 123456789)
	require.Zero(t, testing.AllocsPerRun(100, func() {
		if _, o := table.Find("acme", text); o != Found {
			t.Error(o)
		}
		if _, o := table.Find("acme", number); o != Found {
			t.Error(o)
		}
	}))
}

func TestNamesOfTables(t *testing.T) {
	for _, s := range []string{"a", "A-1_b.c", strings.Repeat("x", MaxNameBytes)} {
		require.True(t, ValidName(s), s)
	}
	for _, s := range []string{"", ".a", "a/b", "a b", "é", strings.Repeat("x", MaxNameBytes+1)} {
		require.False(t, ValidName(s), s)
	}
}

// Scenario: files come, change, go bad, contradict each other, and go.
// Guarantees: each table is as its file was last good; what is not in force is said, for as long as it is so; files that no table has are not looked at.
func TestTheLastGoodTableIsKept(t *testing.T) {
	dir := t.TempDir()
	n := 0
	write := func(name, content string) {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
		n++ // file systems' clocks are coarse
		at := time.Unix(1_700_000_000+int64(n), 0)
		require.NoError(t, os.Chtimes(path, at, at))
	}
	specs := []Spec{hosts, {Table: "users", Key: "key"}}
	source, err := fileset.OpenNamed(t.Context(), dir, Files(specs))
	require.NoError(t, err)
	l := NewLoader(source, specs)
	now := time.Unix(1, 0)
	reload := func() (changed []string, refused string) {
		t.Helper()
		now = now.Add(time.Second)
		report, err := l.Reload(t.Context(), now)
		require.NoError(t, err)
		for _, r := range report.Refused {
			refused += r.Error() + "; "
		}
		return report.Changed, refused
	}
	team := func() any {
		table := l.Tables()[0]
		if table.Table == nil {
			return nil
		}
		row, _ := table.Find("", value(t, "h1"))
		return attributes(row)["enriched.hosts.team"]
	}
	write("other.csv", "this is no table")
	_, err = l.Reload(t.Context(), now)
	require.ErrorIs(t, err, fileset.ErrEmpty)
	require.Nil(t, team())

	write("hosts.csv", "name,team\nh1,one\n")
	changed, refused := reload()
	require.Equal(t, []string{"hosts"}, changed)
	require.Equal(t, "table users: there is neither users.csv nor users.jsonl; ", refused)
	require.Equal(t, "one", team())
	since := l.Tables()[0].Since
	require.Equal(t, now, since)

	write("users.jsonl", `{"key":"u"}`)
	changed, refused = reload()
	require.Equal(t, []string{"users"}, changed)
	require.Empty(t, refused)
	require.Equal(t, since, l.Tables()[0].Since)
	changed, refused = reload()
	require.Empty(t, changed)
	require.Empty(t, refused)

	write("hosts.csv", "name,team\nh1,two\nh1,three\n")
	for range 2 {
		changed, refused = reload()
		require.Empty(t, changed)
		require.Contains(t, refused, `hosts.csv:3: column name: "h1": is there twice`)
		require.Equal(t, "one", team())
	}
	write("hosts.csv", "name,team\nh1,two\n")
	write("hosts.jsonl", `{"name":"h1","team":"three"}`)
	changed, refused = reload()
	require.Empty(t, changed)
	require.Contains(t, refused, "table hosts: is in hosts.csv and in hosts.jsonl")
	require.Equal(t, "one", team())
	require.NoError(t, os.Remove(filepath.Join(dir, "hosts.csv")))
	changed, refused = reload()
	require.Equal(t, []string{"hosts"}, changed)
	require.Empty(t, refused)
	require.Equal(t, "three", team())

	require.NoError(t, os.Remove(filepath.Join(dir, "hosts.jsonl")))
	changed, refused = reload()
	require.Empty(t, changed)
	require.Contains(t, refused, "there is neither hosts.csv nor hosts.jsonl")
	require.Equal(t, "three", team())
	write("hosts.csv", "name,team\n"+strings.Repeat("x", fileset.MaxFileBytes))
	_, refused = reload()
	require.Contains(t, refused, "more than 16777216")
	require.Equal(t, "three", team())
	require.NoError(t, os.Remove(filepath.Join(dir, "users.jsonl")))
	require.NoError(t, os.Remove(filepath.Join(dir, "hosts.csv")))
	_, err = l.Reload(t.Context(), now)
	require.ErrorIs(t, err, fileset.ErrEmpty)
	require.Equal(t, "three", team())
}
