package cost

import (
	"cmp"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	costdata "github.com/pulsegrid/pulsegrid/deploy/cost"
)

var update = flag.Bool("update", false, "write the generated parts of docs/cost.md, and figures of README.md and of decision 0018 into measured.json")

const page = "../../docs/cost.md"

func data(t *testing.T) (*Scenarios, *Measured, *PriceFile) {
	t.Helper()
	s, err := ParseScenarios(costdata.Scenarios)
	require.NoError(t, err)
	m, err := ParseMeasured(costdata.Measured)
	require.NoError(t, err)
	p, err := ParsePrices(costdata.Prices)
	require.NoError(t, err)
	return s, m, p
}

// Guarantees: each generated part of docs/cost.md is what the model says now.
func TestDocsAreWhatTheModelSays(t *testing.T) {
	s, m, p := data(t)
	text, err := os.ReadFile(page)
	require.NoError(t, err)
	blocks := map[string]string{"measured": measuredTable(m), "unverified": unverifiedList(p)}
	bills := map[string]*Bill{}
	for _, name := range s.Names {
		w, err := s.Workload(name)
		require.NoError(t, err)
		b, err := Reckon(w, m, p)
		require.NoError(t, err)
		bills[name] = b
		blocks["bill "+name], blocks["items "+name], blocks["counts "+name] = billTable(b), itemsTable(b), countsTable(b)
	}
	blocks["summary"] = summaryTable(s, bills)
	blocks["event"] = eventTable(s, bills)
	blocks["sensitivity"] = effectsTable(t, s, m, p)
	blocks["levers"] = leversTable(t, s, m, p)
	blocks["tenants"] = tenantsTable(s, bills)
	seen := map[string]bool{}
	got := regexp.MustCompile(`(?s)(<!-- generated: ([a-z ]+) -->\n).*?(<!-- end -->)`).ReplaceAllStringFunc(string(text), func(block string) string {
		head, _, _ := strings.Cut(block, "\n")
		name := strings.TrimSuffix(strings.TrimPrefix(head, "<!-- generated: "), " -->")
		require.Contains(t, blocks, name)
		seen[name] = true
		return head + "\n" + blocks[name] + "<!-- end -->"
	})
	require.ElementsMatch(t, slices.Collect(maps.Keys(blocks)), slices.Collect(maps.Keys(seen)), "a part is missing in the document")
	if *update {
		require.NoError(t, os.WriteFile(page, []byte(got), 0o600))
		return
	}
	require.Equal(t, got, string(text), "run `go generate ./internal/cost`")
}

// Guarantees: what the model takes from documents, not from the benchmark's file, is what these documents say.
func TestMeasuredFiguresAreThoseOfTheDocuments(t *testing.T) {
	_, m, _ := data(t)
	readme, err := os.ReadFile("../../README.md")
	require.NoError(t, err)
	var want []Rate
	for _, row := range regexp.MustCompile(`(?m)^\| (OTLP/\w+ \w+, \d+)[^|]*\| (\d+) K \|`).FindAllStringSubmatch(string(readme), -1) {
		k, err := strconv.ParseFloat(row[2], 64)
		require.NoError(t, err)
		want = append(want, Rate{Requests: row[1], EventsPerCoreSecond: k * 1000})
	}
	require.Len(t, want, 4, "README.md has the table of gateways")
	peak := regexp.MustCompile(`(?m)^\| peak memory: gateway; aggregator \| \d+ MB; (\d+) MB \|`).FindSubmatch(readme)
	require.NotNil(t, peak)
	cpu := regexp.MustCompile(`(?m)^\| CPU an event, aggregator \+ ClickHouse with merges \| (\d+) \+ (\d+) = `).FindSubmatch(readme)
	require.NotNil(t, cpu)
	decision, err := os.ReadFile("../../docs/decisions/0018-dedupe-is-a-function-of-the-log.md")
	require.NoError(t, err)
	bytes := regexp.MustCompile(`about (\d+) bytes for each event of the window`).FindSubmatch(decision)
	require.NotNil(t, bytes)
	number := func(text []byte) float64 {
		v, err := strconv.ParseFloat(string(text), 64)
		require.NoError(t, err)
		return v
	}
	memory := Memories{DedupeBytesPerEvent: number(bytes[1]), AggregatorPeakMBytes: number(peak[1])}
	work := CPU{HotMicroseconds: number(cpu[1]), ClickHouseMicroseconds: number(cpu[2])}
	if *update {
		now := *m
		now.Gateway, now.CPU, now.Memory = want, work, memory
		text, err := json.MarshalIndent(now, "", "  ")
		require.NoError(t, err)
		require.NoError(t, os.WriteFile("../../deploy/cost/measured.json", append(text, '\n'), 0o600))
		return
	}
	require.Equal(t, want, m.Gateway, "README.md, the column of PulseGrid with everything on: run `go generate ./internal/cost`")
	require.Equal(t, work, m.CPU, "README.md, the table of aggregators: run `go generate ./internal/cost`")
	require.Equal(t, memory, m.Memory, "README.md and decision 0018: run `go generate ./internal/cost`")
}

// Guarantees: figures that benchmarks measure have one place.
func TestNoScenarioSetsWhatIsMeasured(t *testing.T) {
	for name := range (Hops{}).all() {
		require.NotContains(t, string(costdata.Scenarios), name+":")
	}
}

func usd(v float64) string { return group(fmt.Sprintf("%.0f", v)) }

// group puts commas between thousands.
func group(digits string) string {
	sign := ""
	if strings.HasPrefix(digits, "-") {
		sign, digits = "-", digits[1:]
	}
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return sign + digits
}

func measuredTable(m *Measured) string {
	var b strings.Builder
	b.WriteString("| an event | logs | metrics | traces |\n|---|---:|---:|---:|\n")
	rows := []struct {
		what string
		of   func(Hops) float64
		unit string
	}{
		{"raw, one line of JSON with its resource", func(h Hops) float64 { return h.JSONBytes }, "B"},
		{"raw, OTLP protobuf", func(h Hops) float64 { return h.ProtobufBytes }, "B"},
		{"agent to gateway, zstd", func(h Hops) float64 { return h.WireBytes }, "B"},
		{"in Kafka, one replica", func(h Hops) float64 { return h.KafkaBytes }, "B"},
		{"aggregator to ClickHouse", func(h Hops) float64 { return h.InsertBytes }, "B"},
		{"in ClickHouse, merged, one copy", func(h Hops) float64 { return h.ClickHouseBytes }, "B"},
		{"in the lake", func(h Hops) float64 { return h.LakeBytes }, "B"},
		{"CPU of the gateway", func(h Hops) float64 { return h.GatewayMicroseconds }, "us"},
		{"CPU of the aggregator, to ClickHouse", func(h Hops) float64 { return h.HotMicroseconds }, "us"},
		{"CPU of ClickHouse, merges and rollups too", func(h Hops) float64 { return h.ClickHouseMicroseconds }, "us"},
		{"CPU of the aggregator, to the lake", func(h Hops) float64 { return h.LakeMicroseconds }, "us"},
		{"CPU of ClickHouse, a row that a query reads", func(h Hops) float64 { return h.ScanNanoseconds }, "ns"},
	}
	for _, r := range rows {
		fmt.Fprintf(&b, "| %s |", r.what)
		for _, s := range []string{"logs", "metrics", "traces"} {
			v := r.of(m.Hops.Signals[s])
			digits := 0
			if v < 20 {
				digits = 1
			}
			fmt.Fprintf(&b, " %.*f %s |", digits, v, r.unit)
		}
		b.WriteString("\n")
	}
	fmt.Fprintf(&b, "\n%s events of each signal, on %s (%s).\n", group(strconv.Itoa(m.Hops.Events)), m.Hops.Taken, m.Hops.Machine)
	return b.String()
}

func eventTable(s *Scenarios, bills map[string]*Bill) string {
	var b strings.Builder
	b.WriteString("| an event of scenario | raw | growth on the benchmark's | wire | Kafka | ClickHouse, a copy | lake | gateway | aggregator, a hot copy and the lake | ClickHouse, a copy |\n|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n")
	for _, n := range s.Names {
		e, w := bills[n].Event, bills[n].Workload
		fmt.Fprintf(&b, "| %s | %.0f B | %.2f | %.0f B | %.0f B | %.0f B | %.0f B | %.1f us | %.1f + %.1f us | %.1f us |\n", strings.ToUpper(n), w.RawBytesPerEvent, e.Growth, e.WireBytes, e.KafkaBytes,
			e.ClickHouseBytes, e.LakeBytes, e.GatewayMicroseconds, e.HotMicroseconds, e.LakeMicroseconds, e.ClickHouseMicroseconds)
	}
	return b.String()
}

// firstEstimate is the bill as it was reckoned before anything was measured, in thousands of USD, by component.
var firstEstimate = map[string][]float64{
	"a": {3.2, 4.5, 23.2, 7.8, 48.0, 18.2, 3.5, 2.1},
	"b": {6.3, 7.6, 49.7, 13.1, 100.4, 37.8, 3.5, 2.1},
}

func summaryTable(s *Scenarios, bills map[string]*Bill) string {
	var b strings.Builder
	b.WriteString("| scenario | |")
	for _, c := range Components {
		b.WriteString(" " + c + " |")
	}
	b.WriteString(" a month | on prices nobody has read |\n|---|---|" + strings.Repeat("---:|", len(Components)+2) + "\n")
	for _, n := range s.Names {
		bill := bills[n]
		by := bill.By(func(l Line) string { return l.Component })
		fmt.Fprintf(&b, "| %s | %s |", strings.ToUpper(n), bill.Workload.Title)
		for _, c := range Components {
			fmt.Fprintf(&b, " %s |", usd(by[c]))
		}
		fmt.Fprintf(&b, " **$%s** | $%s |\n", usd(bill.USD), usd(bill.Unverified))
		if before, ok := firstEstimate[n]; ok {
			sum := 0.0
			fmt.Fprintf(&b, "| %s | first estimate, of rates that were assumed |", strings.ToUpper(n))
			for _, v := range before {
				sum += v * 1000
				fmt.Fprintf(&b, " %s |", usd(v*1000))
			}
			fmt.Fprintf(&b, " $%s | |\n", usd(sum))
		}
	}
	return b.String()
}

func billTable(bill *Bill) string {
	regions := slices.Sorted(maps.Keys(bill.Workload.Regions))
	by := bill.By(func(l Line) string { return l.Component + "|" + l.Region })
	var b strings.Builder
	fmt.Fprintf(&b, "| USD a month | %s | all |\n|---|%s---:|\n", strings.Join(regions, " | "), strings.Repeat("---:|", len(regions)))
	sums := map[string]float64{}
	for _, c := range Components {
		sum := 0.0
		fmt.Fprintf(&b, "| %s |", c)
		for _, r := range regions {
			v := by[c+"|"+r]
			sum += v
			sums[r] += v
			fmt.Fprintf(&b, " %s |", usd(v))
		}
		fmt.Fprintf(&b, " %s |\n", usd(sum))
	}
	b.WriteString("| **all** |")
	for _, r := range regions {
		fmt.Fprintf(&b, " %s |", usd(sums[r]))
	}
	fmt.Fprintf(&b, " **%s** |\n", usd(bill.USD))
	return b.String()
}

func itemsTable(bill *Bill) string {
	type item struct {
		Line
		most float64
	}
	items := map[string]*item{}
	for _, l := range bill.Lines {
		k := l.Component + "|" + l.Item
		i, ok := items[k]
		if !ok {
			i = &item{Line: Line{Component: l.Component, Item: l.Item, Unit: l.Unit}, most: -1}
			items[k] = i
		}
		i.Quantity += l.Quantity
		i.USD += l.USD
		if l.USD > i.most {
			i.most, i.Inputs = l.USD, l.Inputs
		}
	}
	all := slices.SortedFunc(maps.Values(items), func(a, b *item) int { return cmp.Or(cmp.Compare(b.USD, a.USD), cmp.Compare(a.Item, b.Item)) })
	var b strings.Builder
	b.WriteString("| component | item | USD | quantity | unit | inputs, of the largest region |\n|---|---|---:|---:|---|---|\n")
	for _, i := range all {
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s |\n", i.Component, i.Item, usd(i.USD), group(fmt.Sprintf("%.0f", i.Quantity)), i.Unit, i.Inputs)
	}
	return b.String()
}

func countsTable(bill *Bill) string {
	var b strings.Builder
	b.WriteString("| region | what | instance | at the mean | at the peak |\n|---|---|---|---:|---:|\n")
	for _, c := range bill.Counts {
		fmt.Fprintf(&b, "| %s | %s | %s | %.0f | %.0f |\n", c.Region, c.What, c.Instance, c.Mean, c.Peak)
	}
	return b.String()
}

// effectsOf are those of each scenario's changes.
func effectsOf(t *testing.T, s *Scenarios, reckon func(Workload) ([]Effect, error)) map[string][]Effect {
	t.Helper()
	of := map[string][]Effect{}
	for _, n := range s.Names {
		w, err := s.Workload(n)
		require.NoError(t, err)
		of[n], err = reckon(w)
		require.NoError(t, err)
	}
	return of
}

func effectsTable(t *testing.T, s *Scenarios, m *Measured, p *PriceFile) string {
	t.Helper()
	of := effectsOf(t, s, func(w Workload) ([]Effect, error) { return Sensitivity(w, s.Sensitivity, m, p) })
	var b strings.Builder
	b.WriteString("| change |")
	for _, n := range s.Names {
		b.WriteString(" " + strings.ToUpper(n) + " |")
	}
	b.WriteString("\n|---|" + strings.Repeat("---:|", len(s.Names)) + "\n")
	for i, c := range s.Sensitivity {
		fmt.Fprintf(&b, "| %s |", c.What)
		for _, n := range s.Names {
			sign := ""
			if of[n][i].Alone > 0 {
				sign = "+"
			}
			fmt.Fprintf(&b, " %s%s |", sign, usd(of[n][i].Alone))
		}
		b.WriteString("\n")
	}
	return b.String()
}

func leversTable(t *testing.T, s *Scenarios, m *Measured, p *PriceFile) string {
	t.Helper()
	of := effectsOf(t, s, func(w Workload) ([]Effect, error) { return Levers(w, s.Levers, m, p) })
	var b strings.Builder
	b.WriteString("| | lever | what it costs |")
	for _, n := range s.Names {
		b.WriteString(" " + strings.ToUpper(n) + ", alone | bill with all up to here |")
	}
	b.WriteString("\n|---|---|---|" + strings.Repeat("---:|---:|", len(s.Names)) + "\n")
	for i, c := range s.Levers {
		fmt.Fprintf(&b, "| %d | %s | %s |", i+1, c.What, c.Costs)
		for _, n := range s.Names {
			fmt.Fprintf(&b, " %s | %s |", usd(of[n][i].Alone), usd(of[n][i].Together))
		}
		b.WriteString("\n")
	}
	return b.String()
}

func tenantsTable(s *Scenarios, bills map[string]*Bill) string {
	var b strings.Builder
	b.WriteString("| scenario | tenants | the largest, by its share of the bytes | mean of the others |\n|---|---:|---:|---:|\n")
	for _, n := range s.Names {
		w := bills[n].Workload
		fmt.Fprintf(&b, "| %s | %d | %.0f %%: $%s | $%s |\n", strings.ToUpper(n), w.Tenants, 100*w.LargestTenant, usd(bills[n].Share(w.LargestTenant)),
			usd(bills[n].Share((1-w.LargestTenant)/float64(max(1, w.Tenants-1)))))
	}
	return b.String()
}

func unverifiedList(p *PriceFile) string {
	var names []string
	for _, price := range p.Prices {
		var regions []string
		for region, q := range price.Regions {
			if q.Status == StatusUnverified {
				regions = append(regions, region)
			}
		}
		if len(regions) > 0 {
			slices.Sort(regions)
			names = append(names, fmt.Sprintf("`%s` (%s)", price.Name, strings.Join(regions, ", ")))
		}
	}
	return strings.Join(names, ", ") + ".\n"
}
