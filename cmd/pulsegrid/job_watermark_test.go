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

	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/receiver/mskreceiver"
)

// Guarantees: a store is complete through the time of the first record that its group has not committed, of whichever partition that is; an idle partition, one that was
// never written to and one whose records were all committed hold nothing back; a partition that nothing is committed of does; signals are apart.
func TestTheWatermarkIsTheFirstRecordThatIsNotStored(t *testing.T) {
	k, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(3, "otlp.logs.v1", "otlp.traces.v1"))
	require.NoError(t, err)
	defer k.Close()
	cl, err := kgo.NewClient(kgo.SeedBrokers(k.ListenAddrs()...), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	require.NoError(t, err)
	defer cl.Close()
	now := time.Now().Truncate(time.Second)
	append1 := func(partition int32, age time.Duration) {
		t.Helper()
		require.NoError(t, cl.ProduceSync(t.Context(), &kgo.Record{Topic: "otlp.logs.v1", Partition: partition, Value: []byte("v"), Timestamp: now.Add(-age)}).FirstErr())
	}
	commit := func(partition int32, at int64) {
		t.Helper()
		var o kadm.Offsets
		o.AddOffset("otlp.logs.v1", partition, at, -1)
		require.NoError(t, kadm.NewClient(cl).CommitAllOffsets(t.Context(), "hot", o))
	}
	p, err := newPipelines(confmap.New(), 0, zap.NewNop())
	require.NoError(t, err)
	conf := mskreceiver.NewFactory().CreateDefaultConfig().(*mskreceiver.Config)
	conf.Brokers, conf.GroupID = k.ListenAddrs(), "hot"
	conf.Topics.Logs, conf.Topics.Traces = []string{"otlp.logs.v1"}, []string{"otlp.traces.v1"}
	g, err := p.newGroup(t.Context(), conf)
	require.NoError(t, err)
	defer g.admin.Close()
	through := func() time.Duration {
		t.Helper()
		at, err := g.completeThrough(t.Context(), []string{"otlp.logs.v1"}, now)
		require.NoError(t, err)
		return now.Sub(at)
	}
	require.Zero(t, through(), "nothing was sent, and the group does not exist")
	append1(0, 3*time.Hour)
	require.Equal(t, 3*time.Hour, through(), "the group does not exist")
	append1(0, 2*time.Hour)
	append1(1, 5*time.Hour)
	commit(0, 1)
	require.Equal(t, 5*time.Hour, through(), "nothing is committed of partition 1")
	commit(1, 1)
	require.Equal(t, 2*time.Hour, through())
	commit(0, 2)
	require.Zero(t, through(), "partitions 1 and 2 are idle")
	append1(2, time.Minute)
	require.Equal(t, time.Minute, through())
	append1(1, 0)
	require.Equal(t, time.Minute, through())

	marks := g.watermarks(conf)
	at, err := marks(t.Context(), signal.Traces)
	require.NoError(t, err)
	require.WithinDuration(t, time.Now().Add(-watermarkMargin), at, time.Minute)
	at, err = marks(t.Context(), signal.Logs)
	require.NoError(t, err)
	require.Equal(t, time.Minute, now.Sub(at))
	commit(2, 1)
	commit(1, 2)
	at, err = marks(t.Context(), signal.Logs)
	require.NoError(t, err)
	require.Equal(t, time.Minute, now.Sub(at), "it is the same for all models of a run")

	old := &kgo.Record{Topic: "otlp.traces.v1", Value: []byte("v"), Timestamp: now.Add(-40 * 24 * time.Hour)}
	require.NoError(t, cl.ProduceSync(t.Context(), old).FirstErr())
	_, err = g.completeThrough(t.Context(), []string{"otlp.traces.v1"}, now)
	require.ErrorContains(t, err, "group hot has not stored events of [otlp.traces.v1] that are more than 720h0m0s old")
	_, err = g.completeThrough(t.Context(), []string{"gone"}, now)
	require.ErrorContains(t, err, "gone")
	_, err = g.completeThrough(t.Context(), nil, now)
	require.ErrorContains(t, err, "group hot reads no topic of it")
}
