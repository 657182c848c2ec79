package cell

import (
	"context"
	"fmt"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// metrics is one scrape of a Collector.
type metrics map[string]*dto.MetricFamily

func scrape(ctx context.Context, url string) (metrics, error) {
	body, err := get(ctx, url)
	if err != nil {
		return nil, err
	}
	defer func() { _ = body.Close() }()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(body)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", url, err)
	}
	return families, nil
}

// sum adds a counter's or gauge's series up. A metric that nothing has touched yet is not exposed: it is 0.
func (m metrics) sum(name string) float64 {
	var total float64
	for _, series := range m[name].GetMetric() {
		switch {
		case series.Counter != nil:
			total += series.GetCounter().GetValue()
		case series.Gauge != nil:
			total += series.GetGauge().GetValue()
		case series.Untyped != nil:
			total += series.GetUntyped().GetValue()
		}
	}
	return total
}

// histogram adds up a histogram's observations: how many, and their sum.
func (m metrics) histogram(name string) (count, sum float64) {
	for _, series := range m[name].GetMetric() {
		count += float64(series.GetHistogram().GetSampleCount())
		sum += series.GetHistogram().GetSampleSum()
	}
	return count, sum
}
