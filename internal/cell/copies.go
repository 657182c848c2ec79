package cell

import (
	"slices"
	"strings"

	dto "github.com/prometheus/client_model/go"

	"github.com/pulsegrid/pulsegrid/internal/audit/certificate"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// Metrics of dedupe. Each store's pipelines have a processor of their own, and all of them decide alike.
const (
	dedupeEvents     = "otelcol_dedupe_events"
	dedupeDuplicates = "otelcol_dedupe_duplicates"
)

// copiesOf are the copies that dedupe has found since its process started, by signal: of the processor that is ahead of the others.
func copiesOf(aggregator metrics) []certificate.SignalCopies {
	type source struct{ processor, signal string }
	found := map[source]*certificate.SignalCopies{}
	each := func(name string, f func(c *certificate.SignalCopies, rule string, n int64)) {
		for _, series := range aggregator[name].GetMetric() {
			labels := labelsOf(series)
			if strings.Contains(labels["processor"], "quarantine") {
				continue // of items, not of events
			}
			at := source{labels["processor"], labels["signal"]}
			if found[at] == nil {
				found[at] = &certificate.SignalCopies{Signal: at.signal, Rules: []certificate.RuleCopies{}}
			}
			f(found[at], labels["rule"], int64(value(series)))
		}
	}
	each(dedupeEvents, func(c *certificate.SignalCopies, _ string, n int64) { c.Events += n })
	each(dedupeDuplicates, func(c *certificate.SignalCopies, rule string, n int64) {
		if n > 0 {
			c.Merge(certificate.SignalCopies{Copies: n, Rules: []certificate.RuleCopies{{Rule: rule, Copies: n}}})
		}
	})
	var out []certificate.SignalCopies
	for _, s := range signal.All {
		ahead := certificate.SignalCopies{Signal: s.String(), Rules: []certificate.RuleCopies{}}
		for at, c := range found {
			if at.signal == s.String() && c.Events > ahead.Events {
				ahead = *c
			}
		}
		slices.SortFunc(ahead.Rules, func(a, b certificate.RuleCopies) int { return strings.Compare(a.Rule, b.Rule) })
		out = append(out, ahead)
	}
	return out
}

func labelsOf(series *dto.Metric) map[string]string {
	out := map[string]string{}
	for _, l := range series.GetLabel() {
		out[l.GetName()] = l.GetValue()
	}
	return out
}
