package federation

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pulsegrid/pulsegrid/internal/clickhouse"
	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/tenant"
)

const (
	// groupsMax is how many groups a cell may answer.
	groupsMax = 10_000
	// queryBytesMax bounds a statement: it may name 100,000 tenants.
	queryBytesMax = "67108864"
	// summed is the type of measures that are added up over cells.
	summed = "SimpleAggregateFunction(sum, UInt64)"
)

// Cell is one whose ClickHouse is asked.
type Cell struct {
	Name, Jurisdiction string
	Database           string
	Client             *clickhouse.Client
}

// Reader is where the answer goes, and the registry that says whose rows may go there.
type Reader struct {
	Jurisdiction string
	Registry     *tenant.Snapshot
}

// Query is what is asked of each cell.
type Query struct {
	Table    *columns.Table
	Rollup   columns.Rollup
	By       []string // columns of the rollup's key
	From, To time.Time
	Tenant   string        // empty: all that the reader may have
	Timeout  time.Duration // of each cell
}

// Measures are the columns that are added up.
func (q *Query) Measures() (out []string) {
	for _, c := range q.Rollup.Columns {
		if !c.Key && c.Type == summed {
			out = append(out, c.Name)
		}
	}
	return out
}

// Group is a line of an answer.
type Group struct {
	Keys     []string `json:"keys"`
	Measures []uint64 `json:"measures"`
}

// Part is what a cell has said.
type Part struct {
	Cell         string `json:"cell"`
	Jurisdiction string `json:"jurisdiction"`
	Of           string `json:"of"` // whose rows were asked for
	Groups       int    `json:"groups"`
	// Newest is when a gateway had read the newest request that is in the cell's table; zero: it has none, or did not answer.
	Newest time.Time `json:"newest,omitzero"`
	// AgeSeconds of it, when the cell answered.
	AgeSeconds float64 `json:"age_seconds,omitempty"`
	Error      string  `json:"error,omitempty"` // why the cell is not in the answer
}

// Answer is the sum over the cells that have answered.
type Answer struct {
	From     time.Time `json:"from"`
	To       time.Time `json:"to"`
	By       []string  `json:"by"`
	Measures []string  `json:"measures"`
	Groups   []Group   `json:"groups"`
	Cells    []Part    `json:"cells"`
	Missing  []string  `json:"missing"` // cells that are not in it
}

// Ask asks all cells at once. A cell that fails is in Missing; the error is that of a query that no cell may be asked.
func Ask(ctx context.Context, cells []Cell, r Reader, q *Query) (*Answer, error) {
	if err := q.validate(r); err != nil {
		return nil, err
	}
	a := &Answer{From: q.From, To: q.To, By: q.By, Measures: q.Measures(), Groups: []Group{}, Missing: []string{}, Cells: make([]Part, len(cells))}
	groups := make([][]Group, len(cells))
	var asked sync.WaitGroup
	for i := range cells {
		asked.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, q.Timeout)
			defer cancel()
			a.Cells[i], groups[i] = q.ask(ctx, &cells[i], r)
		})
	}
	asked.Wait()
	at := map[string]int{}
	for i, p := range a.Cells {
		if p.Error != "" {
			a.Missing = append(a.Missing, p.Cell)
			continue
		}
		for _, g := range groups[i] {
			key := strings.Join(g.Keys, "\x00")
			n, known := at[key]
			if !known {
				at[key] = len(a.Groups)
				a.Groups = append(a.Groups, g)
				continue
			}
			for m, v := range g.Measures {
				a.Groups[n].Measures[m] += v
			}
		}
	}
	slices.SortFunc(a.Groups, func(x, y Group) int { return slices.Compare(x.Keys, y.Keys) })
	return a, ctx.Err()
}

func (q *Query) validate(r Reader) error {
	if r.Jurisdiction == "" {
		return errors.New("where the reader is, is not known: rows could leave their jurisdiction")
	}
	if r.Registry.Incomplete() {
		return errors.New("a file of the registry of tenants could not be read: who is pinned is not known")
	}
	for _, name := range q.By {
		if !slices.Contains(q.Rollup.Key(), name) {
			return fmt.Errorf("%q is no key of %s: %s", name, q.Rollup.Name, strings.Join(q.Rollup.Key(), ", "))
		}
	}
	if q.Tenant == "" {
		return nil
	}
	switch t := r.Registry.Tenant(q.Tenant); {
	case t == nil:
		return fmt.Errorf("the registry has no tenant %q: whether its rows may be read here is not known", q.Tenant)
	case t.Jurisdiction != "" && t.Jurisdiction != r.Jurisdiction:
		return fmt.Errorf("data of tenant %q must stay in jurisdiction %q, and this reader is in %q: nothing was read", q.Tenant, t.Jurisdiction, r.Jurisdiction)
	}
	return nil
}

// scope is whose rows a cell is asked for: a condition, and in words.
func (q *Query) scope(c *Cell, r Reader) (condition, words string) {
	switch {
	case q.Tenant != "":
		return " AND tenant_id = " + literal(q.Tenant), "tenant " + q.Tenant
	case c.Jurisdiction == r.Jurisdiction:
		return "", "all tenants"
	}
	unpinned := r.Registry.Unpinned()
	if len(unpinned) == 0 {
		return " AND 0", "nobody: each tenant is pinned"
	}
	for i, id := range unpinned {
		unpinned[i] = literal(id)
	}
	return " AND tenant_id IN (" + strings.Join(unpinned, ", ") + ")", "tenants that are pinned nowhere"
}

func (q *Query) ask(ctx context.Context, c *Cell, r Reader) (p Part, groups []Group) {
	condition, words := q.scope(c, r)
	p = Part{Cell: c.Name, Jurisdiction: c.Jurisdiction, Of: words}
	groups, err := clickhouse.Rows[Group](ctx, c.Client, q.statement(c.Database, condition), map[string]string{"max_query_size": queryBytesMax})
	if err == nil && len(groups) > groupsMax {
		err = fmt.Errorf("has more than %d groups: choose fewer columns or a shorter time", groupsMax)
	}
	if err == nil {
		p.Groups = len(groups)
		err = p.freshness(ctx, c, q.Table.Name)
	}
	if err != nil {
		return Part{Cell: c.Name, Jurisdiction: c.Jurisdiction, Of: words, Error: err.Error()}, nil
	}
	return p, groups
}

func (q *Query) statement(database, condition string) string {
	list := func(names []string, format string) string {
		out := make([]string, len(names))
		for i, n := range names {
			out[i] = fmt.Sprintf(format, quoted(n))
		}
		return strings.Join(out, ", ")
	}
	keys := "CAST([], 'Array(String)')"
	if len(q.By) > 0 {
		keys = "[" + list(q.By, "toString(%s)") + "]"
	}
	return fmt.Sprintf("SELECT %s AS keys, [%s] AS measures FROM %s.%s WHERE time >= toDateTime(%d, 'UTC') AND time < toDateTime(%d, 'UTC')%s GROUP BY keys ORDER BY keys LIMIT %d",
		keys, list(q.Measures(), "toUInt64(sum(%s))"), quoted(database), quoted(q.Rollup.Name), q.From.Unix(), q.To.Unix(), condition, groupsMax+1)
}

// freshness is that of the table of events, which the rollup is as fresh as. It says nothing of any tenant.
func (p *Part) freshness(ctx context.Context, c *Cell, table string) error {
	type newest struct{ Millis int64 }
	n, err := clickhouse.Row[newest](ctx, c.Client, fmt.Sprintf("SELECT toUnixTimestamp64Milli(max(ingest_time)) AS Millis FROM %s.%s", quoted(c.Database), quoted(table)), nil)
	if err == nil && n.Millis > 0 {
		p.Newest = time.UnixMilli(n.Millis).UTC()
		p.AgeSeconds = time.Since(p.Newest).Seconds()
	}
	return err
}

func quoted(name string) string { return "`" + strings.ReplaceAll(name, "`", "``") + "`" }

func literal(s string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s) + "'"
}
