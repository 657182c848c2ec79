package alerting

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pulsegrid/pulsegrid/internal/clickhouse"
	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// Bounds are what one query may cost ClickHouse. A query that reaches one is ended, and its rule has failed.
type Bounds struct {
	Time   time.Duration // of the query; whole seconds
	Rows   int64         // that it reads
	Bytes  int64         // likewise, not compressed
	Memory int64         // bytes
}

// DefaultBounds suit ten rules over rollups or a few over rows on two cores.
var DefaultBounds = Bounds{Time: 5 * time.Second, Rows: 50_000_000, Bytes: 4 << 30, Memory: 512 << 20}

const (
	resultBytesMost = 1 << 20 // bytes of an answer
	answerSlack     = 5 * time.Second
	// clockAhead is how far ahead of the gateways an agent's clock may be: rows that were received so long before the window are not looked for.
	clockAhead = 24 * time.Hour
)

// Store asks ClickHouse. It is safe for concurrent use.
type Store struct {
	client   *clickhouse.Client
	database string
	bounds   Bounds
	tables   map[string]source
}

// source is a table that rules may read.
type source struct {
	signal signal.Signal // 0: of no signal
	width  time.Duration // of a bucket; 0: it has rows
}

// NewStore connects to nothing yet. Of the quarantine's tables rules may read the one without personal data.
func NewStore(c *clickhouse.Client, database string, b Bounds) *Store {
	s := &Store{client: c, database: database, bounds: b, tables: map[string]source{columns.RowsQuarantine: {}}}
	for _, sig := range signal.All {
		t := columns.ForSignal(sig)
		s.tables[t.Name] = source{signal: sig}
		for _, r := range t.Rollups() {
			s.tables[r.Name] = source{signal: sig, width: time.Duration(r.Seconds) * time.Second}
		}
	}
	return s
}

// Tables lists what rules may read.
func (s *Store) Tables() []string { return slices.Sorted(maps.Keys(s.tables)) }

// RuleError says that a rule's query is wrong, or costs too much.
type RuleError struct {
	Costly bool // it reached one of the bounds
	cause  error
}

func (e *RuleError) Error() string { return e.cause.Error() }

func (e *RuleError) Unwrap() error { return e.cause }

// Codes of ClickHouse's exceptions.
const codeMemory = 241

var (
	// costly are the codes of bounds: rows or bytes read, time, speed, rows of the result, bytes of it, memory.
	costly = map[int]bool{158: true, 159: true, 160: true, 307: true, 396: true, codeMemory: true}
	// notTheRules say that ClickHouse could not do it now: too many queries, network, it stops, cancelled, Keeper.
	notTheRules = map[int]bool{202: true, 203: true, 209: true, 210: true, 236: true, 279: true, 394: true, 425: true, 999: true}
)

// failure is ruleError for a query that may also have had no end. ClickHouse looks at max_execution_time between blocks of rows, and not within the call of a function: where it answers others, the
// query is at fault.
func (s *Store) failure(ctx context.Context, r *Rule, err error) error {
	if !errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil {
		return r.ruleError(err)
	}
	ctx, cancel := context.WithTimeout(ctx, answerSlack)
	defer cancel()
	if _, dead := s.client.Do(ctx, "SELECT 1", nil); dead != nil {
		return err
	}
	return &RuleError{Costly: true, cause: r.bad(0, 0, "did not end within %v, nor when it was to be ended: one call of a function takes so long", s.bounds.Time)}
}

// ruleError makes a rule's failure of what ClickHouse says of its query; another error is no answer.
func (r *Rule) ruleError(err error) error {
	e, ok := errors.AsType[*clickhouse.Exception](err)
	if !ok || notTheRules[e.Code] || e.Code == codeMemory && strings.Contains(e.Text, "total") {
		return err
	}
	line, column := 0, 0
	if m := errorPlace.FindStringSubmatch(e.Text); m != nil {
		line, _ = strconv.Atoi(m[1])
		column, _ = strconv.Atoi(m[2])
	}
	return &RuleError{Costly: costly[e.Code], cause: r.bad(line-1, column, "%s", message(e))} // the statement has a line before the SQL's first
}

var (
	errorPlace = regexp.MustCompile(`\(line (\d+), col (\d+)\)`)
	errorNoise = regexp.MustCompile(`^Code: \d+\. DB::Exception: | \(version [^)]*\)$`)
)

// message strips what does not help the author of a rule.
func message(e *clickhouse.Exception) string {
	text, _, _ := strings.Cut(e.Text, " Expected one of: ") // the whole grammar
	return fmt.Sprintf("%s [ClickHouse error %d]", errorNoise.ReplaceAllString(text, ""), e.Code)
}

// escapedParam writes a value as ClickHouse reads parameters: with the escapes of TSV.
var escapedParam = strings.NewReplacer(`\`, `\\`, "\t", `\t`, "\n", `\n`, "\r", `\r`)

func quoted(text string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(text) + "'"
}

// statement has the rule's SQL as a subquery: it can be nothing but a SELECT.
func (r *Rule) statement() string { return "SELECT * FROM (\n" + r.SQL + "\n)" }

const (
	momentForm = "2006-01-02 15:04:05"
	dateForm   = "2006-01-02"
)

// filters are the conditions that ClickHouse adds to each table that a query of the group reads: rows of the tenant, of whole buckets within [from, to).
func (s *Store) filters(g *Group, from, to time.Time) string {
	parts := make([]string, 0, len(s.tables))
	for _, name := range s.Tables() {
		t := s.tables[name]
		received := from.Add(-clockAhead).UTC()
		var cond string
		if t.width > 0 {
			cond = fmt.Sprintf("time >= toDateTime(%s, 'UTC') AND time <= toDateTime(%s, 'UTC') AND ingest_date >= toDate(%s)",
				quoted(from.UTC().Format(momentForm)), quoted(to.Add(-t.width).UTC().Format(momentForm)), quoted(received.Format(dateForm)))
		} else {
			cond = fmt.Sprintf("time >= toDateTime64(%s, 9, 'UTC') AND time < toDateTime64(%s, 9, 'UTC') AND ingest_time >= toDateTime64(%s, 9, 'UTC')",
				quoted(from.UTC().Format(momentForm)), quoted(to.UTC().Format(momentForm)), quoted(received.Format(momentForm)))
		}
		if g.Tenant != AllTenants {
			cond = "tenant_id = " + quoted(g.Tenant) + " AND " + cond
		}
		parts = append(parts, quoted(s.database+"."+name)+":"+quoted(cond))
	}
	return "{" + strings.Join(parts, ",") + "}"
}

// settings of each query of a rule.
func (s *Store) settings(g *Group, r *Rule, to time.Time) map[string]string {
	from := to.Add(-r.Window)
	out := map[string]string{
		"database": s.database, "session_timezone": "UTC",
		// The query may change no setting. A SELECT within it could nevertheless, so Check refuses those that try.
		"readonly": "1", "additional_table_filters": s.filters(g, from, to),
		"max_execution_time": strconv.Itoa(int(s.bounds.Time.Seconds())), "timeout_overflow_mode": "throw",
		"max_rows_to_read": strconv.FormatInt(s.bounds.Rows, 10), "max_bytes_to_read": strconv.FormatInt(s.bounds.Bytes, 10), "read_overflow_mode": "throw",
		"max_result_rows": strconv.Itoa(r.Limit), "max_result_bytes": strconv.Itoa(resultBytesMost), "result_overflow_mode": "throw",
		"max_memory_usage": strconv.FormatInt(s.bounds.Memory, 10), "max_threads": "1", "use_query_cache": "0",
		"priority": "10", // queries of people come first
		"cancel_http_readonly_queries_on_client_close": "1",
		"output_format_json_quote_denormals":           "1",
		"param_from":                                   from.UTC().Format(momentForm), "param_to": to.UTC().Format(momentForm), "param_tenant": g.Tenant,
	}
	for name, value := range r.Params {
		out["param_"+name] = escapedParam.Replace(value)
	}
	return out
}

// Check has ClickHouse read a rule's query, and returns the signals that it reads. A *RuleError says what is wrong with the rule; another error that ClickHouse has not answered.
func (s *Store) Check(ctx context.Context, g *Group, r *Rule) ([]signal.Signal, error) {
	asking, cancel := context.WithTimeout(ctx, s.bounds.Time+answerSlack)
	defer cancel()
	settings := s.settings(g, r, time.Now().Truncate(Tick))
	settings["max_result_rows"] = "0" // of these answers
	syntax, err := clickhouse.Parse(asking, s.client, r.statement(), settings)
	if err != nil {
		return nil, s.failure(ctx, r, err)
	}
	if err := r.refused(syntax); err != nil {
		return nil, err
	}
	tree, err := clickhouse.Analyze(asking, s.client, r.statement(), settings)
	if err != nil {
		return nil, s.failure(ctx, r, err)
	}
	if err := r.refused(tree); err != nil {
		return nil, err
	}
	var signals []signal.Signal
	for _, name := range tree.Tables {
		database, table, _ := strings.Cut(name, ".")
		t, ok := s.tables[table]
		switch {
		case name == "system.one": // what a SELECT without FROM reads
		case database != s.database || !ok:
			return nil, &RuleError{cause: r.bad(0, 0, "reads %s: want tables of %s: %s", name, s.database, strings.Join(s.Tables(), ", "))}
		case t.signal != 0 && !slices.Contains(signals, t.signal):
			signals = append(signals, t.signal)
		}
	}
	cols, err := clickhouse.Rows[clickhouse.Column](asking, s.client, "DESCRIBE TABLE (\n"+r.SQL+"\n)", settings)
	if err != nil {
		return nil, s.failure(ctx, r, err)
	}
	if err := r.checkColumns(g, cols); err != nil {
		return nil, err
	}
	return signals, nil
}

// refused says why a query may not be run, as far as ClickHouse's reading of it tells.
func (r *Rule) refused(t clickhouse.Tree) error {
	refuse := func(format string, args ...any) error { return &RuleError{cause: r.bad(0, 0, format, args...)} }
	if t.Settings {
		return refuse("has SETTINGS: the evaluator sets them")
	}
	for _, f := range t.TableFunctions {
		return refuse("reads %s(): want tables", f)
	}
	for _, f := range t.Functions {
		switch {
		case clickhouse.ReadsOutside(f):
			return refuse("calls %s(), which reads something else than the tenant's rows", f)
		case clickhouse.Unsteady(f):
			return refuse("calls %s(), which gives another answer each time or on each server: use {from:DateTime64} and {to:DateTime64}, the window's begin and end", f)
		}
	}
	return nil
}

var (
	numberType = regexp.MustCompile(`^(U?Int\d+|B?Float\d+|Decimal\(.*\)|SimpleAggregateFunction\(\w+, (U?Int\d+|Float\d+)\))$`)
	textType   = regexp.MustCompile(`^(String|LowCardinality\(String\))$`)
)

func (r *Rule) checkColumns(g *Group, cols []clickhouse.Column) error {
	var errs []error
	has := map[string]bool{nameLabel: true, tenantLabel: g.Tenant != AllTenants}
	for _, labels := range []map[string]string{g.Labels, r.Labels} {
		for name := range labels {
			has[name] = true
		}
	}
	value := false
	for _, c := range cols {
		switch {
		case c.Name == valueColumn:
			value = true
			if !numberType.MatchString(c.Type) {
				errs = append(errs, r.bad(0, 0, "column value is %s: want a number, without NULL", c.Type))
			}
		case !labelForm.MatchString(c.Name):
			errs = append(errs, r.bad(0, 0, "column %q: want a name of letters, digits and _, which becomes the label's: AS name", c.Name))
		case c.Name == nameLabel || c.Name == tenantLabel && g.Tenant != AllTenants:
			errs = append(errs, r.bad(0, 0, "column %s: the evaluator sets this label", c.Name))
		case !textType.MatchString(c.Type):
			errs = append(errs, r.bad(0, 0, "column %s is %s: labels are String, use toString()", c.Name, c.Type))
		default:
			has[c.Name] = true
		}
	}
	if !value {
		errs = append(errs, r.bad(0, 0, "has no column `value`"))
	}
	if g.Tenant == AllTenants && len(cols) > 1 && !has[tenantLabel] {
		errs = append(errs, r.bad(0, 0, "has labels and no column `tenant`: a group of all tenants says whose an alert is: tenant_id AS tenant"))
	}
	for _, name := range slices.Sorted(maps.Keys(r.Annotations)) {
		for _, m := range templateForm.FindAllStringSubmatch(r.Annotations[name], -1) {
			if m[1] != "" && !has[m[1]] {
				errs = append(errs, r.bad(0, 0, "has no column %s, which annotation %s names", m[1], name))
			}
		}
	}
	if err := errors.Join(errs...); err != nil {
		return &RuleError{cause: err}
	}
	return nil
}

// Evaluate runs a rule that Check has let through, over the window that ends at to. The errors are Check's.
func (s *Store) Evaluate(ctx context.Context, g *Group, r *Rule, to time.Time) ([]Sample, error) {
	asking, cancel := context.WithTimeout(ctx, s.bounds.Time+answerSlack)
	defer cancel()
	answer, err := clickhouse.Select[map[string]json.RawMessage](asking, s.client, r.statement(), s.settings(g, r, to))
	if err != nil {
		return nil, s.failure(ctx, r, err)
	}
	samples := make([]Sample, 0, len(answer.Data))
	seen := map[string]bool{}
	for _, row := range answer.Data {
		sample, err := r.sample(g, row)
		if err != nil {
			return nil, &RuleError{cause: err}
		}
		key := fingerprint(sample.Labels)
		if seen[key] {
			return nil, &RuleError{cause: r.bad(0, 0, "gives several rows with the labels %v: GROUP BY them", sample.Labels)}
		}
		seen[key] = true
		samples = append(samples, sample)
	}
	return samples, nil
}

// sample makes a row's labels: those of the row, then of the group, then of the rule, which win; alertname and tenant are nobody's to choose.
func (r *Rule) sample(g *Group, row map[string]json.RawMessage) (Sample, error) {
	out := Sample{Labels: map[string]string{}}
	for name, raw := range row {
		if name == valueColumn {
			if err := (*number)(&out.Value).UnmarshalJSON(raw); err != nil {
				return out, r.bad(0, 0, "value %s: want a number", raw)
			}
			continue
		}
		var text string
		if err := json.Unmarshal(raw, &text); err != nil {
			return out, r.bad(0, 0, "column %s: %s is no text", name, raw)
		}
		text = strings.ToValidUTF8(text, "\uFFFD")
		if len(text) > labelMost {
			return out, r.bad(0, 0, "column %s: a text of %d bytes: labels have at most %d", name, len(text), labelMost)
		}
		out.Labels[name] = text
	}
	maps.Copy(out.Labels, g.Labels)
	maps.Copy(out.Labels, r.Labels)
	out.Labels[nameLabel] = r.Alert
	if g.Tenant != AllTenants {
		out.Labels[tenantLabel] = g.Tenant
	}
	maps.DeleteFunc(out.Labels, func(_, value string) bool { return value == "" }) // for Alertmanager these are not there
	return out, nil
}
