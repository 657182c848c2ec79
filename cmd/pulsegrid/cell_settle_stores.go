package main

import (
	"cmp"
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
	"github.com/apache/iceberg-go/table"
	"github.com/spf13/cobra"

	"github.com/pulsegrid/pulsegrid/internal/audit/certificate"
	"github.com/pulsegrid/pulsegrid/internal/audit/erasure"
	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/columns/rows"
	"github.com/pulsegrid/pulsegrid/internal/drain"
	"github.com/pulsegrid/pulsegrid/internal/failpoint"
	"github.com/pulsegrid/pulsegrid/internal/ledger"
	"github.com/pulsegrid/pulsegrid/internal/settle"
	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/internal/upkeep"
)

// settleCell is a cell whose stores one side of a settling reads: a settle.GuestCell.
type settleCell struct {
	*erasureOptions // of the guest: what is removed is declared as an erasure is
	name            string
	hot             *hotSubject
	hotTables       []string
	lake            *lakeSubject
	rebuild         func(settle.Window) error // has rollups built anew; nil: there are none
	closeCatalog    func()
	say             func(string, ...any)
}

// open reads where a cell's stores are. Each cell has one database and one lake of events.
func (s *settling) open(cmd *cobra.Command, c *drain.Cell) (*settleCell, error) {
	of := func(err error) error { return fmt.Errorf("cell %s: %w", c.Name, err) }
	files, err := aggregatorFiles(s.cells, c)
	if err != nil {
		return nil, err
	}
	pipes, err := (&storesOptions{config: files}).pipelines(cmd)
	if err != nil {
		return nil, of(err)
	}
	hots, err := pipes.hotStores()
	if err != nil {
		return nil, of(err)
	}
	lakes := pipes.lakes()
	switch {
	case len(hots) != 1 || len(lakes) != 1:
		return nil, of(fmt.Errorf("its aggregators fill %d databases of ClickHouse and %d lakes: want one of each", len(hots), len(lakes)))
	case columns.Replicated(hots[0].Engine):
		return nil, of(fmt.Errorf("exporters: engine %s: settling replicated tables is not supported", hots[0].Engine))
	}
	q, err := questionTo(cmd.Context(), hots[0])
	if err != nil {
		return nil, of(err)
	}
	sum := sha256.Sum256([]byte(s.tenant + "\x00" + s.id))
	own := &erasureOptions{tenant: s.tenant, id: s.id, by: s.by, reason: s.reason, declare: s.declare, dryRun: s.dryRun}
	out := &settleCell{
		erasureOptions: own, name: c.Name, say: s.say,
		hot: &hotSubject{
			hotEraser: hotEraser{erasureOptions: own, question: q, database: hots[0].Database, say: s.say}, where: "ClickHouse " + redacted(hots[0].ClientConfig.Endpoint) + ", database " + hots[0].Database,
			beside: "settling_" + hex.EncodeToString(sum[:8]),
		},
	}
	if out.hotTables, err = out.hot.tables(cmd.Context()); err != nil {
		return nil, of(err)
	}
	if hots[0].Rollups {
		out.rebuild = func(w settle.Window) error {
			job := newRollups()
			job.SetContext(cmd.Context())
			job.SetOut(cmd.ErrOrStderr())
			job.SetErr(cmd.ErrOrStderr())
			return runRollups(job, rollupsOptions{stores: storesOptions{config: files}, from: w.From.Format(time.RFC3339), to: w.To.Format(time.RFC3339), quiet: s.quiet})
		}
	}
	out.lake = &lakeSubject{config: lakes[0]}
	if out.lake.catalog, out.closeCatalog, err = openCatalog(cmd.Context(), lakes[0]); err != nil {
		return nil, of(err)
	}
	return out, nil
}

func (c *settleCell) close() { c.closeCatalog() }

// settleColumns are those that name an event and its row.
var settleColumns = []string{"tenant_id", "time", "time_source", "event_id", "kafka_topic", "kafka_partition", "kafka_offset", "event_index"}

// eachRow calls f for the rows of a batch.
func eachRow(t *columns.Table, rec arrow.RecordBatch, f func(i int, r *rows.Reader) error) error {
	r := rows.NewReader(t, rec)
	for i := range int(rec.NumRows()) {
		r.Seek(i)
		if err := errors.Join(f(i, r), r.Err()); err != nil {
			return err
		}
	}
	return nil
}

// ofSettling is a condition of ClickHouse on rows of the window; so is that of ofWindow of the lake. Both hold for rows of more minutes than the window's.
func ofSettling(w *settle.Window) string {
	within := fmt.Sprintf(" AND ingest_time >= fromUnixTimestamp64Nano(%d) AND ingest_time < fromUnixTimestamp64Nano(%d)", w.From.UnixNano(), w.To.UnixNano())
	if from, to, ok := w.Minutes(); ok {
		within += fmt.Sprintf(" AND (time >= fromUnixTimestamp64Nano(%d) AND time < fromUnixTimestamp64Nano(%d) OR time_source = %s)", from*int64(time.Second), to*int64(time.Second), literal(settle.SourceReceived))
	}
	return within
}

func (c *settleCell) ofWindow(w *settle.Window) iceberg.BooleanExpression {
	since := func(column string, t time.Time) iceberg.BooleanExpression {
		return iceberg.GreaterThanEqual(iceberg.Reference(column), iceberg.Timestamp(t.UnixMicro()))
	}
	before := func(column string, t time.Time) iceberg.BooleanExpression {
		return iceberg.LessThan(iceberg.Reference(column), iceberg.Timestamp(t.UnixMicro()))
	}
	all := iceberg.NewAnd(ofTenant(c.tenant), since("ingest_time", w.From), before("ingest_time", w.To))
	if from, to, ok := w.Minutes(); ok {
		timed := iceberg.NewAnd(since("time", time.Unix(from, 0)), before("time", time.Unix(to, 0)))
		all = iceberg.NewAnd(all, iceberg.NewOr(timed, iceberg.EqualTo(iceberg.Reference("time_source"), settle.SourceReceived)))
	}
	return all
}

// eachHot reads the rows of a signal within the window from ClickHouse. With t they have the column chosenRow.
func (c *settleCell) eachHot(ctx context.Context, s signal.Signal, w *settle.Window, t *subjectTable, f func(*rows.Reader) error) error {
	of := columns.ForSignal(s)
	if !slices.Contains(c.hotTables, of.Name) {
		return nil
	}
	names := make([]string, 0, 1+len(settleColumns))
	if t != nil {
		names = append(names, t.row+" AS "+chosenRow)
	}
	for _, n := range settleColumns {
		names = append(names, quoted(n))
	}
	sql := "SELECT " + strings.Join(names, ", ") + " FROM " + c.hot.table(of.Name) + " WHERE tenant_id = " + literal(c.tenant) + ofSettling(w)
	err := c.hot.question.arrow(ctx, sql, func(rec arrow.RecordBatch) error {
		return eachRow(of, rec, func(_ int, r *rows.Reader) error { return f(r) })
	})
	if err != nil {
		return fmt.Errorf("cell %s: %s, table %s: %w", c.name, c.hot.where, of.Name, err)
	}
	return nil
}

// eachLake is eachHot for the lake.
func (c *settleCell) eachLake(ctx context.Context, s signal.Signal, w *settle.Window, f func(*rows.Reader) error) error {
	of := columns.ForSignal(s)
	match := upkeep.Match{Within: c.ofWindow(w), Columns: settleColumns, Rows: func(rec arrow.RecordBatch) ([]bool, error) {
		return make([]bool, rec.NumRows()), eachRow(of, rec, func(_ int, r *rows.Reader) error { return f(r) }) // none is removed
	}}
	_, err := c.inLake(ctx, of, match, true)
	return err
}

// inLake has a table of the lake read, or some of its rows removed. A table that is not there has none.
func (c *settleCell) inLake(ctx context.Context, of *columns.Table, match upkeep.Match, dryRun bool) (upkeep.Erased, error) {
	id := table.Identifier{c.lake.config.Namespace, of.Name}
	there, err := c.lake.catalog.CheckTableExists(ctx, id)
	if err != nil || !there {
		return upkeep.Erased{}, err
	}
	o := c.rewriting(c.lake.config)
	o.DryRun = dryRun
	r, err := upkeep.Erase(ctx, c.lake.catalog, id, match, o)
	if err != nil {
		return r, fmt.Errorf("cell %s, lake: %w", c.name, err)
	}
	return r, nil
}

// each reads the rows of both stores.
func (c *settleCell) each(ctx context.Context, w *settle.Window, f func(store string, s signal.Signal, r *rows.Reader) error) error {
	for _, s := range signal.All {
		c.say("cell %s: reading %s", c.name, columns.ForSignal(s).Name)
		if err := c.eachHot(ctx, s, w, nil, func(r *rows.Reader) error { return f(certificate.Hot, s, r) }); err != nil {
			return err
		}
		if err := c.eachLake(ctx, s, w, func(r *rows.Reader) error { return f(certificate.Lake, s, r) }); err != nil {
			return err
		}
	}
	return nil
}

// Events implements settle.Cell.
func (c *settleCell) Events(ctx context.Context, w settle.Window, n *settle.Namer) (settle.Events, error) {
	found, count := map[string]settle.Events{certificate.Hot: {}, certificate.Lake: {}}, 0
	err := c.each(ctx, &w, func(store string, s signal.Signal, r *rows.Reader) error {
		at := settle.BucketOf(s, r.Time("time"), r.Text("time_source"))
		if w.Only != nil && !w.Only[at] {
			return nil
		}
		if count++; count > 2*settle.EventsMax { // two stores
			return fmt.Errorf("cell %s has more than %d events to compare: settle a shorter time", c.name, settle.EventsMax)
		}
		found[store][at] = append(found[store][at], n.ID(s, r.Bytes("event_id")))
		return nil
	})
	if err != nil {
		return nil, err
	}
	return settle.Both(found[certificate.Hot], found[certificate.Lake]), nil
}

// settledRow is a row that is to be removed.
type settledRow struct {
	record erasure.Record
	sum    uint64 // ledger.IDSum
	id     settle.ID
}

func compareRecords(a, b erasure.Record) int {
	return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition), cmp.Compare(a.Offset, b.Offset))
}

func compareRows(a, b settledRow) int {
	return cmp.Or(compareRecords(a.record, b.record), cmp.Compare(a.sum, b.sum))
}

func recordOf(r *rows.Reader) erasure.Record {
	return erasure.Record{Topic: r.Text("kafka_topic"), Partition: int32(r.Int("kafka_partition")), Offset: r.Int("kafka_offset")}
}

// Plan implements settle.GuestCell. Rows that one store has and the other not (yet) are not removed, since the other's would come later; neither are rows without a place in Kafka, which no
// declaration could name.
func (c *settleCell) Plan(ctx context.Context, w settle.Window, n *settle.Namer, doubled map[settle.ID]bool) (settle.Plan, error) {
	p := settle.Plan{Rows: map[string]int64{certificate.Hot: 0, certificate.Lake: 0}}
	if len(doubled) == 0 {
		return p, nil
	}
	found, topics := map[string][]settledRow{}, map[string]string{}
	err := c.each(ctx, &w, func(store string, s signal.Signal, r *rows.Reader) error {
		id := r.Bytes("event_id")
		row := settledRow{id: n.ID(s, id)}
		if !doubled[row.id] {
			return nil
		}
		row.record, row.sum = recordOf(r), ledger.IDSum(id)
		if row.record.Topic == "" || row.record.Partition < 0 || row.record.Offset < 0 {
			return nil
		}
		topic, known := topics[row.record.Topic]
		if !known {
			topic = strings.Clone(row.record.Topic) // else it keeps its batch
			topics[topic] = topic
		}
		row.record.Topic = topic
		found[store] = append(found[store], row)
		return nil
	})
	if err != nil {
		return p, err
	}
	for _, some := range found {
		slices.SortFunc(some, compareRows)
	}
	names := erasure.Names{}
	var ids []settle.ID
	lake := found[certificate.Lake]
	for i, row := range found[certificate.Hot] {
		if i > 0 && compareRows(row, found[certificate.Hot][i-1]) == 0 {
			continue
		}
		if _, both := slices.BinarySearchFunc(lake, row, compareRows); both {
			names[row.record] = append(names[row.record], row.sum)
			ids = append(ids, row.id)
		}
	}
	p.Rows[certificate.Hot], p.Rows[certificate.Lake] = int64(len(ids)), int64(len(ids))
	p.Total = settle.TotalOf(settle.Sorted(ids))
	if c.dryRun || p.Events == 0 {
		return p, nil
	}
	before, err := erasure.ReadFile(c.planFile())
	switch {
	case errors.Is(err, os.ErrNotExist):
	case err != nil:
		return p, fmt.Errorf("the plan of a run before: %w", err)
	case before[0].Attribute != "" || before[0].Tenant != c.tenant || before[0].By != c.by || before[0].Reason != c.reason:
		return p, usageError{fmt.Errorf("--id: %s is the plan of something else, which has begun and is not declared", c.planFile())}
	}
	plan := erasure.Erasure{ID: c.id, By: c.by, Reason: c.reason, At: time.Now(), Tenant: c.tenant, Named: map[string]erasure.Names{certificate.Hot: names, certificate.Lake: names}}
	if err := writeDeclarations(c.planFile(), nil, &plan); err != nil {
		return p, fmt.Errorf("write the plan: %w", err)
	}
	failpoint.Hit("settle-plan")
	return p, nil
}

// planned reads the plan, or the declaration that it has become.
func (c *settleCell) planned() (e erasure.Erasure, declared bool, err error) {
	file := c.declare
	all, err := erasure.ReadFile(file)
	i := slices.IndexFunc(all, func(e erasure.Erasure) bool { return e.ID == c.id })
	if declared = i >= 0; !declared {
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return e, false, fmt.Errorf("--declare: %w", err)
		}
		i, file = 0, c.planFile()
		if all, err = erasure.ReadFile(file); err != nil {
			return e, false, fmt.Errorf("the plan, which another run has written, and without which nobody knows what may be gone already: %w: run it where that run was, with the same --declare", err)
		}
	}
	if e = all[i]; e.Tenant != c.tenant || e.By != c.by || e.Reason != c.reason || e.Named == nil {
		return e, false, usageError{fmt.Errorf("--id: %s has %q of something else than this settling", file, c.id)}
	}
	return e, declared, nil
}

// sortedNames can be asked fast.
type sortedNames erasure.Names

func newSortedNames(n erasure.Names) sortedNames {
	for _, sums := range n {
		slices.Sort(sums)
	}
	return sortedNames(n)
}

func (n sortedNames) has(r *rows.Reader) bool {
	sums := n[recordOf(r)]
	if sums == nil {
		return false
	}
	_, found := slices.BinarySearch(sums, ledger.IDSum(r.Bytes("event_id")))
	return found
}

// Remove implements settle.GuestCell. Each part of it finds by itself what a run that was killed has left.
func (c *settleCell) Remove(ctx context.Context, w settle.Window, p settle.Plan) (settle.Removal, error) {
	out := settle.Removal{Left: map[string]int64{certificate.Hot: 0, certificate.Lake: 0}}
	if p.Events == 0 {
		out.At = time.Now().UTC()
		return out, nil
	}
	plan, declared, err := c.planned()
	if err != nil {
		return out, err
	}
	names := newSortedNames(plan.Named[certificate.Hot])
	if err := c.removeHot(ctx, w, names); err != nil {
		return out, err
	}
	failpoint.Hit("settle-hot")
	if err := c.removeLake(ctx, w, names); err != nil {
		return out, err
	}
	failpoint.Hit("settle-lake")
	err = c.each(ctx, &w, func(store string, _ signal.Signal, r *rows.Reader) error {
		if names.has(r) {
			out.Left[store]++
		}
		return nil
	})
	if err != nil {
		return out, err
	}
	if left := out.Left[certificate.Hot] + out.Left[certificate.Lake]; left > 0 {
		return out, fmt.Errorf("cell %s has %d rows again that were removed, by a replay perhaps: nothing was declared; run it again", c.name, left)
	}
	if !declared {
		plan.At = time.Now()
		if err := c.addDeclaration(&plan); err != nil {
			return out, fmt.Errorf("the rows are removed, and --declare: %w", err)
		}
	}
	failpoint.Hit("settle-declared")
	if err := os.Remove(c.planFile()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return out, fmt.Errorf("it is declared, and its plan remains: %w", err)
	}
	if c.rebuild != nil {
		if err := c.rebuild(w); err != nil {
			return out, fmt.Errorf("the rows are removed and declared, and the rollups of cell %s still count them: %w", c.name, err)
		}
		out.Rollups = true
	}
	out.Declaration, out.At = c.id, time.Now().UTC()
	return out, nil
}

func (c *settleCell) removeHot(ctx context.Context, w settle.Window, names sortedNames) error {
	c.hot.within = ofSettling(&w)
	var tables []*subjectTable
	for _, s := range signal.All {
		name := columns.ForSignal(s).Name
		if !slices.Contains(c.hotTables, name) {
			continue
		}
		t, err := c.hot.rowsOf(ctx, name, "")
		if err != nil {
			return err
		}
		err = c.eachHot(ctx, s, &w, t, func(r *rows.Reader) error {
			if names.has(r) {
				t.rows = append(t.rows, strings.Clone(r.Text(chosenRow))) // else it keeps its batch
			}
			return nil
		})
		if err != nil {
			return err
		}
		tables = append(tables, t)
	}
	if err := c.hot.erase(ctx, tables); err != nil {
		return fmt.Errorf("cell %s: %s: %w", c.name, c.hot.where, err)
	}
	return nil
}

// removeLake leaves snapshots of before as they are: these rows are nobody's secret here.
func (c *settleCell) removeLake(ctx context.Context, w settle.Window, names sortedNames) error {
	for _, s := range signal.All {
		of := columns.ForSignal(s)
		c.say("cell %s, lake, %s ...", c.name, of.Name)
		_, err := c.inLake(ctx, of, upkeep.Match{Within: c.ofWindow(&w), Columns: settleColumns, History: true, Rows: func(rec arrow.RecordBatch) ([]bool, error) {
			which := make([]bool, rec.NumRows())
			return which, eachRow(of, rec, func(i int, r *rows.Reader) error {
				which[i] = r.Text("tenant_id") == c.tenant && names.has(r)
				return nil
			})
		}}, false)
		if err != nil {
			return err
		}
	}
	return nil
}
