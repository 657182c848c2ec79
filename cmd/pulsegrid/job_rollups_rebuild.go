package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/failpoint"
	"github.com/pulsegrid/pulsegrid/internal/sleep"
)

const (
	// rebuiltSuffix makes the name of the table that a partition of a rollup is built in, with rebuiltRandom characters that each run chooses for itself.
	rebuiltSuffix = "_rebuilt"
	rebuiltRandom = 8
	// rebuildTries is how often a partition is counted again since rows have come meanwhile.
	rebuildTries = 5
	// rebuildPause is the time until the next try: an aggregator that has inserted a block's rows writes the ledger's entry next.
	rebuildPause = time.Second
	// rebuildGroups bounds the memory of a recount, in bytes; what does not fit goes to ClickHouse's disk.
	rebuildGroups = 1 << 30
)

// rebuild exchanges one partition. The order of the steps is what makes it exact:
//
//  1. the parts of the table's days are looked at;
//  2. the table's rows of these days are all of blocks that the ledger has. So their inserts have ended, views included, and nobody repeats them;
//  3. the rows are counted into a table beside; of the partition's other days it takes what the rollup has;
//  4. the partition is exchanged: what the rollup has until then is gone, and what comes later stays;
//  5. when the inserts that run now have ended, the table's parts are still those of 1. Then no insert has reached the rollup between 3 and 4, nor the rows between 1 and 3.
//
// Otherwise it begins again, with the days that have changed too. live makes this the exception: rows that are late, a backfill, another job.
func (r *rollups) rebuild(ctx context.Context, t *columns.Table, p *rollupPartition) error {
	rollup, days := p.rollup, slices.Clone(p.days)
	id, first, end := rollup.Partition(days[0])
	for range rebuildTries {
		var err error
		if p.Reason, err = r.live(ctx, t, end); err != nil || p.Reason != "" {
			p.State = rollupWaits
			return err
		}
		before, err := r.clickHouse.partStates(ctx, r.database, t.Name)
		if err != nil {
			return err
		}
		of, err := r.clickHouse.partStates(ctx, r.database, rollup.Name)
		if err != nil {
			return err
		}
		open, err := r.clickHouse.number(ctx, "SELECT count() FROM ("+unfinished(r.database, r.rows(t, days))+")")
		if err != nil {
			return err
		}
		if open > 0 {
			p.State, p.Reason = rollupWaits, fmt.Sprintf("%d records have rows, and the ledger does not say that their blocks are finished: let the aggregators finish them", open)
			if err := sleep.For(ctx, rebuildPause); err != nil {
				return err
			}
			continue
		}
		rows, err := r.stage(ctx, rollup, rollup.Recount(t, r.database, days), id, days)
		if err != nil {
			return err
		}
		failpoint.Hit("rollups-staged")
		same, err := r.unchanged(ctx, t, before, first, end, &days)
		if err != nil {
			return err
		}
		now, err := r.clickHouse.partStates(ctx, r.database, rollup.Name)
		if err != nil {
			return err
		}
		p.State, p.Reason = rollupWaits, "rows keep coming into it: run it again, or while the aggregators are stopped"
		if !same || blocks(now[id]) != blocks(of[id]) {
			continue
		}
		name, beside := r.names(rollup)
		exchange := "ALTER TABLE " + name + " REPLACE PARTITION ID '" + id + "' FROM " + beside
		if rows == 0 { // there is no partition to take
			exchange = "ALTER TABLE " + name + " DROP PARTITION ID '" + id + "'"
		}
		failpoint.Hit("rollups-exchanging")
		if err := r.clickHouse.exec(ctx, exchange); err != nil {
			return err
		}
		failpoint.Hit("rollups-exchanged")
		if same, err = r.unchanged(ctx, t, before, first, end, &days); err != nil {
			return err
		}
		if same {
			p.State, p.Reason = rollupRebuilt, ""
			return nil
		}
	}
	return nil
}

// blocks is the part of a partition's state that merges of a rollup, which add rows up, leave as it is.
func blocks(state string) string {
	if i := strings.LastIndexByte(state, ' '); i >= 0 {
		return state[:i]
	}
	return state
}

// live says why inserts may go into a partition that ends then; empty: none do, but for late rows.
func (r *rollups) live(ctx context.Context, t *columns.Table, end time.Time) (string, error) {
	idle, err := r.group.idle(ctx)
	if err != nil || idle {
		return "", err
	}
	if !end.After(time.Now()) {
		through, err := r.watermark(ctx, t.Signal)
		if err != nil {
			return "", err
		}
		if !through.Before(end) {
			return "", nil
		}
		return fmt.Sprintf("ClickHouse has events through %s, and the partition ends at %s: run it again when it has caught up",
			through.Format(time.RFC3339), end.Format(time.RFC3339)), nil
	}
	return fmt.Sprintf("aggregators of group %s insert into it until %s: run it again then, or stop them, so that events wait in Kafka, and run it again",
		r.group.name, end.Format(time.RFC3339)), nil
}

// rows is a FROM clause of the table's rows of some days.
func (r *rollups) rows(t *columns.Table, days []time.Time) string {
	return quoted(r.database) + "." + quoted(t.Name) + " WHERE toDate(ingest_time) IN (" + dayList(days) + ")"
}

func dayList(days []time.Time) string {
	texts := make([]string, len(days))
	for i, d := range days {
		texts[i] = literal(d.Format(time.DateOnly))
	}
	return strings.Join(texts, ", ")
}

// unchanged tells whether the table's parts of a partition's days are those of before, when the inserts that run now have ended. Days that have changed are added to days.
func (r *rollups) unchanged(ctx context.Context, t *columns.Table, before map[string]string, first, end time.Time, days *[]time.Time) (bool, error) {
	if err := r.clickHouse.insertsEnd(ctx, t.Name); err != nil {
		return false, err
	}
	now, err := r.clickHouse.partStates(ctx, r.database, t.Name)
	if err != nil {
		return false, err
	}
	same := true
	for day := first; day.Before(end); day = day.AddDate(0, 0, 1) {
		id := day.Format("20060102") // the table's partitions are days
		if now[id] == before[id] {
			continue
		}
		same = false
		if !slices.ContainsFunc(*days, day.Equal) {
			*days = append(*days, day)
		}
	}
	return same, nil
}

// names are the rollup's table, and the one beside.
func (r *rollups) names(rollup columns.Rollup) (name, beside string) {
	return quoted(r.database) + "." + quoted(rollup.Name), quoted(r.database) + "." + quoted(rollup.Name+r.suffix)
}

// dropBefore drops what other runs have built: of those that were killed, and of one that was taken for dead and still runs. That one cannot exchange a partition then.
func (r *rollups) dropBefore(ctx context.Context, rollup columns.Rollup) error {
	before, err := r.clickHouse.texts(ctx, "SELECT name FROM system.tables WHERE database = "+literal(r.database)+" AND startsWith(name, "+literal(rollup.Name+rebuiltSuffix)+")")
	if err != nil {
		return err
	}
	for _, name := range before {
		if err := r.clickHouse.exec(ctx, "DROP TABLE IF EXISTS "+quoted(r.database)+"."+quoted(name)+" SYNC"); err != nil {
			return err
		}
	}
	return nil
}

func (r *rollups) drop(ctx context.Context, rollup columns.Rollup) error {
	_, beside := r.names(rollup)
	return r.clickHouse.exec(context.WithoutCancel(ctx), "DROP TABLE IF EXISTS "+beside+" SYNC")
}

// stage makes the table beside of the recount and of what the rollup has of the partition's other days. It returns the number of its rows.
func (r *rollups) stage(ctx context.Context, rollup columns.Rollup, recount, id string, days []time.Time) (int64, error) {
	name, beside := r.names(rollup)
	if err := r.drop(ctx, rollup); err != nil {
		return 0, err
	}
	var cols []string
	for _, c := range rollup.Columns {
		cols = append(cols, quoted(c.Name))
	}
	list := strings.Join(cols, ", ")
	into := fmt.Sprintf("INSERT INTO %s (%s) SETTINGS insert_deduplicate = 0, max_bytes_before_external_group_by = %d SELECT %s FROM ", beside, list, rebuildGroups, list)
	for _, statement := range []string{
		"CREATE TABLE " + beside + " AS " + name,
		into + "(" + recount + ")",
		into + name + " WHERE _partition_id = '" + id + "' AND ingest_date NOT IN (" + dayList(days) + ")",
	} {
		if err := r.clickHouse.exec(ctx, statement); err != nil {
			return 0, err
		}
	}
	return r.clickHouse.number(ctx, "SELECT count() FROM "+beside)
}
