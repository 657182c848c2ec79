package rehearsal

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/apache/arrow-go/v18/arrow"

	"github.com/pulsegrid/pulsegrid/internal/audit/stored"
	"github.com/pulsegrid/pulsegrid/internal/backfill"
	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/columns/rows"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire"
	"github.com/pulsegrid/pulsegrid/internal/quarantine"
	"github.com/pulsegrid/pulsegrid/internal/repair"
	"github.com/pulsegrid/pulsegrid/internal/schema"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// rowDepth is more than a row's values are deep: the gateway that took the event may have allowed more than the default.
const rowDepth = 256

// Run rehearses. An error means that the lake could not be read to the end.
func Run(ctx context.Context, c Config) (Report, error) {
	r := &run{Config: c, tenants: map[string]*tally{}}
	r.report = Report{
		From: c.From.UTC(), To: c.To.UTC(), Tenant: c.Tenant, NewColumns: []Column{}, Tenants: []Tenant{},
		Current:  Registry{c.Current.Registry().Version(), c.Current.Registry().Schemas()},
		Proposed: Registry{c.Proposed.Registry().Version(), c.Proposed.Registry().Schemas()},
	}
	for _, sig := range signal.All {
		if err := r.events(ctx, sig); err != nil {
			return r.report, err
		}
	}
	for _, t := range []*columns.Table{columns.Quarantine, columns.QuarantinePII} {
		if err := r.items(ctx, t); err != nil {
			return r.report, err
		}
	}
	for _, t := range r.tenants {
		t.Sources = make([]Source, 0, len(t.sources))
		for _, s := range t.sources {
			t.Sources = append(t.Sources, *s)
		}
		r.report.Tenants = append(r.report.Tenants, t.Tenant)
	}
	r.report.finish()
	return r.report, nil
}

type run struct {
	Config
	report  Report
	tenants map[string]*tally
	sources int // of all tenants
}

// read reads the rows of a table that are of the time.
func (r *run) read(ctx context.Context, t *columns.Table, each func(rec *rows.Reader, row int) error) error {
	p := Progress{Table: t.Name}
	tell := func() {
		if r.Progress != nil {
			r.Progress(p)
		}
	}
	return r.Lake.ReadReceived(ctx, stored.Received{Table: t, Tenant: r.Tenant, From: r.From, To: r.To}, func(n int64) { p.Of = n; tell() }, func(rec arrow.RecordBatch, which []int) error {
		reader := rows.NewReader(t, rec)
		for _, i := range which {
			if err := each(reader, i); err != nil {
				return err
			}
		}
		p.Rows += rec.NumRows()
		tell()
		return ctx.Err()
	})
}

// unreadable counts a row or an item that no event can be made of.
func (r *run) unreadable(t *columns.Table, err error) {
	if r.report.Unreadable++; r.report.Unreadable == 1 {
		r.report.UnreadableExample = fmt.Sprintf("table %s: %v", t.Name, err)
	}
}

// events checks the rows of a signal.
func (r *run) events(ctx context.Context, sig signal.Signal) error {
	table := columns.ForSignal(sig)
	wanted := r.newColumns(sig, table)
	defer func() { r.report.NewColumns = append(r.report.NewColumns, wanted...) }()
	return r.read(ctx, table, func(rec *rows.Reader, row int) error {
		req, err := rec.Request(row)
		if err == nil {
			_, err = otlpwire.Count(sig, req, otlpwire.Limits{MaxDepth: rowDepth})
		}
		if err != nil {
			r.unreadable(table, err)
			return nil
		}
		if backfill.IsJob(rec.Text("kafka_topic")) {
			r.report.JobRows++
			return nil
		}
		r.report.Events++
		t := r.tenant(rec.Text("tenant_id"))
		for i := range wanted {
			if err := wanted[i].count(sig, req); err != nil {
				return err
			}
		}
		if t.Mode == schema.Off {
			t.Unchecked++
			return nil
		}
		current, proposed, err := r.check(t, sig, req, time.Unix(0, rec.Time("ingest_time")))
		if err != nil {
			return fmt.Errorf("table %s: %w", table.Name, err)
		}
		r.checked(t, sig, rec.Text("service_name"), len(req), current, proposed)
		return nil
	})
}

func (r *run) check(t *tally, sig signal.Signal, req []byte, received time.Time) (current, proposed schema.Result, err error) {
	if current, err = r.Current.Check(sig, req, t.Unknown, received); err != nil {
		return current, proposed, err
	}
	proposed, err = r.Proposed.Check(sig, req, t.Unknown, received)
	return current, proposed, err
}

// newColumns are the attributes that want a column under the proposed registry only.
func (r *run) newColumns(sig signal.Signal, table *columns.Table) (out []Column) {
	had := r.Current.Registry().Promoted(sig)
	for _, p := range r.Proposed.Registry().Promoted(sig) {
		name := columns.Promotion{Key: p.Key}.Column()
		if _, is := table.Column(name); !is && !slices.Contains(had, p) {
			out = append(out, Column{Signal: sig.String(), Attribute: p.Key, Type: p.Type, Column: name})
		}
	}
	return out
}

// count looks for the attribute in a request of one event.
func (c *Column) count(sig signal.Signal, req []byte) error {
	return otlpwire.Walk(sig, req, func(e *otlpwire.Event) bool {
		v, ok := e.Attr(c.Attribute)
		if !ok {
			return true
		}
		switch typ := v.Type(); {
		case typ == otlpwire.TypeString && c.Type == "string":
			c.Events, c.Bytes = c.Events+1, c.Bytes+int64(len(v.Bytes()))
		case typ == otlpwire.TypeInt && c.Type == "int", typ == otlpwire.TypeDouble && c.Type == "double":
			c.Events, c.Bytes = c.Events+1, c.Bytes+8
		case typ == otlpwire.TypeBool && c.Type == "boolean":
			c.Events, c.Bytes = c.Events+1, c.Bytes+1
		}
		return true
	})
}

// items checks what is in a table of the quarantine.
func (r *run) items(ctx context.Context, table *columns.Table) error {
	return r.read(ctx, table, func(rec *rows.Reader, row int) error {
		rec.Seek(row)
		if backfill.IsJob(rec.Text("kafka_topic")) {
			r.report.JobRows++
			return nil
		}
		i := quarantine.Item{
			Signal: rec.Text("signal"), Code: rec.Text("code"), Object: rec.Text("object"), OriginTopic: rec.Text("origin_topic"),
			ContentType: rec.Text("content_type"), ContentEncoding: rec.Text("content_encoding"), Body: rec.Bytes("body"),
		}
		i.Findings, _ = schema.DecodeFindings([]byte(rec.Text("verdicts"))) // none where there are none
		received := time.Unix(0, rec.Time("ingest_time"))
		t := r.tenant(rec.Text("tenant_id"))
		if err := rec.Err(); err != nil {
			return err // it is so in every row: the table is another one
		}
		q := &t.Quarantine
		q.Items++
		why := repair.Unrepairable(i)
		sig, _ := signal.Parse(i.Signal) // of what can be repaired it is one
		events := 0
		if why == "" {
			var err error
			if events, err = otlpwire.Count(sig, i.Body, otlpwire.Limits{MaxDepth: rowDepth}); err != nil {
				why = repair.NotOTLP
			}
		}
		if why != "" {
			q.NotChecked[why]++
			return nil
		}
		q.Events += int64(events)
		if t.Mode == schema.Off {
			q.AcceptedCurrent += int64(events)
			q.AcceptedProposed += int64(events)
			return nil
		}
		current, proposed, err := r.check(t, sig, i.Body, received)
		if err != nil {
			return fmt.Errorf("table %s: %w", table.Name, err)
		}
		q.AcceptedCurrent += int64(events - len(current.Findings))
		q.AcceptedProposed += int64(events - len(proposed.Findings))
		return nil
	})
}
