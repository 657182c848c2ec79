package mskexporter

import (
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/plog"

	"github.com/pulsegrid/pulsegrid/internal/envelope"
	"github.com/pulsegrid/pulsegrid/internal/lineage"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

func withLanes(c *Config) {
	c.Topics.Overflow, c.Topics.Classes = true, []string{"premium"}
}

// Guarantees: each lane and topic class has its topic, made when the exporter starts, and the header says the lane and the jurisdiction.
func TestALaneAndATopicClassHaveTopicsOfTheirOwn(t *testing.T) {
	k := fake(t)
	r := newRig(t, k.ListenAddrs(), withLanes)
	for topic, of := range map[string]envelope.Envelope{
		"otlp.logs.v1":                  {Lane: envelope.LaneFast},
		"otlp.logs.overflow.v1":         {Lane: envelope.LaneOverflow},
		"otlp.logs.premium.v1":          {Lane: envelope.LaneFast, TopicClass: "premium"},
		"otlp.logs.premium.overflow.v1": {Lane: envelope.LaneOverflow, TopicClass: "premium"},
	} {
		require.NotEmpty(t, k.PartitionInfos(topic), "%s was made at the start", topic)
		require.Zero(t, stored(k, topic))
		e := request(signal.Logs, "t1", "a", 5)
		e.Lane, e.TopicClass, e.Jurisdiction = of.Lane, of.TopicClass, "eu"
		require.NoError(t, r.send(e))
		records := readAll(t, k.ListenAddrs(), topic)
		require.Len(t, records, 1, topic)
		require.Equal(t, of.Lane, headersOf(records[0])[envelope.HeaderLane])
		require.Equal(t, "eu", headersOf(records[0])[envelope.HeaderJurisdiction])
	}
	require.NotEmpty(t, k.PartitionInfos("otlp.traces.overflow.v1"))
}

// Guarantees: what has no topic of its own goes to the common one; nothing is refused for it.
func TestWithoutTopicsForLanesAndClassesAllGoesToTheCommonOnes(t *testing.T) {
	k := fake(t)
	r := newRig(t, k.ListenAddrs(), nil)
	e := request(signal.Logs, "t1", "a", 5)
	e.Lane, e.TopicClass = envelope.LaneOverflow, "premium"
	require.NoError(t, r.send(e))
	records := readAll(t, k.ListenAddrs(), "otlp.logs.v1")
	require.Len(t, records, 1)
	require.Equal(t, envelope.LaneOverflow, headersOf(records[0])[envelope.HeaderLane])
	require.NotContains(t, headersOf(records[0]), envelope.HeaderJurisdiction)
	require.Empty(t, k.PartitionInfos("otlp.logs.overflow.v1"))
}

func TestPlainPdataGoesByTheRouteOfItsResources(t *testing.T) {
	k := fake(t)
	r := newRig(t, k.ListenAddrs(), withLanes)
	ld := plog.NewLogs()
	for _, route := range []lineage.Route{{Lane: envelope.LaneOverflow, Jurisdiction: "eu"}, {}, {Lane: envelope.LaneOverflow, Jurisdiction: "eu"}} {
		rl := ld.ResourceLogs().AppendEmpty()
		lineage.StampResource(rl.Resource().Attributes(), lineage.Origin{Tenant: "t1", Source: "a"})
		lineage.StampRoute(rl.Resource().Attributes(), route)
		rl.ScopeLogs().AppendEmpty().LogRecords().AppendEmpty().Body().SetStr("x")
	}
	require.NoError(t, r.logs.ConsumeLogs(t.Context(), ld))
	require.Equal(t, 1, eventsOf(t, readAll(t, k.ListenAddrs(), "otlp.logs.v1")))
	over := readAll(t, k.ListenAddrs(), "otlp.logs.overflow.v1")
	require.Equal(t, 2, eventsOf(t, over))
	require.Equal(t, "eu", headersOf(over[0])[envelope.HeaderJurisdiction])
}
