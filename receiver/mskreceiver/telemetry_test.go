package mskreceiver

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/receiver/receivertest"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
)

// Scenario: the receivers of two stores in one process, as in distributions/aggregator, meet good records and poison.
// Guarantees: no measurement of one is taken for the other's, and each has the attributes that metadata.yaml declares.
func TestReceiversInOneProcessAreMeasuredApart(t *testing.T) {
	c := fakeCluster(t, 3)
	cl := testClient(t, c.ListenAddrs())
	tel := componenttest.NewTelemetry()
	t.Cleanup(func() { require.NoError(t, tel.Shutdown(context.Background())) })
	for _, group := range []string{"hot", "lake"} {
		set := receivertest.NewNopSettings(metadata.Type())
		set.ID = component.NewIDWithName(metadata.Type(), group)
		set.TelemetrySettings = tel.NewTelemetrySettings()
		rc, err := NewFactory().CreateLogs(t.Context(), set, testConfig(c.ListenAddrs(), "group-"+group), newStore(nil))
		require.NoError(t, err)
		require.NoError(t, rc.Start(t.Context(), componenttest.NewNopHost()))
		t.Cleanup(func() { require.NoError(t, rc.Shutdown(context.Background())) })
	}
	require.NoError(t, cl.ProduceSync(t.Context(), &kgo.Record{Topic: logsTopic, Value: []byte("poison")}).FirstErr())
	produce(t, cl, "x", 9, 3)
	for _, group := range []string{"group-hot", "group-lake"} {
		eventually(t, group+" is done", func() bool { return sumOffsets(committed(t, cl, group)) == 10 })
	}

	assigned, err := tel.GetMetric("otelcol_msk_receiver_assigned_partitions")
	require.NoError(t, err)
	points := assigned.Data.(metricdata.Gauge[int64]).DataPoints
	require.Len(t, points, 2)
	require.EqualValues(t, []int64{3, 3}, []int64{points[0].Value, points[1].Value})

	measured := 0
	for name, declared := range metadata.Metrics() {
		m, err := tel.GetMetric("otelcol_" + name)
		if err != nil {
			continue // nothing of the kind has happened
		}
		measured++
		want := append(slices.Clone(declared.Attributes), "receiver")
		for _, set := range attributesOf(m) {
			var keys []string
			for _, kv := range set.ToSlice() {
				keys = append(keys, string(kv.Key))
			}
			require.ElementsMatch(t, want, keys, name)
			id, _ := set.Value("receiver")
			group, _ := set.Value("group")
			require.Equal(t, strings.TrimPrefix(id.AsString(), "msk/"), strings.TrimPrefix(group.AsString(), "group-"), name)
		}
	}
	require.Greater(t, measured, 10)
}

func attributesOf(m metricdata.Metrics) (sets []attribute.Set) {
	switch d := m.Data.(type) {
	case metricdata.Sum[int64]:
		for _, p := range d.DataPoints {
			sets = append(sets, p.Attributes)
		}
	case metricdata.Gauge[int64]:
		for _, p := range d.DataPoints {
			sets = append(sets, p.Attributes)
		}
	case metricdata.Histogram[float64]:
		for _, p := range d.DataPoints {
			sets = append(sets, p.Attributes)
		}
	}
	return sets
}
