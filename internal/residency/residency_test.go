package residency

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/apache/arrow-go/v18/parquet"
	"github.com/apache/arrow-go/v18/parquet/compress"
	"github.com/apache/arrow-go/v18/parquet/pqarrow"
	"github.com/stretchr/testify/require"
	"gocloud.dev/blob/memblob"

	"github.com/pulsegrid/pulsegrid/internal/audit/certificate"
	"github.com/pulsegrid/pulsegrid/internal/fileset"
	"github.com/pulsegrid/pulsegrid/internal/tenant"
)

const registryText = `
cells:
  eu-1: {jurisdiction: eu, endpoint: "https://eu-1.example.com"}
  eu-2: {jurisdiction: eu, endpoint: "https://eu-2.example.com"}
  us-1: {jurisdiction: us, endpoint: "https://us-1.example.com"}
tenants:
  - {id: acme, jurisdiction: eu}
  - {id: home, jurisdiction: eu, home: eu-1, cells: [eu-1]}
  - {id: free}
`

func registry(t *testing.T, text string) *tenant.Snapshot {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "all.yaml"), []byte(text), 0o600))
	source, err := fileset.Open(t.Context(), dir)
	require.NoError(t, err)
	t.Cleanup(func() { _ = source.Close() })
	l := tenant.NewLoader(source)
	_, err = l.Reload(t.Context())
	require.NoError(t, err)
	return l.Snapshot()
}

// testDay is over, and objects that are written now are younger.
func testDay(t *testing.T) Day {
	t.Helper()
	d, err := ParseDay(time.Now().UTC().AddDate(0, 0, -2).Format(time.DateOnly))
	require.NoError(t, err)
	return d
}

// of is an inventory that was begun after the day, with a topic that has records of tenants.
func of(day Day, cell, jurisdiction string, tenants ...string) *Inventory {
	v := &Inventory{Format: Format, Cell: cell, Jurisdiction: jurisdiction, Day: day.String(), Began: day.End.Add(time.Hour), Taken: day.End.Add(2 * time.Hour)}
	p := Place{Kind: KindTopic, Name: "otlp.logs.v1"}
	for _, id := range tenants {
		p.Tenants = append(p.Tenants, Holding{id, Amount{Items: 2, Bytes: 100}})
	}
	v.Add("topic", []Place{p}, nil)
	return v
}

// Guarantees: each verdict is what the inventories and the registry say; whatever is not known leaves a pinned tenant unproven, and what was found outside comes first.
func TestVerdicts(t *testing.T) {
	day := testDay(t)
	declared := []Declared{{"eu-1", "eu"}, {"eu-2", "eu"}, {"us-1", "us"}}
	whole := func() []*Inventory {
		return []*Inventory{of(day, "eu-1", "eu", "acme", "free"), of(day, "eu-2", "eu", "acme", "home"), of(day, "us-1", "us", "free")}
	}
	for name, c := range map[string]struct {
		tenant  string
		change  func(v []*Inventory) []*Inventory
		verdict Verdict
		places  int
		problem string
	}{
		"all is in its jurisdiction":   {"acme", nil, Inside, 2, ""},
		"it may be anywhere":           {"free", nil, Unpinned, 2, ""},
		"nothing is known of a tenant": {"stranger", func(v []*Inventory) []*Inventory { return append(v, of(day, "us-1", "us", "stranger")) }, Unproven, 1, "the registry has no such tenant"},
		"bytes in another jurisdiction": {"acme", func(v []*Inventory) []*Inventory {
			return append(v[:2], of(day, "us-1", "us", "acme"))
		}, Outside, 3, ""},
		"outside although other things are not known": {"acme", func(v []*Inventory) []*Inventory { return []*Inventory{of(day, "us-1", "us", "acme")} }, Outside, 1, "cell eu-1 has no whole inventory"},
		"a cell without an inventory":                 {"acme", func(v []*Inventory) []*Inventory { return v[:2] }, Unproven, 2, "cell us-1 has no whole inventory that was begun after the end of the day"},
		"an inventory that was begun too early": {"acme", func(v []*Inventory) []*Inventory {
			v[2].Began = day.End.Add(-time.Second)
			return v
		}, Unproven, 2, "cell us-1 has no whole inventory"},
		"an inventory of another day": {"acme", func(v []*Inventory) []*Inventory {
			v[2].Day = day.Start.AddDate(0, 0, -1).Format(time.DateOnly)
			return v
		}, Unproven, 2, "cell us-1 has no whole inventory"},
		"a place that could not be read": {"acme", func(v []*Inventory) []*Inventory {
			v[2].Add("lake s3://us", nil, errors.New("access denied"))
			return v
		}, Unproven, 2, "cell us-1: lake s3://us: access denied"},
		"bytes of nobody known elsewhere": {"acme", func(v []*Inventory) []*Inventory {
			v[2].Places[0].Unknown = Amount{Items: 3}
			return v
		}, Unproven, 2, "cell us-1 (us): topic otlp.logs.v1 has 3 items that name no tenant"},
		"bytes of nobody known at home": {"acme", func(v []*Inventory) []*Inventory {
			v[0].Places[0].Unknown = Amount{Items: 3}
			return v
		}, Inside, 2, ""},
		"a backup elsewhere of a cell that has its bytes": {"acme", func(v []*Inventory) []*Inventory {
			v[0].Add("backup", []Place{{Kind: KindBackup, Name: "s3://b", Jurisdiction: "us", Unknown: Amount{Objects: 1, Items: 1}, Copies: true}}, nil)
			return v
		}, Outside, 3, ""},
		"a backup elsewhere of a cell that has none": {"home", func(v []*Inventory) []*Inventory {
			v[0].Add("backup", []Place{{Kind: KindBackup, Name: "s3://b", Jurisdiction: "us", Unknown: Amount{Objects: 1, Items: 1}, Copies: true}}, nil)
			return v
		}, Inside, 1, ""},
		"a cell that nobody has declared": {"acme", func(v []*Inventory) []*Inventory { return append(v, of(day, "us-2", "us")) }, Unproven, 2, "cell us-2 has an inventory, and is not declared"},
		"a cell that says to be elsewhere": {"acme", func(v []*Inventory) []*Inventory { return append(v[:2], of(day, "us-1", "eu")) }, Unproven, 2,
			"cell us-1 is declared to be in us, and its inventory says eu"},
	} {
		v := whole()
		if c.change != nil {
			v = c.change(v)
		}
		got := Judge(Input{Day: day, Cells: declared, Registry: registry(t, registryText), Inventories: v, Tenants: []string{c.tenant}, Now: day.End})
		require.Len(t, got, 1, name)
		require.Equal(t, c.verdict, got[0].Verdict, "%s: %v", name, got[0].Problems)
		require.Len(t, got[0].Places, c.places, name)
		require.Contains(t, strings.Join(got[0].Problems, "\n"), c.problem, name)
		require.Equal(t, c.problem == "", len(got[0].Problems) == 0, "%s: %v", name, got[0].Problems)
	}

	// A declaration that the registry contradicts; the cells that a tenant may be in; all tenants, once each; the most of what inventories of one cell have found.
	in := Input{Day: day, Cells: declared, Registry: registry(t, strings.Replace(registryText, "us-1: {jurisdiction: us", "us-1: {jurisdiction: ca", 1)), Inventories: append(whole(), of(day, "eu-1", "eu", "acme"))}
	in.Inventories[3].Places[0].Tenants[0].Items = 7
	got := Judge(in)
	require.Len(t, got, 3)
	require.Equal(t, []string{"acme", "free", "home"}, []string{got[0].Tenant, got[1].Tenant, got[2].Tenant})
	require.Contains(t, strings.Join(got[0].Problems, "\n"), "cell us-1 is in ca by the registry, and its inventory says us")
	require.EqualValues(t, 7, got[0].Places[0].Items)
	require.Len(t, got[0].Inventories, 4)
	require.True(t, got[2].Places[0].OtherCell)
	require.False(t, got[0].Places[0].OtherCell)
}

// Guarantees: a document that was read is as it was signed; any change of it, another key, another kind of document and no signature are found; without keys only changes are.
func TestASealFindsWhatWasChanged(t *testing.T) {
	file := filepath.Join(t.TempDir(), "k")
	_, err := certificate.NewKey(file)
	require.NoError(t, err)
	key, err := certificate.OpenSigner(file)
	require.NoError(t, err)
	public, err := key.PublicKey(t.Context())
	require.NoError(t, err)
	other, _, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	v := of(testDay(t), "eu-1", "eu", "acme")
	v.Taken = time.Now().UTC().Round(0) // JSON has no monotonic clock
	signed, err := v.Sealed(t.Context(), key)
	require.NoError(t, err)
	got, err := OpenInventory(signed, []ed25519.PublicKey{other, public})
	require.NoError(t, err)
	require.Contains(t, string(signed), `"sha256": "`+got.SHA256+`"`)
	v.SHA256 = got.SHA256
	require.Equal(t, v, got)
	fails := func(want string, file []byte, keys ...ed25519.PublicKey) {
		t.Helper()
		_, err := OpenInventory(file, keys)
		require.ErrorContains(t, err, want)
	}
	for from, to := range map[string]string{`"acme"`: `"free"`, `"eu-1"`: `"eu-2"`, `"format": 1`: `"format": 2`} {
		require.Contains(t, string(signed), from)
		fails("was changed", bytes.Replace(signed, []byte(from), []byte(to), 1))
	}
	fails("by none of the keys", signed, other, other)
	fails("the signature is not of this key", signed, other)
	unsigned, err := v.Sealed(t.Context(), nil)
	require.NoError(t, err)
	_, err = OpenInventory(unsigned, nil)
	require.NoError(t, err)
	fails("is not signed", unsigned, public)
	later := *v
	later.Format = 2
	newer, err := later.Sealed(t.Context(), nil)
	require.NoError(t, err)
	fails("is of format 2, want 1", newer)

	statement, err := (&Statement{Tenant: "acme"}).Sealed(t.Context(), key)
	require.NoError(t, err)
	_, err = OpenStatement(statement, []ed25519.PublicKey{public})
	require.NoError(t, err)
	fails("the signature is not of this key, or not of this statement", statement, public)
}

// parquetOf is a file with rows of tenants at times.
func parquetOf(t *testing.T, name string, rows map[string]time.Time) []byte {
	t.Helper()
	sc := arrow.NewSchema([]arrow.Field{{Name: name, Type: arrow.BinaryTypes.String, Nullable: true}, {Name: "ingest_time", Type: &arrow.TimestampType{Unit: arrow.Microsecond, TimeZone: "UTC"}}}, nil)
	b := array.NewRecordBuilder(memory.DefaultAllocator, sc)
	defer b.Release()
	for id, at := range rows {
		if id == "" {
			b.Field(0).AppendNull()
		} else {
			b.Field(0).(*array.StringBuilder).Append(id)
		}
		b.Field(1).(*array.TimestampBuilder).AppendTime(at)
	}
	rec := b.NewRecordBatch()
	defer rec.Release()
	var out bytes.Buffer
	w, err := pqarrow.NewFileWriter(sc, &out, parquet.NewWriterProperties(parquet.WithCompression(compress.Codecs.Zstd)), pqarrow.DefaultWriterProps())
	require.NoError(t, err)
	require.NoError(t, w.WriteBuffered(rec))
	require.NoError(t, w.Close())
	return out.Bytes()
}

// Scenario: a store with data files at any place, of the day and of others, with metadata, with a ledger, with what is no data file, and with one that is damaged.
// Guarantees: rows of the day are counted by tenant and table, wherever their file lies and whatever its name; what names no tenant is unknown; what cannot be read is a failure.
func TestObjectsAreCountedByWhatTheyHold(t *testing.T) {
	day, b := testDay(t), memblob.OpenBucket(nil)
	defer b.Close()
	noon := day.Start.Add(12 * time.Hour)
	put := func(key string, content []byte) { require.NoError(t, b.WriteAll(t.Context(), key, content, nil)) }
	put("pulsegrid/logs/data/ingest_day=1/a.parquet", parquetOf(t, "tenant_id", map[string]time.Time{"acme": noon, "free": day.Start, "late": day.End, "early": day.Start.Add(-1), "": noon}))
	put("pulsegrid/logs/data/b", parquetOf(t, "tenant_id", map[string]time.Time{"acme": noon}))
	put("c.parquet", parquetOf(t, "tenant_id", map[string]time.Time{"acme": noon}))
	put("pulsegrid/ledger/data/l.parquet", parquetOf(t, "id_sum", map[string]time.Time{"1": noon}))
	put("pulsegrid/logs/metadata/v1.metadata.json", []byte("{}"))
	put("pulsegrid/other/data/o.parquet", parquetOf(t, "customer", map[string]time.Time{"acme": noon}))
	put("notes.txt", []byte("acme"))
	put("empty", nil)
	whole := func() (string, error) {
		places, err := Objects(t.Context(), InBucket(b), KindReplica, "s3://b/", day)
		var out strings.Builder
		for _, p := range places {
			fmt.Fprintf(&out, "%s unknown %d:", p.Name, p.Unknown.Items)
			for _, h := range p.Tenants {
				fmt.Fprintf(&out, " %s %d in %d", h.Tenant, h.Items, h.Objects)
			}
			out.WriteString("\n")
		}
		return out.String(), err
	}
	const want = "s3://b unknown 2: acme 1 in 1\ns3://b/pulsegrid/logs unknown 1: acme 2 in 2 free 1 in 1\n"
	got, err := whole()
	require.NoError(t, err)
	require.Equal(t, want, got)

	damaged := parquetOf(t, "tenant_id", map[string]time.Time{"acme": noon})
	put("damaged.parquet", append(append([]byte{}, damaged[:len(damaged)/2]...), make([]byte, 100)...))
	got, err = whole()
	require.ErrorContains(t, err, "damaged.parquet")
	require.Equal(t, want, got)
}

// vanishing lists an object that is not there any more, some times.
type vanishing struct {
	Store
	times *int
}

func (v vanishing) Each(ctx context.Context, f func(Object) error) error {
	if *v.times > 0 {
		*v.times--
		if err := f(Object{Key: "gone.parquet", Size: 100, Modified: time.Now()}); err != nil {
			return err
		}
	}
	return v.Store.Each(ctx, f)
}

// Guarantee: a listing in which an object went away is made anew, since its rows may be in one that was passed; for ever it is a failure.
func TestAnObjectThatGoesAwayHasTheStoreListedAnew(t *testing.T) {
	day, b := testDay(t), memblob.OpenBucket(nil)
	defer b.Close()
	require.NoError(t, b.WriteAll(t.Context(), "a.parquet", parquetOf(t, "tenant_id", map[string]time.Time{"acme": day.Start}), nil))
	times := 2
	places, err := Objects(t.Context(), vanishing{InBucket(b), &times}, KindLake, "/lake", day)
	require.NoError(t, err)
	require.Len(t, places, 1)
	require.EqualValues(t, 1, places[0].Tenants[0].Items)
	times = 100
	_, err = Objects(t.Context(), vanishing{InBucket(b), &times}, KindLake, "/lake", day)
	require.ErrorIs(t, err, errGone)
	require.ErrorIs(t, err, fs.ErrNotExist)
}
