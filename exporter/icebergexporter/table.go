package icebergexporter

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"sync"

	"github.com/apache/iceberg-go"
	"github.com/apache/iceberg-go/catalog"
	_ "github.com/apache/iceberg-go/catalog/glue"
	_ "github.com/apache/iceberg-go/catalog/rest"
	sqlcat "github.com/apache/iceberg-go/catalog/sql"
	iceio "github.com/apache/iceberg-go/io"
	_ "github.com/apache/iceberg-go/io/gocloud/s3"
	"github.com/apache/iceberg-go/table"
	"github.com/uptrace/bun/driver/sqliteshim"

	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/lakefile"
	"github.com/pulsegrid/pulsegrid/internal/ledger"
)

// sqlitePragmas are added to a SQLite URI that does not set them: readers do not block the writer nor the writer readers, and
// whoever finds the file locked waits instead of failing.
var sqlitePragmas = []struct{ name, value string }{{"busy_timeout", "10000"}, {"journal_mode", "WAL"}}

// CatalogProperties are what iceberg-go is told of the catalog and of the object store.
func (c *Config) CatalogProperties() iceberg.Properties {
	p := iceberg.Properties{}
	set := func(key, value string) {
		if value != "" {
			p[key] = value
		}
	}
	set("warehouse", c.Catalog.Warehouse)
	set(iceio.S3EndpointURL, c.S3.Endpoint)
	set(iceio.S3Region, c.S3.Region)
	set(iceio.S3AccessKeyID, c.S3.AccessKeyID)
	set(iceio.S3SecretAccessKey, string(c.S3.SecretAccessKey))
	if c.S3.Endpoint != "" || c.S3.PathStyle {
		p[iceio.S3ForceVirtualAddressing] = strconv.FormatBool(!c.S3.PathStyle)
	}
	for k, v := range c.Catalog.Properties {
		p[k] = string(v)
	}
	p["type"] = c.Catalog.Type
	p["uri"] = c.Catalog.URI
	if c.Catalog.Type == catalogSQL {
		p["uri"] = sqliteURI(c.Catalog.URI)
		p[sqlcat.DriverKey] = sqliteshim.ShimName
		p[sqlcat.DialectKey] = string(sqlcat.SQLite)
	}
	return p
}

// sqliteURI completes a "file:" URI for a file that several processes use at once.
func sqliteURI(uri string) string {
	base, query, _ := strings.Cut(uri, "?")
	values, err := url.ParseQuery(query)
	if err != nil {
		return uri // SQLite will say what is wrong with it
	}
	for _, pragma := range sqlitePragmas {
		set := false
		for _, v := range values["_pragma"] {
			set = set || strings.HasPrefix(v, pragma.name)
		}
		if !set {
			values.Add("_pragma", pragma.name+"("+pragma.value+")")
		}
	}
	return base + "?" + values.Encode()
}

// sqlite lets a process open SQLite catalogs, and make tables, one after another: SQLite refuses writers that race, whatever its busy
// timeout. Another process that wins such a race costs a try.
var sqlite sync.Mutex

// openCatalog is how a store gets its catalog; tests put a failing one in its place.
func (c *Config) openCatalog(ctx context.Context) (catalog.Catalog, error) {
	if c.Catalog.Type == catalogSQL {
		sqlite.Lock()
		defer sqlite.Unlock()
	}
	cat, err := catalog.Load(ctx, c.Catalog.Name, c.CatalogProperties())
	if err != nil {
		return nil, fmt.Errorf("catalog %s (%s): %w", c.Catalog.Name, c.Catalog.Type, err)
	}
	return cat, nil
}

// errNotReady marks errors of a table that is not open yet; opening goes on being tried.
var errNotReady = errors.New("the table is not open yet")

// errTableReplaced stops a sink for good: the table was dropped and another one has its name, which knows nothing of the offsets
// that were committed to the first.
var errTableReplaced = errors.New("the table was dropped and created again: restart to write into the new one; its records begin where its offsets say")

// ensure opens the table of a row model: it creates what is missing (Config.Tables: create), or says what is (verify).
func (c *Config) ensure(ctx context.Context, cat catalog.Catalog, model *columns.Table) (*table.Table, error) {
	spec, err := model.IcebergPartitionSpec(c.PartitionBuckets)
	if err != nil {
		return nil, err
	}
	order, err := model.IcebergSortOrder()
	if err != nil {
		return nil, err
	}
	return c.ensureTable(ctx, cat, lakefile.Definition{Name: model.Name, Schema: model.IcebergSchema(), Spec: spec, Order: order, Properties: model.IcebergProperties()})
}

// ensureLedger opens the table of entries. It is not partitioned: an entry takes some forty bytes, and those of a range of offsets are
// found by the least and greatest values of the files.
func (c *Config) ensureLedger(ctx context.Context, cat catalog.Catalog) (*table.Table, error) {
	return c.ensureTable(ctx, cat, lakefile.Definition{
		Name: c.ledgerName(), Schema: ledger.IcebergSchema(), Spec: *iceberg.UnpartitionedSpec, Order: table.UnsortedSortOrder, Properties: columns.CommonIcebergProperties(),
	})
}

// ensureTable opens a table with at least the columns of its definition. Other columns that it has are left empty.
func (c *Config) ensureTable(ctx context.Context, cat catalog.Catalog, d lakefile.Definition) (*table.Table, error) {
	tbl, err := c.OpenTable(ctx, cat, d)
	if err != nil {
		return nil, err
	}
	missing, err := compareSchema(tbl.Schema(), d.Schema)
	switch {
	case err != nil:
		return nil, fmt.Errorf("table %s.%s: %w: %w", c.Namespace, d.Name, errUnwritable, err)
	case len(missing) == 0:
		return tbl, nil
	case c.Tables == tablesVerify:
		return nil, fmt.Errorf("table %s.%s: %w: column %s does not exist, and `tables: verify` forbids adding it", c.Namespace, d.Name, errUnwritable, missing[0].Name)
	}
	return addColumns(ctx, tbl, missing)
}

// OpenTable opens a table as it is, or creates it where `tables` allows that.
func (c *Config) OpenTable(ctx context.Context, cat catalog.Catalog, d lakefile.Definition) (*table.Table, error) {
	tbl, err := cat.LoadTable(ctx, table.Identifier{c.Namespace, d.Name})
	switch {
	case err == nil:
		return tbl, nil
	case !errors.Is(err, catalog.ErrNoSuchTable) && !errors.Is(err, catalog.ErrNoSuchNamespace):
		return nil, fmt.Errorf("loading table %s.%s: %w", c.Namespace, d.Name, err)
	case c.Tables == tablesVerify:
		return nil, fmt.Errorf("table %s.%s does not exist, and `tables: verify` forbids creating it: %w", c.Namespace, d.Name, err)
	}
	return c.create(ctx, cat, d)
}

func (c *Config) create(ctx context.Context, cat catalog.Catalog, d lakefile.Definition) (*table.Table, error) {
	if c.Catalog.Type == catalogSQL {
		sqlite.Lock()
		defer sqlite.Unlock()
	}
	namespace, id := table.Identifier{c.Namespace}, table.Identifier{c.Namespace, d.Name}
	exists, err := cat.CheckNamespaceExists(ctx, namespace)
	if err != nil {
		return nil, fmt.Errorf("namespace %s: %w", c.Namespace, err)
	}
	if !exists {
		if err := cat.CreateNamespace(ctx, namespace, nil); err != nil && !errors.Is(err, catalog.ErrNamespaceAlreadyExists) {
			return nil, fmt.Errorf("creating namespace %s: %w", c.Namespace, err)
		}
	}
	opts := []catalog.CreateTableOpt{catalog.WithPartitionSpec(&d.Spec), catalog.WithSortOrder(d.Order), catalog.WithProperties(d.Properties)}
	if c.Catalog.Type != catalogREST { // a REST server decides where its tables lie
		opts = append(opts, catalog.WithLocation(strings.TrimSuffix(c.Catalog.Warehouse, "/")+"/"+strings.Join(id, "/")))
	}
	tbl, err := cat.CreateTable(ctx, id, d.Schema, opts...)
	if errors.Is(err, catalog.ErrTableAlreadyExists) { // another process was first
		tbl, err = cat.LoadTable(ctx, id)
	}
	if err != nil {
		return nil, fmt.Errorf("creating table %s: %w", strings.Join(id, "."), err)
	}
	return tbl, nil
}

// compareSchema returns the fields of want that the table lacks. A field of another type than wanted is an error, and so is a
// required field of the table that want does not have: rows without it could not be written.
func compareSchema(have, want *iceberg.Schema) (missing []iceberg.NestedField, err error) {
	for _, f := range want.Fields() {
		h, ok := have.FindFieldByName(f.Name)
		if !ok {
			missing = append(missing, f)
			continue
		}
		if !sameType(h.Type, f.Type) {
			return nil, fmt.Errorf("column %s is %s, want %s", f.Name, h.Type, f.Type)
		}
		if h.Required && !f.Required {
			return nil, fmt.Errorf("column %s is required, want optional", f.Name)
		}
	}
	for _, h := range have.Fields() {
		if _, ok := want.FindFieldByName(h.Name); !ok && h.Required && h.WriteDefault == nil && h.InitialDefault == nil {
			return nil, fmt.Errorf("column %s is required, and this program does not know it", h.Name)
		}
	}
	return missing, nil
}

// sameType compares types without field ids, which every catalog assigns itself.
func sameType(a, b iceberg.Type) bool {
	switch a := a.(type) {
	case *iceberg.ListType:
		b, ok := b.(*iceberg.ListType)
		return ok && sameType(a.Element, b.Element)
	case *iceberg.MapType:
		b, ok := b.(*iceberg.MapType)
		return ok && sameType(a.KeyType, b.KeyType) && sameType(a.ValueType, b.ValueType)
	case *iceberg.StructType:
		b, ok := b.(*iceberg.StructType)
		if !ok || len(a.FieldList) != len(b.FieldList) {
			return false
		}
		for i := range a.FieldList {
			if a.FieldList[i].Name != b.FieldList[i].Name || !sameType(a.FieldList[i].Type, b.FieldList[i].Type) {
				return false
			}
		}
		return true
	}
	return a.Equals(b)
}

// addColumns adds columns to a table that an earlier version made. They are optional: the rows that are there have none.
func addColumns(ctx context.Context, tbl *table.Table, missing []iceberg.NestedField) (*table.Table, error) {
	tx := tbl.NewTransaction()
	update := tx.UpdateSchema(true, false)
	var names []string
	for _, f := range missing {
		update.AddColumn([]string{f.Name}, f.Type, f.Doc, false, nil)
		names = append(names, f.Name)
	}
	if err := update.Commit(); err != nil {
		return nil, fmt.Errorf("table %s: adding columns %s: %w", strings.Join(tbl.Identifier(), "."), strings.Join(names, ", "), err)
	}
	out, err := tx.Commit(ctx)
	if err != nil {
		return nil, fmt.Errorf("table %s: adding columns %s: %w", strings.Join(tbl.Identifier(), "."), strings.Join(names, ", "), err)
	}
	return out, nil
}
