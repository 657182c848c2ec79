package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/iceberg-go"
	"github.com/apache/iceberg-go/catalog"
	"github.com/apache/iceberg-go/table"

	"github.com/pulsegrid/pulsegrid/exporter/icebergexporter"
	"github.com/pulsegrid/pulsegrid/internal/audit/certificate"
	"github.com/pulsegrid/pulsegrid/internal/audit/erasure"
	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/columns/rows"
	"github.com/pulsegrid/pulsegrid/internal/failpoint"
	"github.com/pulsegrid/pulsegrid/internal/ledger"
	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/internal/subject"
	"github.com/pulsegrid/pulsegrid/internal/upkeep"
)

const (
	// subjectRowsMax bounds the rows that a run erases. It remembers about 200 bytes of each.
	subjectRowsMax = 1_000_000
	// chosenInsert is how many hashes of rows a statement brings to ClickHouse.
	chosenInsert = 50_000
)

// subjectErasure erases what the stores hold of one person. The order of its steps is what makes the declaration exact, wherever it is killed:
//
//  1. the rows are looked for in both stores;
//  2. their events are added to the plan, a file beside the declarations, which is on the disk before any of them is erased;
//  3. these rows are erased, and no others: what has come meanwhile is in no plan yet;
//  4. the rows are looked for again. Only where there are none the plan becomes a declaration.
type subjectErasure struct {
	*erasureOptions
	say       func(string, ...any)
	report    *erasedReport
	planned   erasure.Erasure
	tables    []*subjectTable // those of ClickHouse, then those of the lake
	databases []*hotSubject
	names     map[string]erasure.Names // of the plan, by store
	chosen    int                      // rows to erase
}

// subjectTable is a table of a store that may have rows of a person.
type subjectTable struct {
	store   string // of certificates
	name    string
	columns *columns.Table // of events or of the quarantine; nil: its rows are made of them
	texts   []string       // of a table whose rows are made of events: columns of text that may have the value
	at      int            // in the report

	// In ClickHouse:
	hot  *hotSubject
	row  string   // expression that identifies a row
	rows []string // that are to be erased, by this

	// In the lake:
	lake   *lakeSubject
	chosen map[place]bool  // rows of events and items that are to be erased
	clean  map[string]bool // files without a row of the person
}

// hotSubject is a database.
type hotSubject struct {
	hotEraser
	where  string // for errors
	beside string // name of the table of the rows that are to be erased: hashes of what tells them apart
	within string // a further condition that all of these rows meet, with AND before it; may be empty
}

// lakeSubject is a namespace.
type lakeSubject struct {
	config  *icebergexporter.Config
	catalog catalog.Catalog
}

// place identifies a row of events or items.
type place struct {
	topic     string
	partition int32
	offset    int64
	index     int32
	id        [16]byte
}

// planFile is where the plan is until it is declared. Without an id, in a dry run, there is none.
func (o *erasureOptions) planFile() string {
	sum := sha256.Sum256([]byte(o.id))
	return o.declare + ".plan-" + hex.EncodeToString(sum[:8])
}

// forgetPlan removes the plan of an erasure that is declared.
func (o *erasureOptions) forgetPlan() error {
	if o.subject == nil {
		return nil
	}
	if err := os.Remove(o.planFile()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("it is declared, and its plan remains: %w", err)
	}
	return nil
}

// eraseSubject returns the erasure that is to be declared once no row is left; without Named: no row was found, now or before.
func (o *erasureOptions) eraseSubject(ctx context.Context, p *pipelines, report *erasedReport, say func(string, ...any)) (erasure.Erasure, error) {
	e := &subjectErasure{erasureOptions: o, say: say, report: report, planned: erasure.Erasure{Tenant: o.tenant, Attribute: o.key()}, names: map[string]erasure.Names{}}
	done, err := e.open(ctx, p)
	defer done()
	if err != nil {
		return e.planned, err
	}
	for _, t := range e.tables {
		if err := e.find(ctx, t); err != nil {
			return e.planned, err
		}
	}
	if o.dryRun {
		return e.planned, nil
	}
	if err := e.plan(); err != nil || e.planned.Named == nil {
		return e.planned, err
	}
	return e.planned, e.erase(ctx)
}

// open lists the tables of both stores.
func (e *subjectErasure) open(ctx context.Context, p *pipelines) (done func(), err error) {
	var catalogs []func()
	done = func() {
		for _, c := range catalogs {
			c()
		}
	}
	stores, err := p.hotStores()
	if err != nil {
		return done, err
	}
	sum := sha256.Sum256([]byte(e.tenant + "\x00" + e.id))
	for _, c := range stores {
		if columns.Replicated(c.Engine) {
			return done, fmt.Errorf("exporters: engine %s: erasing by an attribute from replicated tables is not supported", c.Engine)
		}
		q, err := questionTo(ctx, c)
		if err != nil {
			return done, err
		}
		h := &hotSubject{
			hotEraser: hotEraser{erasureOptions: e.erasureOptions, question: q, database: c.Database, say: e.say},
			where:     "ClickHouse " + redacted(c.ClientConfig.Endpoint) + ", database " + c.Database,
			beside:    "erasing_" + hex.EncodeToString(sum[:8]),
		}
		e.databases = append(e.databases, h)
		names, err := h.tables(ctx)
		if err != nil {
			return done, fmt.Errorf("%s: %w", h.where, err)
		}
		for _, name := range names {
			t, err := h.rowsOf(ctx, name, e.subject.Attribute)
			if err != nil {
				return done, fmt.Errorf("%s: %w", h.where, err)
			}
			e.tables = append(e.tables, t)
		}
	}
	for _, c := range p.lakes() {
		cat, closeCatalog, err := openCatalog(ctx, c)
		if err != nil {
			return done, err
		}
		catalogs = append(catalogs, closeCatalog)
		l := &lakeSubject{config: c, catalog: cat}
		err = eachTenantTable(ctx, cat, c.Namespace, func(name string, tbl *table.Table) {
			t := &subjectTable{store: certificate.Lake, name: name, columns: definitionOf(name), lake: l, chosen: map[place]bool{}, clean: map[string]bool{}}
			for _, f := range tbl.Schema().Fields() {
				if f.Type.Equals(iceberg.PrimitiveTypes.String) && t.columns == nil && f.Name != "tenant_id" {
					t.texts = append(t.texts, f.Name)
				}
			}
			e.tables = append(e.tables, t)
		})
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

// definitionOf is the definition of a table of events or of the quarantine; nil for any other.
func definitionOf(name string) *columns.Table {
	all := []*columns.Table{columns.Logs, columns.Metrics, columns.Spans, columns.Quarantine, columns.QuarantinePII}
	if i := slices.IndexFunc(all, func(t *columns.Table) bool { return t.Name == name }); i >= 0 {
		return all[i]
	}
	return nil
}

// rowsOf describes a table, with the expression that identifies a row of it.
func (h *hotSubject) rowsOf(ctx context.Context, name, attribute string) (*subjectTable, error) {
	t := &subjectTable{store: certificate.Hot, name: name, columns: definitionOf(name), hot: h}
	row := []string{"kafka_topic", "kafka_partition", "kafka_offset", "event_index", "event_id"}
	if t.columns == nil {
		of := " FROM system.columns WHERE database = " + literal(h.database) + " AND table = " + literal(name)
		key, err := h.question.texts(ctx, "SELECT name"+of+" AND is_in_sorting_key ORDER BY position")
		if err != nil {
			return nil, err
		}
		if t.texts, err = h.question.texts(ctx, "SELECT name"+of+" AND type IN ('String', 'LowCardinality(String)') AND name != 'tenant_id' ORDER BY position"); err != nil {
			return nil, err
		}
		if only := rollupKey(name, attribute); only != nil {
			t.texts = slices.DeleteFunc(t.texts, func(c string) bool { return !slices.Contains(only, c) })
		}
		row = nil
		for _, c := range slices.Concat(key, t.texts) {
			row = append(row, quoted(c))
		}
	}
	t.row = "hex(sipHash128(" + strings.Join(row, ", ") + "))"
	return t, nil
}

// rollupKey returns the columns of a rollup that hold an attribute, and nil for a table that is no rollup.
func rollupKey(name, attribute string) []string {
	for _, s := range signal.All {
		of := columns.ForSignal(s)
		if !slices.ContainsFunc(of.Rollups(), func(r columns.Rollup) bool { return r.Name == name }) {
			continue
		}
		only := []string{}
		if attribute == "service.name" {
			only = append(only, "service_name")
		}
		for _, c := range of.Columns {
			if c.Promote == attribute {
				only = append(only, c.Name)
			}
		}
		return only
	}
	return nil
}

// find looks for the rows of a table, and counts them in the report.
func (e *subjectErasure) find(ctx context.Context, t *subjectTable) error {
	e.say("%s, %s ...", t.store, t.name)
	var found subject.Found
	if err := e.look(ctx, t, &found, true); err != nil {
		return err
	}
	for _, note := range []struct {
		n    int64
		text string
	}{{found.Others, "events of others are in the same items"}, {found.Closed, "items were not looked into: their body is compressed, or kept elsewhere"}} {
		if note.n > 0 {
			e.report.Notes = append(e.report.Notes, fmt.Sprintf("%s, %s: %d %s", t.store, t.name, note.n, note.text))
		}
	}
	if t.hot != nil {
		t.at = len(e.report.ClickHouse)
		e.report.ClickHouse = append(e.report.ClickHouse, erasedTable{Table: t.name, Rows: found.Rows, Left: found.Rows})
	} else {
		t.at = len(e.report.Lake)
		e.report.Lake = append(e.report.Lake, upkeep.Erased{Table: t.name, Rows: found.Rows, Left: found.Rows})
	}
	return nil
}

// chosenRow is the column of the hash that identifies a row of ClickHouse.
const chosenRow = "erased_row"

// look reads the rows of a table that may be the person's, and counts those that are. With choose they are to be erased.
func (e *subjectErasure) look(ctx context.Context, t *subjectTable, found *subject.Found, choose bool) error {
	batch := func(rec arrow.RecordBatch) ([]bool, error) {
		which := make([]bool, rec.NumRows())
		err := e.subject.Rows(t.columns, t.texts, rec, found, func(i int, r *rows.Reader) error {
			which[i] = true
			if !choose {
				return nil
			}
			return e.choose(t, r)
		})
		return which, err
	}
	if t.lake != nil {
		o := e.rewriting(t.lake.config)
		o.DryRun = true
		_, err := upkeep.Erase(ctx, t.lake.catalog, t.id(), t.match(e.tenant, batch), o)
		return err
	}
	names := []string{t.row + " AS " + chosenRow}
	for _, c := range subject.Columns(t.columns, t.texts) {
		names = append(names, quoted(c))
	}
	sql := "SELECT " + strings.Join(names, ", ") + " FROM " + t.hot.table(t.name) + " WHERE tenant_id = " + literal(e.tenant) + " AND " + e.subject.May(t.columns, t.texts)
	err := t.hot.question.arrow(ctx, sql, func(rec arrow.RecordBatch) error {
		_, err := batch(rec)
		return err
	})
	if err != nil {
		return fmt.Errorf("%s, table %s: %w", t.hot.where, t.name, err)
	}
	return nil
}

// choose has the row at hand erased.
func (e *subjectErasure) choose(t *subjectTable, r *rows.Reader) error {
	if e.chosen++; e.chosen > subjectRowsMax {
		return fmt.Errorf("more than %d rows have the value: one run erases no more", subjectRowsMax)
	}
	if t.hot != nil {
		t.rows = append(t.rows, strings.Clone(r.Text(chosenRow))) // else it keeps its batch
	}
	if t.columns == nil {
		return nil
	}
	at := placeOf(r)
	if t.lake != nil {
		t.chosen[at] = true
	}
	if !t.columns.Items() && at.topic != "" && at.partition >= 0 && at.offset >= 0 { // else it has no record that an audit could miss it by
		e.name(t.store, erasure.Record{Topic: at.topic, Partition: at.partition, Offset: at.offset}, ledger.IDSum(at.id[:]))
	}
	return nil
}

// name adds an event to the plan.
func (e *subjectErasure) name(store string, r erasure.Record, id uint64) {
	if e.names[store] == nil {
		e.names[store] = erasure.Names{}
	}
	e.names[store].Add(r, id)
}

func placeOf(r *rows.Reader) place {
	at := place{topic: strings.Clone(r.Text("kafka_topic")), partition: int32(r.Int("kafka_partition")), offset: r.Int("kafka_offset"), index: int32(r.Int("event_index"))}
	copy(at.id[:], r.Bytes("event_id"))
	return at
}

func (t *subjectTable) id() table.Identifier {
	return table.Identifier{t.lake.config.Namespace, t.name}
}

func (t *subjectTable) match(tenant string, which func(arrow.RecordBatch) ([]bool, error)) upkeep.Match {
	return upkeep.Match{Within: ofTenant(tenant), Rows: which, Columns: subject.Columns(t.columns, t.texts), Clean: t.clean}
}

// plan adds what was found to the plan of a run that was killed, or makes one. Where nothing was found, now or then, there is none.
func (e *subjectErasure) plan() error {
	before, err := erasure.ReadFile(e.planFile())
	switch {
	case errors.Is(err, os.ErrNotExist):
		if e.chosen == 0 {
			return nil
		}
	case err != nil:
		return fmt.Errorf("the plan of a run before: %w", err)
	case before[0].Tenant != e.tenant || before[0].Attribute != e.key() || before[0].By != e.by || before[0].Reason != e.reason:
		return usageError{fmt.Errorf("--id: %s is the plan of another erasure, which has begun and is not declared", e.planFile())}
	default:
		for store, names := range before[0].Named {
			for r, ids := range names {
				for _, id := range ids {
					e.name(store, r, id)
				}
			}
		}
	}
	e.planned.Named = e.names
	written := e.planned
	written.ID, written.By, written.Reason, written.At = e.id, e.by, e.reason, time.Now()
	if err := writeDeclarations(e.planFile(), nil, &written); err != nil {
		return fmt.Errorf("write the plan: %w", err)
	}
	return nil
}

// erase erases the rows that were chosen, and looks for the person's again.
func (e *subjectErasure) erase(ctx context.Context) error {
	for _, h := range e.databases {
		if err := h.erase(ctx, e.tables); err != nil {
			return fmt.Errorf("%s: %w", h.where, err)
		}
	}
	failpoint.Hit("erasure-hot")
	for _, t := range e.tables {
		if t.lake == nil {
			continue
		}
		r, err := upkeep.Erase(ctx, t.lake.catalog, t.id(), t.match(e.tenant, e.chosenIn(t)), e.rewriting(t.lake.config))
		if err != nil {
			return err
		}
		e.report.Lake[t.at] = r
	}
	failpoint.Hit("erasure-lake")
	for _, t := range e.tables {
		var found subject.Found
		if err := e.look(ctx, t, &found, false); err != nil {
			return err
		}
		if t.hot != nil {
			e.report.ClickHouse[t.at].Left = found.Rows
		} else {
			e.report.Lake[t.at].Left = found.Rows
		}
	}
	for _, h := range e.databases {
		n, err := h.oldParts(ctx, h.beside)
		if err != nil {
			return fmt.Errorf("%s: %w", h.where, err)
		}
		e.report.OldFiles += n
	}
	return nil
}

// chosenIn marks the chosen rows of the lake. Rows that are made of events are recognised by the value: no declaration names them.
func (e *subjectErasure) chosenIn(t *subjectTable) func(arrow.RecordBatch) ([]bool, error) {
	return func(rec arrow.RecordBatch) ([]bool, error) {
		which := make([]bool, rec.NumRows())
		if t.columns == nil {
			return which, e.subject.Rows(nil, t.texts, rec, &subject.Found{}, func(i int, _ *rows.Reader) error {
				which[i] = true
				return nil
			})
		}
		r := rows.NewReader(t.columns, rec)
		for i := range which {
			r.Seek(i)
			which[i] = r.Text("tenant_id") == e.tenant && t.chosen[placeOf(r)]
			if err := r.Err(); err != nil {
				return nil, err
			}
		}
		return which, nil
	}
}

// table is the quoted name of a table of the database.
func (h *hotSubject) table(name string) string { return quoted(h.database) + "." + quoted(name) }

// erase erases the chosen rows of this database. A table beside holds their hashes: in the mutation's command they would stay in ClickHouse for long, and a command is not bounded.
func (h *hotSubject) erase(ctx context.Context, all []*subjectTable) error {
	own := slices.DeleteFunc(slices.Clone(all), func(t *subjectTable) bool { return t.hot != h })
	for _, t := range own { // also where no row is left: the mutation of a run that was killed reads the table beside until its last part is done
		if err := h.mutated(ctx, t.name); err != nil {
			return err
		}
	}
	tables := slices.DeleteFunc(own, func(t *subjectTable) bool { return len(t.rows) == 0 })
	beside := h.table(h.beside)
	drop := "DROP TABLE IF EXISTS " + beside + " SYNC"
	if err := h.question.exec(ctx, drop); err != nil {
		return err
	}
	if len(tables) == 0 {
		return nil
	}
	if err := h.question.exec(ctx, "CREATE TABLE "+beside+" (of String, row String) ENGINE = MergeTree ORDER BY (of, row)"); err != nil {
		return err
	}
	for _, t := range tables {
		for some := range slices.Chunk(t.rows, chosenInsert) {
			var lines strings.Builder
			for _, row := range some {
				_, _ = fmt.Fprintf(&lines, "%s\t%s\n", t.name, row) // a strings.Builder does not fail
			}
			if err := h.question.exec(ctx, "INSERT INTO "+beside+" FORMAT TabSeparated\n"+lines.String()); err != nil {
				return err
			}
		}
	}
	for _, t := range tables {
		h.say("ClickHouse, %s: %d rows ...", t.name, len(t.rows))
		sql := "ALTER TABLE " + h.table(t.name) + " DELETE WHERE tenant_id = " + literal(h.tenant) + h.within + " AND " + t.row + " IN (SELECT row FROM " + beside + " WHERE of = " + literal(t.name) +
			") SETTINGS mutations_sync = 0"
		if err := h.question.exec(ctx, sql); err != nil {
			return err
		}
		failpoint.Hit("erasure-mutating")
		if err := h.mutated(ctx, t.name); err != nil {
			return err
		}
	}
	return h.question.exec(ctx, drop)
}
