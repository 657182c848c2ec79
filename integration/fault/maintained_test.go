package fault

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/apache/iceberg-go"
	"github.com/apache/iceberg-go/catalog"
	_ "github.com/apache/iceberg-go/catalog/rest"
	"github.com/apache/iceberg-go/table"

	"github.com/pulsegrid/pulsegrid/internal/testkit/icebergtest"
	"github.com/pulsegrid/pulsegrid/internal/testkit/pytest"
	"github.com/pulsegrid/pulsegrid/internal/upkeep"
)

var (
	//go:embed testdata/Maintain.java
	maintainSource string
	//go:embed testdata/evolve.py
	evolveScript string
)

const (
	// keptSnapshots are enough to tell where each partition ends while its property is dropped.
	keptSnapshots = 40
	// mostSnapshots are there at the end: those and what came since.
	mostSnapshots = keptSnapshots + 60
	engineTimeout = 2 * time.Minute
	foreignNames  = 3 // columns that pyiceberg adds
)

// engine is what another engine has done to the tables; Beaten: commits that others were faster than.
type engine struct{ Rewritten, Beaten, Expired, Columns int }

func (e *engine) add(did engine) {
	e.Rewritten += did.Rewritten
	e.Beaten += did.Beaten
	e.Expired += did.Expired
	e.Columns += did.Columns
}

// lakeMaintained has the product's upkeep and two engines that share no code with it at the tables while two aggregators write them.
func (r *run) lakeMaintained() error {
	ctx := context.Background()
	names := []string{"logs", "spans", "metrics"}
	url := r.CatalogServer.URL()
	props := iceberg.Properties{"type": "rest", "uri": url}
	for k, v := range r.CatalogProperties() {
		props[k] = v
	}
	cat, err := catalog.Load(ctx, "pulsegrid", props)
	if err != nil {
		return err
	}
	properties, err := json.Marshal(r.CatalogProperties())
	if err != nil {
		return err
	}
	var ours struct{ runs, compacted, written, merged, expired int }
	var java, python engine
	for until := time.Now().Add(scaled(maintainFor)); ours.runs == 0 || time.Now().Before(until); {
		for _, name := range names {
			report, err := upkeep.Table(ctx, cat, table.Identifier{"pulsegrid", name}, upkeep.Options{RetainLast: keptSnapshots, TargetBytes: 64 << 20, Within: engineTimeout})
			if err != nil {
				return err
			}
			ours.compacted += report.Compacted
			ours.written += report.Written
			ours.merged += report.MergedManifests
			ours.expired += report.Expired
		}
		var did engine
		out := icebergtest.Run(r.t, engineTimeout, maintainSource, append([]string{url, r.Objects.Dir, strconv.Itoa(keptSnapshots)}, names...)...)
		if err := json.Unmarshal(out, &did); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		java.add(did)
		did = engine{}
		pytest.RunJSON(r.t, &did, evolveScript, append([]string{url, string(properties), "foreign_" + strconv.Itoa(ours.runs%foreignNames)}, names...)...)
		python.add(did)
		ours.runs++
	}
	r.t.Logf("upkeep %+v, Iceberg Java %+v, pyiceberg %+v", ours, java, python)
	if *scale >= 1 && (ours.compacted == 0 || java.Rewritten == 0 || python.Columns == 0) {
		return errors.New("one of them did nothing")
	}
	for _, name := range names {
		tbl, err := cat.LoadTable(ctx, table.Identifier{"pulsegrid", name})
		if err != nil {
			return err
		}
		text, err := json.Marshal(tbl.Metadata())
		if err != nil {
			return err
		}
		n := len(tbl.Metadata().Snapshots())
		r.t.Logf("%s: %d snapshots, metadata of %d bytes", name, n, len(text))
		if n > mostSnapshots {
			return fmt.Errorf("table %s has %d snapshots, want %d at most", name, n, mostSnapshots)
		}
	}
	return nil
}
