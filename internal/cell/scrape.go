package cell

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	rows "github.com/pulsegrid/pulsegrid/internal/columns"
)

// metrics is one scrape of a Collector.
type metrics map[string]*dto.MetricFamily

// scrapeBytesMax bounds what is read of an answer.
const scrapeBytesMax = 64 << 20

// Scrape reads the metrics that a Collector serves, by name.
func Scrape(ctx context.Context, url string) (map[string]*dto.MetricFamily, error) {
	body, err := get(ctx, url)
	if err != nil {
		return nil, err
	}
	defer func() { _ = body.Close() }()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(io.LimitReader(body, scrapeBytesMax))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", url, err)
	}
	return families, nil
}

// sum adds a counter's or gauge's series up. A metric that nothing has touched yet is not exposed: it is 0.
func (m metrics) sum(name string) float64 {
	return m.sumOf(name, func(*dto.Metric) bool { return true })
}

// ofEvents tells whether a series is of events; items of the quarantine are stored by the same exporters in tables of their own.
func ofEvents(series *dto.Metric) bool {
	for _, l := range series.GetLabel() {
		if l.GetName() == "table" {
			_, table, _ := strings.Cut(l.GetValue(), ".")
			return table != rows.RowsQuarantine && table != rows.RowsQuarantinePII
		}
	}
	return true
}

// errorKinds adds up counters by reason, most first; a series without attribute reason or code is of kind other.
func (m metrics) errorKinds(names []string) []ErrorKind {
	sums := map[string]float64{}
	for _, name := range names {
		for _, series := range m[name].GetMetric() {
			labels := labelsOf(series)
			sums[cmp.Or(labels["reason"], labels["code"], "other")] += value(series)
		}
	}
	var kinds []ErrorKind
	for reason, n := range sums {
		if n > 0 {
			kinds = append(kinds, ErrorKind{Reason: reason, Errors: n})
		}
	}
	slices.SortFunc(kinds, func(a, b ErrorKind) int {
		return cmp.Or(cmp.Compare(b.Errors, a.Errors), cmp.Compare(a.Reason, b.Reason))
	})
	return kinds
}

// sumOf adds up those series of a metric that count.
func (m metrics) sumOf(name string, counts func(*dto.Metric) bool) float64 {
	var total float64
	for _, series := range m[name].GetMetric() {
		if counts(series) {
			total += value(series)
		}
	}
	return total
}

// value of a counter or gauge.
func value(series *dto.Metric) float64 {
	switch {
	case series.Counter != nil:
		return series.GetCounter().GetValue()
	case series.Gauge != nil:
		return series.GetGauge().GetValue()
	}
	return series.GetUntyped().GetValue()
}

// histogram adds up a histogram's observations of events: how many, and their sum.
func (m metrics) histogram(name string) (count, sum float64) {
	for _, series := range m[name].GetMetric() {
		if !ofEvents(series) {
			continue
		}
		count += float64(series.GetHistogram().GetSampleCount())
		sum += series.GetHistogram().GetSampleSum()
	}
	return count, sum
}

// spillOf is what a gateway says of its spill; one that has none says nothing.
func spillOf(gateway metrics) Spill {
	return Spill{
		Partitions: int64(gateway.sum("otelcol_msk_exporter_spilling_partitions")),
		Bytes:      int64(gateway.sum("otelcol_msk_exporter_spill_backlog_bytes")),
		Age:        time.Duration(gateway.sum("otelcol_msk_exporter_spill_backlog_age")) * time.Second,
	}
}

// certificateOf is when a gateway's certificate ends, of several the first.
func certificateOf(gateway metrics) (first *time.Duration) {
	for _, series := range gateway["otelcol_ingest_certificate_expiry"].GetMetric() {
		if ends := time.Duration(value(series)) * time.Second; first == nil || ends < *first {
			first = &ends
		}
	}
	return first
}
