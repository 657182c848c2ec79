package mskreceiver

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/collector/pdata/plog"

	"github.com/pulsegrid/pulsegrid/internal/block"
	"github.com/pulsegrid/pulsegrid/internal/envelope"
	"github.com/pulsegrid/pulsegrid/internal/eventid"
	"github.com/pulsegrid/pulsegrid/internal/lineage"
	items "github.com/pulsegrid/pulsegrid/internal/quarantine"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

func itemsConfig(brokers []string) *Config {
	cfg := testConfig(brokers, "g")
	cfg.Topics.Quarantine = []string{signal.QuarantineTopic}
	cfg.QuarantineTopic = signal.RefusedTopic
	return cfg
}

func itemsCommitted(t *testing.T, cl *kgo.Client) int64 {
	t.Helper()
	resp, err := kadm.NewClient(cl).FetchOffsets(context.Background(), "g")
	if err != nil {
		return -1
	}
	o, _ := resp.Lookup(signal.QuarantineTopic, 0)
	return o.At
}

// Guarantee: whatever a record of the quarantine holds is one item, as it was; one that a store refuses leaves the topic for another, keeps what its
// headers say, and does not come back.
func TestEveryRecordOfTheQuarantineIsAnItemAndARefusedOneDoesNotComeBack(t *testing.T) {
	c := fakeCluster(t, 1, kfake.SeedTopics(1, signal.RefusedTopic))
	cl := testClient(t, c.ListenAddrs(), kgo.ConsumeTopics(signal.RefusedTopic))
	produce(t, cl, "otlp", 3, 1) // of a topic that is not read
	header := func(k, v string) kgo.RecordHeader { return kgo.RecordHeader{Key: k, Value: []byte(v)} }
	verdicts := `[{"event":0,"verdicts":[{"code":"x"}]}]`
	bodies := []string{"\xff\x00 no OTLP", "", string(logsRequest("an event")), "refuse me", "the last"}
	for _, body := range bodies {
		require.NoError(t, cl.ProduceSync(t.Context(), &kgo.Record{
			Topic: signal.QuarantineTopic, Key: []byte("agent"), Value: []byte(body), Headers: []kgo.RecordHeader{
				header(envelope.HeaderSignal, "metrics"), header(envelope.HeaderTenant, "acme"), header(envelope.HeaderFindings, verdicts), header(envelope.HeaderQuarantineCode, "x"),
			},
		}).FirstErr())
	}
	got := map[string]bool{}
	s := newStore(func(_ context.Context, b block.Block, ld plog.Logs) error {
		for _, rl := range ld.ResourceLogs().All() {
			if i := items.FromLog(rl.ScopeLogs().At(0).LogRecords().At(0)); string(i.Body) == "refuse me" {
				return errPermanent
			}
		}
		for _, rl := range ld.ResourceLogs().All() {
			i := items.FromLog(rl.ScopeLogs().At(0).LogRecords().At(0))
			require.Equal(t, []string{"metrics", "acme", "x", verdicts}, []string{i.Signal, i.Tenant, i.Code, i.Verdicts})
			require.Equal(t, signal.Logs, b.Signal)
			got[string(i.Body)] = true
		}
		return nil
	})
	run(t, itemsConfig(c.ListenAddrs()), s)
	eventually(t, "committed", func() bool { return itemsCommitted(t, cl) == int64(len(bodies)) })
	s.check(t)
	require.Len(t, s.stored(), len(bodies)-1)
	for _, body := range bodies {
		require.Equal(t, body != "refuse me", got[body], "%q", body)
	}

	refused := cl.PollFetches(t.Context()).Records()
	require.Len(t, refused, 1)
	i := items.FromRecord(refused[0])
	require.Equal(t, []any{"refuse me", codeRefused, signal.QuarantineTopic, int64(3), verdicts, "acme"}, []any{string(i.Body), i.Code, i.OriginTopic, i.OriginOffset, i.Verdicts, i.Tenant})
	require.EqualValues(t, len(bodies), endOfQuarantine(t, cl), "nothing was put back into the topic that is read")
}

// Guarantee: dedupe sees the same of an item as it is delivered and when it reads the log again.
func TestTheIDsOfItemsAreTheSameInTheWarmUp(t *testing.T) {
	in := itemsConfig([]string{"x:1"}).inspector(signal.Logs)
	r := &kgo.Record{Topic: signal.QuarantineTopic, Key: []byte("agent"), Value: []byte("body"), Offset: 3, Timestamp: time.Unix(9, 0)}
	e := &entry{record: r}
	in.inspect(e)
	require.Equal(t, 1, e.events)
	b := newBatch(signal.Logs, nil)
	require.Nil(t, b.append(e))
	require.Equal(t, 1, b.events)
	stamp, _ := lineage.ReadEvent(b.logs.ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().At(0).Attributes())
	require.Equal(t, items.FromRecord(r).ID(), stamp.ID)
	require.Equal(t, b.records, []eventid.Record{*newIDReader(in).read(&entry{record: r})})
}

func TestRefusedItemsMustNotGoBackToTheTopicThatIsRead(t *testing.T) {
	cfg := itemsConfig([]string{"x:1"})
	require.NoError(t, cfg.Validate())
	cfg.QuarantineTopic = signal.QuarantineTopic
	require.ErrorContains(t, cfg.Validate(), `topics::quarantine: "quarantine.v1" is quarantine_topic too: name another for what is refused, such as quarantine.refused.v1`)
}
