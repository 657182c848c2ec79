package mskreceiver

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/receiver/receivertest"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/pulsegrid/pulsegrid/internal/lineage"
	"github.com/pulsegrid/pulsegrid/internal/signal"
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

// Scenario: a gateway whose clock is 7 s ahead of Kafka's, one whose clock is right, one that spilled a record for 2 minutes, and a record without a gateway.
// Guarantees: the first is below zero, none of the others is, and the last is not measured.
func TestAGatewaysClockThatIsAheadShowsBelowZero(t *testing.T) {
	tel := componenttest.NewTelemetry()
	t.Cleanup(func() { require.NoError(t, tel.Shutdown(context.Background())) })
	m, err := newTelemetry(component.NewID(metadata.Type()), tel.NewTelemetrySettings(), "hot")
	require.NoError(t, err)
	t.Cleanup(m.shutdown)
	appended := time.Unix(1_000_000, 0)
	record := func(gateway bool, received time.Duration) *entry {
		return &entry{record: &kgo.Record{Timestamp: appended}, origin: origin{lineage.Origin{Received: appended.Add(received)}, gateway}}
	}
	m.delivered(&partition{signal: signal.Logs}, []*entry{record(true, 7*time.Second), record(true, -50*time.Millisecond), record(true, -2*time.Minute), record(false, 0)}, appended.Add(time.Minute))

	got, err := tel.GetMetric("otelcol_msk_receiver_received_to_appended")
	require.NoError(t, err)
	points := got.Data.(metricdata.Histogram[float64]).DataPoints
	require.Len(t, points, 1)
	counts := map[float64]uint64{}
	for i, n := range points[0].BucketCounts {
		if n > 0 {
			counts[points[0].Bounds[i]] = n
		}
	}
	require.Equal(t, map[float64]uint64{-5: 1, 0.1: 1, 300: 1}, counts, "by the bounds that they are not above")
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
