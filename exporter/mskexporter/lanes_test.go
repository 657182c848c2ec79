package mskexporter

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
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

// Guarantees: a tenant's overflow lies in two partitions, whatever the number of its sources; a source's in one, from run to run; in the fast lane sources
// are spread over all.
func TestATenantsOverflowKeepsToTwoPartitions(t *testing.T) {
	k := fake(t)
	in := func(topic string) map[int32]map[string]bool {
		out := map[int32]map[string]bool{}
		for _, r := range readAll(t, k.ListenAddrs(), topic) {
			if out[r.Partition] == nil {
				out[r.Partition] = map[string]bool{}
			}
			out[r.Partition][string(r.Key)] = true
		}
		return out
	}
	for range 2 { // two runs
		r := newRig(t, k.ListenAddrs(), func(c *Config) { withLanes(c); c.Topics.Logs.Partitions = 12 })
		for i := range 60 {
			for _, lane := range []string{envelope.LaneFast, envelope.LaneOverflow} {
				e := request(signal.Logs, "noisy", fmt.Sprintf("source-%d", i), 1)
				e.Lane = lane
				require.NoError(t, r.send(e))
			}
		}
	}
	fast, overflow := in("otlp.logs.v1"), in("otlp.logs.overflow.v1")
	require.Greater(t, len(fast), overflowShards)
	require.Len(t, overflow, overflowShards)
	seen := map[string]int{}
	for _, sources := range overflow {
		for source := range sources {
			seen[source]++
		}
	}
	require.Len(t, seen, 60)
	for source, partitions := range seen {
		require.Equal(t, 1, partitions, source)
	}
}

func TestTenantsOverflowIsSpreadOverThePartitions(t *testing.T) {
	const n, tenants = 12, 1200
	load := make([]int, n)
	for i := range tenants {
		id := fmt.Sprintf("tenant-%d", i)
		r := &kgo.Record{Key: []byte("source-1"), Headers: []kgo.RecordHeader{{Key: envelope.HeaderTenant, Value: []byte(id)}}}
		for _, key := range []string{"a", "b", "c", "d"} {
			r.Key = []byte(key)
			load[overflowPartition(r, n)]++
		}
	}
	for p, got := range load {
		require.InDelta(t, tenants*4/n, got, tenants*4/n/2, "partition %d", p)
	}
	for _, n := range []int{1, 2} {
		require.Less(t, overflowPartition(&kgo.Record{}, n), n)
	}
}
