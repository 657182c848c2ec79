package quarantine_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/pulsegrid/pulsegrid/internal/envelope"
	"github.com/pulsegrid/pulsegrid/internal/quarantine"
	"github.com/pulsegrid/pulsegrid/internal/schema"
)

const topic = "quarantine.v1"

func clients(t *testing.T) *kgo.Client {
	t.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(2, topic))
	require.NoError(t, err)
	t.Cleanup(c.Close)
	cl, err := kgo.NewClient(kgo.SeedBrokers(c.ListenAddrs()...), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.FetchMaxWait(100*time.Millisecond))
	require.NoError(t, err)
	t.Cleanup(cl.Close)
	return cl
}

func TestItemsAreReadAsTheyWereWritten(t *testing.T) {
	cl := clients(t)
	findings := schema.Findings{{Event: 3, PII: true, Verdicts: []schema.Verdict{{Code: schema.AttributeMissing, Path: "attributes[a]", Schema: "s", Version: "1"}}}}
	header := func(k, v string) kgo.RecordHeader { return kgo.RecordHeader{Key: k, Value: []byte(v)} }
	require.NoError(t, cl.ProduceSync(t.Context(),
		&kgo.Record{Topic: topic, Partition: 1, Key: []byte("cut"), Value: []byte("body"), Headers: []kgo.RecordHeader{
			header(envelope.HeaderTenant, "acme"), header(envelope.HeaderSignal, "logs"), header(envelope.HeaderSource, "agent"), header(envelope.HeaderEvents, "2"),
			header(envelope.HeaderReceivedNanos, "1700000000000000000"), header(envelope.HeaderQuarantineCode, "attribute_missing"), header(envelope.HeaderQuarantineReason, "why"),
			{Key: envelope.HeaderFindings, Value: findings.Append(nil)}, header(envelope.HeaderPII, "true"),
			header(envelope.HeaderOriginTopic, "otlp.logs.v1"), header(envelope.HeaderOriginPartition, "4"), header(envelope.HeaderOriginOffset, "99"), header(envelope.HeaderOriginGroup, "hot"),
		}},
		&kgo.Record{Topic: topic, Partition: 0, Value: []byte("of somebody else"), Headers: []kgo.RecordHeader{header(envelope.HeaderEvents, "many"), header(envelope.HeaderFindings, "nonsense")}},
	).FirstErr())
	var items []quarantine.Item
	require.NoError(t, quarantine.Read(t.Context(), cl, topic, time.Time{}, func(i quarantine.Item) error { items = append(items, i); return nil }))
	require.Len(t, items, 2)
	require.Equal(t, "0/0", items[0].Place())
	require.Equal(t, "of somebody else", string(items[0].Body))
	got := items[1]
	require.Equal(t, findings, got.Findings)
	require.Equal(t, []any{"acme", "logs", "agent", 2, "attribute_missing", "why", true, "otlp.logs.v1", int32(4), int64(99), "hot", "body"},
		[]any{got.Tenant, got.Signal, got.Source, got.Events, got.Code, got.Reason, got.PII, got.OriginTopic, got.OriginPartition, got.OriginOffset, got.OriginGroup, string(got.Body)})
	require.Equal(t, int64(1_700_000_000), got.Received.Unix())

	one, err := quarantine.Get(t.Context(), cl, topic, 1, 0)
	require.NoError(t, err)
	require.Equal(t, got, one)
}

func TestReadEndsWhereTheTopicEndedAndStopsWhenAsked(t *testing.T) {
	cl := clients(t)
	n := 0
	count := func(quarantine.Item) error { n++; return nil }
	require.NoError(t, quarantine.Read(t.Context(), cl, topic, time.Time{}, count), "an empty topic")
	for range 5 {
		require.NoError(t, cl.ProduceSync(t.Context(), &kgo.Record{Topic: topic, Value: []byte("x")}).FirstErr())
	}
	require.NoError(t, quarantine.Read(t.Context(), cl, topic, time.Now().Add(time.Hour), count))
	require.Zero(t, n, "nothing is of the future")
	require.NoError(t, quarantine.Read(t.Context(), cl, topic, time.Now().Add(-time.Hour), count))
	require.Equal(t, 5, n)
	n = 0
	require.NoError(t, quarantine.Read(t.Context(), cl, topic, time.Time{}, func(quarantine.Item) error { n++; return quarantine.ErrStop }))
	require.Equal(t, 1, n)
	require.ErrorContains(t, quarantine.Read(t.Context(), cl, "none.v1", time.Time{}, count), "none.v1")
}

func TestPlacesAreParsed(t *testing.T) {
	p, o, err := quarantine.ParsePlace("3/42")
	require.NoError(t, err)
	require.Equal(t, []int64{3, 42}, []int64{int64(p), o})
	for _, bad := range []string{"", "3", "3/", "/3", "a/1", "1/b", "-1/2", "1/-2", "99999999999/1"} {
		_, _, err := quarantine.ParsePlace(bad)
		require.Error(t, err, bad)
	}
}
