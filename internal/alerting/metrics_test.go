package alerting

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
)

// served is the value of a series of a scrape; of a histogram it is how often it was observed. value is that of the label, if there is one.
func served(t testing.TB, families []*dto.MetricFamily, name, value string) float64 {
	t.Helper()
	for _, f := range families {
		if f.GetName() != meta.Prefix()+name {
			continue
		}
		for _, m := range f.GetMetric() {
			if value == "" || slices.ContainsFunc(m.GetLabel(), func(l *dto.LabelPair) bool { return l.GetValue() == value }) {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
			}
		}
	}
	t.Fatalf("no series %s of %q", name, value)
	return 0
}

// Guarantees: metadata.yaml is what is served, before anything happens, and nothing else.
func TestEachDeclaredMetricIsServed(t *testing.T) {
	e, err := New(Config{Workers: 1, Log: zap.NewNop()})
	require.NoError(t, err)
	n, err := NewNotifier([]string{"http://127.0.0.1:1"}, http.DefaultClient, zap.NewNop())
	require.NoError(t, err)
	names := map[string]bool{}
	for _, f := range append(e.Gather(t.Context()), n.Gather(t.Context())...) {
		name := strings.TrimPrefix(f.GetName(), meta.Prefix())
		require.Contains(t, meta.Metrics(), name)
		require.False(t, names[name], name)
		names[name] = true
	}
	require.Len(t, names, len(meta.Metrics()))
}
