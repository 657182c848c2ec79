package observability

import (
	"cmp"
	"errors"
	"fmt"
	"iter"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Dashboard is a page of Grafana: what its panels ask and say, before grafana.go makes Grafana's JSON of it.
type Dashboard struct {
	Name      string // of its file in dashboards/, without .json; its uid is "pulsegrid-" and this
	Title     string
	Says      string // the question that it answers
	Variables []Variable
	Rows      []Row
}

// Row of panels under a heading.
type Row struct {
	Title  string
	Panels []Panel
}

// Panel is one picture.
type Panel struct {
	Title   string
	Says    string // one sentence: what is wrong when it looks wrong
	As      Look
	Unit    string // Grafana's id of it
	Queries []Query
	Limits  []Limit           // where it changes its colour
	Alerts  []string          // about what it shows; it links their runbooks
	Page    string            // a further page to link
	Units   map[string]string // of a table's columns that have another one
	links   []link
}

// link to a page of this repository.
type link struct{ title, page string }

// Look of a panel.
type Look string

// Looks. A number and a table show what is now; lines show the time that is chosen.
const (
	Number Look = "stat"
	Lines  Look = "timeseries"
	Table  Look = "table"
)

// Query of a panel or a variable: either of the two. In SQL Lines have a column `time`, any number of text columns, which name a line, and a number.
type Query struct {
	PromQL string
	SQL    string
	Legend string // of PromQL; {{label}} stands for a label's value
}

// Variable that the reader chooses. In SQL it is used as `$__conditionalAll(COLUMN IN ($NAME), $NAME)`, in PromQL as `LABEL=~"$NAME"`, of one value only as `LABEL="$NAME"`.
type Variable struct {
	Name, Label string
	One         bool // exactly one value, else any number and all
	Query
}

// Limit is a value at which a panel changes its colour.
type Limit struct {
	Value float64
	Below bool // bad is what is below it
	Page  bool // red, else orange
}

// aboveZero is the limit where zero is good and no more is: Grafana's colours begin at their value.
const aboveZero = 1e-6

// boards makes the dashboards; the first thing that is wrong with them stops that.
type boards struct {
	slos   SLOs
	alerts map[string][]Rule // by name; of an SLO there are several
	errs   []error
}

// Dashboards are all that there are. Limits and links come from the SLOs and the rules.
func Dashboards(slos SLOs, rules []Rule) ([]Dashboard, error) {
	b := &boards{slos: slos, alerts: map[string][]Rule{}}
	for _, r := range rules {
		if r.Alert != "" {
			b.alerts[r.Alert] = append(b.alerts[r.Alert], r)
		}
	}
	all := []Dashboard{
		b.fleet(), b.cell(), b.gateway(), b.kafka(), b.aggregator(), b.clickHouse(), b.lake(), b.tenants(), b.quarantine(), b.slo(),
	}
	for _, d := range all {
		for p := range d.Panels() {
			p.links = b.links(p)
			for i, l := range p.Limits {
				if l.Below != p.Limits[0].Below {
					b.wrong("%s: %s: limits[%d]: is bad on the other side than the first", d.Name, p.Title, i)
				}
			}
		}
	}
	return all, errors.Join(b.errs...)
}

func (b *boards) wrong(format string, args ...any) {
	b.errs = append(b.errs, fmt.Errorf(format, args...))
}

// Panels of all rows.
func (d *Dashboard) Panels() iter.Seq[*Panel] {
	return func(yield func(*Panel) bool) {
		for _, r := range d.Rows {
			for i := range r.Panels {
				if !yield(&r.Panels[i]) {
					return
				}
			}
		}
	}
}

// compared is the end of an alert's expression: what it compares with.
var compared = regexp.MustCompile(`(<|>|==) ([0-9.]+)$`)

// limits are the values beyond which alerts fire, as their expressions end.
func (b *boards) limits(alerts ...string) (out []Limit) {
	for _, name := range alerts {
		for _, r := range b.alerts[name] {
			m := compared.FindStringSubmatch(r.Expr)
			if m == nil {
				b.wrong("the expression of %s does not end with what it is compared with", name)
				continue
			}
			value, err := strconv.ParseFloat(m[2], 64)
			if err != nil {
				b.wrong("%s: %w", name, err)
			}
			if m[1] == ">" && value == 0 {
				value = aboveZero
			}
			out = append(out, Limit{value, m[1] == "<", r.Labels["severity"] == "page"})
		}
	}
	return out
}

func (b *boards) find(slo string) *SLO {
	i := slices.IndexFunc(b.slos.SLOs, func(s SLO) bool { return s.Name == slo })
	if i < 0 {
		b.wrong("slo.yaml has no %s", slo)
		return &SLO{}
	}
	return &b.slos.SLOs[i]
}

// within is the time that an SLO allows.
func (b *boards) within(slo string) []Limit {
	return []Limit{{Value: b.find(slo).SLI.Within, Page: true}}
}

// failing is the share of bad events at which an SLO's budget burns so fast that its first alert fires.
func (b *boards) failing(slo string) []Limit {
	s := b.find(slo)
	limit, _ := strconv.ParseFloat(number(burns[0].rate*s.budget()), 64) // what number wrote
	return []Limit{{Value: limit, Page: cmp.Or(s.Severity, burns[0].severity) == "page"}}
}

// budgetLeft are the limits of a share of the budget that is left: a quarter, and nothing.
var budgetLeft = []Limit{{Value: 0, Below: true, Page: true}, {Value: 0.25, Below: true}}

// burnAlerts of all SLOs.
func (b *boards) burnAlerts() (names []string) {
	for _, s := range b.slos.SLOs {
		if s.Alert != "" {
			names = append(names, s.Alert)
		}
	}
	return names
}

// links to the runbooks of a panel's alerts, one for each page, and to its document.
func (b *boards) links(p *Panel) (out []link) {
	for _, name := range p.Alerts {
		if len(b.alerts[name]) == 0 {
			b.wrong("%s: there is no alert %s", p.Title, name)
			continue
		}
		page := b.alerts[name][0].Annotations["runbook_url"]
		if i := slices.IndexFunc(out, func(l link) bool { return l.page == page }); i >= 0 {
			out[i].title += ", " + name
		} else {
			out = append(out, link{"Runbook: " + name, page})
		}
	}
	if p.Page != "" {
		out = append(out, link{"Document", p.Page})
	}
	return out
}

// Variables of more than one dashboard.
var (
	cells   = Variable{Name: "cell", Label: "Cell", Query: Query{PromQL: `label_values(up{job=~"pulsegrid-(gateway|aggregator)"}, cell)`}}
	oneCell = Variable{Name: cells.Name, Label: cells.Label, One: true, Query: cells.Query}
)

// instances of the programs of one kind, gateway or aggregator.
func instances(kind string) Variable {
	return Variable{Name: "instance", Label: "Instance", Query: Query{PromQL: fmt.Sprintf(`label_values(up{job="pulsegrid-%s",cell=~"$cell"}, instance)`, kind)}}
}

// lines are queries, each with its legend behind it.
func lines(queriesAndLegends ...string) (out []Query) {
	for q := range slices.Chunk(queriesAndLegends, 2) {
		out = append(out, Query{PromQL: q[0], Legend: q[1]})
	}
	return out
}

// quantile of a histogram's observations over Grafana's interval; by are further labels that it is asked for, such as "group, ".
func quantile(q float64, by, histogram, matchers string) string {
	return fmt.Sprintf(`histogram_quantile(%v, sum by (%sle) (rate(%s_bucket{%s}[$__rate_interval])))`, q, by, histogram, matchers)
}

// counted is how much a counter grew in an hour. It is not there before it first counts, which increase does not see, and zero is written for it.
func counted(counter, matchers string) string {
	c := counter + "{" + matchers + "}"
	return fmt.Sprintf("sum(increase(%s[1h])) > 0 or sum(%s unless %s offset 1h) > 0 or vector(0)", c, c, c)
}

// Expand writes PromQL as it is without Grafana: a time for what Grafana chooses.
func Expand(expr string) string { return strings.ReplaceAll(expr, "$__rate_interval", "1m") }

// sqlMax is the end of every statement: a time that is chosen too long is an error, and no load on ClickHouse.
const sqlMax = "\nSETTINGS max_rows_to_read = 100000000, max_execution_time = 20, max_result_rows = 100000"

// sql is a statement without its indentation, bounded.
func sql(statement string) []Query { return []Query{{SQL: bounded(statement)}} }

func bounded(statement string) string {
	return strings.TrimSpace(strings.ReplaceAll(statement, "\n\t\t", "\n")) + sqlMax
}
