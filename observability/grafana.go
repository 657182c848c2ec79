package observability

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/cog/variants"
	"github.com/grafana/grafana-foundation-sdk/go/common"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/grafana/grafana-foundation-sdk/go/prometheus"
	"github.com/grafana/grafana-foundation-sdk/go/stat"
	"github.com/grafana/grafana-foundation-sdk/go/table"
	"github.com/grafana/grafana-foundation-sdk/go/timeseries"
)

const (
	tag           = "pulsegrid"
	clickHouseKey = "grafana-clickhouse-datasource" // the plugin's id
	documents     = "https://github.com/pulsegrid/pulsegrid/blob/main"
	leastInterval = "1m" // of SQL over rollups of a minute: a shorter one would divide a minute's count by less than a minute
)

// Data sources are variables too, so that a dashboard fits any Grafana.
var (
	promSource = dashboard.DataSourceRef{Type: cog.ToPtr("prometheus"), Uid: cog.ToPtr("${prometheus}")}
	sqlSource  = dashboard.DataSourceRef{Type: cog.ToPtr(clickHouseKey), Uid: cog.ToPtr("${clickhouse}")}
)

func (q *Query) source() dashboard.DataSourceRef {
	if q.SQL != "" {
		return sqlSource
	}
	return promSource
}

// sqlTarget is a query of Grafana's ClickHouse plugin, 4.x, which the SDK does not have.
type sqlTarget struct {
	RefID         string                  `json:"refId"`
	Datasource    dashboard.DataSourceRef `json:"datasource"`
	EditorType    string                  `json:"editorType"`
	QueryType     string                  `json:"queryType"` // table or timeseries
	Format        int                     `json:"format"`    // 1: as it is; 0: text columns name lines
	PluginVersion string                  `json:"pluginVersion"`
	RawSQL        string                  `json:"rawSql"`
}

func (sqlTarget) ImplementsDataqueryVariant()            {}
func (sqlTarget) DataqueryType() string                  { return clickHouseKey }
func (sqlTarget) Validate() error                        { return nil }
func (t sqlTarget) Equals(other variants.Dataquery) bool { return other == variants.Dataquery(t) }
func (t sqlTarget) Build() (variants.Dataquery, error)   { return t, nil }

// target is a query of a panel.
func (q *Query) target(look Look, id string) cog.Builder[variants.Dataquery] {
	if q.SQL != "" {
		t := sqlTarget{RefID: id, Datasource: sqlSource, EditorType: "sql", QueryType: "table", Format: 1, PluginVersion: "4.20.0", RawSQL: q.SQL}
		if look == Lines {
			t.QueryType, t.Format = "timeseries", 0
		}
		return t
	}
	t := prometheus.NewDataqueryBuilder().RefId(id).Datasource(promSource).EditorMode(prometheus.QueryEditorModeCode).Expr(q.PromQL).LegendFormat(q.Legend)
	switch look {
	case Lines:
		t.Range()
	case Table:
		t.Instant().Format(prometheus.PromQueryFormatTable)
	default:
		t.Instant() // the last value of a range may be of a series that has ended
	}
	return t
}

// thresholds as Grafana has them: ascending, each the begin of a colour.
func thresholds(limits []Limit) cog.Builder[dashboard.ThresholdsConfig] {
	color := func(l Limit) string {
		if l.Page {
			return "red"
		}
		return "orange"
	}
	sorted := slices.Clone(limits)
	slices.SortFunc(sorted, func(a, b Limit) int { return cmp.Compare(a.Value, b.Value) })
	steps := []dashboard.Threshold{{Color: "green"}}
	for i, l := range sorted {
		if !l.Below {
			steps = append(steps, dashboard.Threshold{Value: cog.ToPtr(l.Value), Color: color(l)})
			continue
		}
		// Below it is this limit's colour; from it on the next one's, or green.
		steps[len(steps)-1].Color = color(l)
		next := "green"
		if i+1 < len(sorted) {
			next = color(sorted[i+1])
		}
		steps = append(steps, dashboard.Threshold{Value: cog.ToPtr(l.Value), Color: next})
	}
	return dashboard.NewThresholdsConfigBuilder().Mode(dashboard.ThresholdsModeAbsolute).Steps(steps)
}

// panelBuilder is what the SDK's builders of panels have in common.
type panelBuilder[B any] interface {
	cog.Builder[dashboard.Panel]
	Title(string) B
	Description(string) B
	Unit(string) B
	Datasource(common.DataSourceRef) B
	GridPos(dashboard.GridPos) B
	Interval(string) B
	Thresholds(cog.Builder[dashboard.ThresholdsConfig]) B
	Links([]cog.Builder[dashboard.DashboardLink]) B
	Targets([]cog.Builder[variants.Dataquery]) B
	Id(uint32) B
}

// visible is a link that is not in a menu, which is where the SDK's builder puts it.
type visible dashboard.DashboardLink

func (v visible) Build() (dashboard.DashboardLink, error) { return dashboard.DashboardLink(v), nil }

// columns of Grafana's grid.
const columns = 24

var heights = map[Look]uint32{Number: 5, Lines: 8, Table: 9}

// width of a panel: three or four in a line, and two beside tables.
func (r *Row) width(p *Panel) uint32 {
	tables := slices.ContainsFunc(r.Panels, func(p Panel) bool { return p.As == Table })
	switch {
	case p.As == Table, tables && p.As == Lines, len(r.Panels) == 2:
		return columns / 2
	case tables, len(r.Panels)%4 == 0:
		return columns / 4
	}
	return columns / 3
}

// describe sets what panels of each look have in common.
func describe[B panelBuilder[B]](to B, p *Panel, id uint32, at dashboard.GridPos) B {
	var targets []cog.Builder[variants.Dataquery]
	for i := range p.Queries {
		targets = append(targets, p.Queries[i].target(p.As, string(rune('A'+i))))
	}
	var links []cog.Builder[dashboard.DashboardLink]
	for _, l := range p.links {
		links = append(links, visible{Title: l.title, Type: dashboard.DashboardLinkTypeLink, Url: cog.ToPtr("${runbooks}/" + l.page), Tags: []string{}, TargetBlank: true})
	}
	to.Id(id).Title(p.Title).Description(p.Says).Unit(p.Unit).GridPos(at)
	to.Datasource(p.Queries[0].source()).Targets(targets).Thresholds(thresholds(p.Limits)).Links(links)
	if p.Queries[0].SQL != "" {
		to.Interval(leastInterval)
	}
	return to
}

// build makes the SDK's panel.
func (p *Panel) build(id uint32, at dashboard.GridPos) cog.Builder[dashboard.Panel] {
	switch p.As {
	case Number:
		return describe(stat.NewPanelBuilder(), p, id, at).GraphMode(common.BigValueGraphModeNone).Orientation(common.VizOrientationAuto).
			ReduceOptions(common.NewReduceDataOptionsBuilder().Calcs([]string{"lastNotNull"}))
	case Table:
		t := describe(table.NewPanelBuilder(), p, id, at)
		for _, column := range slices.Sorted(maps.Keys(p.Units)) {
			t.OverrideByName(column, []dashboard.DynamicConfigValue{{Id: "unit", Value: p.Units[column]}})
		}
		if p.Queries[0].PromQL != "" { // labels are columns; these say nothing
			t.WithTransformation(dashboard.DataTransformerConfig{Id: "organize", Options: map[string]any{
				"excludeByName": map[string]bool{"Time": true, "Value": true, "__name__": true, "alertstate": true},
			}})
			t.SortBy([]cog.Builder[common.TableSortByFieldState]{common.NewTableSortByFieldStateBuilder().DisplayName("severity")}) // page before ticket
		}
		return t
	}
	to := describe(timeseries.NewPanelBuilder(), p, id, at).ShowPoints(common.VisibilityModeNever).FillOpacity(10).
		Legend(common.NewVizLegendOptionsBuilder().ShowLegend(true).DisplayMode(common.LegendDisplayModeList).Placement(common.LegendPlacementBottom)).
		Tooltip(common.NewVizTooltipOptionsBuilder().Mode(common.TooltipDisplayModeMulti).Sort(common.SortOrderDescending))
	if len(p.Limits) > 0 {
		to.ThresholdsStyle(common.NewGraphThresholdsStyleConfigBuilder().Mode(common.GraphThresholdsStyleModeDashed))
	}
	return to
}

func (v *Variable) build() cog.Builder[dashboard.VariableModel] {
	text := v.PromQL
	if v.SQL != "" {
		text = v.SQL
	}
	q := dashboard.NewQueryVariableBuilder(v.Name).Label(v.Label).Datasource(v.source()).Query(dashboard.StringOrMap{String: &text}).
		Refresh(dashboard.VariableRefreshOnDashboardLoad).Sort(dashboard.VariableSortAlphabeticalAsc)
	if v.One {
		return q
	}
	all := dashboard.StringOrArrayOfString{ArrayOfString: []string{"$__all"}}
	q.Multi(true).IncludeAll(true).Current(dashboard.VariableOption{Text: dashboard.StringOrArrayOfString{ArrayOfString: []string{"All"}}, Value: all})
	if v.SQL == "" {
		q.AllValue(".*") // a list of all would be long
	}
	return q
}

// JSON is what Grafana loads: its schema v1, which Grafana 10 and later read from files and by import. The SDK prefers v2, which is of Grafana 12.
func (d *Dashboard) JSON() ([]byte, error) {
	to := dashboard.NewDashboardBuilder(d.Title) //nolint:staticcheck // v1 is meant, see above
	to.Uid("pulsegrid-"+d.Name).Description(d.Says).Tags([]string{tag}).Time("now-3h", "now").Refresh("1m").Timezone("utc").Readonly()
	to.Tooltip(dashboard.DashboardCursorSyncCrosshair)
	to.Link(visible{Title: "PulseGrid", Type: dashboard.DashboardLinkTypeDashboards, Tags: []string{tag}, AsDropdown: true, IncludeVars: true, KeepTime: true})
	to.WithVariable(dashboard.NewDatasourceVariableBuilder("prometheus").Label("Prometheus").Type("prometheus"))
	if d.asksClickHouse() {
		to.WithVariable(dashboard.NewDatasourceVariableBuilder("clickhouse").Label("ClickHouse").Type(clickHouseKey))
	}
	for i := range d.Variables {
		to.WithVariable(d.Variables[i].build())
	}
	// Where the documents are: whoever has a copy elsewhere changes this one value.
	to.WithVariable(dashboard.NewConstantVariableBuilder("runbooks").Value(dashboard.StringOrMap{String: cog.ToPtr(documents)}))
	id, y := uint32(0), uint32(0)
	for i := range d.Rows {
		row := &d.Rows[i]
		id++
		to.WithRow(dashboard.NewRowBuilder(row.Title).Id(id).GridPos(dashboard.GridPos{Y: y, W: columns, H: 1}))
		at := dashboard.GridPos{Y: y + 1}
		for j := range row.Panels {
			p := &row.Panels[j]
			if at.W = row.width(p); at.X+at.W > columns {
				at.X, at.Y = 0, y
			}
			at.H = heights[p.As]
			id++
			to.WithPanel(p.build(id, at))
			at.X += at.W
			y = max(y, at.Y+at.H)
		}
	}
	made, err := to.Build()
	if err != nil {
		return nil, fmt.Errorf("dashboard %s: %w", d.Name, err)
	}
	text, err := json.MarshalIndent(made, "", "  ")
	return append(text, '\n'), err
}

func (d *Dashboard) asksClickHouse() bool {
	for p := range d.Panels() {
		if p.Queries[0].SQL != "" {
			return true
		}
	}
	return false
}
