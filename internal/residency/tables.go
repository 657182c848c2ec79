package residency

import (
	"context"
	"fmt"
	"strings"

	"github.com/pulsegrid/pulsegrid/internal/clickhouse"
)

// nobodys are tables of PulseGrid that hold offsets, counts and hashes: known by their columns, since tables have suffixes and other names.
var nobodys = []string{"id_sum", "source_rows", "complete_through"}

// Tables counts the rows of a ClickHouse that came on a day, in all tables that keep rows, of all databases but ClickHouse's own.
func Tables(ctx context.Context, c *clickhouse.Client, day Day) ([]Place, error) {
	type table struct {
		Database, Name string
		Columns        []string
		Rows           int64
		Bytes          int64
	}
	// Views keep nothing. What other engines keep may be anywhere, so they are looked at like any table.
	tables, err := clickhouse.Rows[table](ctx, c, `SELECT t.database AS Database, t.name AS Name, groupArray(c.name) AS Columns, any(ifNull(t.total_rows, 0)) AS Rows, any(ifNull(t.total_bytes, 0)) AS Bytes
FROM system.tables AS t JOIN system.columns AS c ON c.database = t.database AND c.table = t.name
WHERE t.database NOT IN ('system', 'INFORMATION_SCHEMA', 'information_schema') AND t.engine NOT LIKE '%View' AND NOT t.is_temporary GROUP BY Database, Name ORDER BY Database, Name`, nil)
	if err != nil {
		return nil, fmt.Errorf("list the tables: %w", err)
	}
	var places []Place
	for _, t := range tables {
		has := map[string]bool{}
		for _, name := range t.Columns {
			has[name] = true
		}
		name := t.Database + "." + t.Name
		of := newTally(KindTable, name)
		switch {
		case has["tenant_id"]:
			type count struct {
				Tenant string
				Rows   int64
			}
			rows, err := clickhouse.Rows[count](ctx, c, fmt.Sprintf("SELECT toString(tenant_id) AS Tenant, count() AS Rows FROM %s.%s%s GROUP BY Tenant ORDER BY Tenant LIMIT %d",
				quoted(t.Database), quoted(t.Name), within(has, day), tenantsMax+1), nil)
			if err != nil {
				return places, fmt.Errorf("table %s: %w", name, err)
			}
			for _, r := range rows {
				if err := of.add(r.Tenant, Amount{Items: r.Rows}); err != nil {
					return places, fmt.Errorf("table %s: %w", name, err)
				}
			}
		case t.Rows > 0 && !holdsNothing(has):
			of.place.Unknown = Amount{Items: t.Rows, Bytes: t.Bytes}
		}
		if p, some := of.done(); some {
			places = append(places, p)
		}
	}
	return places, nil
}

// within is the condition of the rows of a day. Rows of a table that does not say when they came are of any day.
func within(has map[string]bool, day Day) string {
	switch {
	case has["ingest_time"]:
		return fmt.Sprintf(" WHERE ingest_time >= toDateTime64('%s', 9, 'UTC') AND ingest_time < toDateTime64('%s', 9, 'UTC')", day.Start.Format("2006-01-02 15:04:05"), day.End.Format("2006-01-02 15:04:05"))
	case has["ingest_date"]:
		return fmt.Sprintf(" WHERE ingest_date = toDate('%s')", day)
	}
	return ""
}

// holdsNothing tells of a table without tenants whether it is one of PulseGrid's bookkeeping.
func holdsNothing(has map[string]bool) bool {
	for _, name := range nobodys {
		if has[name] {
			return true
		}
	}
	return false
}

func quoted(name string) string { return "`" + strings.ReplaceAll(name, "`", "``") + "`" }
