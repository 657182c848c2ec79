package componentmeta_test

import (
	"context"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/metric/metricdata/metricdatatest"

	"github.com/pulsegrid/pulsegrid/internal/componentmeta"
)

const good = `type: thing
status:
  class: exporter
  stability:
    alpha: [logs, metrics]
    beta: [traces]
attributes:
  kind:
    description: What kind.
    type: string
    enum: [a, b]
telemetry:
  metrics:
    thing_done:
      description: Things done.
      unit: "{thing}"
      attributes: [kind]
      sum: {}
    thing_waiting:
      description: Things that wait.
      unit: "{thing}"
      gauge: {}
    thing_duration:
      description: How long a thing takes.
      unit: s
      histogram:
        bucket_boundaries: [0.1, 1]
`

func TestAGoodFileTellsTypeStabilityAndMetrics(t *testing.T) {
	m, err := componentmeta.Parse([]byte(good))
	require.NoError(t, err)
	require.Equal(t, component.MustNewType("thing"), m.Type())
	require.Equal(t, component.StabilityLevelAlpha, m.Stability("metrics"))
	require.Equal(t, component.StabilityLevelBeta, m.Stability("traces"))
	require.Equal(t, component.StabilityLevelUndefined, m.Stability("profiles"))
	require.Len(t, m.Metrics(), 3)
	require.Equal(t, []string{"kind"}, m.Metrics()["thing_done"].Attributes)
}

func TestABadFileIsRefusedAndNamesWhatIsWrong(t *testing.T) {
	for name, c := range map[string]struct{ from, to, says string }{
		"not YAML":                 {good, "{", "metadata.yaml"},
		"empty":                    {good, "", "metadata.yaml"},
		"unknown key":              {"telemetry:", "surprise: 1\ntelemetry:", "surprise"},
		"type of other characters": {"type: thing", "type: a thing", "type:"},
		"class of no kind":         {"class: exporter", "class: exporters", `"exporters"`},
		"unknown stability":        {"alpha:", "omega:", "omega"},
		"no description":           {"description: Things done.", "description:", "thing_done"},
		"no unit":                  {"unit: s", "unit:", "thing_duration"},
		"no kind of metric":        {"      gauge: {}\n", "", "thing_waiting"},
		"two kinds of metric":      {"gauge: {}", "gauge: {}\n      sum: {}", "thing_waiting"},
		"undeclared attribute":     {"[kind]", "[kinds]", "kinds"},
	} {
		t.Run(name, func(t *testing.T) {
			require.Contains(t, good, c.from)
			_, err := componentmeta.Parse([]byte(strings.Replace(good, c.from, c.to, 1)))
			require.ErrorContains(t, err, c.says)
			require.ErrorContains(t, err, "metadata.yaml")
		})
	}
	require.Panics(t, func() { componentmeta.MustParse([]byte("type: 1x")) })
}

func TestAnUndeclaredMetricOrOneOfAnotherKindIsAnError(t *testing.T) {
	for name, ask := range map[string]func(*componentmeta.Telemetry){
		"no sum thing_lost":    func(tel *componentmeta.Telemetry) { tel.Counter("thing_lost") },
		"no sum thing_waiting": func(tel *componentmeta.Telemetry) { tel.Counter("thing_waiting") },
		"no gauge thing_done": func(tel *componentmeta.Telemetry) {
			tel.Gauge("thing_done", func(func(int64, ...attribute.KeyValue)) {})
		},
		"no histogram thing_waiting": func(tel *componentmeta.Telemetry) { tel.Histogram("thing_waiting") },
	} {
		t.Run(name, func(t *testing.T) {
			tel := telemetry(t, componenttest.NewTelemetry(), "")
			require.NoError(t, tel.Err())
			ask(tel)
			require.ErrorContains(t, tel.Err(), "metadata.yaml of thing declares "+name)
		})
	}
}

// telemetry of the component thing/NAME.
func telemetry(t *testing.T, into *componenttest.Telemetry, name string) *componentmeta.Telemetry {
	t.Helper()
	m := componentmeta.MustParse([]byte(good))
	tel := m.Telemetry(component.NewIDWithName(m.Type(), name), into.NewTelemetrySettings())
	t.Cleanup(tel.Shutdown)
	return tel
}

func TestTwoComponentsOfOneTypeKeepTheirMeasurementsApart(t *testing.T) {
	into := componenttest.NewTelemetry()
	for i, name := range []string{"hot", "lake"} {
		n := int64(i + 1)
		tel := telemetry(t, into, name)
		tel.Counter("thing_done").Add(t.Context(), n, tel.With(attribute.String("kind", "a")))
		tel.Histogram("thing_duration").Record(t.Context(), 0.5, tel.With())
		tel.Gauge("thing_waiting", func(record func(int64, ...attribute.KeyValue)) { record(10 * n) })
		require.NoError(t, tel.Err())
	}

	done, err := into.GetMetric("otelcol_thing_done")
	require.NoError(t, err)
	require.Equal(t, "Things done.", done.Description)
	point := func(value int64, attrs ...attribute.KeyValue) metricdata.DataPoint[int64] {
		return metricdata.DataPoint[int64]{Value: value, Attributes: attribute.NewSet(attrs...)}
	}
	kind, hot, lake := attribute.String("kind", "a"), attribute.String("exporter", "thing/hot"), attribute.String("exporter", "thing/lake")
	metricdatatest.AssertEqual(t, metricdata.Metrics{Name: "otelcol_thing_done", Description: "Things done.", Unit: "{thing}",
		Data: metricdata.Sum[int64]{Temporality: metricdata.CumulativeTemporality, IsMonotonic: true,
			DataPoints: []metricdata.DataPoint[int64]{point(1, kind, hot), point(2, kind, lake)}}}, done, metricdatatest.IgnoreTimestamp())

	waiting, err := into.GetMetric("otelcol_thing_waiting")
	require.NoError(t, err)
	metricdatatest.AssertEqual(t, metricdata.Metrics{Name: "otelcol_thing_waiting", Description: "Things that wait.", Unit: "{thing}",
		Data: metricdata.Gauge[int64]{DataPoints: []metricdata.DataPoint[int64]{point(10, hot), point(20, lake)}}}, waiting, metricdatatest.IgnoreTimestamp())

	duration, err := into.GetMetric("otelcol_thing_duration")
	require.NoError(t, err)
	points := duration.Data.(metricdata.Histogram[float64]).DataPoints
	require.Len(t, points, 2)
	require.Equal(t, []float64{0.1, 1}, points[0].Bounds)
	require.Equal(t, []uint64{0, 1, 0}, points[0].BucketCounts)
}

func TestAGaugeIsObservedUntilShutdownAndNoLonger(t *testing.T) {
	into := componenttest.NewTelemetry()
	tel := telemetry(t, into, "")
	observed := 0
	tel.Gauge("thing_waiting", func(record func(int64, ...attribute.KeyValue)) {
		observed++
		record(1)
	})
	require.NoError(t, tel.Err())
	_, err := into.GetMetric("otelcol_thing_waiting")
	require.NoError(t, err)
	require.Equal(t, 1, observed)

	tel.Shutdown()
	tel.Shutdown()
	_, err = into.GetMetric("otelcol_thing_waiting")
	require.Error(t, err)
	require.Equal(t, 1, observed)
	require.NoError(t, into.Shutdown(context.Background()))
}

// Guarantees: a command's metrics have the declared names, labels and bounds; one that is not declared so is found when the program starts.
func TestACommandServesWhatItsFileDeclares(t *testing.T) {
	m := componentmeta.MustParse([]byte(strings.Replace(strings.Replace(good, "class: exporter", "class: command", 1), "  stability:\n    alpha: [logs, metrics]\n    beta: [traces]\n", "", 1)))
	r := m.Registry()
	r.Counter("thing_done").WithLabelValues("a").Inc()
	r.Observe("thing_waiting", func() float64 { return 7 })
	r.Histogram("thing_duration").WithLabelValues().Observe(0.5)
	families, err := r.Gather()
	require.NoError(t, err)
	require.Len(t, families, 3)
	done, took, waiting := families[0], families[1], families[2] // by name
	require.Equal(t, "pulsegrid_thing_done", done.GetName())
	require.Equal(t, "Things done.", done.GetHelp())
	require.Equal(t, "kind", done.GetMetric()[0].GetLabel()[0].GetName())
	require.InDelta(t, 1, done.GetMetric()[0].GetCounter().GetValue(), 0)
	require.InDelta(t, 7, waiting.GetMetric()[0].GetGauge().GetValue(), 0)
	require.Len(t, took.GetMetric()[0].GetHistogram().GetBucket(), 2)
	require.EqualValues(t, 1, took.GetMetric()[0].GetHistogram().GetBucket()[1].GetCumulativeCount())

	require.PanicsWithValue(t, "metadata.yaml of thing declares no sum thing_waiting", func() { r.Counter("thing_waiting") })
	require.PanicsWithValue(t, "metadata.yaml of thing declares no gauge thing_lost", func() { r.Gauge("thing_lost") })
}
