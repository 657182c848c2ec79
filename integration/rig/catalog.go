package rig

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/http"

	"github.com/apache/iceberg-go"
	"github.com/apache/iceberg-go/catalog"
	sqlcat "github.com/apache/iceberg-go/catalog/sql"
	_ "github.com/apache/iceberg-go/io/gocloud/s3"
	"github.com/uptrace/bun/driver/sqliteshim"

	"github.com/pulsegrid/pulsegrid/internal/testkit/catalogtest"
)

// CatalogKind is how aggregators reach the lake's catalog.
type CatalogKind int

// The kinds. Whatever they are, the SQLite file (Rig.Catalog) knows every table, so readers of the lake need no server.
const (
	CatalogSQL  CatalogKind = iota // the SQLite file itself
	CatalogREST                    // an Iceberg REST catalog in front of it
	CatalogGlue                    // a server as AWS Glue, which writes down in the file where each table's metadata is
)

// The lake's names, as in distributions/aggregator/config.yaml.
const (
	catalogName   = "pulsegrid"
	lakeNamespace = "pulsegrid"
)

// CatalogServer is a catalog over HTTP that can fail as such catalogs do. What it fails at, if it is told to fail at writes, are commits to tables.
type CatalogServer struct {
	*Faulty
	file catalog.Catalog
	db   *sql.DB // of a server as Glue
}

// startCatalog starts the server that the options ask for. It reaches the objects without a link: nothing happens between a catalog and its store.
func (r *Rig) startCatalog() (c *CatalogServer, err error) {
	c = &CatalogServer{}
	defer func() {
		if err != nil {
			c, err = nil, errors.Join(err, c.close())
		}
	}()
	uri := "file:" + r.CatalogFile() + "?_pragma=busy_timeout(10000)&_pragma=journal_mode(WAL)"
	props := iceberg.Properties{
		"type": "sql", "uri": uri, "warehouse": r.Warehouse(), sqlcat.DriverKey: sqliteshim.ShimName, sqlcat.DialectKey: string(sqlcat.SQLite),
	}
	for k, v := range r.CatalogProperties() {
		props[k] = v
	}
	if c.file, err = catalog.Load(context.Background(), catalogName, props); err != nil {
		return c, fmt.Errorf("catalog %s: %w", uri, err)
	}
	if r.opts.Catalog == CatalogREST {
		c.Faulty, err = startFaulty(catalogtest.NewREST(c.file, r.Warehouse()), catalogtest.IsRESTCommit, answerAsREST)
		return c, err
	}
	if c.db, err = sql.Open(sqliteshim.ShimName, uri); err != nil {
		return c, err
	}
	c.Faulty, err = startFaulty(catalogtest.NewGlue(lakeNamespace, c.writeDown), catalogtest.IsGlueCommit, answerAsGlue)
	return c, err
}

// writeDown puts a table of Glue into the file.
func (c *CatalogServer) writeDown(table, metadataLocation string) error {
	_, err := c.db.Exec(`INSERT INTO iceberg_tables (catalog_name, table_namespace, table_name, iceberg_type, metadata_location) VALUES (?, ?, ?, ?, ?)
		ON CONFLICT DO UPDATE SET metadata_location = excluded.metadata_location`, catalogName, lakeNamespace, table, sqlcat.TableType, metadataLocation)
	return err
}

func answerAsREST(w http.ResponseWriter, how Misbehaviour) {
	if how == DoesButConflicts {
		catalogtest.RESTConflict(w)
		return
	}
	catalogtest.RESTError(w)
}

func answerAsGlue(w http.ResponseWriter, how Misbehaviour) {
	if how == DoesButConflicts {
		catalogtest.GlueConflict(w)
		return
	}
	catalogtest.GlueError(w)
}

func (c *CatalogServer) close() error {
	var errs []error
	if c.Faulty != nil {
		errs = append(errs, c.Faulty.close())
	}
	if c.db != nil {
		errs = append(errs, c.db.Close())
	}
	if closer, ok := c.file.(catalog.Closer); ok {
		errs = append(errs, closer.Close())
	}
	return errors.Join(errs...)
}
