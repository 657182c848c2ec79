package availability

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
)

const (
	objective = 0.9999
	minute    = 60.0
	// noticeable is how much of a host's loss an input must move to be in the sensitivity.
	noticeable = 0.02
)

// budget is what the objective leaves of a year, in seconds.
var budget = math.Round(year * (1 - objective)) // seconds

// Report is the generated part of docs/availability.md.
func (m *Model) Report() string {
	var b strings.Builder
	var results []*Result
	for _, h := range m.Hosts {
		results = append(results, m.Simulate(h))
	}
	m.summary(&b, results)
	m.causes(&b, results)
	m.breaks(&b, results)
	m.sensitivity(&b, m.Hosts[weakest(results)])
	m.inputs(&b)
	return b.String()
}

// weakest is the host that loses most.
func weakest(results []*Result) (at int) {
	for i, r := range results {
		if r.Mean().First > results[at].Mean().First {
			at = i
		}
	}
	return at
}

func percent(lost float64) string { return fmt.Sprintf("%.5f %%", 100*(1-lost/year)) }

func minutes(seconds float64) string { return fmt.Sprintf("%.2f", seconds/minute) }

func (m *Model) summary(b *strings.Builder, results []*Result) {
	fmt.Fprintf(b, "### As senders see it\n\n%d simulated years, seed %d. 99.99 %% leaves %.1f minutes of a year. ± is two standard errors.\n\n", m.Years, m.Seed, budget/minute)
	fmt.Fprintf(b, "| host | cells | first try | minutes lost a year | years of 100 that keep 99.99 %% | tried again for %v min | minutes lost a year | years of 100 that keep 99.99 %% |\n|---|---|---|---|---|---|---|---|\n", m.value("retry"))
	for _, r := range results {
		mean, off := r.Mean(), r.Error()
		kept := func(of func(Loss) float64) float64 {
			n := 0
			for _, y := range r.Years {
				if of(y) <= budget {
					n++
				}
			}
			return 100 * float64(n) / float64(len(r.Years))
		}
		fmt.Fprintf(b, "| `%s` | %d | %s | %s ± %s | %.1f | %s | %s ± %s | %.1f |\n", r.Host.Name, r.Host.Cells,
			percent(mean.First), minutes(mean.First), minutes(off.First), kept(func(l Loss) float64 { return l.First }),
			percent(mean.Retried), minutes(mean.Retried), minutes(off.Retried), kept(func(l Loss) float64 { return l.Retried }))
	}
}

// title of a cause, or of what comes behind them.
func (m *Model) title(c int) string {
	if c == len(m.Causes) {
		return "the others cannot take all at the peak"
	}
	return m.Causes[c].Title
}

func (m *Model) causes(b *strings.Builder, results []*Result) {
	b.WriteString("\n### By cause\n\nMinutes of a year, and the share of the host's loss.\n\n| cause |")
	for _, r := range results {
		fmt.Fprintf(b, " `%s`: first try | tried again |", r.Host.Name)
	}
	b.WriteString("\n|---|" + strings.Repeat("---|---|", len(results)) + "\n")
	for c := range len(m.Causes) + 1 {
		if c < len(m.Causes) && m.Causes[c].Planned {
			continue // it fails nothing by itself; what it does to others is theirs
		}
		fmt.Fprintf(b, "| %s |", m.title(c))
		for _, r := range results {
			mean := r.Mean()
			fmt.Fprintf(b, " %s (%s) | %s (%s) |", minutes(r.Causes[c].First), share(r.Causes[c].First, mean.First), minutes(r.Causes[c].Retried), share(r.Causes[c].Retried, mean.Retried))
		}
		b.WriteString("\n")
	}
}

func share(part, whole float64) string {
	if whole == 0 {
		return "-"
	}
	return fmt.Sprintf("%.0f %%", 100*part/whole)
}

// breaks says how many times as often each cause would have to come until the objective is missed, everything else as it is.
func (m *Model) breaks(b *strings.Builder, results []*Result) {
	b.WriteString("\n### What breaks 99.99 % first\n\nThe reserve: while a cell is away, drained or not, the others take its load, or they refuse a part of it for hours. All else as it is, the mean year misses 99.99 % at the first try\n\n")
	for _, r := range results {
		fmt.Fprintf(b, "- of `%s` as soon as the other cells serve less than %.1f %% of the peak;\n", r.Host.Name, 100*m.leastCapacity(r.Host))
	}
	b.WriteString("\nThen causes that come more often: so many times as often as assumed, all else as it is, until it is missed (a cause's loss grows as its rate does). The first line breaks it first.\n\n| cause |")
	for _, r := range results {
		fmt.Fprintf(b, " `%s`: first try | tried again |", r.Host.Name)
	}
	b.WriteString("\n|---|" + strings.Repeat("---|---|", len(results)) + "\n")
	factor := func(part, whole float64) float64 {
		if part <= 0 {
			return math.Inf(1)
		}
		return (budget - whole + part) / part
	}
	worst := results[weakest(results)]
	order := make([]int, 0, len(m.Causes))
	for c := range m.Causes {
		if worst.Causes[c].First > 0 {
			order = append(order, c)
		}
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(worst.Causes[b].First, worst.Causes[a].First) })
	for _, c := range order {
		fmt.Fprintf(b, "| %s |", m.title(c))
		for _, r := range results {
			mean := r.Mean()
			for _, f := range []float64{factor(r.Causes[c].First, mean.First), factor(r.Causes[c].Retried, mean.Retried)} {
				if f > 1000 {
					b.WriteString(" more than 1000 |")
				} else {
					fmt.Fprintf(b, " %.3g |", f)
				}
			}
		}
		b.WriteString("\n")
	}
}

// leastCapacity is the share of the peak that the other cells must serve while one is away, or the mean year misses the objective: what they do not serve is lost in proportion.
func (m *Model) leastCapacity(h Host) float64 {
	const some = 0.1
	few := *m
	few.Years = m.SensitivityYears
	full := few.With("peak_capacity", 1).Simulate(h).Mean().First
	short := few.With("peak_capacity", 1-some).Simulate(h).Mean().First
	return max(0, 1-some*(budget-full)/(short-full))
}

func (m *Model) sensitivity(b *strings.Builder, h Host) {
	few := *m
	few.Years = m.SensitivityYears
	base := few.Simulate(h).Mean()
	fmt.Fprintf(b, "\n### Sensitivity\n\nMinutes that senders of `%s` lose of a year, where one input has its low or its high value, over the same %d years: as it is, %s at the first try and %s when they try again. Inputs that move neither by %.0f %% are left out.\n\n",
		h.Name, few.Years, minutes(base.First), minutes(base.Retried), 100*noticeable)
	b.WriteString("| input | low | first try | tried again | high | first try | tried again |\n|---|---|---|---|---|---|---|\n")
	type line struct {
		text string
		most float64
	}
	var lines []line
	for _, in := range m.Inputs {
		low, high := few.With(in.Name, in.Low).Simulate(h).Mean(), few.With(in.Name, in.High).Simulate(h).Mean()
		moved := func(of func(Loss) float64) float64 {
			return max(math.Abs(of(low)-of(base)), math.Abs(of(high)-of(base)))
		}
		first, retried := moved(func(l Loss) float64 { return l.First }), moved(func(l Loss) float64 { return l.Retried })
		if first < noticeable*base.First && retried < noticeable*base.Retried {
			continue
		}
		lines = append(lines, line{fmt.Sprintf("| %s (%g %s) | %g | %s | %s | %g | %s | %s |\n", in.Title, in.Value, in.Unit, in.Low, minutes(low.First), minutes(low.Retried), in.High, minutes(high.First), minutes(high.Retried)), first})
	}
	slices.SortStableFunc(lines, func(a, b line) int { return cmp.Compare(b.most, a.most) })
	for _, l := range lines {
		b.WriteString(l.text)
	}
}

func (m *Model) inputs(b *strings.Builder) {
	counts := map[string]int{}
	for _, in := range m.Inputs {
		counts[in.Kind]++
	}
	var said []string
	for _, k := range kinds {
		said = append(said, fmt.Sprintf("%d %s", counts[k], k))
	}
	fmt.Fprintf(b, "\n### Inputs\n\n%d inputs: %s.\n\n| input | value | kind | source |\n|---|---|---|---|\n", len(m.Inputs), strings.Join(said, ", "))
	for _, in := range m.Inputs {
		fmt.Fprintf(b, "| %s | %g %s | %s | %s |\n", in.Title, in.Value, in.Unit, in.Kind, in.Source)
	}
}
