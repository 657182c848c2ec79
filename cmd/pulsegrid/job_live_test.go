package main

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/collector/confmap"
	"go.uber.org/zap"

	"github.com/pulsegrid/pulsegrid/exporter/clickhouseexporter"
)

// Guarantee: live traffic is behind while a group of the aggregators has not committed a record that is older than the bound, and a job says which; a younger record, one that the lake commits with
// others in a while, a group that has never committed and the groups of the quarantine make it late for nobody.
func TestAJobSeesThatLiveTrafficIsBehind(t *testing.T) {
	k, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(2, "otlp.logs.v1", "otlp.metrics.v1", "otlp.traces.v1", "quarantine.v1"))
	require.NoError(t, err)
	defer k.Close()
	cl, err := kgo.NewClient(kgo.SeedBrokers(k.ListenAddrs()...), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	require.NoError(t, err)
	defer cl.Close()
	append1 := func(topic string, partition int32, age time.Duration) {
		t.Helper()
		require.NoError(t, cl.ProduceSync(t.Context(), &kgo.Record{Topic: topic, Partition: partition, Value: []byte("v"), Timestamp: time.Now().Add(-age)}).FirstErr())
	}
	commit := func(group, topic string, partition int32, at int64) {
		t.Helper()
		var o kadm.Offsets
		o.AddOffset(topic, partition, at, -1)
		require.NoError(t, kadm.NewClient(cl).CommitAllOffsets(t.Context(), group, o))
	}
	receiver := func(group string, more map[string]any) map[string]any {
		out := map[string]any{"brokers": k.ListenAddrs()[0], "group_id": group}
		for key, v := range more {
			out[key] = v
		}
		return out
	}
	p, err := newPipelines(confmap.NewFromStringMap(map[string]any{
		"exporters": map[string]any{"iceberg": map[string]any{
			"catalog": map[string]any{"type": "sql", "uri": "file:/nowhere", "warehouse": "file:///nowhere"}, "commit": map[string]any{"max_age": "20s"},
		}},
		"service": map[string]any{"pipelines": map[string]any{"logs/lake": map[string]any{"receivers": []any{"msk/lake"}, "exporters": []any{"iceberg"}}}},
		"receivers": map[string]any{
			"msk/hot":        receiver("hot", nil),
			"msk/lake":       receiver("lake", nil),
			"msk/new":        receiver("new", nil), // which has committed nothing
			"msk/quarantine": receiver("quarantine", map[string]any{"topics": map[string]any{"quarantine": []any{"quarantine.v1"}}, "quarantine_topic": "q"}),
		},
	}), 0, zap.NewNop())
	require.NoError(t, err)
	l, err := p.newLive(t.Context(), 10*time.Second)
	require.NoError(t, err)
	defer l.close()
	behind := func() string {
		t.Helper()
		text, err := l.behind(t.Context())
		require.NoError(t, err)
		return text
	}
	for _, group := range []string{"hot", "lake", "quarantine"} {
		for _, topic := range []string{"otlp.logs.v1", "otlp.metrics.v1", "quarantine.v1"} {
			commit(group, topic, 1, 0)
		}
	}
	require.Empty(t, behind(), "nothing was sent")
	append1("otlp.logs.v1", 1, 0)
	append1("quarantine.v1", 1, time.Minute)
	require.Empty(t, behind(), "it has just come")
	append1("otlp.metrics.v1", 1, time.Minute)
	require.Equal(t, "live events of otlp.metrics.v1 wait longer than 10s for group hot", behind())
	commit("hot", "otlp.metrics.v1", 1, 1)
	require.Equal(t, "live events of otlp.metrics.v1 wait longer than 30s for group lake", behind())
	commit("lake", "otlp.metrics.v1", 1, 1)
	require.Empty(t, behind())
	append1("otlp.logs.v1", 0, 15*time.Second)
	commit("hot", "otlp.logs.v1", 0, 1)
	commit("lake", "otlp.logs.v1", 0, 0)
	require.Empty(t, behind(), "it waits for a commit of the lake")
	for i := range 3 {
		append1("otlp.metrics.v1", 1, time.Minute-time.Duration(i)*time.Second)
	}
	require.NotEmpty(t, behind())
}

// Guarantees: inserts of jobs yield to live ones, also where the aggregators' configuration asks for less.
func TestInsertsOfJobsYield(t *testing.T) {
	for asked, want := range map[int]int{0: jobNice, 5: jobNice, 19: 19} {
		p, err := newPipelines(confmap.NewFromStringMap(map[string]any{"exporters": map[string]any{"pulsegrid_clickhouse": map[string]any{"insert_nice": asked}}}), 0, zap.NewNop())
		require.NoError(t, err)
		require.Len(t, p.exporters, 1)
		for _, c := range p.exporters {
			require.Equal(t, want, c.(*clickhouseexporter.Config).InsertNice)
		}
	}
}
