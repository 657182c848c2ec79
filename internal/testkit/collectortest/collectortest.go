// Package collectortest has what tests of the Collector's components share: a host that keeps what they report, and the reading of their metrics.
package collectortest

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
)

// Host keeps the statuses that components report. The zero Host has no extensions.
type Host struct {
	Extensions map[component.ID]component.Component

	mu       sync.Mutex
	statuses []componentstatus.Status
}

// GetExtensions implements component.Host.
func (h *Host) GetExtensions() map[component.ID]component.Component { return h.Extensions }

// Report implements componentstatus.Reporter.
func (h *Host) Report(e *componentstatus.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.statuses = append(h.statuses, e.Status())
}

// Statuses are all that were reported, oldest first.
func (h *Host) Statuses() []componentstatus.Status {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.statuses)
}

// Status is the last that was reported; StatusNone before the first.
func (h *Host) Status() componentstatus.Status {
	all := h.Statuses()
	if len(all) == 0 {
		return componentstatus.StatusNone
	}
	return all[len(all)-1]
}

// Sum is that of a metric's points that have all of these attributes, each "key=value"; 0: nothing was measured.
func Sum(t testing.TB, reader *sdkmetric.ManualReader, name string, attrs ...string) (sum int64) {
	t.Helper()
points:
	for _, p := range Points(t, reader, name) {
		for _, a := range attrs {
			key, want, ok := strings.Cut(a, "=")
			require.True(t, ok, "attribute %q: want key=value", a)
			if got, ok := p.Attributes.Value(attribute.Key(key)); !ok || got.String() != want {
				continue points
			}
		}
		sum += p.Value
	}
	return sum
}

// Points are those of a counter or a gauge, or of a histogram how many values each has; name is without "otelcol_".
func Points(t testing.TB, reader *sdkmetric.ManualReader, name string) (points []metricdata.DataPoint[int64]) {
	t.Helper()
	var all metricdata.ResourceMetrics
	require.NoError(t, reader.Collect(context.Background(), &all))
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			if m.Name != "otelcol_"+name {
				continue
			}
			switch data := m.Data.(type) {
			case metricdata.Sum[int64]:
				points = append(points, data.DataPoints...)
			case metricdata.Gauge[int64]:
				points = append(points, data.DataPoints...)
			case metricdata.Histogram[float64]:
				for _, p := range data.DataPoints {
					points = append(points, metricdata.DataPoint[int64]{Attributes: p.Attributes, Value: int64(p.Count)})
				}
			default:
				t.Fatalf("metric %s is a %T, which is not read here", name, m.Data)
			}
		}
	}
	return points
}

// WriteFile puts a file in the place of another at once, as who deploys a file that is watched should; folders are made.
func WriteFile(t testing.TB, path, content string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(t, os.WriteFile(path+".new", []byte(content), 0o600))
	require.NoError(t, os.Rename(path+".new", path))
}
